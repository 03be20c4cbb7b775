"""Rules as data: a reason, the signal it looks at, the range that passes. Pure; the first broken rule decides.

The order in which they are asked stands in recipe.py. A bound of None never drops.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field


class ProseThresholds(BaseModel):
    """[filters.en], [filters.zh]: limits for prose. Defaults are English: Gopher (arXiv 2112.11446), C4, FineWeb."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_characters: int = 200  # FineWeb keeps pages of 50 words: about 300 characters; ours also has short, good notes
    max_characters: int = 2_000_000  # longer than any book chapter: a dump
    min_hanzi_ratio: float | None = None  # of visible characters
    max_duplicate_line_ratio: float | None = 0.30  # Gopher table A1
    max_duplicate_line_character_ratio: float | None = 0.20  # Gopher table A1
    max_top_2_gram_ratio: float | None = 0.20  # Gopher table A1
    max_top_3_gram_ratio: float | None = 0.18  # Gopher table A1
    max_top_4_gram_ratio: float | None = 0.16  # Gopher table A1
    max_duplicate_10_gram_ratio: float | None = 0.20  # Gopher 0.10; command listings repeat themselves (calibrated)
    min_mean_word_length: float | None = 3.0  # Gopher
    max_mean_word_length: float | None = 10.0  # Gopher
    max_symbol_ratio: float | None = 0.10  # Gopher: # and ellipses per word
    max_digit_ratio: float | None = 0.30  # MAP-NEO
    min_letter_word_ratio: float | None = (
        0.70  # Gopher 0.80: words with a letter; traces of network tools have 0.78 (calibrated)
    )
    min_stop_words: int | None = 2  # Gopher: distinct ones of eight
    max_bullet_line_ratio: float | None = 0.90  # Gopher
    max_ellipsis_line_ratio: float | None = 0.30  # Gopher
    min_line_punctuation_ratio: float | None = 0.12  # FineWeb
    max_newline_ratio: float | None = 0.30  # FineWeb: lines per word
    min_unique_word_ratio: float | None = None
    min_word_entropy: float | None = 3.0  # MAP-NEO, nats


class ChineseThresholds(ProseThresholds):
    """[filters.zh]: what differs in Chinese, where a unit is one hanzi (see signals.py)."""

    min_characters: int = 100  # MAP-NEO keeps 50, ChineseWebText 200; a hanzi says as much as three Latin letters
    min_hanzi_ratio: float | None = (
        0.15  # ChineseWebText 0.30; a manual page that quotes its commands has less (calibrated)
    )
    max_duplicate_line_ratio: float | None = 0.287  # FineWeb-2 cmn_Hani
    max_top_2_gram_ratio: float | None = 0.256  # FineWeb-2 cmn_Hani
    max_top_3_gram_ratio: float | None = 0.201  # FineWeb-2 cmn_Hani
    max_top_4_gram_ratio: float | None = 0.171  # FineWeb-2 cmn_Hani
    min_mean_word_length: float | None = None  # a unit is a hanzi: the rule would drop every page
    max_mean_word_length: float | None = 5.0  # FineWeb-2 cmn_Hani
    min_letter_word_ratio: float | None = (
        0.70  # numbers count more against single hanzi than against words (assumption)
    )
    min_stop_words: int | None = 2  # FineWeb-2 cmn_Hani
    min_line_punctuation_ratio: float | None = 0.106  # FineWeb-2 cmn_Hani
    max_newline_ratio: float | None = 0.178  # FineWeb-2 cmn_Hani per word; per hanzi it is looser by 1.7
    # MAP-NEO's unique words >= 0.1 is left out: distinct hanzi saturate near 2,000, so long pages would fall


