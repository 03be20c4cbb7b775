"""What has changed among the live documents since an earlier version of a global stage read the crawls."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from assets.build import Build, Segment
from assets.dedup.live import LIVE_COLUMNS
from assets.delta_table import Changes
from assets.schemas import LIVE_PAGES
from assets.sources.partition import parse_crawl


@dataclass(frozen=True)
class LiveUpdate:
    """Live documents (doc_id, url, source, crawl) that went and came; the pages that were touched (`page_key`), and
    the documents that are live on them now: a page that came and went in between is touched, too."""

    removed: pa.Table
    added: pa.Table
    touched: pa.Array
    now: pa.Table


def live_update(build: Build) -> LiveUpdate | None:
    """What the crawls that `build.base` has not read did to the live documents; None when only a full build can tell.

    That is so when a crawl that was read has changed, or a new one is older than one that was read.
    """
    deltas = build.added("crawl_delta")
    if deltas is None or build.base is None:
        return None
    newest: dict[str, Any] = {}
    for partition in build.base.inputs.get("crawl_delta", {}):
        source, at = parse_crawl(partition)
        newest[source] = max(at, newest.get(source, at))
    ordered = sorted(deltas, key=lambda delta: parse_crawl(delta.partition)[1])
    for delta in ordered:
        source, at = parse_crawl(delta.partition)
        if source in newest and at < newest[source]:
            return None
    return _fold(_page_changes(delta) for delta in ordered)


def _page_changes(delta: Segment) -> Changes:
    """What one crawl did to the live pages of its source."""
    extends = delta.manifest.get("extends")
    if extends:
        found = delta.changes("live", extends["version"])
        assert found is not None
        return found
    return Changes(LIVE_PAGES.empty_table(), delta.table("live"))


def _fold(updates: Iterable[Changes]) -> LiveUpdate:
    before: dict[str, dict[str, Any] | None] = {}
    after: dict[str, dict[str, Any] | None] = {}
    for changes in updates:
        gone = {page_key(row): row for row in changes.removed.select(LIVE_COLUMNS).to_pylist()}
        come = {page_key(row): row for row in changes.added.select(LIVE_COLUMNS).to_pylist()}
        for key in gone.keys() | come.keys():
            if gone.get(key) != come.get(key):  # else only the count of missed crawls changed
                before.setdefault(key, gone.get(key))
                after[key] = come.get(key)
    moved = [key for key in sorted(after) if before[key] != after[key]]
    return LiveUpdate(
        _live_table(before[key] for key in moved),
        _live_table(after[key] for key in moved),
        pa.array(sorted(after), type=pa.string()),
        _live_table(after[key] for key in sorted(after)),
    )


def _live_table(rows: Iterable[dict[str, Any] | None]) -> pa.Table:
    schema = LIVE_PAGES.empty_table().select(LIVE_COLUMNS).schema
    return pa.Table.from_pylist([row for row in rows if row is not None], schema=schema)


def page_key(row: dict[str, Any]) -> str:
    """Identity of a page: the same URL in two sources is two pages."""
    return f"{row['source']}\t{row['url']}"


def page_keys(table: pa.Table | pa.RecordBatch) -> pa.Array:
    """`page_key` of each row."""
    return pc.binary_join_element_wise(table.column("source"), table.column("url"), "\t")


def rows_by_crawl(
    segments: Sequence[Segment], table: str, wanted: pa.Table, columns: Sequence[str], schema: pa.Schema
) -> pa.Table:
    """The rows of (doc_id, crawl) pairs in a table partitioned by crawl."""
    by_crawl: dict[str, list[str]] = {}
    for doc_id, crawl in zip(wanted["doc_id"].to_pylist(), wanted["crawl"].to_pylist(), strict=True):
        by_crawl.setdefault(crawl, []).append(doc_id)
    tables = [schema.empty_table().select(columns)]
    for segment in segments:
        if doc_ids := by_crawl.get(segment.partition or ""):
            tables.append(segment.rows(table, "doc_id", pa.array(doc_ids, type=pa.string()), columns))
    return pa.concat_tables(tables)
