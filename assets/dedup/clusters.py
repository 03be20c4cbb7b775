"""Duplicate clusters: which live documents are the same text, and which one of them stays.

(1) documents with one shingle set are one node (exact duplicates always are); (2) candidate pairs of
nodes and their proof by true Jaccard (candidates.py); (3) clusters = connected components of proven
pairs; (4) representative = best quality, then earliest crawl, then smallest doc_id; (5) every other
document names a proven neighbour: the representative where their own Jaccard reaches the threshold,
else the most similar document one proven step nearer to it (so that chains lead to what was kept).

All of it is a function of the set of live documents, never of their order or history. The pairs
table holds exactly the proofs of (5), one per duplicate: its size is linear where all pairs of a
cluster would be quadratic. Memory: about 700 bytes per live document, and the shingles of the nodes
that have a candidate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from assets.build import BuildError
from assets.dedup.candidates import Candidates, Indices, ShingleSets, connect, find_candidates
from assets.dedup.signatures import SignatureReader
from assets.schemas import DUPLICATE_PAIRS, DUPLICATES


class DedupRecipe(BaseModel):
    """`[dedup]`: which pairs are looked at, and from where on two texts are the same."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bands: int = Field(default=18, ge=1)
    rows: int = Field(default=6, ge=1)
    """Slots per band. 18 x 6 puts the steep part of the S-curve at Jaccard 0.62, safely under the threshold."""
    threshold: float = Field(default=0.8, gt=0, le=1)
    """True Jaccard of the shingle sets; 0.8 is the value of FineWeb, RefinedWeb and most others."""
    minimum_agreement: float = Field(default=0.68, ge=0, le=1)
    """Share of equal MinHash slots under which a pair is not proven: three standard errors of 108 slots
    under the threshold, so it costs 1 in 700 of the pairs exactly at the threshold and spares hot buckets."""


@dataclass(frozen=True)
class Clusters:
    """What clustering found, ready to write and to report."""

    decisions: pa.Table
    pairs: pa.Table
    stats: dict[str, Any]


@dataclass(frozen=True)
class _Graph:
    """Live documents and the nodes they belong to; documents are numbered in order of doc_id."""

    text: npt.NDArray[np.int64]  # per document: number of its distinct text
    node: Indices  # per document
    head: Indices  # per node: its best document
    rank: Indices  # per document: 0 = best candidate for representative
    component: Indices  # per node
    candidates: Candidates
    sets: ShingleSets


def cluster_documents(documents: pa.Table, read: SignatureReader, recipe: DedupRecipe) -> Clusters:
    """Cluster `documents` (doc_id, quality, crawled_at), which are live and kept, by their signatures.

    `crawled_at` is the timestamp part of the crawl partition: comparable across sources.
    """
    documents = documents.sort_by("doc_id")
    ids: list[str] = documents["doc_id"].to_pylist()
    if not ids:
        return Clusters(DUPLICATES.empty_table(), DUPLICATE_PAIRS.empty_table(), _stats_of_nothing())
    graph, counts = _build_graph(documents, ids, read, recipe)
    representative = _representatives(graph)
    matched, similarity = _matches(graph, representative, recipe.threshold)
    same_text = (graph.text == graph.text[matched]) & (matched >= 0)
    decisions = _decision_table(ids, graph, representative, matched, similarity, same_text)
    pairs = _pair_table(ids, matched, similarity, same_text)
    return Clusters(decisions, pairs, counts | _cluster_stats(graph, matched, similarity, same_text))


