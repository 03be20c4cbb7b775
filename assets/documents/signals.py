"""Every signal of a document, measured once: filters, quality score and people all read these numbers.

Words: runs of letters and digits; in Chinese each hanzi is one unit. A segmenter (jieba) costs 20
times the rest and would only rescale: a Chinese word has about 1.7 hanzi, so an n-gram of words
is measured as one of 2n units. All ratios are 0..1 unless their name says otherwise.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from assets.documents.language import CODE, HANZI

Signals = dict[str, float]

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_ZH_UNIT = re.compile(
    r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]|[^\W\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f_]+"
)
_LETTER = re.compile(r"[^\W\d_]")
_DIGIT = re.compile(r"\d")
_SYMBOL = re.compile(r"#|\.\.\.|…")  # Gopher's two symbols
_LINE_END = tuple(".!?。！？…;；:：\"'”’」』)）")
_BULLETS = ("•", "-", "*", "●", "○", "◦", "▪", "·", "‣", "■", "◆", "★", "※")
_COMMENT = ("#", "//", "/*", "*", "--", '"""', "'''")

STOP_WORDS_EN = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))  # Gopher (arXiv 2112.11446)
STOP_WORDS_ZH = tuple("的是在了不和有这這为為以可与與会會及或也能就而于於用到")
"""Frequent function words in both scripts; ours, in the spirit of the 22 of FineWeb-2 cmn_Hani."""

NGRAM_CHARACTERS = 100_000
"""n-grams are counted over this much of a text: repetition shows early, and time stays bounded."""


def measure(text: str, language: str) -> Signals:
    """All signals of one text. Prose and code have different ones besides the common ones."""
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    signals = _common(text, lines)
    if language == CODE:
        signals |= _code(text, lines)
    else:
        units = (_ZH_UNIT if language == "zh" else _WORD).findall(text)
        signals |= _words(text, lines, units, language) | _lines(lines, len(units))
        signals |= _repetition((_ZH_UNIT if language == "zh" else _WORD).findall(text[:NGRAM_CHARACTERS]), language)
    return {name: round(float(signals[name]), 6) for name in sorted(signals)}


def _common(text: str, lines: Sequence[str]) -> Signals:
    dense = max(len(text) - sum(map(text.count, " \n\t")), 1)
    seen: set[str] = set()
    repeated = repeated_characters = 0
    for line in lines:
        if line in seen:
            repeated += 1
            repeated_characters += len(line)
        seen.add(line)
    lengths = [len(line) for line in lines] or [0]
    return {
        "characters": len(text),
        "lines": len(lines),
        "mean_line_length": sum(lengths) / len(lengths),
        "max_line_length": max(lengths),
        "hanzi_ratio": len(HANZI.findall(text)) / dense,
        "letter_ratio": len(_LETTER.findall(text)) / dense,
        "digit_ratio": len(_DIGIT.findall(text)) / dense,
        "duplicate_line_ratio": repeated / max(len(lines), 1),
        "duplicate_line_character_ratio": repeated_characters / max(sum(lengths), 1),
    }


def _code(text: str, lines: Sequence[str]) -> Signals:
    dense = "".join(text.split())
    comments = sum(line.startswith(_COMMENT) for line in lines)
    blobs = max((len(word) for line in lines if len(line) > 100 for word in line.split()), default=0)
    return {
        "alphanumeric_ratio": sum(map(str.isalnum, dense)) / max(len(dense), 1),
        "comment_line_ratio": comments / max(len(lines), 1),
        "longest_word": blobs,  # in lines over 100 characters: embedded data has no spaces
    }


def _words(text: str, lines: Sequence[str], units: Sequence[str], language: str) -> Signals:
    count = max(len(units), 1)
    if language == "zh":
        stop_words = sum(word in text for word in STOP_WORDS_ZH)
    else:
        stop_words = len(STOP_WORDS_EN & {unit.lower() for unit in units})
    frequencies = Counter(units)
    return {
        "words": len(units),
        "mean_word_length": sum(map(len, units)) / count,  # zh: near 1 by definition
        "unique_word_ratio": len(frequencies) / count,
        "word_entropy": -sum(n / count * math.log(n / count) for n in frequencies.values()),  # nats
        "letter_word_ratio": sum(map(bool, map(_LETTER.search, units))) / count,
        "symbol_ratio": len(_SYMBOL.findall(text)) / count,
        "stop_words": stop_words,  # distinct ones
    }


def _lines(lines: Sequence[str], words: int) -> Signals:
    count = max(len(lines), 1)
    return {
        "line_punctuation_ratio": sum(line.endswith(_LINE_END) for line in lines) / count,
        "bullet_line_ratio": sum(line.startswith(_BULLETS) for line in lines) / count,
        "ellipsis_line_ratio": sum(line.endswith(("...", "…")) for line in lines) / count,
        "short_line_ratio": sum(len(line) <= 30 for line in lines) / count,
        "newline_ratio": len(lines) / max(words, 1),
    }


def _repetition(units: Sequence[str], language: str) -> Signals:
    """Share of characters in the most frequent n-gram, and in all repeated long n-grams (Gopher, table A1)."""
    total = max(sum(map(len, units)), 1)
    step = 2 if language == "zh" else 1
    signals = {f"top_{n}_gram_ratio": _top_share(units, n * step, total) for n in (2, 3, 4)}
    signals["duplicate_10_gram_ratio"] = _duplicate_share(units, 10 * step, total)
    return signals


def _ngrams(units: Sequence[str], n: int) -> zip[tuple[str, ...]]:
    return zip(*(units[i:] for i in range(n)), strict=False)


def _top_share(units: Sequence[str], n: int, total: int) -> float:
    """The longest of the equally frequent ones counts, so that the order of the text does not matter; once = none."""
    counts = Counter(_ngrams(units, n))
    most = max(counts.values(), default=0)
    if most < 2:
        return 0.0
    longest = max(sum(map(len, gram)) for gram, times in counts.items() if times == most)
    return min(longest * most / total, 1.0)  # overlapping occurrences may exceed the text


def _duplicate_share(units: Sequence[str], n: int, total: int) -> float:
    seen: set[str] = set()
    repeated = at = 0
    while at + n <= len(units):
        window = units[at : at + n]
        gram = " ".join(window)
        if gram in seen:
            repeated += len(gram) - n + 1
            at += n
        else:
            seen.add(gram)
            at += 1
    return repeated / total
