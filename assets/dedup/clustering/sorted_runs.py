"""Log-structured tables: a logical table is a few immutable sorted runs, of which the newest wins.

A run is a .npy file of unsigned 64-bit integers, sorted by its key columns and stored column by column,
so that a lookup maps only the pages it needs. The last column of a row is TOMBSTONE where the key was removed.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.uint64]
"""Shape (rows, columns)."""
Indices = npt.NDArray[np.int64]

TOMBSTONE = np.uint64(2**64 - 1)
MERGE_ROWS = 1 << 18  # rows of one run that are merged at once: some 50 MB


class SortedTable:
    """One logical table: its runs from the oldest to the newest, and how many trailing columns are values."""

    def __init__(self, runs: Sequence[Rows], values: int) -> None:
        self.runs = [run for run in runs if len(run)]
        self.values = values

    def rows_with(self, first_keys: npt.NDArray[np.uint64]) -> Rows:
        """Live rows whose first key column is one of `first_keys` (sorted, distinct), sorted by key."""
        parts = []
        for run in self.runs:
            column = run[:, 0]
            start = np.searchsorted(column, first_keys)
            parts.append(take(run, spans(start, np.searchsorted(column, first_keys, side="right"))))
        return newest(parts, self.values) if parts else np.zeros((0, self.values + 2), dtype=np.uint64)

    def merged(self, keep_tombstones: bool) -> Iterator[Rows]:
        """All rows in order of their keys, a bounded part at a time."""
        if not self.runs:
            return
        largest = max(self.runs, key=len)
        edges = np.unique(largest[MERGE_ROWS::MERGE_ROWS, 0])
        cuts = [np.concatenate([[0], np.searchsorted(run[:, 0], edges), [len(run)]]) for run in self.runs]
        for part in range(len(edges) + 1):
            rows = [run[cut[part] : cut[part + 1]] for run, cut in zip(self.runs, cuts, strict=True)]
            yield newest(rows, self.values, keep_tombstones)


def newest(parts: Sequence[Rows], values: int, keep_tombstones: bool = False) -> Rows:
    """Rows of several sorted runs, oldest first, as one: of equal keys the newest, without what was removed."""
    width = max(part.shape[1] for part in parts)
    parts = [_padded(part, width, values) for part in parts if len(part)]
    if not parts:
        return np.zeros((0, width), dtype=np.uint64)
    rows = np.asfortranarray(parts[0])
    if len(parts) > 1:
        rows = np.asfortranarray(np.concatenate(parts))
        age = np.repeat(np.arange(len(parts), 0, -1), [len(part) for part in parts])
        keys = [rows[:, column] for column in range(width - values)]
        order = np.lexsort((age, *keys[::-1]))
        rows = take(rows, order)
        first = np.ones(len(rows), dtype=bool)
        same = np.ones(len(rows) - 1, dtype=bool)
        for column in range(width - values):
            same &= rows[1:, column] == rows[:-1, column]
        first[1:] = ~same
        rows = take(rows, np.flatnonzero(first)) if same.any() else rows
    if not keep_tombstones:
        live = rows[:, -1] != TOMBSTONE
        rows = rows if live.all() else take(rows, np.flatnonzero(live))
    return rows


def distinct(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Sorted distinct values; np.unique goes through a hash table, which is slower here."""
    values = np.sort(values)
    return values[np.concatenate([[True], values[1:] != values[:-1]])] if len(values) else values


def sort_rows(rows: Rows, keys: int) -> Rows:
    """Rows sorted by their first `keys` columns."""
    return take(rows, np.lexsort([rows[:, column] for column in range(keys)][::-1]))


def take(rows: Rows, at: Indices) -> Rows:
    """Some rows, column by column: each column of a run is contiguous on disk."""
    taken = np.empty((len(at), rows.shape[1]), dtype=np.uint64, order="F")
    for column in range(rows.shape[1]):
        taken[:, column] = rows[:, column][at]
    return taken


