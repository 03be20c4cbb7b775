"""Small crawls for tests of dedup: pages in, the segments of every stage before dedup out."""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from assets.build import Segment, StageReport, UpdatedTables
from assets.dedup import defs
from assets.schemas import CRAWL_DELTA, DOCUMENTS, FILTERED, LIVE_PAGES, document_id
from assets.sources.delta import live_changes
from assets.tables import write_table
from tests.builds import make_build, published

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


def crawl_segments(folder: Path, crawl: str, pages: Sequence[Page], before: Segment | None = None) -> list[Segment]:
    """crawl_delta (after `before`, the source's earlier one), extracted_documents and filtered_documents of one crawl."""
    source = crawl.partition("@")[0]
    delta, extracted, filtered = [], [], []
    for page in sorted(pages, key=lambda page: page.url):
        identity = {"doc_id": page.doc_id(source), "url": page.url, "source": source, "crawl": crawl}
        delta.append(identity | {"change": page.change, "rule": "test", "content_sha256": None, "missed_crawls": 0})
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
    build = make_build(folder / "crawl_delta" / crawl, "crawl_delta", partition=crawl)
    write_table(build.output, "delta", delta, CRAWL_DELTA)
    changes = live_changes(delta, before.table("live").to_pylist() if before else [])
    tables = UpdatedTables(build.output, before)
    tables.write("live", changes, LIVE_PAGES)
    segments = [published(build, StageReport(extends=tables.extends))]
    for asset, name, rows, schema in (
        ("extracted_documents", "documents", extracted, DOCUMENTS),
        ("filtered_documents", "decisions", filtered, FILTERED),
    ):
        build = make_build(folder / asset / crawl, asset, partition=crawl)
        write_table(build.output, name, sorted(rows, key=lambda row: row["doc_id"]), schema)
        segments.append(published(build, StageReport()))
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


def world_segments(folder: Path, crawls: dict[str, Sequence[Page]], recipes: dict | None = None) -> list[Segment]:
    """All partitioned segments of some crawls, signatures included."""
    inputs: list[Segment] = []
    newest: dict[str, Segment] = {}
    for crawl in sorted(crawls, key=lambda crawl: crawl.partition("@")[2]):
        source = crawl.partition("@")[0]
        found = crawl_segments(folder, crawl, crawls[crawl], newest.get(source))
        newest[source] = found[0]
        inputs += found
        inputs.append(_run(folder, "document_signatures", found[1:], recipes or {}, crawl)[0])
    return inputs


def build_dedup(
    folder: Path, crawls: dict[str, Sequence[Page]], recipes: dict | None = None, base: Built | None = None
) -> Built:
    """Run every dedup asset over some crawls; with `base`, each updates the version that stands there."""
    inputs = world_segments(folder, crawls, recipes)
    last = [segment for segment in inputs if segment.asset == "document_signatures"][-1]
    built = Built({"document_signatures": last}, {})
    for asset in ("duplicate_clusters", "contamination", "corpus"):
        previous = base.segments[asset] if base else None
        read = [*inputs, *_unpartitioned(built)]
        built.segments[asset], built.reports[asset] = _run(folder, asset, read, recipes or {}, previous=previous)
    return built


def _unpartitioned(built: Built) -> list[Segment]:
    return [segment for segment in built.segments.values() if segment.partition is None]


@contextmanager
def no_pictures() -> Iterator[None]:
    """Leave out drawing, which takes most of the time of a build this small and none of its data."""
    with patch("assets.plots._png", return_value=b""):
        yield


def _run(
    folder: Path,
    asset: str,
    inputs: list[Segment],
    recipes: dict,
    crawl: str | None = None,
    previous: Segment | None = None,
) -> tuple[Segment, StageReport]:
    work = folder / "built" / asset / (crawl or "all")
    shutil.rmtree(work, ignore_errors=True)
    build = make_build(work, asset, inputs, recipes, crawl, previous=previous, extend=True)
    with no_pictures():
        report = getattr(defs, asset)(build)
    report.as_json()
    assert report.documents_in == (report.documents_kept or 0) + sum(report.dropped.values())
    return published(build, report), report
