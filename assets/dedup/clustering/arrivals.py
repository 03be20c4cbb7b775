"""What an update brings: the added documents as columns, their new nodes written as they are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from assets.build import BuildError
from assets.dedup.clustering.candidates import buckets_of
from assets.dedup.clustering.ids import (
    IdKind,
    as_bytes,
    decode_ids,
    encode_hex,
    encode_ids,
    encode_text,
    id_keys,
    positions,
)
from assets.dedup.clustering.sorted_runs import TOMBSTONE, Rows, Spill, distinct, newest, sort_rows, spans
from assets.dedup.clustering.state import Manifest, SegmentWriter, View
from assets.dedup.recipe import DedupRecipe
from assets.dedup.signatures import SignatureReader

ROWS_PER_RANGE = 1 << 20  # bucket rows in memory at a time: some 200 MB with all that is derived from them

CRAWLED_AT = 2  # columns: 16 bytes, a timestamp like 20260101T000000Z


@dataclass(frozen=True)
class Arrivals:
    """The added documents. Memory: about 150 bytes each."""

    ids: Rows
    keys: Rows  # of the ids, for equality only
    crawled_at: Rows
    quality: npt.NDArray[np.float64]
    text: Rows
    digest: Rows
    node: npt.NDArray[np.uint64]
    is_new: npt.NDArray[np.bool_]
    """Per document: whether its node is new."""

    def member_rows(self) -> Rows:
        """Rows of the members table, unsorted."""
        quality = (self.quality + 0.0).view(np.uint64)  # + 0.0: no negative zero, whose bits would differ
        return np.concatenate([self.node[:, None], self.ids, self.crawled_at, self.text, quality[:, None]], axis=1)


def read_documents(documents: pa.Table, read: SignatureReader, kind: IdKind) -> Arrivals:
    """The added documents with the digests of their signatures, not yet assigned to nodes.

    Raises BuildError for one without quality, listed twice, or without a signature.
    """
    count = len(documents)
    quality = documents["quality"].cast(pa.float64()).to_numpy()
    if np.isnan(quality).any():
        number = int(np.isnan(quality).sum())
        raise BuildError(f"{number} kept documents have no quality; filtered_documents must measure one")
    keys = id_keys(documents["doc_id"], kind)
    order = np.argsort(as_bytes(keys))
    ordered = as_bytes(keys)[order]
    if (ordered[1:] == ordered[:-1]).any():
        twice = int(order[np.flatnonzero(ordered[1:] == ordered[:-1])[0]])
        raise BuildError(f"document {documents['doc_id'][twice].as_py()} is added twice; each doc_id may be live once")
    found = np.zeros((count, 4), dtype=np.uint64)
    signed = np.zeros(count, dtype=bool)
    for batch in read(("doc_id", "text_sha256", "shingles_sha256")):
        at = positions(id_keys(batch.column("doc_id"), kind), ordered)
        rows = order[at[at >= 0]]
        found[rows, :2] = encode_hex(batch.column("text_sha256"), 64)[at >= 0]
        found[rows, 2:] = encode_hex(batch.column("shingles_sha256"), 64)[at >= 0]
        signed[rows] = True
    ids = encode_ids(documents["doc_id"], kind)
    if not signed.all():
        first = decode_ids(ids[np.flatnonzero(~signed)[:1]], kind)[0].as_py()
        raise BuildError(
            f"{int((~signed).sum())} live documents have no signature, first {first}; every kept document needs one: "
            "materialise document_signatures for its crawl"
        )
    return Arrivals(
        ids,
        keys,
        encode_text(documents["crawled_at"], CRAWLED_AT),
        quality,
        found[:, :2],
        found[:, 2:],
        np.zeros(count, dtype=np.uint64),
        np.zeros(count, dtype=bool),
    )


@dataclass
class NodeIntake:
    """Assigns nodes to arrivals; a shingle set that no live document has becomes a new node."""

    view: View
    writer: SegmentWriter
    buckets: Spill
    bands: int
    rows: int
    kind: IdKind
    next_node: int
    slots: int  # 0 until the first signature is seen

    def assign(self, arrivals: Arrivals, read: SignatureReader) -> None:
        """Fill `node` and `is_new`; write the new nodes and spill their bucket rows, a batch in memory at a time."""
        if not len(arrivals.node):
            return
        digests = as_bytes(arrivals.digest)
        sets, chosen, which = np.unique(digests, return_index=True, return_inverse=True)
        known = self.view.keys.rows_with(distinct(arrivals.digest[:, 0]))
        at = positions(arrivals.digest[chosen], as_bytes(known[:, :2]))
        number = np.zeros(len(sets), dtype=np.uint64)
        number[at >= 0] = known[at[at >= 0], 2]
        is_new = at < 0
        waiting = np.full(len(digests), -1, dtype=np.int64)  # per document: the node it must bring
        waiting[chosen[is_new]] = np.flatnonzero(is_new)
        order = np.argsort(as_bytes(arrivals.keys))
        ordered = as_bytes(arrivals.keys)[order]
        for batch in read(("doc_id", "shingles", "signature")) if is_new.any() else ():
            at = positions(id_keys(batch.column("doc_id"), self.kind), ordered)
            rows = np.flatnonzero(at >= 0)
            documents = order[at[rows]]
            rows, documents = rows[waiting[documents] >= 0], documents[waiting[documents] >= 0]
            documents, once = np.unique(documents, return_index=True)  # a page may be signed in two crawls
            if len(documents):
                number[waiting[documents]] = self._write(arrivals.digest[documents], batch, rows[once])
                waiting[documents] = -1
        arrivals.node[:] = number[which]
        arrivals.is_new[:] = is_new[which]

    def _write(self, digests: Rows, batch: pa.RecordBatch, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
        self._check_slots(np.diff(batch.column("signature").offsets.to_numpy()))
        _, signatures = _lists(batch.column("signature"), rows)
        signatures = signatures.reshape(len(rows), self.slots)
        sizes, shingles = _lists(batch.column("shingles"), rows)
        numbers = np.arange(self.next_node, self.next_node + len(rows), dtype=np.uint64)
        self.next_node += len(rows)
        self.writer.append_nodes(numbers, digests, sizes, signatures, shingles)
        found = buckets_of(numbers, signatures, self.bands, self.rows)
        self.buckets.add(found, range_of(found[:, 0], self.buckets.ranges))
        return numbers

    def _check_slots(self, found: npt.NDArray[np.int32]) -> None:
        self.slots = self.slots or int(found[0])
        if (found != self.slots).any():
            raise BuildError(
                f"signatures of {self.slots} and {int(found[found != self.slots][0])} MinHash slots cannot be "
                "compared: sign all crawls with one [signatures] permutations"
            )
        if self.bands * self.rows > self.slots:
            raise BuildError(
                f"[dedup] bands x rows = {self.bands} x {self.rows} needs {self.bands * self.rows} MinHash slots, "
                f"the signatures have {self.slots}: lower them, or raise [signatures] permutations"
            )


def _lists(column: pa.ListArray, rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
    """(lengths, values in turn) of some rows of a list column; pyarrow's take is slower."""
    offsets, values = column.offsets.to_numpy().astype(np.int64), column.values.to_numpy()
    start, stop = offsets[rows], offsets[rows + 1]
    is_slice = np.array_equal(rows, np.arange(len(offsets) - 1))
    return stop - start, values[offsets[0] : offsets[-1]] if is_slice else values[spans(start, stop)]


