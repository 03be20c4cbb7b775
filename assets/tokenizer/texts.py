"""Texts of chosen corpus documents, read from the extraction segments that hold them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from assets.build import BuildError, Segment
from assets.key_set import KeySet
from assets.tables import row_groups_holding

ROWS_PER_READ = 256
"""Documents decoded at a time: a long page is about 100 KB, so this stays within tens of megabytes."""


def group_by_crawl(doc_ids: Iterable[str], crawls: Iterable[str]) -> dict[str, set[str]]:
    """Crawl partition -> the documents wanted from it."""
    wanted: dict[str, set[str]] = defaultdict(set)
    for doc_id, crawl in zip(doc_ids, crawls, strict=True):
        wanted[crawl].add(doc_id)
    return dict(wanted)


def read_texts(segments: Sequence[Segment], wanted: Mapping[str, set[str]]) -> Iterator[tuple[str, str, str]]:
    """(crawl, doc_id, text) of each wanted document: crawl by crawl, in the order of the segment (doc_id).

    Raises BuildError when a crawl or a document is not there: the corpus names documents that must exist.
    """
    by_crawl = {segment.partition: segment for segment in segments}
    for crawl, doc_ids in sorted(wanted.items()):
        if crawl not in by_crawl:
            raise BuildError(
                f"the corpus has {len(doc_ids)} documents in crawl {crawl!r}, which extracted_documents lacks; "
                "materialise that partition, or the corpus again"
            )
        found = 0
        ordered = sorted(doc_ids)
        wanted_ids = KeySet(pa.array(ordered, type=pa.string()))
        for batch in _batches_holding(by_crawl[crawl], ordered):
            rows = batch.filter(wanted_ids.holds(batch.column("doc_id")))
            for doc_id, text in zip(*(column.to_pylist() for column in rows.columns), strict=True):
                found += 1
                yield crawl, doc_id, text or ""
        if found != len(doc_ids):
            raise BuildError(
                f"extracted_documents/{crawl} holds {found} of the {len(doc_ids)} documents that the corpus names there; "
                "materialise the corpus again"
            )


def _batches_holding(segment: Segment, doc_ids: list[str]) -> Iterator[pa.RecordBatch]:
    """Ids and texts of a segment, without the row groups that hold none of the (sorted) ids; a packed one is small."""
    columns = ["doc_id", "text"]
    if segment.packed.get("documents"):
        yield from segment.batches("documents", columns, ROWS_PER_READ)
        return
    for part in segment.parts("documents"):
        file = pq.ParquetFile(part)
        if groups := row_groups_holding(file, "doc_id", doc_ids):
            yield from file.iter_batches(ROWS_PER_READ, groups, columns)
