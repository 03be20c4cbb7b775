"""The live documents of all crawls, which of them the filters kept, and their signatures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from assets.build import BuildError, Segment, neighbours
from assets.dedup.signatures import SignatureReader
from assets.key_set import KeySet
from assets.packs import PackedRows, read_batches
from assets.schemas import FILTERED, LIVE_PAGES
from assets.sources.partition import parse_crawl
from assets.tables import row_groups_holding

WORTH_A_PACK = 16
"""Neighbouring crawls in a pack that are read there: opening a file takes half a millisecond, decoding a row group of
signatures ten times as long."""

LIVE_COLUMNS = ("doc_id", "url", "source", "crawl")


def newest_deltas(deltas: Sequence[Segment]) -> list[Segment]:
    """The newest crawl_delta of each source: its live pages are those of the source."""
    newest: dict[str, Segment] = {}
    for delta in deltas:
        source, at = parse_crawl(delta.partition)
        if source not in newest or at > parse_crawl(newest[source].partition)[1]:
            newest[source] = delta
    return [newest[source] for source in sorted(newest)]


def read_live(deltas: Sequence[Segment]) -> pa.Table:
    """doc_id, url, source, crawl of every live document, sorted by doc_id."""
    tables = [delta.table("live", LIVE_COLUMNS) for delta in newest_deltas(deltas)]
    return pa.concat_tables(tables or [LIVE_PAGES.empty_table().select(LIVE_COLUMNS)]).sort_by("doc_id")


def live_kept(live: pa.Table, decided: dict[str, pa.Table]) -> pa.Table:
    """Live documents that the filters kept: doc_id, url, source, crawl, crawled_at, quality; sorted by doc_id.

    `decided` is crawl -> doc_id, quality, drop_reason of filtered_documents. A live document without a
    row there was dropped by the extraction; the corpus, which reads that too, makes sure of it.
    """
    missing = sorted(set(pc.unique(live["crawl"]).to_pylist()) - set(decided))
    if missing:
        raise BuildError(
            f"{len(missing)} crawls hold live documents but have no filtered_documents, first {missing[0]}: "
            "materialise filtered_documents for them"
        )
    tables = [table.append_column("crawl", pa.repeat(crawl, len(table))) for crawl, table in sorted(decided.items())]
    if not tables:
        tables = [FILTERED.empty_table().select(("doc_id", "quality", "drop_reason", "crawl"))]
    rows = pa.concat_tables(tables)
    kept = rows.filter(rows["drop_reason"].is_null()).drop_columns(["drop_reason"])
    kept = live.join(kept, keys=["doc_id", "crawl"], join_type="inner")
    crawled_at = pc.list_element(pc.split_pattern(kept["crawl"], "@", max_splits=1, reverse=True), 1)
    return kept.append_column("crawled_at", crawled_at).sort_by("doc_id")


def signature_reader(segments: Sequence[Segment], documents: pa.Table) -> SignatureReader:
    """Signatures of `documents`, each from the crawl that is live, in batches."""
    wanted: dict[str, list[str]] = {}
    for doc_id, crawl in zip(documents["doc_id"].to_pylist(), documents["crawl"].to_pylist(), strict=True):
        wanted.setdefault(crawl, []).append(doc_id)

    def read(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        for rows, some in neighbours((s for s in segments if s.partition in wanted), "signatures"):
            if rows and len(some) >= WORTH_A_PACK:
                yield from _from_pack(rows, some, wanted, columns)
            else:
                for segment in some:
                    yield from _from_files(segment, sorted(wanted[segment.partition or ""]), columns)

    return read


def _from_files(segment: Segment, ordered: list[str], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    ids = KeySet(pa.array(ordered, type=pa.string()))
    for part in segment.parts("signatures"):
        file = pq.ParquetFile(part)
        groups = row_groups_holding(file, "doc_id", ordered)
        for batch in file.iter_batches(4096, groups, list(columns)) if groups else ():
            yield batch.filter(ids.holds(batch.column("doc_id")))


def _from_pack(
    rows: PackedRows, segments: Sequence[Segment], wanted: dict[str, list[str]], columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """A document that went and came back has a row in two crawls: rows are told apart by crawl and document."""
    crawls = [segment.partition or "" for segment in segments]
    ids = KeySet(pa.array([f"{crawl}\t{doc_id}" for crawl in crawls for doc_id in wanted[crawl]]))
    counts = [segment.packed["signatures"].count for segment in segments]
    crawl = pa.array(crawls).take(pa.array(np.repeat(np.arange(len(crawls)), counts)))
    at = 0
    for batch in read_batches(rows, columns, 4096):
        keys = pc.binary_join_element_wise(crawl.slice(at, len(batch)), batch.column("doc_id"), "\t")
        at += len(batch)
        yield batch.filter(ids.holds(keys))
