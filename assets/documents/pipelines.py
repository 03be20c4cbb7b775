"""The two stages as datatrove pipelines, each read top to bottom: what a document goes through, in which order.

To add a block to a stage, put it into its list here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from assets.documents.extraction import Extraction
from assets.documents.formats.media_types import Declared
from assets.documents.heuristics import LanguageChoice, code_rules, length_rules, quality_rules, repetition_rules
from assets.documents.recipe import Filters


def extraction_pipeline(reader: Any, declared: Declared, parts: Path, recipe: Extraction) -> list[Any]:
    """The stage: read payloads, extract each in a sandbox, write rows."""
    from assets.documents.blocks import DOCUMENT_PART, RowWriter, SandboxedExtractor, document_row

    return [reader, SandboxedExtractor(declared, recipe), RowWriter(parts, DOCUMENT_PART, document_row)]


def filtering_pipeline(groups: list[tuple[Path, int]], parts: Path, recipe: Filters) -> list[Any]:
    """The stage: every document gets its signals, then its decision."""
    from assets.documents.blocks import DECISION_PART, DocumentReader, RowWriter, decision_row
    from assets.documents.filters import (
        MeasureSignals,
        RuleFilter,
        ScriptFilter,
        UncertainLanguageFilter,
        UnwantedLanguageFilter,
    )

    choice = LanguageChoice(
        keep_languages=recipe.keep_languages,
        keep_scripts=recipe.keep_scripts,
        language_score_min=recipe.language_score_min,
    )
    prose = {"zh": recipe.zh, "en": recipe.en}
    length = {name: length_rules(limits) for name, limits in (*prose.items(), ("code", recipe.code))}
    repetition = {name: repetition_rules(limits) for name, limits in prose.items()} | {"code": ()}
    quality = {name: quality_rules(limits) for name, limits in prose.items()} | {"code": code_rules(recipe.code)}
    decisions = RowWriter(parts, DECISION_PART, decision_row)
    return [
        DocumentReader(groups),
        MeasureSignals(),
        UnwantedLanguageFilter(choice, decisions),
        RuleFilter("length", length, length_rules(recipe.other), decisions),
        UncertainLanguageFilter(choice, decisions),
        ScriptFilter(choice, decisions),
        RuleFilter("repetition", repetition, repetition_rules(recipe.other), decisions),
        RuleFilter("quality", quality, quality_rules(recipe.other), decisions),
        decisions,
    ]
