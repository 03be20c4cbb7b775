"""The corpus from its earlier version and what has changed since: the same joins, over the documents concerned.

Concerned are the documents of every page that a new crawl touched, and those whose cluster or
contamination decision changed. All other rows stand: a fate depends on nothing else. The cost is the
update's, but for one pass over the key columns of the earlier decisions.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from assets.build import Build
from assets.dedup.corpus import EXTRACTED_COLUMNS, FILTERED_COLUMNS, assemble
from assets.dedup.live import LIVE_COLUMNS
from assets.dedup.updates import LiveUpdate, live_update, page_keys, rows_by_crawl
from assets.delta_table import Changes, difference
from assets.key_set import KeySet
from assets.schemas import CORPUS_DECISIONS, DOCUMENTS, FILTERED


@dataclass(frozen=True)
class CorpusUpdate:
    """What changes in the two tables of the corpus, and how many documents were extracted for the first time."""

    documents: Changes
    decisions: Changes
    new_documents: int


def update_corpus(build: Build) -> CorpusUpdate | None:
    """The update of `build.base`; None when a full build is needed."""
    live = live_update(build)
    clusters = build.changes("duplicate_clusters", "decisions")
    contamination = build.changes("contamination", "decisions")
    extracted, filtered = build.added("extracted_documents"), build.added("filtered_documents")
    if build.base is None or live is None or clusters is None or contamination is None:
        return None
    if extracted is None or filtered is None:
        return None
    decided = [change["doc_id"] for c in (clusters, contamination) for change in (c.removed, c.added)]
    before = _decisions_before(
        build, live, pa.chunked_array([chunk for c in decided for chunk in c.chunks], pa.string())
    )
    new = [segment.table("documents", EXTRACTED_COLUMNS) for segment in extracted]
    old_pairs = before.select(["doc_id", "crawl"])
    described = pa.concat_tables([DOCUMENTS.empty_table().select(EXTRACTED_COLUMNS), *new])
    pairs = pa.concat_tables([old_pairs, described.select(["doc_id", "crawl"])])
    described = pa.concat_tables(
        [
            described,
            rows_by_crawl(build.all("extracted_documents"), "documents", old_pairs, EXTRACTED_COLUMNS, DOCUMENTS),
        ]
    )
    filters = rows_by_crawl(build.all("filtered_documents"), "decisions", pairs, FILTERED_COLUMNS, FILTERED)
    doc_ids = pc.unique(described["doc_id"])
    documents, decisions = assemble(
        _live_among(before, live),
        described,
        filters,
        build.one("duplicate_clusters").rows("decisions", "doc_id", doc_ids),
        build.one("contamination").rows("decisions", "doc_id", doc_ids),
        threads=build.workers,
    )
    return CorpusUpdate(
        difference(build.base.segment.rows("documents", "doc_id", doc_ids), documents),
        difference(before, decisions),
        len(doc_ids) - len(before),
    )


def _decisions_before(build: Build, live: LiveUpdate, decided: pa.ChunkedArray) -> pa.Table:
    """Earlier decisions of the documents concerned."""
    assert build.base is not None
    touched_pages, changed = KeySet(live.touched), KeySet(pc.unique(decided))
    found = [CORPUS_DECISIONS.empty_table()]
    for batch in build.base.segment.batches("decisions", rows=touched_pages.rows_per_batch(65536)):
        touched = touched_pages.holds(page_keys(batch))
        # A document that is not live, on a page that nothing touched, keeps its fate whatever else happens.
        elsewhere = pc.and_(batch.column("live"), changed.holds(batch.column("doc_id")))
        rows = batch.filter(pc.or_(touched, elsewhere))
        if len(rows):
            found.append(pa.Table.from_batches([rows]).cast(CORPUS_DECISIONS))
    return pa.concat_tables(found)


def _live_among(before: pa.Table, live: LiveUpdate) -> pa.Table:
    """The documents concerned that are live now."""
    untouched = pc.and_(before["live"], pc.invert(pc.is_in(page_keys(before), value_set=live.touched)))
    return pa.concat_tables([before.filter(untouched).select(LIVE_COLUMNS), live.now])
