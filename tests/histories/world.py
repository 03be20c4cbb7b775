"""What happens in a history: pages that come, change and go on two small sources, recipes that change, crashes.

A history is plain data (JSON), so that it can be made from a seed, shrunk and replayed. Contents are
named, not written out: `render` turns "en 3", "zh 4 light 1" or "short 2" into the bytes of a page.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.end_to_end.site import LISTS

SOURCES = {"alpha": "html", "beta": "text"}
"""Source -> format of its pages."""

SLOTS = 14
"""Pages a source may have. Fewer than a source that the yield checks watch: a history may remove nearly all of them."""

ANCHOR = 0
"""This page of each source never goes: an empty source is refused, and that is not what histories are about."""

RECIPES: dict[str, tuple[Any, ...]] = {
    "dedup.threshold": (0.8, 0.6),
    "filters.en.min_characters": (200, 500),
    "filters.language_score_min": (0.5, 0.3),
    "delta.missing_crawls": (1, 2),
    "contamination.threshold": (0.5, 0.8),
}
"""What a recipe change sets, the first value at the start."""

SENTENCES = {"en": 12, "zh": 12, "fr": 10, "short": 5, "item": 12}
"""Of a page. At most as many as a word list is long, so that no text repeats itself and is dropped for that."""


@dataclass
class Night:
    """Changes, then crawls of some sources, then what follows is brought up to date, perhaps not at the first attempt."""

    changes: list[tuple[str, int, str | None]] = field(default_factory=list)
    """(source, page, content); None removes the page."""
    fails: list[tuple[str, int]] = field(default_factory=list)
    """Pages that give nothing in this night only."""
    recipe: list[tuple[str, Any]] = field(default_factory=list)
    crawl: list[str] = field(default_factory=list)
    kills: list[int] = field(default_factory=list)
    """The build is killed at so many file operations, started again, killed again, and so on."""
    builds: bool = True
    """Whether the global stages follow. If not, only the crawls and what belongs to each: the next build meets several
    crawls of a source at once."""


@dataclass
class History:
    """Everything that happens, and how the build from scratch is made."""

    seed: int
    nights: list[Night]
    workers: int = 1
    """Of the build from scratch."""
    pool: bool = False
    """Whether the build from scratch uses worker processes, as the product does, or one process in another order."""

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> History:
        """The inverse of `to_json`."""
        value = json.loads(text)
        return cls(**value | {"nights": [Night(**night) for night in value["nights"]]})


def random_content(draw: random.Random) -> str:
    """Few bases and many variants, so that pages meet their duplicates."""
    kind = draw.choices(("en", "zh", "short", "fr", "binary", "item"), (8, 6, 2, 1, 1, 1))[0]
    base = f"{kind} {draw.randrange(9)}"
    if kind in ("en", "zh"):
        variant = draw.choices(("", f" light {draw.randrange(4)}", f" medium {draw.randrange(4)}"), (3, 3, 2))[0]
        return base + variant
    return base


def random_history(seed: int, nights: int = 6) -> History:
    """The history of a seed: a first build of two sources, then nights of changes."""
    draw = random.Random(seed)
    first = [(source, slot, random_content(draw)) for source in SOURCES for slot in range(draw.randrange(4, 10))]
    first += [(source, ANCHOR, f"en {90 + number}") for number, source in enumerate(SOURCES)]
    history = History(seed, [Night(changes=first, crawl=list(SOURCES))], draw.choice((1, 2)), draw.random() < 0.1)
    gone: dict[tuple[str, int], str] = {}
    now = {(source, slot): content for source, slot, content in first}
    before: dict[tuple[str, int], str] = {}
    for _ in range(nights - 1):
        history.nights.append(random_night(draw, now, gone, before))
    history.nights[-1].builds = True
    return history


def random_night(
    draw: random.Random,
    now: dict[tuple[str, int], str],
    gone: dict[tuple[str, int], str],
    before: dict[tuple[str, int], str],
) -> Night:
    """Some changes of some pages; sometimes a recipe change, a failing page, a crash, or no build.

    Updates `now`, `gone` and `before`, the content that a page had before its last edit.
    """
    sources = list(SOURCES)
    night = Night(crawl=[source for source in sources if draw.random() < 0.7])
    for _ in range(draw.randrange(6)):
        page = (draw.choice(sources), draw.randrange(1, SLOTS))
        content = random_content(draw)
        if before and draw.random() < 0.2:  # A, B, A
            page = draw.choice(sorted(before))
            content = before.pop(page)
        elif gone and draw.random() < 0.3:  # a page comes back, more often as it was
            page = draw.choice(sorted(gone))
            content = gone.pop(page) if draw.random() < 0.6 else content
        elif page in now and draw.random() < 0.5:
            gone[page] = now.pop(page)
            night.changes.append((*page, None))
            continue
        if page in now:
            before[page] = now[page]
        now[page] = content
        gone.pop(page, None)
        night.changes.append((*page, content))
    night.builds = draw.random() < 0.6
    if draw.random() < 0.3:
        night.fails.append((draw.choice(sources), draw.randrange(1, SLOTS)))
    if draw.random() < 0.25:
        key = draw.choice(list(RECIPES))
        night.recipe.append((key, draw.choice(RECIPES[key])))
    if draw.random() < 0.4:
        night.kills = [int(10 ** draw.uniform(0, 2.7)) for _ in range(draw.choice((1, 1, 2)))]
    return night


def render(content: str, page_format: str) -> bytes:
    """The bytes of a page."""
    kind, number, *variant = content.split()
    if kind == "binary":
        return b"\x00\x01" * 200 + content.encode()
    text = _text(kind, number)
    if variant:
        text = _vary(text, kind, *variant)
    if page_format == "text":
        return text.encode()
    return f"<!doctype html><html><head><title>page</title></head><body><article><p>{text}</p></article></body></html>".encode()


def _text(kind: str, number: str) -> str:
    language = "en" if kind in ("short", "item") else kind
    joiner = "" if language == "zh" else " "
    start = hashlib.sha256(f"{kind} {number}".encode()).digest()
    text = joiner.join(
        "".join(column[(start[place] + i) % len(column)] for place, column in enumerate(LISTS[language]))
        + ("。" if language == "zh" else "")
        for i in range(SENTENCES[kind])
    )
    return f"{text} {ITEM}" if kind == "item" else text


def _vary(text: str, kind: str, how: str, number: str) -> str:
    """The text with one place (light) or several places (medium) changed: a close and a distant near-duplicate."""
    units, joiner = (list(text), "") if kind == "zh" else (text.split(), " ")
    places = 1 if how == "light" else len(units) // 22
    for place in range(places):
        at = int(hashlib.sha256(f"{how} {number} {place}".encode()).hexdigest(), 16) % (
            len(units) - 1
        )  # the end of the last sentence stays
        units[at] = "改" if kind == "zh" else f"changed{number}"
    return joiner.join(units)


def contaminating_item() -> str:
    """A sentence of the evaluation items."""
    items = Path(__file__).resolve().parents[2] / "assets/evaluation/items/needles.jsonl"
    rows = [json.loads(line) for line in items.read_text(encoding="utf-8").splitlines()]
    return " ".join(row["needle"] for row in rows if row["language"] == "en")


ITEM = contaminating_item()


def page_name(source: str, slot: int) -> str:
    """File name of a page."""
    return f"page-{slot:02d}.{'html' if SOURCES[source] == 'html' else 'txt'}"


def page_url(source: str, slot: int) -> str:
    """URL of a page."""
    return f"file:///{source}/{page_name(source, slot)}"


def contains(history: History) -> Counter[str]:
    """How often each kind of thing happens in a history."""
    found: Counter[str] = Counter(histories=1, nights=len(history.nights))
    now: dict[tuple[str, int], str] = {}
    ever: dict[tuple[str, int], set[str]] = {}
    for night in history.nights:
        for source, slot, content in night.changes:
            page = (source, slot)
            if content is None:
                found["removals"] += now.pop(page, None) is not None
                continue
            if page in now:
                found["edits"] += now[page] != content
                found["edits back to an earlier content"] += now[page] != content and content in ever[page]
            elif page in ever:
                found["re-adds, same content" if content in ever[page] else "re-adds, other content"] += 1
            else:
                found["adds"] += 1
            now[page] = content
            ever.setdefault(page, set()).add(content)
        found["pages failing for a night"] += sum(tuple(page) in now for page in night.fails)
        found["recipe changes"] += len(night.recipe)
        found["crawls"] += len(night.crawl)
        found["nights without a build"] += not night.builds
    return found
