"""Duplicate clusters: which live documents are the same text, and which one of them stays.

The road: `arrivals` says which documents come and go; `apply` clusters them, with the state of the version before or
from nothing; `audit_update` proves every cluster that was touched once more. What clustering/ does with them:

(1) documents with one shingle set are one node (exact duplicates always are); (2) candidate pairs of
nodes and their proof by true Jaccard (candidates.py); (3) clusters = connected components of proven
pairs; (4) representative = best quality, then earliest crawl, then smallest doc_id; (5) every other
document names a proven neighbour: the representative where their own Jaccard reaches the threshold,
else the most similar document one proven step nearer to it (so that chains lead to what was kept).

All of it is a function of the set of live documents, never of their order or history. The pairs
table holds exactly the proofs of (5), one per duplicate: its size is linear where all pairs of a
cluster would be quadratic.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from assets.build import Build, Segment
from assets.dedup.audit import audit_clusters
from assets.dedup.clustering.engine import ClusterUpdate, update_clusters
from assets.dedup.clustering.state import state_is_compatible
from assets.dedup.corpus import count
from assets.dedup.live import LIVE_COLUMNS, live_kept, newest_deltas, read_live, signature_reader
from assets.dedup.recipe import DedupRecipe
from assets.dedup.updates import live_update, rows_by_crawl
from assets.schemas import FILTERED

STATE = "state/"
"""Prefix of the files that an update goes on from: part of the asset, not of its data version."""

_DECIDED = ("doc_id", "quality", "drop_reason")


@dataclass(frozen=True)
class Arrivals:
    """Live documents that the filters kept, against the version to update (`base`; None: all of them)."""

    base: Segment | None
    documents: pa.Table  # doc_id, url, source, crawl, crawled_at, quality
    removed: pa.Table  # doc_id, url, source, crawl
    by_source: Counter[str] = field(default_factory=Counter)

    @property
    def state(self) -> dict[str, Any]:
        """The files to go on from."""
        files = self.base.files if self.base else {}
        return {name: files[name] for name in files if name.startswith(STATE)}


def arrivals(build: Build, recipe: DedupRecipe) -> Arrivals:
    """What came and went since `build.base`, or everything where only a full build can tell."""
    live = live_update(build)
    base = build.base.segment if build.base else None
    followed = build.added("filtered_documents") is not None and build.added("document_signatures") is not None
    if base is None or live is None or not followed:
        return _everything(build)
    found = Arrivals(base, pa.table({}), pa.table({}))
    if not found.state or state_is_compatible(found.state, recipe.model_dump()) is not None:
        return _everything(build)
    documents = live_kept(live.added, _decided(build, set(live.added["crawl"].to_pylist())))
    filters = rows_by_crawl(
        build.all("filtered_documents"), "decisions", live.removed, ("doc_id", "drop_reason"), FILTERED
    )
    kept = filters.filter(filters["drop_reason"].is_null())["doc_id"].combine_chunks()
    removed = live.removed.filter(pc.is_in(live.removed["doc_id"], value_set=kept))
    by_source = Counter(base.manifest["report"]["stats"]["documents_by_source"])
    by_source.update({source: n for (source,), n in count(documents, ("source",)).items()})
    by_source.subtract({source: n for (source,), n in count(removed, ("source",)).items()})
    return Arrivals(base, documents, removed, by_source)


def _everything(build: Build) -> Arrivals:
    live = read_live(build.all("crawl_delta"))
    documents = live_kept(live, _decided(build, None))
    by_source = Counter({source: n for (source,), n in count(documents, ("source",)).items()})
    return Arrivals(None, documents, live.slice(0, 0).select(LIVE_COLUMNS), by_source)


def _decided(build: Build, crawls: set[str] | None) -> dict[str, pa.Table]:
    segments = build.all("filtered_documents")
    wanted = [s for s in segments if crawls is None or s.partition in crawls]
    return {segment.partition or "": segment.table("decisions", _DECIDED) for segment in wanted}


def apply(build: Build, recipe: DedupRecipe, found: Arrivals) -> ClusterUpdate:
    """Cluster what came with what is there."""
    read = signature_reader(build.all("document_signatures"), found.documents)
    documents, removed = (
        found.documents.select(("doc_id", "quality", "crawled_at")),
        found.removed["doc_id"].to_pylist(),
    )
    return update_clusters(found.state, documents, removed, read, recipe, build.output, build.progress)


def with_pages(build: Build, found: Arrivals, decisions: pa.Table) -> pa.Table:
    """Decisions with the `source` and `url` of each document: of those that came or went as given, of others from the
    live pages."""
    columns = ("doc_id", "source", "url")
    pages = pa.concat_tables([found.documents.select(columns), found.removed.select(columns)])
    at = pc.index_in(decisions["doc_id"], value_set=pages["doc_id"].combine_chunks())
    if at.null_count:
        others = decisions.filter(pc.is_null(at))["doc_id"].combine_chunks()
        pages = pa.concat_tables([pages, live_rows(build.all("crawl_delta"), others).select(columns)])
        at = pc.index_in(decisions["doc_id"], value_set=pages["doc_id"].combine_chunks())
    for name in ("source", "url"):
        decisions = decisions.append_column(name, pages[name].take(at))
    return decisions


def yields_by_source(found: Arrivals, added: pa.Table, removed: pa.Table) -> dict[str, Any]:
    """Documents per source that came in, that stay, and that go by reason, after the decisions that an update `added`
    and `removed` (both `with_pages`)."""
    nothing: dict[str, Any] = {"kept_by_source": {}, "dropped_by_source": {}}
    before = found.base.manifest["report"]["stats"] if found.base else nothing
    stayed: Counter[str] = Counter(before["kept_by_source"])
    dropped = {source: Counter(reasons) for source, reasons in before["dropped_by_source"].items()}
    for rows, sign in ((added, 1), (removed, -1)):
        for (source, reason), n in count(rows, ("source", "drop_reason")).items():
            if reason is None:
                stayed[source] += sign * n
            else:
                dropped.setdefault(source, Counter())[reason] += sign * n
    came = {source: n for source, n in sorted(found.by_source.items()) if n}
    gone = {source: {reason: n for reason, n in sorted(dropped[source].items()) if n} for source in sorted(dropped)}
    return {
        "documents_by_source": came,
        "kept_by_source": {source: stayed[source] for source in came},
        "dropped_by_source": {source: reasons for source, reasons in gone.items() if reasons},
    }


def live_rows(deltas: Sequence[Segment], doc_ids: pa.Array) -> pa.Table:
    """doc_id, url, source, crawl of some live documents."""
    tables = (
        [delta.rows("live", "doc_id", doc_ids, LIVE_COLUMNS) for delta in newest_deltas(deltas)] if len(doc_ids) else []
    )
    return pa.concat_tables(tables) if tables else read_live(())


def audit_update(build: Build, found: Arrivals, update: ClusterUpdate, written: Segment) -> dict[str, Any]:
    """The promises of every cluster that the update touched, over the written tables.

    What came is looked up in them, not among the changed decisions: a page that went and came back between two builds
    leaves and arrives in one update, and its decision stands as it was.
    """
    decisions, pairs = update.decisions.added, update.pairs.added
    came = pc.unique(found.documents["doc_id"])
    if found.base is not None:
        decided = written.rows("decisions", "doc_id", came)
        touched = pa.chunked_array([*decisions["cluster_id"].chunks, *decided["cluster_id"].chunks], pa.string())
        decisions = written.rows("decisions", "cluster_id", pc.unique(touched))
        proofs = written.rows("pairs", "doc_id_a", decisions["doc_id"].combine_chunks())
    else:
        decided, proofs = decisions, pairs
    chosen = pa.concat_arrays([pairs[name].combine_chunks() for name in ("doc_id_a", "doc_id_b")])
    crawls = live_rows(build.all("crawl_delta"), chosen) if found.base is not None else found.documents
    read = signature_reader(build.all("document_signatures"), crawls)
    findings = audit_clusters(decisions, proofs, pairs, read)
    lost = pc.sum(pc.invert(pc.is_in(came, value_set=decided["doc_id"].combine_chunks()))).as_py() or 0
    gone = found.removed.filter(pc.invert(pc.is_in(found.removed["doc_id"], value_set=came)))
    still = len(written.rows("decisions", "doc_id", gone["doc_id"].combine_chunks()))
    return findings | {"documents_without_decision": lost + still}