class CodeThresholds(BaseModel):
    """[filters.code]: StarCoder's rules (arXiv 2305.06161) where they fit a single file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_characters: int = 100  # an empty `__init__` or a re-export teaches nothing (assumption)
    max_characters: int = 1_000_000  # StarCoder: 1 MB
    max_mean_line_length: float = 100.0  # StarCoder
    max_line_length: int = 1000  # StarCoder
    min_alphanumeric_ratio: float = 0.25  # StarCoder
    max_digit_ratio: float = 0.40  # tables of numbers (assumption)
    max_longest_word: int = 500  # embedded base64 or minified code (assumption)
    max_duplicate_line_ratio: float = 0.70  # generated tables; `return` and brackets repeat in good code (assumption)


@dataclass(frozen=True)
class Rule:
    """`minimum <= signal <= maximum`, or the document is dropped for `reason`."""

    reason: str
    signal: str
    minimum: float | None = None
    maximum: float | None = None


@dataclass(frozen=True)
class Failure:
    """A broken rule with the value that broke it."""

    reason: str
    words: str


def first_failure(signals: Mapping[str, float], rules: Iterable[Rule]) -> Failure | None:
    """The first rule that the signals break."""
    for rule in rules:
        value = signals[rule.signal]
        if rule.minimum is not None and value < rule.minimum:
            return Failure(rule.reason, f"{rule.signal} {value:.4g} < {rule.minimum:g}")
        if rule.maximum is not None and value > rule.maximum:
            return Failure(rule.reason, f"{rule.signal} {value:.4g} > {rule.maximum:g}")
    return None


def length_rules(limits: ProseThresholds | CodeThresholds) -> tuple[Rule, ...]:
    """Too little to learn from, or a dump."""
    return (
        Rule("too_short", "characters", minimum=limits.min_characters),
        Rule("too_long", "characters", maximum=limits.max_characters),
    )


def repetition_rules(limits: ProseThresholds) -> tuple[Rule, ...]:
    """Text that repeats itself: menus, templates, spam."""
    return (
        Rule("too_many_duplicate_lines", "duplicate_line_ratio", maximum=limits.max_duplicate_line_ratio),
        Rule(
            "too_many_duplicate_lines",
            "duplicate_line_character_ratio",
            maximum=limits.max_duplicate_line_character_ratio,
        ),
        Rule("repeated_phrase", "top_2_gram_ratio", maximum=limits.max_top_2_gram_ratio),
        Rule("repeated_phrase", "top_3_gram_ratio", maximum=limits.max_top_3_gram_ratio),
        Rule("repeated_phrase", "top_4_gram_ratio", maximum=limits.max_top_4_gram_ratio),
        Rule("repeated_passages", "duplicate_10_gram_ratio", maximum=limits.max_duplicate_10_gram_ratio),
    )


def quality_rules(limits: ProseThresholds) -> tuple[Rule, ...]:
    """Text that is not prose: tables of numbers, lists, menus, keywords."""
    return (
        Rule("too_few_hanzi", "hanzi_ratio", minimum=limits.min_hanzi_ratio),
        Rule("too_many_digits", "digit_ratio", maximum=limits.max_digit_ratio),
        Rule("too_many_symbols", "symbol_ratio", maximum=limits.max_symbol_ratio),
        Rule("too_few_words_with_letters", "letter_word_ratio", minimum=limits.min_letter_word_ratio),
        Rule("words_too_short", "mean_word_length", minimum=limits.min_mean_word_length),
        Rule("words_too_long", "mean_word_length", maximum=limits.max_mean_word_length),
        Rule("too_few_stop_words", "stop_words", minimum=limits.min_stop_words),
        Rule("too_many_bullet_lines", "bullet_line_ratio", maximum=limits.max_bullet_line_ratio),
        Rule("too_many_ellipsis_lines", "ellipsis_line_ratio", maximum=limits.max_ellipsis_line_ratio),
        Rule("too_few_sentence_ends", "line_punctuation_ratio", minimum=limits.min_line_punctuation_ratio),
        Rule("too_many_short_lines", "newline_ratio", maximum=limits.max_newline_ratio),
        Rule("too_few_distinct_words", "unique_word_ratio", minimum=limits.min_unique_word_ratio),
        Rule("too_little_variety", "word_entropy", minimum=limits.min_word_entropy),
    )


def code_rules(limits: CodeThresholds) -> tuple[Rule, ...]:
    """Files that people did not write: minified, generated, data."""
    return (
        Rule("code_lines_too_long", "max_line_length", maximum=limits.max_line_length),
        Rule("code_lines_too_long", "mean_line_length", maximum=limits.max_mean_line_length),
        Rule("code_with_embedded_data", "longest_word", maximum=limits.max_longest_word),
        Rule("code_mostly_symbols", "alphanumeric_ratio", minimum=limits.min_alphanumeric_ratio),
        Rule("too_many_digits", "digit_ratio", maximum=limits.max_digit_ratio),
        Rule("too_many_duplicate_lines", "duplicate_line_ratio", maximum=limits.max_duplicate_line_ratio),
    )


class LanguageChoice(BaseModel):
    """What the language rules of [filters] say; see recipe.Filters for the values."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    keep_languages: tuple[str, ...] = Field(min_length=1)
    keep_scripts: tuple[str, ...]
    language_score_min: float


def unwanted_language(language: str, score: float, choice: LanguageChoice) -> Failure | None:
    """A language, known with certainty, that nobody asked for."""
    if language in choice.keep_languages or score < choice.language_score_min:
        return None
    return Failure("language_not_wanted", f"{language} ({score:.2f}) not in {', '.join(choice.keep_languages)}")


def uncertain_language(language: str, score: float, choice: LanguageChoice) -> Failure | None:
    """The model does not know, or two languages share the page."""
    if score >= choice.language_score_min:
        return None
    return Failure("language_uncertain", f"{language} {score:.2f} < {choice.language_score_min:g}")


def unwanted_script(script: str | None, choice: LanguageChoice) -> Failure | None:
    """A known language in a script that nobody asked for."""
    if script is None or script in choice.keep_scripts:
        return None
    return Failure("script_not_wanted", f"{script} not in {', '.join(choice.keep_scripts)}")


def quality_score(signals: Mapping[str, float], language: str, language_score: float) -> float:
    """0..1: the mean of five soft signals for prose, three for code. A ranking for ties, not a model.

    Prose: length (full at 5,000 characters), lines that end a sentence (full at one half), freedom
    from repetition (0 at the limits), variety (entropy, full at 6 nats), certainty of the language.
    Code: length, share of comment lines (full at 15%), freedom from repetition.
    """
    length = min(signals["characters"] / 5000, 1.0)
    if language == "code":
        fresh = 1 - min(signals["duplicate_line_ratio"] / 0.7, 1.0)
        parts = [length, min(signals["comment_line_ratio"] / 0.15, 1.0), fresh]
    else:
        repeated = max(
            signals["duplicate_line_character_ratio"] / 0.2,
            signals["top_2_gram_ratio"] / 0.2,
            signals["duplicate_10_gram_ratio"] / 0.2,
        )
        parts = [
            length,
            min(signals["line_punctuation_ratio"] / 0.5, 1.0),
            1 - min(repeated, 1.0),
            min(signals["word_entropy"] / 6, 1.0),
            language_score,
        ]
    return round(min(max(sum(parts) / len(parts), 0.0), 1.0), 6)
