"""Captures one bulk source and reads back what was written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assets.build import Segment, SilentProgress
from assets.sources.config import SourceConfig
from assets.sources.crawl import capture_source
from assets.sources.warc import iter_payloads
from orchestration.identity.digest import data_version
from tests.builds import segment_of

NAME = "bulk"
CRAWL = f"{NAME}@20260101T000000Z"


@dataclass(frozen=True)
class Crawled:
    """One raw_crawl; `summary` is what its report is made from."""

    rows: dict[str, dict[str, Any]]
    payloads: dict[str, bytes]
    summary: dict[str, Any]
    digest: str
    segment: Segment

    @property
    def reasons(self) -> dict[str, str | None]:
        """URL -> drop reason."""
        return {url: row["drop_reason"] for url, row in self.rows.items()}

    @property
    def kept(self) -> list[str]:
        """Kept URLs, sorted."""
        return sorted(self.payloads)


def table(kind: str, **keys: Any) -> dict[str, Any]:
    """A source's table with the keys that every kind needs."""
    return {"kind": kind, "licence": "CC0-1.0", "domain": "encyclopedia"} | keys


def crawl(folder: Path, source: dict[str, Any], partition: str = CRAWL, previous: Segment | None = None) -> Crawled:
    """Capture `source` into `folder`, without the report, whose plots take longer than the reading."""
    output = folder / "output"
    output.mkdir(parents=True)
    model = SourceConfig.model_validate(source).root
    summary = capture_source(model, partition, output, folder / "work", SilentProgress(), previous)
    segment = segment_of(output, "raw_crawl", partition)
    rows = segment.table("captures").to_pylist()
    assert [row["url"] for row in rows] == sorted({row["url"] for row in rows})
    payloads = {row["url"]: payload for row, payload in iter_payloads(segment)}
    digest = data_version(output, ("*.warc.gz",))[0]
    return Crawled({row["url"]: row for row in rows}, payloads, summary, digest, segment)
