"""From proven edges to decisions: components, representatives, and the match of every duplicate.

All of it is a function of one component alone: its member documents and its proven edges. So an update
computes the components it touched twice, on the state before and after, and the difference is the change.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from assets.dedup.clustering.candidates import Indices, Numbers, jaccard
from assets.dedup.clustering.sorted_runs import Rows, distinct
from assets.dedup.clustering.state import View

FRONTIER_NODES = 1 << 15  # nodes whose edges are looked up at once
CHUNK_NODES = 1 << 14  # whole components are resolved together up to about so many nodes

KEPT, EXACT_DUPLICATE, NEAR_DUPLICATE = 0, 1, 2


@dataclass(frozen=True)
class Components:
    """Nodes (sorted) and the component number of each."""

    nodes: Numbers
    label: Indices

    def chunks(self) -> Iterator[tuple[Numbers, Indices]]:
        """Nodes and labels (from 0, in each chunk) of whole components, some thousand nodes at a time."""
        order = np.argsort(self.label, kind="stable")
        label = self.label[order]
        start = 0
        while start < len(order):
            stop = min(start + CHUNK_NODES, len(order))
            stop = int(np.searchsorted(label, label[stop - 1], side="right"))
            part = np.sort(order[start:stop])
            yield self.nodes[part], np.unique(self.label[part], return_inverse=True)[1]
            start = stop


def components_of(seeds: Numbers, view: View) -> Components:
    """The components of the live nodes `seeds` (sorted, distinct), each complete."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    known, frontier = seeds, seeds
    ends: list[Rows] = []
    while len(frontier):
        reached = [np.zeros(0, dtype=np.uint64)]
        for at in range(0, len(frontier), FRONTIER_NODES):
            edges = view.edges.rows_with(frontier[at : at + FRONTIER_NODES])
            ends.append(edges[edges[:, 0] < edges[:, 1], :2])
            reached.append(np.setdiff1d(edges[:, 1], known))
        frontier = distinct(np.concatenate(reached))
        known = np.union1d(known, frontier) if len(frontier) else known
    pairs = np.concatenate(ends) if ends else np.zeros((0, 2), dtype=np.uint64)
    first, second = np.searchsorted(known, pairs[:, 0]), np.searchsorted(known, pairs[:, 1])
    graph = coo_array((np.ones(len(first), dtype=np.int8), (first, second)), shape=(len(known), len(known)))
    label = connected_components(graph, directed=False)[1] if len(known) else np.zeros(0)
    return Components(known, label.astype(np.int64))


@dataclass(frozen=True)
class Resolved:
    """Decisions of whole components.

    `decisions` rows: doc_id, cluster_id, representative, matched doc_id (ids of `width` columns each; a kept
    document matches itself), bits of the similarity, one of KEPT, EXACT_DUPLICATE and NEAR_DUPLICATE.
    """

    decisions: Rows
    sizes: Indices  # documents of each component


def resolve(nodes: Numbers, label: Indices, view: View, width: int, threshold: float) -> Resolved:
    """Decisions on the documents of some whole components; nodes sorted, labels from 0."""
    members = view.members.rows_with(nodes)
    ids = np.zeros((len(members), width), dtype=np.uint64)
    ids[:, : members.shape[1] - 6] = members[:, 1:-5]
    node = np.searchsorted(nodes, members[:, 0])
    component = label[node]
    quality = np.ascontiguousarray(members[:, -1]).view(np.float64)
    by_id = np.lexsort(ids.T[::-1])
    by_rank = by_id[np.lexsort((members[by_id, -4], members[by_id, -5], -quality[by_id]))]
    rank = np.empty(len(members), dtype=np.int64)
    rank[by_rank] = np.arange(len(members))
    head, best, smallest = (np.empty(count, dtype=np.int64) for count in (len(nodes), label.max() + 1, label.max() + 1))
    head[node[by_rank][::-1]] = by_rank[::-1]  # the last write wins: the best document of each node
    best[component[by_rank][::-1]] = by_rank[::-1]
    smallest[component[by_id][::-1]] = by_id[::-1]

    representative = best[component]
    target, similarity = _targets(nodes, label, node[best[label]], head, rank, view, threshold)
    matched, score = representative.copy(), np.ones(len(members))
    moved = node != node[representative]
    matched[moved], score[moved] = target[node[moved]], similarity[node[moved]]
    same_text = (members[:, -3] == members[matched, -3]) & (members[:, -2] == members[matched, -2])
    verdict = np.where(same_text, EXACT_DUPLICATE, NEAR_DUPLICATE)
    verdict[matched == np.arange(len(matched))] = KEPT
    parts = (ids, ids[smallest[component]], ids[representative], ids[matched])
    tail = np.stack([score.view(np.uint64), verdict.astype(np.uint64)], axis=1)
    return Resolved(np.concatenate([*parts, tail], axis=1), np.bincount(component))


def _targets(
    nodes: Numbers, label: Indices, towards: Indices, head: Indices, rank: Indices, view: View, threshold: float
) -> tuple[Indices, npt.NDArray[np.float64]]:
    """Per node: the document its documents match, and their Jaccard.

    It is the representative where their own Jaccard reaches the threshold, else the most similar document
    one proven step nearer to it, so that chains of matches lead to what was kept.
    """
    target = head[towards]
    similarity = np.ones(len(nodes))
    others = np.flatnonzero(towards != np.arange(len(nodes)))
    if not len(others):
        return target, similarity
    edges = view.edges.rows_with(nodes[np.bincount(label)[label] > 1])
    start, end = np.searchsorted(nodes, edges[:, 0]), np.searchsorted(nodes, edges[:, 1])
    proven = np.ascontiguousarray(edges[:, 2]).view(np.float64)
    similarity[others] = -1.0
    direct = end == towards[start]
    similarity[start[direct]] = proven[direct]
    similarity[towards[others]] = 1.0
    unknown = others[similarity[others] < 0]
    similarity[unknown] = jaccard(nodes[unknown], nodes[towards[unknown]], view.nodes)

    waiting = np.zeros(len(nodes), dtype=bool)
    waiting[others[similarity[others] < threshold]] = True
    while waiting.any():
        usable = np.flatnonzero(waiting[start] & ~waiting[end])
        if not len(usable):
            raise AssertionError("a component holds a node without a proven path to its representative")
        # Best similarity first, then the better document: the first row of each node is its answer.
        order = np.lexsort((rank[head[end[usable]]], -proven[usable], start[usable]))
        rows = usable[order]
        found, at = np.unique(start[rows], return_index=True)
        target[found], similarity[found] = head[end[rows[at]]], proven[rows[at]]
        waiting[found] = False
    return target, similarity
