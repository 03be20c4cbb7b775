"""Texts of chosen corpus documents, read from the extraction segments that hold them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from assets.build import BuildError, Segment

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
        for batch in by_crawl[crawl].batches("documents", ["doc_id", "text"], rows=ROWS_PER_READ):
            for doc_id, text in zip(batch.column("doc_id").to_pylist(), batch.column("text"), strict=True):
                if doc_id in doc_ids:
                    found += 1
                    yield crawl, doc_id, text.as_py() or ""
        if found != len(doc_ids):
            raise BuildError(
                f"extracted_documents/{crawl} holds {found} of the {len(doc_ids)} documents that the corpus names there; "
                "materialise the corpus again"
            )