def range_of(hashes: npt.NDArray[np.uint64], ranges: int) -> npt.NDArray[np.int64]:
    """The hash range of each value: consecutive ranges of equal size, so that ranges in order are values in order."""
    return ((hashes >> np.uint64(32)) * np.uint64(ranges) >> np.uint64(32)).astype(np.int64)


def departures(removed: Sequence[str], view: View, kind: IdKind) -> Rows:
    """Member rows (node, id, ...) of the documents that leave. Raises BuildError for one that is not there."""
    if not len(removed):
        return np.zeros((0, 7), dtype=np.uint64)
    names = pa.array(removed, type=pa.string())
    keys = id_keys(names, kind)
    found = view.documents.rows_with(distinct(keys[:, 0]))
    at = positions(keys, as_bytes(found[:, :2]))
    if (at < 0).any():
        first = removed[int(np.flatnonzero(at < 0)[0])]
        raise BuildError(f"{int((at < 0).sum())} documents to remove are not in the dedup state, first {first}")
    members = view.members.rows_with(distinct(found[at, 2]))
    ids = np.ascontiguousarray(members[:, 1:-5])
    wanted = encode_ids(names, kind)
    width = max(wanted.shape[1], ids.shape[1])
    wanted = np.concatenate([wanted, np.zeros((len(wanted), width - wanted.shape[1]), np.uint64)], axis=1)
    return members[np.isin(as_bytes(ids), as_bytes(wanted))]


