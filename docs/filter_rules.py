"""The table of filter rules, read from the code: every drop reason with its signal, limits and their sources."""

from __future__ import annotations

import ast
import inspect
import tokenize
from functools import cache
from pathlib import Path

from assets.documents import heuristics
from assets.documents.heuristics import ProseThresholds, Rule, code_rules, length_rules, quality_rules, repetition_rules
from assets.documents.recipe import REASONS, Filters

LANGUAGES = ("zh", "en", "code")
HEAD = ("reason", "signal", *LANGUAGES, "where the limits are from")


def table() -> str:
    """One row for each reason and signal, in the order in which the rules are asked."""
    filters = Filters.model_validate({})
    languages, scripts = ", ".join(filters.keep_languages), ", ".join(filters.keep_scripts)
    score = f"at least {filters.language_score_min:g}"
    chosen = {
        "language_not_wanted": ("language", *[f"of {languages}"] * 3, "`keep_languages`"),
        "language_uncertain": (
            "language score",
            score,
            score,
            "–",
            "`language_score_min`; FineWeb's 0.65 is for plain prose",
        ),
        "script_not_wanted": ("script", *[f"of {scripts}"] * 2, "–", "`keep_scripts`"),
    }
    rules = {language: rules_of(language, filters) for language in LANGUAGES}
    rows = []
    for reason in REASONS:
        if reason in chosen:
            rows.append((reason, *chosen[reason]))
        for signal in dict.fromkeys(r.signal for of in rules.values() for r in of if r.reason == reason):
            same = {language: rule for language in LANGUAGES if (rule := _rule(rules[language], reason, signal))}
            limits = (_limit(same[language]) if language in same else "–" for language in LANGUAGES)
            rows.append((reason, f"`{signal}`", *limits, _sources(same, filters)))
    lines = [f"| `{reason}` | " + " | ".join(cells) + " |" for reason, *cells in rows]
    return "\n".join(["| " + " | ".join(HEAD) + " |", "|---|---|--:|--:|--:|---|", *lines])


def rules_of(language: str, filters: Filters) -> tuple[Rule, ...]:
    """What a document of one language is asked."""
    if language == "code":
        return length_rules(filters.code) + code_rules(filters.code)
    limits: ProseThresholds = getattr(filters, language)
    return length_rules(limits) + repetition_rules(limits) + quality_rules(limits)


def _rule(rules: tuple[Rule, ...], reason: str, signal: str) -> Rule | None:
    return next((rule for rule in rules if (rule.reason, rule.signal) == (reason, signal)), None)


def _limit(rule: Rule) -> str:
    if rule.minimum is not None:
        return f"at least {rule.minimum:,}"
    return f"at most {rule.maximum:,}" if rule.maximum is not None else "–"


def _sources(rules: dict[str, Rule], filters: Filters) -> str:
    """The comments beside the limits; with their languages, where they differ."""
    said: dict[str, list[str]] = {}
    for language, rule in rules.items():
        if _limit(rule) != "–" and (comment := _comment(type(getattr(filters, language)), rule)):
            said.setdefault(comment, []).append(language)
    if len(said) <= 1:
        return next(iter(said), "no limit unless the recipe sets one")
    return " · ".join(f"{', '.join(languages)}: {comment}" for comment, languages in said.items())


def _comment(thresholds: type, rule: Rule) -> str:
    name = rule.signal.removeprefix("max_")
    fields = (f"min_{name}", f"max_{name}") if rule.minimum is not None else (f"max_{name}",)
    field = next(field for field in fields if field in thresholds.model_fields)
    return next(found for each in thresholds.__mro__ if (found := _comments().get((each.__name__, field))) is not None)


@cache
def _comments() -> dict[tuple[str, str], str]:
    """(class, field) -> the comment on its lines; empty where there is none."""
    path = Path(inspect.getfile(heuristics))
    with path.open("rb") as file:
        tokens = [token for token in tokenize.tokenize(file.readline) if token.type == tokenize.COMMENT]
    classes = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef)]
    fields = [(each.name, node) for each in classes for node in each.body if isinstance(node, ast.AnnAssign)]
    return {
        (name, ast.unparse(node.target)): " ".join(
            token.string.lstrip("# ") for token in tokens if node.lineno <= token.start[0] <= (node.end_lineno or 0)
        )
        for name, node in fields
    }
