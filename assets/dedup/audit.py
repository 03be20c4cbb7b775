"""Second look at what dedup wrote: the statements that the checks rely on, recomputed from the tables.

Nothing here shares code with the search for duplicates: a bug there shows as a violation here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from assets.dedup.signatures import SignatureReader
from assets.hashing import hash64

PROOFS = 200
"""Pairs whose Jaccard is recomputed; chosen by hash, so the same pairs every time."""


def audit_clusters(decisions: pa.Table, pairs: pa.Table, computed: pa.Table, read: SignatureReader) -> dict[str, Any]:
    """Counts of broken promises (all should be 0) over whole clusters and the pairs that prove them.

    `computed` are the pairs of which some are proved again, by the signatures that `read` gives.
    """
    rows = decisions.select(("doc_id", "cluster_id", "representative", "kept", "matched_doc_id")).to_pylist()
    by_id = {row["doc_id"]: row for row in rows}
    proofs = {
        frozenset(pair) for pair in zip(pairs["doc_id_a"].to_pylist(), pairs["doc_id_b"].to_pylist(), strict=True)
    }
    kept: dict[str, int] = {}
    lost = strangers = unproven = 0
    for row in rows:
        kept[row["cluster_id"]] = kept.get(row["cluster_id"], 0) + row["kept"]
        head = by_id.get(row["representative"])
        lost += head is None or not head["kept"]
        if row["kept"]:
            continue
        match = by_id.get(row["matched_doc_id"])
        strangers += match is None or match["cluster_id"] != row["cluster_id"]
        unproven += frozenset((row["doc_id"], row["matched_doc_id"])) not in proofs
    return {
        "representatives_lost": lost,
        "clusters_without_exactly_one_kept": sum(count != 1 for count in kept.values()),
        "matches_outside_cluster": strangers,
        "duplicates_without_proof": unproven,
        "proofs_recomputed": min(PROOFS, len(computed)),
        "proofs_wrong": _wrong_proofs(computed, read),
    }


def _wrong_proofs(pairs: pa.Table, read: SignatureReader) -> int:
    if not len(pairs):
        return 0
    names = [f"{a} {b}" for a, b in zip(pairs["doc_id_a"].to_pylist(), pairs["doc_id_b"].to_pylist(), strict=True)]
    chosen = pairs.take(pa.array(np.argsort(hash64("proofs", names), kind="stable")[:PROOFS])).to_pylist()
    wanted = {doc_id for pair in chosen for doc_id in (pair["doc_id_a"], pair["doc_id_b"])}
    shingles: dict[str, set[int]] = {}
    for batch in read(("doc_id", "shingles")):
        for row, doc_id in enumerate(batch.column(0).to_pylist()):
            if doc_id in wanted:
                shingles[doc_id] = set(batch.column(1)[row].as_py())
    wrong = 0
    for pair in chosen:
        a, b = shingles[pair["doc_id_a"]], shingles[pair["doc_id_b"]]
        wrong += abs(len(a & b) / len(a | b) - pair["similarity"]) > 1e-12
    return wrong