@dataclass(frozen=True)
class Taken:
    """The first step of an update, done."""

    manifest: Manifest  # its counts of documents and nodes are those after the update
    buckets: Spill
    """Bucket rows of new nodes, and with TOMBSTONE those of dead ones."""
    touched: npt.NDArray[np.uint64]
    """Nodes of which a document came or went."""
    died: npt.NDArray[np.uint64]


def take_in(
    old: View,
    writer: SegmentWriter,
    manifest: Manifest,
    documents: pa.Table,
    removed: Sequence[str],
    read: SignatureReader,
    recipe: DedupRecipe,
    scratch: Path,
) -> Taken:
    """Write members, documents, keys and nodes of the update. Raises BuildError for input that contradicts the state."""
    kind = manifest.ids
    arrivals = read_documents(documents, read, kind)
    leaving = departures(removed, old, kind)
    _refuse_live(arrivals, leaving, old, kind)
    buckets = Spill(scratch, "buckets", 3, max(1, -(-len(documents) * recipe.bands // ROWS_PER_RANGE)))
    intake = NodeIntake(old, writer, buckets, recipe.bands, recipe.rows, kind, manifest.next_node, manifest.slots)
    intake.assign(arrivals, read)

    left = distinct(leaving[:, 0])
    gone = leaving.copy(order="F")
    gone[:, -1] = TOMBSTONE
    added = arrivals.member_rows()
    added = sort_rows(added, added.shape[1] - 5)
    writer.append("members", newest([gone, added], 5, keep_tombstones=True))
    stay = newest([old.members.rows_with(left), gone, added], 5)
    died = np.setdiff1d(left, stay[:, 0])
    writer.append("documents", _document_rows(arrivals, removed, kind))
    fresh = np.flatnonzero(arrivals.is_new)
    fresh = fresh[np.unique(arrivals.node[fresh], return_index=True)[1]]
    digests = np.concatenate([old.nodes.describe(died)[:, :2], arrivals.digest[fresh]])
    numbers = np.concatenate([np.full(len(died), TOMBSTONE), arrivals.node[fresh]])
    writer.append("keys", sort_rows(np.concatenate([digests, numbers[:, None]], axis=1), 2))
    if len(died):
        rows = buckets_of(died, old.nodes.signatures(died), recipe.bands, recipe.rows)
        rows[:, 2] = TOMBSTONE
        buckets.add(rows, range_of(rows[:, 0], buckets.ranges))
    counted = replace(
        manifest,
        slots=intake.slots,
        next_node=intake.next_node,
        documents=manifest.documents + len(documents) - len(leaving),
        nodes=manifest.nodes + len(fresh) - len(died),
    )
    return Taken(counted, buckets, np.union1d(left, arrivals.node), died)


def _document_rows(arrivals: Arrivals, removed: Sequence[str], kind: IdKind) -> Rows:
    gone = id_keys(pa.array(removed, type=pa.string()), kind)
    gone = np.concatenate([gone, np.full((len(gone), 1), TOMBSTONE)], axis=1)
    added = np.concatenate([arrivals.keys, arrivals.node[:, None]], axis=1)
    return newest([sort_rows(gone, 2), sort_rows(added, 2)], 1, keep_tombstones=True)


def _refuse_live(arrivals: Arrivals, leaving: Rows, old: View, kind: IdKind) -> None:
    live = old.documents.rows_with(distinct(arrivals.keys[:, 0]))
    again = np.flatnonzero(positions(arrivals.keys, as_bytes(live[:, :2])) >= 0)
    if len(again):
        names = decode_ids(arrivals.ids[again], kind).to_pylist()
        gone = set(decode_ids(leaving[:, 1:-5], kind).to_pylist())
        wrong = [name for name in names if name not in gone]
        if wrong:
            raise BuildError(
                f"{len(wrong)} added documents are live already, first {wrong[0]}: remove a document in the same "
                "update that adds it again"
            )
