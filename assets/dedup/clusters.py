"""Duplicate clusters: which live documents are the same text, and which one of them stays.

(1) documents with one shingle set are one node (exact duplicates always are); (2) candidate pairs of
nodes and their proof by true Jaccard (candidates.py); (3) clusters = connected components of proven
pairs; (4) representative = best quality, then earliest crawl, then smallest doc_id; (5) every other
document names a proven neighbour: the representative where their own Jaccard reaches the threshold,
else the most similar document one proven step nearer to it (so that chains lead to what was kept).

All of it is a function of the set of live documents, never of their order or history. The pairs
table holds exactly the proofs of (5), one per duplicate: its size is linear where all pairs of a
cluster would be quadratic. This is the run from scratch; incremental.py is the same code with a state.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from assets.dedup.clustering.engine import update_clusters
from assets.dedup.clustering.ids import IdKind
from assets.dedup.recipe import DedupRecipe
from assets.dedup.signatures import SignatureReader

__all__ = ["Clusters", "DedupRecipe", "cluster_documents"]


@dataclass(frozen=True)
class Clusters:
    """What clustering found, ready to write and to report."""

    decisions: pa.Table
    pairs: pa.Table
    stats: dict[str, Any]


def cluster_documents(
    documents: pa.Table, read: SignatureReader, recipe: DedupRecipe, ids: IdKind = "hash128"
) -> Clusters:
    """Cluster `documents` (doc_id, quality, crawled_at), which are live and kept, by their signatures.

    `crawled_at` is the timestamp part of the crawl partition: comparable across sources.
    """
    with tempfile.TemporaryDirectory(prefix="headwater-dedup-") as folder:
        found = update_clusters({}, documents, (), read, recipe, Path(folder), ids=ids)
    return Clusters(found.decisions.added, found.pairs.added, found.stats)