def spans(start: npt.NDArray[Any], stop: npt.NDArray[Any]) -> Indices:
    """The numbers of all ranges [start, stop) in turn."""
    lengths = (stop - start).astype(np.int64)
    ends = np.cumsum(lengths)
    if not len(ends) or not ends[-1]:
        return np.zeros(0, dtype=np.int64)
    return np.arange(ends[-1]) + np.repeat(start.astype(np.int64) - (ends - lengths), lengths)


def _padded(rows: Rows, width: int, values: int) -> Rows:
    """Text ids of two runs may differ in width: zeros go between the keys and the values."""
    missing = width - rows.shape[1]
    if not missing:
        return rows
    keys = rows.shape[1] - values
    return np.concatenate([rows[:, :keys], np.zeros((len(rows), missing), np.uint64), rows[:, keys:]], axis=1)


class RunWriter:
    """Writes one run from sorted parts; memory is that of a part."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._columns: list[BinaryIO] = []
        self.rows = 0

    def append(self, rows: Rows) -> None:
        """The next rows; their keys come after all before."""
        if not self._columns:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._columns = [self._column(number).open("w+b") for number in range(rows.shape[1])]
        if len(self._columns) != rows.shape[1]:
            raise AssertionError(f"{self.path.name}: {rows.shape[1]} columns after {len(self._columns)}")
        for number, column in enumerate(self._columns):
            column.write(np.ascontiguousarray(rows[:, number]).data)
        self.rows += len(rows)

    def finish(self) -> None:
        """Write the file."""
        with self.path.open("wb") as file:
            shape = (self.rows, len(self._columns))
            np.lib.format.write_array_header_1_0(file, {"descr": "<u8", "fortran_order": True, "shape": shape})
            for column in self._columns:
                column.seek(0)
                shutil.copyfileobj(column, file, 1 << 20)
        for number, column in enumerate(self._columns):
            column.close()
            self._column(number).unlink()

    def _column(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.column{number}")


class FlatWriter:
    """Writes one .npy array of known row shape by appending; memory is that of a part."""

    def __init__(self, path: Path, dtype: str, row: tuple[int, ...] = ()) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("wb")
        self._dtype, self._row = dtype, row
        self.rows = 0
        self._write_header()

    def append(self, values: npt.NDArray[Any]) -> None:
        """The next rows."""
        self._file.write(np.ascontiguousarray(values, dtype=self._dtype).data)
        self.rows += len(values)

    def finish(self) -> None:
        """Complete the header."""
        self._file.seek(0)
        self._write_header()
        self._file.close()

    def _write_header(self) -> None:
        # numpy pads the first axis of the header so that a longer shape still fits.
        header = {"descr": self._dtype, "fortran_order": False, "shape": (self.rows, *self._row)}
        np.lib.format.write_array_header_1_0(self._file, header)


class Spill:
    """Rows set aside by range, to be read one range at a time; in files as soon as there are several ranges."""

    def __init__(self, folder: Path, name: str, columns: int, ranges: int) -> None:
        self.ranges, self._columns = ranges, columns
        self._kept: list[Rows] = []
        folder.mkdir(parents=True, exist_ok=True)
        self._paths = [folder / f"{name}-{number:05d}.rows" for number in range(ranges)] if ranges > 1 else []

    def add(self, rows: Rows, which: npt.NDArray[Any]) -> None:
        """Rows, and the range of each."""
        if self.ranges == 1:
            self._kept.append(rows)
            return
        order = np.argsort(which, kind="stable")
        ordered = np.ascontiguousarray(rows[order])
        edges = np.searchsorted(which[order], np.arange(self.ranges + 1))
        for number in np.flatnonzero(edges[1:] > edges[:-1]).tolist():
            with self._paths[number].open("ab") as file:  # not kept open: there may be more ranges than descriptors
                file.write(ordered[edges[number] : edges[number + 1]].data)

    def read(self, number: int) -> Rows:
        """All rows of one range, once."""
        if self.ranges == 1:
            kept, self._kept = self._kept, []
            return np.concatenate(kept) if kept else np.zeros((0, self._columns), dtype=np.uint64)
        if not self._paths[number].exists():
            return np.zeros((0, self._columns), dtype=np.uint64)
        rows = np.fromfile(self._paths[number], dtype=np.uint64).reshape(-1, self._columns)
        self._paths[number].unlink()
        return rows
