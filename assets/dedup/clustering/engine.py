"""Duplicate clusters kept up to date: an update costs what it touches and equals a run from scratch.

(1) arrivals become members of nodes, new or known; nodes without live members die (arrivals.py); (2) in every
bucket that a new or dead node is in: the pairs that the bucket now proposes, or no longer does (candidates.py);
(3) newly proposed pairs are proven; a pair that no band proposes any more is no edge (edges.py); (4) components
that hold a changed document or edge are decided on the state before and after, and the differences are the
change (components.py, decisions.py); (5) the newest segments are merged where there are many (state.py).

Decisions depend on members and edges only, edges on the live nodes of buckets only, so the result is that
of any other way to the same live documents. Building from nothing is the same code with an empty state.
(2) and (3) work through hash ranges from files; the number of ranges grows with the update.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from assets.build import Progress, SilentProgress
from assets.dedup.clustering.arrivals import take_in
from assets.dedup.clustering.components import EXACT_DUPLICATE, NEAR_DUPLICATE, Resolved, components_of, resolve
from assets.dedup.clustering.decisions import decision_changes, pair_changes
from assets.dedup.clustering.edges import update_edges
from assets.dedup.clustering.ids import IdKind
from assets.dedup.clustering.sorted_runs import distinct
from assets.dedup.clustering.state import Manifest, SegmentWriter, View, compacted, read_manifest, write_manifest
from assets.dedup.recipe import DedupRecipe
from assets.dedup.signatures import SignatureReader
from assets.delta_table import Changes

MEMBER_COLUMNS = 6  # of the members table, besides the id


@dataclass(frozen=True)
class ClusterUpdate:
    """What an update changed, and the state after it: `kept_files` of the old one and `new_files` in `output`."""

    decisions: Changes
    pairs: Changes
    kept_files: tuple[str, ...]
    new_files: tuple[str, ...]
    stats: dict[str, Any]


def update_clusters(
    state: Mapping[str, Path],
    documents: pa.Table,
    removed: Sequence[str],
    read: SignatureReader,
    recipe: DedupRecipe,
    output: Path,
    progress: Progress | None = None,
    ids: IdKind = "hash128",
) -> ClusterUpdate:
    """Add `documents` (doc_id, quality, crawled_at), remove doc_ids; `read` gives signatures of the added ones.

    `state` maps the names of the state's files (`state/...`) to readable paths; nothing in it is changed. A
    document whose quality or crawl changed is removed and added. Raises BuildError for a document that is
    added though live, or removed though not, and for a state of another recipe or format.
    """
    progress = progress or SilentProgress()
    manifest = read_manifest(state, recipe.model_dump(), ids)
    files = {entry.path(table): state[entry.path(table)] for entry in manifest.segments for table in entry.files}
    generation = manifest.generation + 1
    writer = SegmentWriter(output, f"state/g{generation:06d}")
    before = View(manifest.segments, files)
    scratch = output / f"state/g{generation:06d}.scratch"
    try:
        taken = take_in(before, writer, manifest, documents, removed, read, recipe, scratch)
        entry, new_files = writer.finish_nodes()
        nodes = View([*manifest.segments, entry], files | new_files).nodes
        changed, counts = update_edges(taken.buckets, nodes, before, writer, recipe, scratch, progress)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    entry = writer.finish()
    files |= {entry.path(table): output / entry.path(table) for table in entry.files}
    segments = [*manifest.segments, entry]

    touched = distinct(np.concatenate([taken.touched, *changed]))
    after = View(segments, files)
    old_components = components_of(touched[touched < manifest.next_node], before)
    seeds = np.setdiff1d(np.union1d(old_components.nodes, touched), taken.died)
    width = max([run.shape[1] - MEMBER_COLUMNS for run in after.members.runs], default=2)
    old_side = [resolve(*chunk, before, width, recipe.threshold) for chunk in old_components.chunks()]
    new_side = [resolve(*chunk, after, width, recipe.threshold) for chunk in components_of(seeds, after).chunks()]
    counted = _recount(taken.manifest, old_side, new_side)
    sides = [side.decisions for side in old_side], [side.decisions for side in new_side]
    decisions, pairs = decision_changes(*sides, width, ids), pair_changes(*sides, width, ids)

    segments = compacted(segments, files, output, generation)
    used = {entry.path(table) for entry in segments for table in entry.files}
    kept = tuple(sorted(name for name in used if name in state))
    manifest = replace(counted, generation=generation, segments=tuple(segments))
    new = (*sorted(used.difference(kept)), write_manifest(manifest, output))
    return ClusterUpdate(decisions, pairs, kept, new, _stats(manifest, counts, decisions.added))


def _recount(manifest: Manifest, before: Sequence[Resolved], after: Sequence[Resolved]) -> Manifest:
    """The manifest with the counts of clusters and duplicates after the update."""
    sizes = Counter(manifest.cluster_sizes)
    dropped = Counter({EXACT_DUPLICATE: manifest.exact_duplicates, NEAR_DUPLICATE: manifest.near_duplicates})
    for side, count in ((before, dropped.subtract), (after, dropped.update)):
        for part in side:
            count(part.decisions[:, -1].tolist())
    for side, count in ((before, sizes.subtract), (after, sizes.update)):
        for part in side:
            count(part.sizes.tolist())
    left = {size: number for size, number in sorted(sizes.items()) if number}
    duplicates = {"exact_duplicates": dropped[EXACT_DUPLICATE], "near_duplicates": dropped[NEAR_DUPLICATE]}
    return replace(manifest, cluster_sizes=left, **duplicates)


def _stats(manifest: Manifest, counts: Counter[str], added: pa.Table) -> dict[str, Any]:
    """Of the whole state, but for the counts of pairs and the smallest similarity, which are those of the update."""
    looked = ("pairs_in_a_bucket", "candidate_pairs", "computed_pairs", "proven_pairs")
    computed = counts["computed_pairs"]
    return {
        "nodes": manifest.nodes,
        **{name: counts[name] for name in looked},
        "candidate_precision": counts["proven_pairs"] / computed if computed else 1.0,
        "clusters": sum(number for size, number in manifest.cluster_sizes.items() if size > 1),
        "largest_cluster": max(manifest.cluster_sizes, default=0),
        "exact_duplicates": manifest.exact_duplicates,
        "near_duplicates": manifest.near_duplicates,
        "smallest_similarity": pc.min(added["similarity"]).as_py() or 1.0,
        "state_segments": len(manifest.segments),
    }
