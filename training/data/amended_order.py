"""The order as it is read after incidents: some sequences give way to earlier, clean ones.

A replaced sequence keeps its number, so positions, steps and checkpoints mean what they meant before.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from training.contract.errors import OrderError
from training.data.amendments import Amendments
from training.data.order_dataset import Block, OrderReader

SCANNED_SEQUENCES = 4096
"""Sequences of the order that are looked through at once."""


@dataclass
class Amending:
    """The amendments that hold now: replaced as a whole when an incident is decided, before anything is read."""

    now: Amendments = field(default_factory=Amendments)


class AmendedReader:
    """An OrderReader that reads the replacements of replaced sequences."""

    def __init__(self, open_reader: Callable[[], OrderReader], amending: Amending) -> None:
        """A second reader is opened when the first sequence is replaced: reading back would cost the first its place."""
        self._open = open_reader
        self._forward = open_reader()
        self._back: OrderReader | None = None
        self._amending = amending
        self.window = self._forward.window

    @property
    def sequences(self) -> int:
        """Sequences of the whole run."""
        return self._forward.sequences

    def read(self, numbers: np.ndarray) -> Block:
        """The sequences of ascending numbers, each itself or its replacement."""
        replaced = self._amending.now.replaced
        gone = np.array([int(number) in replaced for number in numbers], dtype=bool) if replaced else None
        if gone is None or not gone.any():
            return self._forward.read(numbers)
        self._back = self._back or self._open()
        shape = (len(numbers), self.window)
        block = Block(np.empty(shape, np.int64), np.empty(shape, np.int8), np.empty(shape, np.int32))
        parts = [(np.array([i]), self._back, np.array([replaced[int(numbers[i])]])) for i in np.flatnonzero(gone)]
        if not gone.all():
            parts.append((np.flatnonzero(~gone), self._forward, numbers[~gone]))
        for rows, reader, wanted in parts:
            found = reader.read(wanted)
            for name in ("tokens", "channels", "pieces"):
                getattr(block, name)[rows] = getattr(found, name)
        return block


class OrderDocuments:
    """Which documents are in which sequence, as they are read with the amendments of now."""

    def __init__(self, reader: OrderReader, amending: Amending) -> None:
        self._reader = reader
        self._amending = amending

    def pieces(self, numbers: np.ndarray) -> pa.Table:
        """sequence, piece, doc_id, channel, length of ascending sequences; `sequence` is the one that was asked for."""
        replaced = self._amending.now.replaced
        found = []
        for number in map(int, numbers):
            source = replaced.get(number, number)
            rows = self._reader.rows(source, source + 1)
            if not len(rows):
                raise OrderError(f"the order has no sequence {source}; it plans {self._reader.sequences}")
            found.append(rows.set_column(0, "sequence", pa.array([number] * len(rows), pa.int64())))
        return pa.concat_tables(found).select(["sequence", "piece", "doc_id", "channel", "length"])

    def holding(self, doc_ids: Collection[str], first: int, end: int) -> list[int]:
        """Planned sequences from `first` to before `end` with a piece of these documents, ascending."""
        wanted = pa.array(sorted(doc_ids), pa.string())
        found: set[int] = set()
        for rows in self._scan(first, end):
            found.update(
                rows.filter(pc.is_in(rows["doc_id"].cast(pa.string()), value_set=wanted))["sequence"].to_pylist()
            )
        return sorted(found)

    def channels(self, first: int, end: int) -> dict[int, str]:
        """The channel of most tokens of each planned sequence."""
        found: dict[int, str] = {}
        for rows in self._scan(first, end):
            summed = rows.group_by(["sequence", "channel"]).aggregate([("length", "sum")]).to_pylist()
            for row in sorted(summed, key=lambda row: (row["sequence"], -row["length_sum"], row["channel"])):
                found.setdefault(row["sequence"], row["channel"])
        return found

    def _scan(self, first: int, end: int) -> Iterator[pa.Table]:
        for low in range(first, end, SCANNED_SEQUENCES):
            yield self._reader.rows(low, min(low + SCANNED_SEQUENCES, end))


def plan_replacements(
    documents: OrderDocuments, quarantined: Collection[str], rollback_sequence: int, window_begin: int, end: int
) -> dict[int, int]:
    """Sequences that hold a quarantined document, each with a clean sequence from before the window to be read in its place.

    Only what is trained again (from `rollback_sequence`) is replaced. The nearest sequence of the same channel is taken
    first, and none twice before all were taken: the mixture stays, and so does the length of the run.
    Raises OrderError when nothing clean comes before the window.
    """
    tainted = documents.holding(quarantined, rollback_sequence, end)
    begin = max(0, window_begin - SCANNED_SEQUENCES)
    unusable = {*documents.holding(quarantined, begin, window_begin), *documents._amending.now.replaced}
    channels = documents.channels(begin, window_begin)
    clean = [number for number in range(window_begin - 1, begin - 1, -1) if number not in unusable]
    if tainted and not clean:
        raise OrderError(
            f"sequences {begin} to {window_begin - 1} all hold quarantined documents: nothing can be read in place of "
            f"sequence {tainted[0]}. Remove the documents from the corpus and plan a new run"
        )
    wanted: dict[int, str] = {}
    for number in tainted:
        wanted |= documents.channels(number, number + 1)
    taken: dict[str, int] = {}
    replaced = {}
    for number in tainted:
        same = [other for other in clean if channels[other] == wanted[number]] or clean
        turn = taken.get(wanted[number], 0)
        replaced[number] = same[turn % len(same)]
        taken[wanted[number]] = turn + 1
    return replaced
