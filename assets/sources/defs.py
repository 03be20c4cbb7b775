"""Build functions of the sources group: raw_crawl and crawl_delta."""

from __future__ import annotations

from pydantic import BaseModel

from assets.build import Build, BuildError, Segment, StageReport, UpdatedTables
from assets.schemas import CRAWL_DELTA, LIVE_PAGES
from assets.sources.config import SourceConfig
from assets.sources.delta import DeltaPolicy, delta_rows, live_changes
from assets.sources.partition import parse_crawl
from assets.tables import write_table

RECIPES: dict[str, type[BaseModel]] = {"sources": SourceConfig, "delta": DeltaPolicy}


def raw_crawl(build: Build) -> StageReport:
    """Fetch one source and record every URL that was met; what its previous crawl holds unchanged is not stored again."""
    from assets.sources.crawl import capture_source
    from assets.sources.report import crawl_report

    source = build.recipe("sources", SourceConfig).root
    assert build.partition is not None
    previous = next(iter(build.all("raw_crawl")), None)
    summary = capture_source(source, build.partition, build.output, build.scratch, build.progress, previous)
    files = {path.name: path for path in build.output.iterdir()}
    return crawl_report(source, Segment("raw_crawl", build.partition, "staged", files), summary)


def crawl_delta(build: Build) -> StageReport:
    """Compare this crawl with the pages that were live after the source's previous crawl."""
    from assets.sources.report import delta_report

    policy = build.recipe("delta", DeltaPolicy)
    parse_crawl(build.partition)
    previous = build.all("crawl_delta")
    if len(previous) > 1:
        raise BuildError(
            f"crawl_delta/{build.partition} follows one crawl, but was given {[s.partition for s in previous]}: "
            "a source's crawls are compared one after the other"
        )
    columns = ["url", "crawl", "doc_id", "content_sha256", "drop_reason", "revisit"]
    captures = build.one("raw_crawl").table("captures", columns).to_pylist()
    live = previous[0].table("live").to_pylist() if previous else []
    rows = delta_rows(captures, live, policy)
    write_table(build.output, "delta", rows, CRAWL_DELTA)
    written = UpdatedTables(build.output, previous[0] if previous else None)
    written.write("live", live_changes(rows, live), LIVE_PAGES)
    report = delta_report(rows, captures, policy)
    report.extends = written.extends
    return report
