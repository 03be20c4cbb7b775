"""Candidate pairs and their proof, over nodes: one node per distinct shingle set.

(1) bucket: nodes that agree in all rows of one band; (2) two exact bounds of the pair: its size ratio
and the agreement of its whole signatures; (3) proof: the true Jaccard of the two shingle sets.

Every verdict is a pure function of the pair, so none depends on order, workers or on what else is in
the bucket, and documents that come or go later change no verdict on the others. There is no cap on
hot buckets. Instead (2) costs about 0.1 microseconds a pair, and (3) is left out for pairs that the
proven ones already connect: in a bucket of near-equal pages that is almost all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]

PAIRS_PER_STEP = 1 << 18  # pairs that are bounded at once: about 300 MB of signatures
SHINGLES_PER_STEP = 1 << 22  # shingles that are intersected at once: about 150 MB
SMALL_GROUP = 64  # groups up to this size are expanded together with others of the same size


@dataclass(frozen=True)
class Candidates:
    """Pairs (first < second) that passed the bounds, in order, and how many were looked at."""

    first: Indices
    second: Indices
    met: int  # distinct pairs that share a bucket


def find_candidates(
    signatures: npt.NDArray[np.uint32],
    sizes: npt.NDArray[np.int32],
    bands: int,
    rows: int,
    threshold: float,
    minimum_agreement: float,
) -> Candidates:
    """Pairs of nodes that share a band and may reach the threshold."""
    keys = _band_keys(signatures, bands, rows)
    met = 0
    found: list[Indices] = []
    for band in range(bands):
        for first, second in _pairs_in_buckets(keys[:, band]):
            # A pair counts in the first band it shares: no pair twice, and no set of seen pairs in memory.
            new = ~(keys[first, :band] == keys[second, :band]).any(axis=1)
            first, second = first[new], second[new]
            met += len(first)
            small, large = np.minimum(sizes[first], sizes[second]), np.maximum(sizes[first], sizes[second])
            possible = small / large >= threshold  # Jaccard <= small / large
            first, second = first[possible], second[possible]
            agreement = (signatures[first] == signatures[second]).mean(axis=1)
            likely = agreement >= minimum_agreement
            found.append(np.stack([first[likely], second[likely]]))
    pairs = np.concatenate(found, axis=1) if found else np.zeros((2, 0), dtype=np.int64)
    order = np.lexsort((pairs[1], pairs[0]))
    return Candidates(pairs[0][order], pairs[1][order], met)


def _band_keys(signatures: npt.NDArray[np.uint32], bands: int, rows: int) -> npt.NDArray[np.uint64]:
    """One 64-bit key per node and band. A chance collision only adds a candidate that the proof refuses."""
    keys = np.zeros((len(signatures), bands), dtype=np.uint64)
    slots = signatures[:, : bands * rows].reshape(len(signatures), bands, rows).astype(np.uint64)
    for row in range(rows):
        keys = (keys ^ slots[:, :, row]) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(29)
    return keys


def _pairs_in_buckets(keys: npt.NDArray[np.uint64]) -> Iterator[tuple[Indices, Indices]]:
    """All pairs (first < second) of nodes with equal keys, in bounded steps."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(keys) else order
    lengths = np.diff(np.append(starts, len(keys)))
    for length in np.unique(lengths[(lengths > 1) & (lengths <= SMALL_GROUP)]):
        groups = order[starts[lengths == length][:, None] + np.arange(length)]
        left, right = np.triu_indices(length, 1)
        step = max(1, PAIRS_PER_STEP // len(left))
        for at in range(0, len(groups), step):
            part = groups[at : at + step]
            yield part[:, left].ravel(), part[:, right].ravel()
    for start, length in zip(starts[lengths > SMALL_GROUP], lengths[lengths > SMALL_GROUP], strict=True):
        yield from _pairs_of_hot_bucket(order[start : start + length])


def _pairs_of_hot_bucket(nodes: Indices) -> Iterator[tuple[Indices, Indices]]:
    """Pairs of one large bucket, several rows of the triangle at a time."""
    rows = max(1, PAIRS_PER_STEP // len(nodes))
    for at in range(0, len(nodes), rows):
        left, right = np.nonzero(np.arange(at, at + rows)[:, None] < np.arange(len(nodes)))
        yield nodes[left + at], nodes[right]


class ShingleSets:
    """Shingle sets of some nodes, held for intersection.

    Memory: 12 bytes per shingle of the nodes that have a candidate, not of the corpus.
    """

    def __init__(self, nodes: int, sets: dict[int, npt.NDArray[np.uint64]]) -> None:
        from scipy.sparse import csr_array

        self._row = np.full(nodes, -1, dtype=np.int64)
        self._row[list(sets)] = np.arange(len(sets))
        self._sizes = np.array([len(one) for one in sets.values()], dtype=np.int64)
        offsets = np.concatenate([[0], np.cumsum(self._sizes)]).astype(np.int64)
        columns = np.concatenate(list(sets.values())) if sets else np.zeros(0, dtype=np.uint64)
        ones = np.ones(len(columns), dtype=np.int32)
        # Shingle hashes are below 2**63: they serve as column numbers as they are.
        self._matrix: Any = csr_array((ones, columns.astype(np.int64), offsets), shape=(len(sets), 2**63 - 1))

    def jaccard(self, first: Indices, second: Indices) -> npt.NDArray[np.float64]:
        """True Jaccard of each pair of nodes."""
        result = np.zeros(len(first), dtype=np.float64)
        rows_a, rows_b = self._row[first], self._row[second]
        total = self._sizes[rows_a] + self._sizes[rows_b]
        for start, stop in _steps(total):
            a, b = rows_a[start:stop], rows_b[start:stop]
            shared = self._matrix[a].multiply(self._matrix[b]).sum(axis=1)
            result[start:stop] = shared / (total[start:stop] - shared)
        return result


def _steps(weights: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Ranges of consecutive pairs whose weights stay near SHINGLES_PER_STEP."""
    bucket = np.cumsum(weights) // SHINGLES_PER_STEP
    edges = [0, *(np.flatnonzero(bucket[1:] != bucket[:-1]) + 1).tolist(), len(weights)]
    yield from pairwise(edges)


def connect(nodes: int, candidates: Candidates, sets: ShingleSets, threshold: float) -> tuple[Indices, int, int]:
    """(component of each node, pairs proven, pairs computed).

    Components are those of the graph of all candidates whose Jaccard reaches the threshold: a pair
    inside a component already proven is left out because it cannot change any component.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    labels = np.arange(nodes, dtype=np.int64)
    proven = computed = 0
    first, second = candidates.first, candidates.second
    step = 4096  # small: the first steps connect most of a hot bucket, and the rest of its pairs is then free
    for start in range(0, len(first), step):
        a, b = first[start : start + step], second[start : start + step]
        apart = labels[a] != labels[b]
        a, b = a[apart], b[apart]
        good = sets.jaccard(a, b) >= threshold
        computed += len(a)
        proven += int(good.sum())
        if good.any():
            ends = (labels[a[good]], labels[b[good]])
            graph = coo_array((np.ones(len(ends[0]), dtype=np.int8), ends), shape=(nodes, nodes))
            labels = connected_components(graph, directed=False)[1].astype(np.int64)[labels]
    return labels, proven, computed
