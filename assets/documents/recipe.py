"""The filters, read top to bottom: what is measured, then what drops a document, first broken rule first.

To change a limit edit [filters] in the recipe file; to add a rule write it in heuristics.py; the blocks that ask
the rules are listed in pipelines.py.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from assets.documents.heuristics import (
    ChineseThresholds,
    CodeThresholds,
    ProseThresholds,
    code_rules,
    length_rules,
    quality_rules,
    repetition_rules,
)


class Filters(BaseModel):
    """[filters]: which documents are worth reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    keep_languages: tuple[str, ...] = Field(("zh", "en", "code"), min_length=1)
    """fastText codes, and "code" for files whose source says so."""
    keep_scripts: tuple[str, ...] = ("Hans", "Hant", "Latn")
    """ISO 15924. Traditional Chinese stays: another text, not a duplicate of the simplified one."""
    language_score_min: float = Field(0.5, ge=0, le=1)
    """Probability of the best language. FineWeb 0.65 and FineWeb-2 cmn_Hani 0.692 are for plain prose; pages full of commands score lower."""
    zh: ChineseThresholds = ChineseThresholds()
    en: ProseThresholds = ProseThresholds()
    other: ProseThresholds = ProseThresholds(min_stop_words=None)
    """For any other language in keep_languages; the stop words we know are English and Chinese."""
    code: CodeThresholds = CodeThresholds()


REASONS = (
    "language_not_wanted",
    *dict.fromkeys(rule.reason for rule in length_rules(ProseThresholds())),
    "language_uncertain",
    "script_not_wanted",
    *dict.fromkeys(
        rule.reason
        for rules in (
            repetition_rules(ProseThresholds()),
            quality_rules(ProseThresholds()),
            code_rules(CodeThresholds()),
        )
        for rule in rules
    ),
)
"""Every drop reason, in the order in which the rules are asked."""
