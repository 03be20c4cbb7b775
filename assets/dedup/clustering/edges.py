"""Edges of the duplicate graph after an update: proven pairs, and which bands propose each.

An edge lives as long as at least one band proposes its pair; its row holds those bands as a bit set.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from assets.build import Progress
from assets.dedup.clustering.candidates import Numbers, bounded, changed_pairs, jaccard, order_in_buckets
from assets.dedup.clustering.sorted_runs import TOMBSTONE, Rows, Spill, distinct, sort_rows
from assets.dedup.clustering.state import NodeStore, SegmentWriter, View
from assets.dedup.recipe import DedupRecipe


def update_edges(
    buckets: Spill,
    nodes: NodeStore,
    old: View,
    writer: SegmentWriter,
    recipe: DedupRecipe,
    scratch: Path,
    progress: Progress,
) -> tuple[list[Numbers], Counter[str]]:
    """Write bucket and edge rows of new and dead nodes; (nodes whose edges changed, counts).

    `buckets` holds the bucket rows of new nodes, and with TOMBSTONE those of dead ones; `nodes` describes all.
    """
    counts: Counter[str] = Counter()
    ranges = 4 * buckets.ranges if buckets.ranges > 1 else 1  # a bucket row proposes a few pairs
    first_nodes = nodes.range_limits(ranges)
    pairs = Spill(scratch, "pairs", 4, ranges)
    for number in range(buckets.ranges):
        rows = buckets.read(number)
        for found in _proposals(rows, old, nodes):
            pairs.add(found, np.searchsorted(first_nodes, found[:, 0], side="right"))
        writer.append("buckets", sort_rows(rows, 2))
        progress.update(number + 1, buckets.ranges, "hash ranges paired")

    edges = Spill(scratch, "edges", 4, ranges)
    changed: list[Numbers] = []
    for number in range(ranges):
        rows, ends = _prove(pairs.read(number), old, nodes, recipe, counts)
        edges.add(rows, np.searchsorted(first_nodes, rows[:, 0], side="right"))
        changed.append(ends)
        progress.update(number + 1, ranges, "hash ranges proven")
    for number in range(ranges):
        writer.append("edges", sort_rows(edges.read(number), 2))
    return changed, counts


def _proposals(rows: Rows, old: View, nodes: NodeStore) -> Iterator[Rows]:
    """Changed pairs of the buckets that new and dead nodes are in."""
    dead = rows[:, 2] == TOMBSTONE
    fresh, gone = rows[~dead], rows[dead]
    before = old.buckets.rows_with(distinct(rows[:, 0]))
    stays = ~np.isin(before[:, 1], gone[:, 1])  # a dead node is dead in all its buckets
    together = np.concatenate([before, fresh])
    was = np.arange(len(together)) < len(before)
    stays = np.concatenate([stays, np.ones(len(fresh), dtype=bool)])
    yield from changed_pairs(order_in_buckets(together, was, stays, nodes))


def _prove(rows: Rows, old: View, nodes: NodeStore, recipe: DedupRecipe, counts: Counter[str]) -> tuple[Rows, Numbers]:
    """(edge rows that change, in both directions; nodes that gain or lose an edge) from changed proposals."""
    nothing = np.zeros((0, 4), dtype=np.uint64), np.zeros(0, dtype=np.uint64)
    if not len(rows):
        return nothing
    rows = sort_rows(rows, 2)
    first_of_pair = np.ones(len(rows), dtype=bool)
    first_of_pair[1:] = (rows[1:, 0] != rows[:-1, 0]) | (rows[1:, 1] != rows[:-1, 1])
    starts = np.flatnonzero(first_of_pair)
    a, b = rows[starts, 0], rows[starts, 1]
    is_more = rows[:, 3] == 1
    none = np.uint64(0)
    more = np.bitwise_or.reduceat(np.where(is_more, rows[:, 2], none), starts)
    less = np.bitwise_or.reduceat(np.where(is_more, none, rows[:, 2]), starts)

    known = old.edges.rows_with(distinct(a))
    similarity, bands = np.full(len(a), np.nan), np.zeros(len(a), dtype=np.uint64)
    at = _pair_positions(a, b, known)
    similarity[at >= 0] = np.ascontiguousarray(known[at[at >= 0], 2]).view(np.float64)
    bands[at >= 0] = known[at[at >= 0], 3]

    asked = np.flatnonzero((at < 0) & (more > 0))
    counts["pairs_in_a_bucket"] += len(asked)
    asked = asked[bounded(a[asked], b[asked], nodes, recipe.threshold, recipe.minimum_agreement)]
    counts["candidate_pairs"] += len(asked)
    similarity[asked] = jaccard(a[asked], b[asked], nodes)
    similarity[similarity < recipe.threshold] = np.nan
    counts["computed_pairs"] += len(asked)
    counts["proven_pairs"] += int(np.count_nonzero(~np.isnan(similarity[asked])))

    after = np.where(np.isnan(similarity), none, (bands & ~less) | more)
    moved = after != bands
    ended = moved & ((after == 0) | (bands == 0))
    a_, b_, score = a[moved], b[moved], similarity[moved].view(np.uint64)
    bits = np.where(after[moved] == 0, TOMBSTONE, after[moved])
    both = np.concatenate([np.stack([a_, b_, score, bits], axis=1), np.stack([b_, a_, score, bits], axis=1)])
    return both, distinct(np.concatenate([a[ended], b[ended]]))


def _pair_positions(a: Numbers, b: Numbers, known: Rows) -> npt.NDArray[np.int64]:
    """Row of each pair (a, b) in sorted edge rows; -1 where there is none."""
    result = np.full(len(a), -1, dtype=np.int64)
    if len(known):
        where = np.lexsort((np.concatenate([known[:, 1], b]), np.concatenate([known[:, 0], a])))
        # Known rows come first among equals, since lexsort is stable: each pair follows its row, if there is one.
        ordered_a, ordered_b = (np.concatenate([known[:, i], x])[where] for i, x in ((0, a), (1, b)))
        same = (ordered_a[1:] == ordered_a[:-1]) & (ordered_b[1:] == ordered_b[:-1])
        second = np.flatnonzero(same) + 1
        result[where[second] - len(known)] = where[second - 1]
    return result