def _build_graph(
    documents: pa.Table, ids: list[str], read: SignatureReader, recipe: DedupRecipe
) -> tuple[_Graph, dict[str, Any]]:
    position = {doc_id: number for number, doc_id in enumerate(ids)}
    rank = _ranks(documents)
    texts: list[str | None] = [None] * len(ids)
    keys: list[str | None] = [None] * len(ids)
    by_key: dict[str, tuple[int, npt.NDArray[np.uint32]]] = {}
    for batch in read(("doc_id", "text_sha256", "shingles_sha256", "shingle_count", "signature")):
        rows = zip(*(batch.column(i).to_pylist() for i in range(4)), strict=True)
        values, offsets = batch.column(4).values.to_numpy(), batch.column(4).offsets.to_numpy()
        for row, (doc_id, text, key, count) in enumerate(rows):
            number = position.get(doc_id)
            if number is None:
                continue
            texts[number], keys[number] = text, key
            if key not in by_key:
                by_key[key] = (count, values[offsets[row] : offsets[row + 1]].copy())
    missing = [doc_id for doc_id, key in zip(ids, keys, strict=True) if key is None]
    if missing:
        raise BuildError(
            f"{len(missing)} live documents have no signature, first {missing[0]}; every kept document needs one: "
            "materialise document_signatures for its crawl"
        )
    node_keys, node = np.unique(np.array(keys), return_inverse=True)
    sizes = np.array([by_key[key][0] for key in node_keys], dtype=np.int32)
    signatures = np.stack([by_key[key][1] for key in node_keys])
    if recipe.bands * recipe.rows > signatures.shape[1]:
        raise BuildError(
            f"[dedup] bands x rows = {recipe.bands} x {recipe.rows} needs {recipe.bands * recipe.rows} MinHash slots, "
            f"the signatures have {signatures.shape[1]}: lower them, or raise [signatures] permutations"
        )
    found = find_candidates(signatures, sizes, recipe.bands, recipe.rows, recipe.threshold, recipe.minimum_agreement)
    by_rank = np.argsort(rank)
    head = np.empty(len(node_keys), dtype=np.int64)
    head[node[by_rank][::-1]] = by_rank[::-1]  # the last write wins: the best document of each node
    sets = _load_sets(found, head, ids, read)
    component, proven, computed = connect(len(node_keys), found, sets, recipe.threshold)
    graph = _Graph(np.unique(np.array(texts), return_inverse=True)[1], node, head, rank, component, found, sets)
    counts = {
        "nodes": len(node_keys),
        "pairs_in_a_bucket": found.met,
        "candidate_pairs": len(found.first),
        "computed_pairs": computed,
        "proven_pairs": proven,
        "candidate_precision": proven / computed if computed else 1.0,
    }
    return graph, counts


def _ranks(documents: pa.Table) -> Indices:
    """Position of each document among all when sorted by quality (best first), crawl time, doc_id."""
    quality = documents["quality"]
    if quality.null_count:
        raise BuildError(f"{quality.null_count} kept documents have no quality; filtered_documents must measure one")
    order = np.lexsort(
        (
            np.arange(len(documents)),
            np.array(documents["crawled_at"].to_pylist()),
            -quality.combine_chunks().to_numpy(),
        )
    )
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return rank


def _load_sets(found: Candidates, head: Indices, ids: list[str], read: SignatureReader) -> ShingleSets:
    """Shingles of the nodes that have a candidate, read through the head of each node."""
    needed = np.unique(np.concatenate([found.first, found.second]))
    wanted = {ids[head[node]]: int(node) for node in needed}
    sets: dict[int, npt.NDArray[np.uint64]] = {}
    if wanted:
        for batch in read(("doc_id", "shingles")):
            values, offsets = batch.column(1).values.to_numpy(), batch.column(1).offsets.to_numpy()
            for row, doc_id in enumerate(batch.column(0).to_pylist()):
                if doc_id in wanted:
                    sets[wanted[doc_id]] = values[offsets[row] : offsets[row + 1]].copy()
    return ShingleSets(len(head), sets)


def _representatives(graph: _Graph) -> Indices:
    """Per document: the document that represents its cluster."""
    component = graph.component[graph.node]
    best = np.full(int(component.max()) + 1, len(component), dtype=np.int64)
    np.minimum.at(best, component, graph.rank)
    by_rank = np.argsort(graph.rank)
    return by_rank[best[component]]


def _matches(graph: _Graph, representative: Indices, threshold: float) -> tuple[Indices, npt.NDArray[np.float64]]:
    """Per document: the proven neighbour it is a duplicate of (-1 = it is kept) and their Jaccard."""
    matched = representative.copy()
    similarity = np.ones(len(matched))
    node, head = graph.node, graph.head
    towards = node[representative[head]]  # per node: the node of its cluster's representative
    others = np.flatnonzero(towards != np.arange(len(head)))
    node_similarity = np.ones(len(head))
    node_similarity[others] = graph.sets.jaccard(others, towards[others])
    target = representative[head]
    far = others[node_similarity[others] < threshold]
    if len(far):
        target[far], node_similarity[far] = _steps_to_representative(graph, far, threshold)
    moved = node != node[representative]
    matched[moved], similarity[moved] = target[node[moved]], node_similarity[node[moved]]
    is_kept = matched == np.arange(len(matched))
    matched[is_kept], similarity[is_kept] = -1, np.nan
    return matched, similarity


