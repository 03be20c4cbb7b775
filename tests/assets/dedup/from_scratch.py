"""Clusters of a set of documents by one run over all of them: what an update has to come to, too."""

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


@dataclass(frozen=True)
class Clusters:
    """What clustering found."""

    decisions: pa.Table
    pairs: pa.Table
    stats: dict[str, Any]


def cluster_documents(
    documents: pa.Table, read: SignatureReader, recipe: DedupRecipe, ids: IdKind = "hash128"
) -> Clusters:
    """Cluster `documents` (doc_id, quality, crawled_at) by their signatures."""
    with tempfile.TemporaryDirectory(prefix="headwater-dedup-") as folder:
        found = update_clusters({}, documents, (), read, recipe, Path(folder), ids=ids)
    return Clusters(found.decisions.added, found.pairs.added, found.stats)
