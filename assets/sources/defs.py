"""Build functions of the sources group: raw_crawl and crawl_delta."""

from __future__ import annotations

from pydantic import BaseModel

from assets.build import Build, BuildError, Segment, StageReport
from assets.schemas import CRAWL_DELTA
from assets.sources.config import SourceConfig
from assets.sources.delta import DeltaPolicy, delta_rows
from assets.sources.partition import parse_crawl
from assets.tables import write_table

RECIPES: dict[str, type[BaseModel]] = {"sources": SourceConfig, "delta": DeltaPolicy}


def raw_crawl(build: Build) -> StageReport:
    """Fetch one source completely and record every URL that was met."""
    from assets.sources.crawl import capture_source
    from assets.sources.report import crawl_report

    source = build.recipe("sources", SourceConfig).root
    assert build.partition is not None
    summary = capture_source(source, build.partition, build.output, build.scratch, build.progress)
    files = {path.name: path for path in build.output.iterdir()}
    return crawl_report(source, Segment("raw_crawl", build.partition, "staged", files), summary)


def crawl_delta(build: Build) -> StageReport:
    """Compare this crawl with the pages that were live after the source's previous crawl."""
    from assets.sources.report import delta_report

    policy = build.recipe("delta", DeltaPolicy)
    parse_crawl(build.partition)
    current = [segment for segment in build.all("raw_crawl") if segment.partition == build.partition]
    earlier = [segment for segment in build.all("raw_crawl") if segment.partition != build.partition]
    previous = build.all("crawl_delta")
    if len(current) != 1 or len(earlier) > 1 or {s.partition for s in earlier} != {s.partition for s in previous}:
        raise BuildError(
            f"crawl_delta/{build.partition} needs its own raw_crawl and, of the crawl before it, raw_crawl and crawl_delta; found "
            f"raw_crawl of {[s.partition for s in build.all('raw_crawl')]}, crawl_delta of {[s.partition for s in previous]}: "
            "build crawl_delta of the earlier crawl first"
        )
    columns = ["url", "crawl", "doc_id", "content_sha256", "drop_reason"]
    captures = current[0].table("captures", columns).to_pylist()
    rows = delta_rows(captures, previous[0].table("delta").to_pylist() if previous else [], policy)
    write_table(build.output, "delta", rows, CRAWL_DELTA)
    return delta_report(rows, captures, policy)