def _steps_to_representative(graph: _Graph, far: Indices, threshold: float) -> tuple[Indices, npt.NDArray[np.float64]]:
    """For nodes not directly similar to their representative: the best neighbour one proven step nearer to it."""
    first, second = graph.candidates.first, graph.candidates.second
    is_far = np.zeros(len(graph.head), dtype=bool)
    is_far[far] = True
    relevant = (is_far[first] | is_far[second]) & (graph.component[first] == graph.component[second])
    first, second = first[relevant], second[relevant]
    similarity = graph.sets.jaccard(first, second)
    proven = similarity >= threshold
    start = np.concatenate([first[proven], second[proven]])
    end = np.concatenate([second[proven], first[proven]])
    similarity = np.concatenate([similarity[proven], similarity[proven]])
    target, best = np.full(len(graph.head), -1, dtype=np.int64), np.zeros(len(graph.head))
    waiting = is_far
    while waiting.any():
        usable = np.flatnonzero(waiting[start] & ~waiting[end])
        if not len(usable):
            raise AssertionError("a component holds a node without a proven path to its representative")
        # Best similarity first, then the better document: the first row of each node is its answer.
        order = np.lexsort((graph.rank[graph.head[end[usable]]], -similarity[usable], start[usable]))
        rows = usable[order]
        nodes, at = np.unique(start[rows], return_index=True)
        target[nodes], best[nodes] = graph.head[end[rows[at]]], similarity[rows[at]]
        waiting = waiting.copy()
        waiting[nodes] = False
    return target[far], best[far]


def _decision_table(
    ids: list[str],
    graph: _Graph,
    representative: Indices,
    matched: Indices,
    similarity: npt.NDArray[np.float64],
    same_text: npt.NDArray[np.bool_],
) -> pa.Table:
    names = np.array(ids, dtype=object)
    component = graph.component[graph.node]
    _, first, cluster = np.unique(component, return_index=True, return_inverse=True)
    dropped = matched >= 0
    return pa.table(
        {
            "doc_id": ids,
            "cluster_id": names[first[cluster]],  # documents are in order of doc_id: the first is the smallest
            "representative": names[representative],
            "kept": ~dropped,
            "drop_reason": _where(dropped, np.where(same_text, "exact_duplicate", "near_duplicate")),
            "matched_doc_id": _where(dropped, names[matched]),
            "similarity": pa.array(similarity, mask=~dropped),
            "method": _where(dropped, np.where(same_text, "exact_text", "minhash_jaccard")),
        },
        schema=DUPLICATES,
    )


def _where(mask: npt.NDArray[np.bool_], values: npt.NDArray[Any]) -> pa.Array:
    return pa.array(values.astype(object), type=pa.string(), mask=~mask)


def _pair_table(
    ids: list[str], matched: Indices, similarity: npt.NDArray[np.float64], same_text: npt.NDArray[np.bool_]
) -> pa.Table:
    """The proof of each duplicate. Two documents never prove each other: matches lead to the representative."""
    names = np.array(ids, dtype=object)
    rows = np.flatnonzero(matched >= 0)
    low, high = np.minimum(rows, matched[rows]), np.maximum(rows, matched[rows])
    order = np.lexsort((high, low))
    return pa.table(
        {
            "doc_id_a": names[low[order]],
            "doc_id_b": names[high[order]],
            "similarity": similarity[rows[order]],
            "method": np.where(same_text[rows[order]], "exact_text", "minhash_jaccard").astype(object),
        },
        schema=DUPLICATE_PAIRS,
    )


def _stats_of_nothing() -> dict[str, Any]:
    names = ("nodes", "pairs_in_a_bucket", "candidate_pairs", "computed_pairs", "proven_pairs")
    more = ("clusters", "largest_cluster", "exact_duplicates", "near_duplicates")
    return dict.fromkeys((*names, *more), 0) | {"candidate_precision": 1.0, "smallest_similarity": 1.0}


def _cluster_stats(
    graph: _Graph, matched: Indices, similarity: npt.NDArray[np.float64], same_text: npt.NDArray[np.bool_]
) -> dict[str, Any]:
    sizes = np.bincount(graph.component[graph.node])
    dropped = matched >= 0
    return {
        "clusters": int(np.count_nonzero(sizes > 1)),
        "largest_cluster": int(sizes.max()),
        "exact_duplicates": int(np.count_nonzero(same_text)),
        "near_duplicates": int(np.count_nonzero(dropped & ~same_text)),
        "smallest_similarity": float(np.min(similarity[dropped])) if dropped.any() else 1.0,
    }
