"""The live documents of all crawls, which of them the filters kept, and their signatures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from assets.build import BuildError, Segment
from assets.dedup.signatures import SignatureReader
from assets.sources.delta import live_documents


def read_live(deltas: Sequence[Segment]) -> pa.Table:
    """doc_id, url, source, crawl of every live document."""
    return live_documents([segment.table("delta") for segment in deltas])


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
