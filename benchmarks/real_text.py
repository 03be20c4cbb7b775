"""Documents made of real text, for benchmarks: sentences of two free Chinese and English books and of Python's own
documentation, mixed deterministically, with exact and near duplicates planted at known Jaccard.

Every document is a function of its number alone, so any part of a corpus can be made by itself.
"""

from __future__ import annotations

import inspect
import os
import pkgutil
import random
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from assets.build import SilentProgress
from orchestration.run.demo import obtain

SENTENCE_ZH = re.compile(r"[^。！？\n]{8,}[。！？]")
SENTENCE_EN = re.compile(r"[A-Z][^.!?\n]{30,400}[.!?](?=\s)")
TEMPLATE_SHARE = 0.9  # of a templated page: what it has in common with the others


@dataclass(frozen=True)
class Sentences:
    """Distinct sentences in order of appearance."""

    chinese: tuple[str, ...]
    english: tuple[str, ...]


def read_sentences(home: Path | None = None) -> Sentences:
    """Sentences of the Debian handbook (zh-CN, zh-TW, en-US), the Debian reference (zh-CN) and Python's docstrings."""
    from resiliparse.extract.html2text import extract_plain_text

    root = obtain((home or Path(os.environ.get("HEADWATER_HOME", ".headwater"))).resolve(), SilentProgress())
    pages = [
        extract_plain_text(path.read_text(encoding="utf-8"), main_content=True) for path in sorted(root.rglob("*.html"))
    ]
    chinese = [sentence.strip() for page in pages for sentence in SENTENCE_ZH.findall(page) if _is_chinese(sentence)]
    english = [
        " ".join(sentence.split()) for page in (*pages, *_docstrings()) for sentence in SENTENCE_EN.findall(page)
    ]
    english = [sentence for sentence in english if sentence.isascii()]
    return Sentences(tuple(dict.fromkeys(chinese)), tuple(dict.fromkeys(english)))


def _is_chinese(sentence: str) -> bool:
    return sum("\u4e00" <= character <= "\u9fff" for character in sentence) > 0.5 * len(sentence)


def _docstrings() -> Iterator[str]:
    """Docstrings of the standard library, joined per module."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for info in sorted(pkgutil.iter_modules(), key=lambda info: info.name):
            if info.name.startswith("_") or info.name in ("antigravity", "this", "idlelib", "turtledemo"):
                continue
            location = getattr(info.module_finder, "path", "")
            if "site-packages" in location or not location.startswith(os.path.dirname(os.__file__)):
                continue
            try:
                module = import_module(info.name)
            except Exception:  # a module for another system: its docstrings are not needed
                continue
            texts = [inspect.getdoc(value) or "" for _, value in sorted(vars(module).items(), key=lambda item: item[0])]
            yield re.sub(r"\n(?!\n)", " ", "\n\n".join(texts))


def document(number: int, sentences: Sentences) -> str:
    """A text of some 2,000 English or 800 Chinese characters; every second one is Chinese."""
    draw = random.Random(f"document {number}")
    pool, separator, length = _language(number, sentences)
    wanted = length * draw.lognormvariate(0, 0.6)
    chosen: list[str] = []
    while sum(map(len, chosen)) < wanted:
        chosen.append(pool[draw.randrange(len(pool))])
    return separator.join(chosen)


def near_duplicate(text: str, number: int, sentences: Sentences, share: float) -> str:
    """The text with a run of its middle replaced by other sentences; `share` of it stays."""
    draw = random.Random(f"near duplicate {number}")
    pool, separator, _ = _language(number, sentences)
    away = round(len(text) * (1 - share) / 2)
    middle = len(text) // 2
    new = ""
    while len(new) < 2 * away:
        new += pool[draw.randrange(len(pool))] + separator
    return text[: middle - away] + new[: 2 * away] + text[middle + away :]


def templated(number: int, sentences: Sentences) -> str:
    """A page of one template: nine tenths are the same on all of them."""
    pool = sentences.english
    page = " ".join(pool[at * 37 % len(pool)] for at in range(18))
    draw = random.Random(f"page {number}")
    own = " ".join(pool[draw.randrange(len(pool))] for _ in range(4))[: round(len(page) * (1 / TEMPLATE_SHARE - 1))]
    return f"{page[: len(page) // 2]} {own} {page[len(page) // 2 :]}"


def _language(number: int, sentences: Sentences) -> tuple[tuple[str, ...], str, int]:
    return (sentences.chinese, "", 800) if number % 2 else (sentences.english, " ", 2000)
