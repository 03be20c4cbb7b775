"""Candidate pairs and their proof, over nodes: one node per distinct shingle set.

(1) bucket: nodes that agree in all rows of one band; (2) the rule of `window` chooses the pairs of a bucket;
(3) two bounds: the pair's size ratio (exact) and the agreement of its whole signatures; (4) proof: the
true Jaccard of the two shingle sets. (1), (3) and (4) are pure functions of the pair. (2) is a function of
the live nodes of the bucket, so no history, order or number of workers can show in the result.

**Hot buckets.** A bucket of up to 64 live nodes compares all its pairs. A larger one is sorted by the 8 MinHash
slots that follow the band (then by digest), which puts the pages of a template that differ least side by side,
and each node is compared with the next `window(live nodes)` ones: 32 up to 128, 16 up to 256, 8 up to 512,
4 up to 1,024, then 2. So a bucket of n nodes costs at most 2 n comparisons or 4,096, and a node that comes or
goes changes at most 3 window pairs, or those of one bucket of 1,024 where it moves a limit.
What it guarantees: no pair is invented, every pair of a bucket of up to 64 nodes is compared, and each node of
a hot bucket is compared with its nearest ones in the order of every hot band it is in (18 different orders).
Hence a bucket whose neighbours in that order all reach the threshold is one component, as it is with all pairs.
What it does not: a pair that meets in hot buckets only may be left uncompared; the two are then one cluster only
through others between them. The more pairs of a template reach the threshold, the less is lost: of 1,500 pages
with one pair in five at Jaccard 0.8 or more, 1,417 are dropped where comparing all pairs drops 1,499.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from assets.dedup.clustering.sorted_runs import TOMBSTONE, Rows
from assets.dedup.clustering.state import NodeStore

Indices = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.uint64]

BANDS_MAXIMUM = 64  # the bands that propose a pair are one bit each
ALL_PAIRS = 64
SMALLEST_WINDOW = 2
PAIRS_PER_STEP = 1 << 16  # pairs that are bounded at once: about 60 MB of signatures
SHINGLES_PER_STEP = 1 << 20  # shingles that are intersected at once: about 40 MB


def buckets_of(numbers: Numbers, signatures: npt.NDArray[np.uint32], bands: int, rows: int) -> Rows:
    """One row per node and band: bucket, node, place of the node in a hot bucket.

    The low 6 bits of a bucket are its band. A chance collision only adds a candidate that the proof refuses.
    """
    slots = signatures.shape[1]
    result = np.empty((len(numbers), bands, 3), dtype=np.uint64)
    hashed = (signatures * np.uint32(0x9E3779B1)) >> np.uint32(24)
    for band in range(bands):
        key = np.full(len(numbers), band, dtype=np.uint64)
        for row in range(rows):
            key = (key ^ signatures[:, band * rows + row].astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
            key ^= key >> np.uint64(29)
        place = np.zeros(len(numbers), dtype=np.uint64)
        for step in range(8):
            place = (place << np.uint64(8)) | hashed[:, ((band + 1) * rows + step) % slots].astype(np.uint64)
        result[:, band, 0] = (key & ~np.uint64(63)) | np.uint64(band)
        result[:, band, 1] = numbers
        result[:, band, 2] = np.minimum(place, TOMBSTONE - np.uint64(1))
    return result.reshape(-1, 3)


def window(live: Indices) -> Indices:
    """How many of the nodes after it each node of a bucket is compared with, by the live nodes of the bucket."""
    halvings = np.ceil(np.log2(np.maximum(live, ALL_PAIRS) / ALL_PAIRS)).astype(np.int64)
    hot = np.maximum(ALL_PAIRS >> np.minimum(halvings, 62), SMALLEST_WINDOW)
    return np.where(live <= ALL_PAIRS, live - 1, hot)


@dataclass(frozen=True)
class Bucketed:
    """Nodes of whole buckets, each in the order of its bucket; was and stays: live before and after the update."""

    bucket: Numbers
    node: Numbers
    was: npt.NDArray[np.bool_]
    stays: npt.NDArray[np.bool_]


def order_in_buckets(
    rows: Rows, was: npt.NDArray[np.bool_], stays: npt.NDArray[np.bool_], nodes: NodeStore
) -> Bucketed:
    """Sort rows (bucket, node, place) by bucket, place and digest; buckets of a single node are left out."""
    order = np.lexsort((rows[:, 2], rows[:, 0]))
    bucket, node, place = (rows[:, column][order] for column in range(3))
    was, stays = was[order], stays[order]
    together = np.zeros(len(bucket), dtype=bool)
    equal = bucket[1:] == bucket[:-1]
    together[1:] |= equal
    together[:-1] |= equal
    bucket, node, place = (column[together] for column in (bucket, node, place))
    was, stays = was[together], stays[together]
    tied = np.zeros(len(bucket), dtype=bool)
    equal = (bucket[1:] == bucket[:-1]) & (place[1:] == place[:-1])
    tied[1:] |= equal
    tied[:-1] |= equal
    sizes = _lengths(bucket)
    tied &= np.repeat(sizes, sizes) > ALL_PAIRS  # where all pairs are compared the order means nothing
    at = np.flatnonzero(tied)
    if len(at):
        digests = nodes.describe(node[at])
        moved = at[np.lexsort((digests[:, 1], digests[:, 0], place[at], bucket[at]))]
        node[at], was[at], stays[at] = node[moved], was[moved], stays[moved]
    return Bucketed(bucket, node, was, stays)


def changed_pairs(rows: Bucketed) -> Iterator[Rows]:
    """Pairs that a bucket proposes after the update and not before, or before and not after.

    Columns: smaller node, larger node, bit of the band, 1 = now proposed, 0 = no longer.
    """
    sizes = _lengths(rows.bucket)
    group = np.repeat(np.arange(len(sizes)), sizes)
    before, after = _Side(rows.was, group, len(sizes)), _Side(rows.stays, group, len(sizes))
    for side, other, proposed in ((after, before, 1), (before, after, 0)):
        for first, second in side.pairs():
            new = ~other.proposes(first, second, group)
            first, second = first[new], second[new]
            a, b = rows.node[first], rows.node[second]
            bit = np.uint64(1) << (rows.bucket[first] & np.uint64(63))
            flag = np.full(len(a), proposed, dtype=np.uint64)
            yield np.stack([np.minimum(a, b), np.maximum(a, b), bit, flag], axis=1)


class _Side:
    """The nodes of all buckets that are live at one moment, and the pairs proposed among them."""

    def __init__(self, live: npt.NDArray[np.bool_], group: Indices, groups: int) -> None:
        self._live = live
        self._at = np.flatnonzero(live)
        self._place = np.cumsum(live) - 1
        sizes = np.bincount(group[self._at], minlength=groups)
        self._window = window(sizes)
        self._group = group[self._at]
        self._end = np.cumsum(sizes)[self._group]

    def pairs(self) -> Iterator[tuple[Indices, Indices]]:
        """Proposed pairs as row numbers, those of one distance at a time."""
        left = np.arange(len(self._at))
        distance = 1
        while True:
            left = left[(left + distance < self._end[left]) & (distance <= self._window[self._group[left]])]
            if not len(left):
                return
            yield self._at[left], self._at[left + distance]
            distance += 1

    def proposes(self, first: Indices, second: Indices, group: Indices) -> npt.NDArray[np.bool_]:
        """Whether pairs of rows of one bucket are among `pairs`."""
        near = self._place[second] - self._place[first] <= self._window[group[first]]
        return self._live[first] & self._live[second] & near


def bounded(
    first: Numbers, second: Numbers, nodes: NodeStore, threshold: float, minimum_agreement: float
) -> npt.NDArray[np.bool_]:
    """Pairs that may reach the threshold, by their sizes and signatures."""
    everything, at = np.unique(np.concatenate([first, second]), return_inverse=True)
    sizes = nodes.describe(everything)[:, 2].astype(np.int64)
    a, b = at[: len(first)], at[len(first) :]
    possible = np.minimum(sizes[a], sizes[b]) / np.maximum(sizes[a], sizes[b]) >= threshold  # >= the Jaccard
    rows = np.flatnonzero(possible)
    for start in range(0, len(rows), PAIRS_PER_STEP):
        part = rows[start : start + PAIRS_PER_STEP]
        needed, index = np.unique(np.concatenate([a[part], b[part]]), return_inverse=True)
        signatures = nodes.signatures(everything[needed])
        agreement = (signatures[index[: len(part)]] == signatures[index[len(part) :]]).mean(axis=1)
        possible[part] = agreement >= minimum_agreement
    return possible


def jaccard(first: Numbers, second: Numbers, nodes: NodeStore) -> npt.NDArray[np.float64]:
    """True Jaccard of each pair of nodes."""
    from scipy.sparse import csr_array

    result = np.zeros(len(first), dtype=np.float64)
    if not len(first):
        return result
    everything, at = np.unique(np.concatenate([first, second]), return_inverse=True)
    sizes = nodes.describe(everything)[:, 2].astype(np.int64)
    a, b = at[: len(first)], at[len(first) :]
    total = sizes[a] + sizes[b]
    for start, stop in _steps(total):
        needed, index = np.unique(np.concatenate([a[start:stop], b[start:stop]]), return_inverse=True)
        values, offsets = nodes.shingles(everything[needed])
        # Shingle hashes are below 2**63: they serve as column numbers as they are.
        ones = np.ones(len(values), dtype=np.int32)
        matrix: Any = csr_array((ones, values.view(np.int64), offsets), shape=(len(needed), 2**63 - 1))
        half = stop - start
        shared = matrix[index[:half]].multiply(matrix[index[half:]]).sum(axis=1)
        result[start:stop] = shared / (total[start:stop] - shared)
    return result


def _steps(weights: Indices) -> Iterator[tuple[int, int]]:
    """Ranges of consecutive pairs whose weights stay near SHINGLES_PER_STEP."""
    step = np.cumsum(weights) // SHINGLES_PER_STEP
    edges = [0, *(np.flatnonzero(step[1:] != step[:-1]) + 1).tolist(), len(weights)]
    yield from pairwise(edges)


def _lengths(ordered: Numbers) -> Indices:
    """Lengths of the runs of equal values."""
    if not len(ordered):
        return np.zeros(0, dtype=np.int64)
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    return np.diff(np.append(starts, len(ordered)))
