"""Decisions of components as the rows of `decisions` and `pairs`, and what an update changed in them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from assets.dedup.clustering.components import EXACT_DUPLICATE, KEPT, NEAR_DUPLICATE
from assets.dedup.clustering.ids import IdKind, as_bytes, decode_ids, order_of
from assets.dedup.clustering.sorted_runs import Rows
from assets.delta_table import Changes
from assets.schemas import DUPLICATE_PAIRS, DUPLICATES

REASON = {EXACT_DUPLICATE: "exact_duplicate", NEAR_DUPLICATE: "near_duplicate"}
METHOD = {EXACT_DUPLICATE: "exact_text", NEAR_DUPLICATE: "minhash_jaccard"}


def decision_changes(before: Sequence[Rows], after: Sequence[Rows], width: int, kind: IdKind) -> Changes:
    """The `decisions` rows that differ, from the decision rows of components.Resolved."""
    removed, added = _differences(_joined(before, 4 * width + 2), _joined(after, 4 * width + 2))
    return Changes(_decision_table(removed, width, kind), _decision_table(added, width, kind))


def pair_changes(before: Sequence[Rows], after: Sequence[Rows], width: int, kind: IdKind) -> Changes:
    """The `pairs` rows that differ: one per duplicate, with what it matched.

    Two documents never prove each other, since matches lead to the representative: no pair comes twice.
    """
    sides = (_proofs(_joined(rows, 4 * width + 2), width) for rows in (before, after))
    removed, added = _differences(*sides)
    return Changes(_pair_table(removed, width, kind), _pair_table(added, width, kind))


def _joined(parts: Sequence[Rows], columns: int) -> Rows:
    return np.concatenate(parts) if parts else np.zeros((0, columns), dtype=np.uint64)


def _differences(before: Rows, after: Rows) -> tuple[Rows, Rows]:
    """Rows that only one side has, each sorted. No side holds a row twice."""
    before, after = before[order_of(before)], after[order_of(after)]
    if not len(before) or not len(after):
        return before, after
    old, new = as_bytes(before), as_bytes(after)
    return before[~_found(old, new)], after[~_found(new, old)]


def _found(wanted: npt.NDArray[np.bytes_], ordered: npt.NDArray[np.bytes_]) -> npt.NDArray[np.bool_]:
    at = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
    return ordered[at] == wanted


def _decision_table(rows: Rows, width: int, kind: IdKind) -> pa.Table:
    doc_id, cluster, representative, matched = (
        decode_ids(rows[:, at * width : (at + 1) * width], kind) for at in range(4)
    )
    verdict = rows[:, -1].astype(np.int64)
    kept = pa.array(verdict == KEPT)
    empty = pa.scalar(None, pa.string())
    return pa.table(
        {
            "doc_id": doc_id,
            "cluster_id": cluster,
            "representative": representative,
            "kept": kept,
            "drop_reason": _named(verdict, REASON),
            "matched_doc_id": pc.if_else(kept, empty, matched),
            "similarity": pa.array(_floats(rows[:, -2]), mask=verdict == KEPT),
            "method": _named(verdict, METHOD),
        },
        schema=DUPLICATES,
    )


def _proofs(rows: Rows, width: int) -> Rows:
    """doc_id_a, doc_id_b (columns of `width`), similarity bits, verdict of the dropped documents."""
    rows = rows[rows[:, -1] != KEPT]
    one, other = rows[:, :width], rows[:, 3 * width : 4 * width]
    swap = (as_bytes(other) < as_bytes(one))[:, None] if len(rows) else np.zeros((0, 1), dtype=bool)
    return np.concatenate([np.where(swap, other, one), np.where(swap, one, other), rows[:, -2:]], axis=1)


def _pair_table(rows: Rows, width: int, kind: IdKind) -> pa.Table:
    return pa.table(
        {
            "doc_id_a": decode_ids(rows[:, :width], kind),
            "doc_id_b": decode_ids(rows[:, width : 2 * width], kind),
            "similarity": _floats(rows[:, -2]),
            "method": _named(rows[:, -1].astype(np.int64), METHOD),
        },
        schema=DUPLICATE_PAIRS,
    )


def _named(verdict: npt.NDArray[np.int64], names: dict[int, str]) -> pa.Array:
    return pa.array([None, names[EXACT_DUPLICATE], names[NEAR_DUPLICATE]], pa.string()).take(pa.array(verdict))


def _floats(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    return np.ascontiguousarray(bits).view(np.float64)
