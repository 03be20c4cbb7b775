"""Reading what dedup needs of the stages before it: live kept documents, their signatures, kept texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet

import pyarrow as pa
import pyarrow.compute as pc

from assets.build import Build, BuildError, Segment
from assets.dedup.signatures import SignatureReader
from assets.sources.delta import live_documents


def read_live(deltas: Sequence[Segment]) -> pa.Table:
    """doc_id, url, source, crawl of every live document."""
    return live_documents([segment.table("delta") for segment in deltas])


def read_all(segments: Sequence[Segment], table: str, columns: Sequence[str], schema: pa.Schema) -> pa.Table:
    """Some columns of all partitions of a table; empty when there are none."""
    tables = [segment.table(table, columns) for segment in segments]
    return pa.concat_tables(tables) if tables else schema.empty_table().select(columns)


def same_partition(build: Build, asset: str, segment: Segment) -> Segment:
    """The partition of `asset` that belongs to a segment of another asset."""
    for found in build.all(asset):
        if found.partition == segment.partition:
            return found
    raise BuildError(f"{segment.asset} has partition {segment.partition}, {asset} has not: materialise it first")


def kept_ids(filtered: Segment) -> set[str]:
    """Documents of one partition that the filters kept."""
    table = filtered.table("decisions", ("doc_id", "drop_reason"))
    return set(table.filter(table["drop_reason"].is_null())["doc_id"].to_pylist())


def kept_texts(extracted: Segment, kept: AbstractSet[str]) -> Iterator[tuple[str, str]]:
    """(doc_id, text) of the kept documents of one partition, in order of doc_id, a batch in memory at a time."""
    for batch in extracted.batches("documents", ("doc_id", "text"), rows=1024):
        for doc_id, text in zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True):
            if doc_id in kept:
                yield doc_id, text


def live_kept(live: pa.Table, filtered: pa.Table) -> pa.Table:
    """Live documents that the filters kept: doc_id, url, source, crawl, crawled_at, quality; sorted by doc_id."""
    decided = filtered.select(("doc_id", "crawl", "quality", "drop_reason"))
    decided = decided.append_column("decided", pa.repeat(True, len(decided)))
    joined = live.join(decided, keys=["doc_id", "crawl"], join_type="left outer")
    undecided = joined.filter(joined["decided"].is_null())
    if len(undecided):
        first = undecided.sort_by("doc_id").slice(0, 1).to_pylist()[0]
        raise BuildError(
            f"{len(undecided)} live documents have no row in filtered_documents, first {first['doc_id']} of "
            f"{first['crawl']}: materialise filtered_documents for that crawl"
        )
    kept = joined.filter(joined["drop_reason"].is_null()).drop_columns(["decided", "drop_reason"])
    crawled_at = pc.list_element(pc.split_pattern(kept["crawl"], "@", max_splits=1, reverse=True), 1)
    return kept.append_column("crawled_at", crawled_at).sort_by("doc_id")


def signature_reader(segments: Sequence[Segment], documents: pa.Table) -> SignatureReader:
    """Signatures of `documents`, each from the crawl that is live, in batches."""
    wanted: dict[str, list[str]] = {}
    for doc_id, crawl in zip(documents["doc_id"].to_pylist(), documents["crawl"].to_pylist(), strict=True):
        wanted.setdefault(crawl, []).append(doc_id)

    def read(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        for segment in segments:
            ids = pa.array(wanted.get(segment.partition or "", []), type=pa.string())
            if not len(ids):
                continue
            for batch in segment.batches("signatures", columns):
                yield batch.filter(pc.is_in(batch.column("doc_id"), value_set=ids))

    return read
