"""Small crawls for tests of dedup: pages in, the segments of every stage before dedup out."""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from assets.build import Segment, StageReport
from assets.dedup import defs
from assets.schemas import CRAWL_DELTA, DOCUMENTS, FILTERED, document_id
from assets.tables import write_table
from tests.builds import make_build, segment_of

EN_WORDS = [
    "river",
    "stone",
    "winter",
    "garden",
    "letter",
    "engine",
    "copper",
    "market",
    "window",
    "bridge",
    "silver",
    "orchard",
    "captain",
    "harbour",
    "lantern",
    "mirror",
    "valley",
    "thunder",
    "basket",
    "kitchen",
    "velvet",
    "compass",
    "ladder",
    "meadow",
    "needle",
    "pocket",
    "quarry",
    "ribbon",
    "saddle",
    "tunnel",
    "umbrella",
    "whistle",
]
ZH_CHARACTERS = (
    "山水木石日月风云花草树叶江河湖海城门桥路灯火书笔纸墨琴棋画诗酒茶米面田园春夏秋冬东西南北高低远近大小长短"
)


def english(seed: int, words: int = 120) -> str:
    """A text of random words."""
    draw = random.Random(seed)
    return " ".join(f"{draw.choice(EN_WORDS)}{draw.randrange(20)}" for _ in range(words))


def chinese(seed: int, characters: int = 240) -> str:
    """A text of random characters."""
    draw = random.Random(seed)
    return "".join(draw.choice(ZH_CHARACTERS) for _ in range(characters))


def replace_words(text: str, places: Sequence[int], marker: str = "changed") -> str:
    """The text with some of its words replaced."""
    words = text.split()
    for place in places:
        words[place] = f"{marker}{place}"
    return " ".join(words)


@dataclass(frozen=True)
class Page:
    """One page of one crawl; `drop` names the stage and reason that dropped it."""

    url: str
    text: str
    quality: float = 0.5
    change: str = "added"
    extraction_drop: str | None = None
    filter_drop: str | None = None
    language: str = "en"

    def doc_id(self, source: str) -> str:
        """Identity of this content at this URL."""
        return document_id(source, self.url, hashlib.sha256(self.text.encode()).hexdigest())


def crawl_segments(folder: Path, crawl: str, pages: Sequence[Page]) -> list[Segment]:
    """crawl_delta, extracted_documents and filtered_documents of one crawl."""
    source = crawl.partition("@")[0]
    delta, extracted, filtered = [], [], []
    for page in sorted(pages, key=lambda page: page.url):
        identity = {"doc_id": page.doc_id(source), "url": page.url, "source": source, "crawl": crawl}
        delta.append(identity | {"change": page.change, "rule": "test"})
        if page.change in ("added", "changed"):
            drop = page.extraction_drop
            described = identity | {"domain": "documentation", "format": "html"}
            extracted.append(
                described | {"licence": "CC-BY-SA-4.0", "text": "" if drop else page.text, "drop_reason": drop}
            )
            if drop:
                continue
            filtered.append(
                described
                | {"language": page.language, "quality": page.quality, "characters": len(page.text)}
                | {"utf8_bytes": len(page.text.encode()), "drop_reason": page.filter_drop}
            )
    tables = (
        ("crawl_delta", "delta", delta, CRAWL_DELTA),
        ("extracted_documents", "documents", extracted, DOCUMENTS),
        ("filtered_documents", "decisions", filtered, FILTERED),
    )
    segments = []
    for asset, name, rows, schema in tables:
        if asset != "crawl_delta":
            rows.sort(key=lambda row: row["doc_id"])
        table = pa.Table.from_pylist(rows, schema=schema)
        write_table(folder / asset / crawl, name, table, schema)
        segments.append(segment_of(folder / asset / crawl, asset, crawl))
    return segments


@dataclass
class Built:
    """All dedup segments of a world and the reports of their builds."""

    segments: dict[str, Segment]
    reports: dict[str, StageReport]
    """Of the assets without partitions, and of document_signatures of the last crawl."""

    def rows(self, asset: str, table: str = "decisions") -> list[dict]:
        """Rows of one written table."""
        return self.segments[asset].table(table).to_pylist()


def build_dedup(folder: Path, crawls: dict[str, Sequence[Page]], recipes: dict | None = None) -> Built:
    """Run every dedup asset over some crawls, in the order given."""
    recipes = recipes or {}
    inputs: list[Segment] = []
    for crawl, pages in crawls.items():
        inputs += crawl_segments(folder, crawl, pages)
        pair = [segment for segment in inputs if segment.partition == crawl and segment.asset != "crawl_delta"]
        signed, report = _run(folder, "document_signatures", pair, recipes, crawl)
        inputs.append(signed)
    built = Built({"document_signatures": signed}, {"document_signatures": report})
    for asset in ("duplicate_clusters", "contamination", "corpus"):
        built.segments[asset], built.reports[asset] = _run(folder, asset, [*inputs, *_unpartitioned(built)], recipes)
    return built


def _unpartitioned(built: Built) -> list[Segment]:
    return [segment for segment in built.segments.values() if segment.partition is None]


def _run(
    folder: Path, asset: str, inputs: list[Segment], recipes: dict, crawl: str | None = None
) -> tuple[Segment, StageReport]:
    work = folder / "built" / asset / (crawl or "all")
    shutil.rmtree(work, ignore_errors=True)
    report = getattr(defs, asset)(make_build(work, asset, inputs, recipes, crawl))
    report.as_json()
    assert report.documents_in == (report.documents_kept or 0) + sum(report.dropped.values())
    return segment_of(work / "output", asset, crawl, report=report), report
