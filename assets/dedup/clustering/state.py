"""What deduplication remembers between updates: immutable files, listed by one manifest.

A state is a list of segments, oldest first; each update adds one, and now and then the newest ones are
merged, so that n updates leave O(log n) of them. Per segment, under `state/gNNNNNN/`:

    documents.npy   id digest -> node
    members.npy     node, doc_id -> crawled_at, text digest, quality
    keys.npy        digest of a shingle set -> node
    buckets.npy     band bucket, node -> place of the node in a hot bucket (candidates.py)
    edges.npy       node, node -> true Jaccard, bit set of the bands that propose the pair (both directions)
    nodes.npy       node -> digest, number of shingles, where they start
    signatures.npy, shingles.npy   of those nodes

A node is a distinct shingle set of live documents; its number says only when it came and is never reused.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from assets.build import BuildError
from assets.dedup.clustering.ids import IdKind
from assets.dedup.clustering.sorted_runs import FlatWriter, Rows, RunWriter, SortedTable, spans
from assets.machine_faults import raise_machine_fault

FORMAT = 1
"""Of the files below. A state of another format is refused."""

VALUES = {"documents": 1, "members": 5, "keys": 1, "buckets": 1, "edges": 2}
"""Sorted tables, and how many of their last columns are values."""
NODE_FILES = ("nodes", "signatures", "shingles")

MERGED_SEGMENTS = 4
"""So many of the newest segments are merged, or more, each at most twice as large as all after it together: then
sizes at least halve from one segment to the next but for the last few, so log2(rows) of them are left at most, and
what a first build wrote is written again only when half as much has come after it."""
COPY_NODES = 1 << 13  # nodes whose shingles are copied at once when segments are merged


@dataclass(frozen=True)
class SegmentEntry:
    """One segment of the manifest. `nodes` counts dead ones too, until a merge leaves them out."""

    folder: str
    rows: int
    files: tuple[str, ...]

    def path(self, table: str) -> str:
        """Name of one of its files."""
        return f"{self.folder}/{table}.npy"


@dataclass(frozen=True)
class Manifest:
    """The whole state but for its tables."""

    recipe: dict[str, Any]
    ids: IdKind
    slots: int = 0
    generation: int = 0
    next_node: int = 0
    documents: int = 0
    nodes: int = 0
    exact_duplicates: int = 0
    near_duplicates: int = 0
    cluster_sizes: dict[int, int] = field(default_factory=dict)
    """Documents of a cluster -> clusters; single documents included."""
    segments: tuple[SegmentEntry, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """For the manifest file."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "segments"}
        sizes = {str(size): count for size, count in sorted(self.cluster_sizes.items())}
        segments = [entry.__dict__ | {"files": list(entry.files)} for entry in self.segments]
        return {"format": FORMAT} | plain | {"cluster_sizes": sizes, "segments": segments}


def manifest_name(state: Mapping[str, Path]) -> str | None:
    """Name of the manifest among the files of a state; None for no state. Raises BuildError where it has several."""
    found = [name for name in state if name.startswith("state/") and name.endswith("/manifest.json")]
    if len(found) > 1:
        raise BuildError(f"a dedup state has one manifest, this one has {sorted(found)}: rebuild from an empty state")
    return found[0] if found else None


def state_is_compatible(state: Mapping[str, Path], recipe: dict[str, Any], ids: IdKind = "hash128") -> str | None:
    """None where an update can go on from `state` with this recipe; else the reason why it cannot."""
    name = manifest_name(state)
    if name is None:
        return None
    try:
        found = json.loads(state[name].read_bytes())
    except (OSError, ValueError) as error:
        raise_machine_fault(error)
        return f"its manifest cannot be read ({error})"
    if found.get("format") != FORMAT:
        return f"its format is {found.get('format')}, this version writes {FORMAT}"
    if found["ids"] != ids:
        return f"its ids are {found['ids']}, the documents have {ids}"
    if found["recipe"] != recipe:
        changed = sorted(key for key in {*recipe, *found["recipe"]} if recipe.get(key) != found["recipe"].get(key))
        return f"it was made with other settings: {', '.join(changed)}"
    missing = sorted(
        path
        for entry in found["segments"]
        for path in (f"{entry['folder']}/{table}.npy" for table in entry["files"])
        if path not in state or not state[path].is_file()
    )
    return f"{len(missing)} of its files are missing, first {missing[0]}" if missing else None


def read_manifest(state: Mapping[str, Path], recipe: dict[str, Any], ids: IdKind) -> Manifest:
    """The manifest of a state, or that of an empty one. Raises BuildError where the state cannot be used."""
    reason = state_is_compatible(state, recipe, ids)
    if reason:
        raise BuildError(f"the dedup state cannot be updated: {reason}; start again from an empty state")
    name = manifest_name(state)
    if name is None:
        return Manifest(recipe=recipe, ids=ids)
    found = json.loads(state[name].read_bytes())
    del found["format"]
    found["cluster_sizes"] = {int(size): count for size, count in found["cluster_sizes"].items()}
    entries = [SegmentEntry(**entry | {"files": tuple(entry["files"])}) for entry in found.pop("segments")]
    return Manifest(**found, segments=tuple(entries))


class View:
    """The tables of some segments, oldest first, mapped from their files."""

    def __init__(self, segments: Sequence[SegmentEntry], files: Mapping[str, Path]) -> None:
        def runs(table: str) -> list[Any]:
            return [_mapped(files[entry.path(table)]) for entry in segments if table in entry.files]

        tables = {table: SortedTable(runs(table), values) for table, values in VALUES.items()}
        self.documents, self.members, self.keys = tables["documents"], tables["members"], tables["keys"]
        self.buckets, self.edges = tables["buckets"], tables["edges"]
        self.nodes = NodeStore(*(runs(table) for table in NODE_FILES))


class NodeStore:
    """Digest, signature and shingles by node number; the segments hold ascending ranges of numbers."""

    def __init__(self, nodes: list[Rows], signatures: list[Any], shingles: list[Any]) -> None:
        self._nodes, self._signatures, self._shingles = nodes, signatures, shingles
        self._starts = np.array([run[0, 0] for run in nodes], dtype=np.uint64)

    def describe(self, numbers: npt.NDArray[np.uint64]) -> Rows:
        """Digest (2 columns) and number of shingles of each node."""
        result = np.empty((len(numbers), 3), dtype=np.uint64, order="F")
        for run, at, rows in self._located(numbers):
            for column in range(3):
                result[at, column] = self._nodes[run][:, column + 1][rows]
        return result

    def signatures(self, numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint32]:
        """MinHash of each node."""
        slots = self._signatures[0].shape[1] if self._signatures else 0
        result = np.empty((len(numbers), slots), dtype=np.uint32)
        for run, at, rows in self._located(numbers):
            result[at] = self._signatures[run][rows]
        return result

    def shingles(self, numbers: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
        """(all shingles, offsets): the sorted shingles of each node in turn."""
        sizes = self.describe(numbers)[:, 2].astype(np.int64)
        offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])
        values = np.empty(offsets[-1], dtype=np.uint64)
        for run, at, rows in self._located(numbers):
            start = self._nodes[run][:, 4][rows].astype(np.int64)
            values[spans(offsets[at], offsets[at] + sizes[at])] = self._shingles[run][spans(start, start + sizes[at])]
        return values, offsets

    def range_limits(self, ranges: int) -> npt.NDArray[np.uint64]:
        """Node numbers that cut all numbers into so many ranges."""
        last = int(self._nodes[-1][-1, 0]) + 1 if self._nodes else 0
        return np.array([last * number // ranges for number in range(1, ranges)], dtype=np.uint64)

    def all_numbers(self, step: int) -> Iterator[npt.NDArray[np.uint64]]:
        """Every stored node number in order, dead ones included."""
        for run in self._nodes:
            for at in range(0, len(run), step):
                yield run[at : at + step, 0].copy()

    def _located(self, numbers: npt.NDArray[np.uint64]) -> Iterator[tuple[int, Any, Any]]:
        """(run, positions in `numbers`, rows of the run). Raises AssertionError for a node that is not stored."""
        runs = np.searchsorted(self._starts, numbers, side="right") - 1
        for run in np.unique(runs).tolist():
            at = np.flatnonzero(runs == run)
            column = self._nodes[run][:, 0]
            rows = np.minimum(np.searchsorted(column, numbers[at]), len(column) - 1)
            if run < 0 or (column[rows] != numbers[at]).any():
                raise AssertionError("the dedup state names a node that it does not hold")
            yield run, at, rows


class SegmentWriter:
    """Writes one segment into a folder of its own."""

    def __init__(self, output: Path, folder: str) -> None:
        self.folder = folder
        self._path = output / folder
        self._path.mkdir(parents=True)
        self._runs: dict[str, RunWriter] = {}
        self._flat: tuple[FlatWriter, FlatWriter] | None = None
        self._shingles = 0
        self._files: list[str] = []
        self._rows = 0

    def append(self, table: str, rows: Rows) -> None:
        """The next sorted rows of a table."""
        if len(rows):
            if table not in self._runs:
                self._runs[table] = RunWriter(self._path / f"{table}.npy")
            self._runs[table].append(rows)

    def append_nodes(
        self,
        numbers: npt.NDArray[np.uint64],
        digests: Rows,
        sizes: npt.NDArray[np.int64],
        signatures: npt.NDArray[np.uint32],
        shingles: npt.NDArray[np.uint64],
    ) -> None:
        """Nodes of ascending numbers, with the shingles of all of them in turn."""
        if not len(numbers):
            return
        if self._flat is None:
            paths = (self._path / "signatures.npy", self._path / "shingles.npy")
            self._flat = FlatWriter(paths[0], "<u4", (signatures.shape[1],)), FlatWriter(paths[1], "<u8")
        starts = self._shingles + np.cumsum(sizes) - sizes
        columns = (numbers, digests[:, 0], digests[:, 1], sizes, starts)
        self.append("nodes", np.stack([column.astype(np.uint64) for column in columns], axis=1))
        self._flat[0].append(signatures)
        self._flat[1].append(shingles)
        self._shingles += int(sizes.sum())

    def finish_nodes(self) -> tuple[SegmentEntry, dict[str, Path]]:
        """Close the files of the nodes, so that they can be read while the rest is written."""
        if self._flat is not None:
            self._close("nodes")
            for writer in self._flat:
                writer.finish()
            self._files += NODE_FILES[1:]
            self._flat = None
        return self._entry(), {f"{self.folder}/{table}.npy": self._path / f"{table}.npy" for table in self._files}

    def finish(self) -> SegmentEntry:
        """Close all files of the segment and describe it."""
        self.finish_nodes()
        for table in list(self._runs):
            self._close(table)
        return self._entry()

    def _close(self, table: str) -> None:
        run = self._runs.pop(table)
        run.finish()
        self._files.append(table)
        self._rows += run.rows

    def _entry(self) -> SegmentEntry:
        return SegmentEntry(self.folder, self._rows, tuple(sorted(self._files)))


def compacted(
    segments: Sequence[SegmentEntry], files: dict[str, Path], output: Path, generation: int
) -> list[SegmentEntry]:
    """Segments after merging the newest ones where they are many; new files are added to `files`."""
    segments = [entry for entry in segments if entry.files]
    while count := _mergeable(segments):
        merged = segments[-count:]
        folder = f"state/g{generation:06d}-m{count:02d}-{len(segments):03d}"
        entry = _merge(merged, View(segments, files), files, output, folder, oldest=count == len(segments))
        for old in merged:
            if (output / old.folder).exists():  # made by this update and merged at once
                shutil.rmtree(output / old.folder)
                for table in old.files:
                    del files[old.path(table)]
        files.update({entry.path(table): output / entry.path(table) for table in entry.files})
        segments = segments[:-count] + [entry] * bool(entry.files)
    return segments


def _mergeable(segments: Sequence[SegmentEntry]) -> int:
    """How many of the newest segments are to be merged; 0 = none."""
    count = rows = 0
    for entry in reversed(segments):
        if count and entry.rows > 2 * rows:
            break
        rows += entry.rows
        count += 1
    return count if count >= MERGED_SEGMENTS else 0


def _merge(
    merged: Sequence[SegmentEntry], view: View, files: Mapping[str, Path], output: Path, folder: str, oldest: bool
) -> SegmentEntry:
    """The segments as one. Removed rows go where no older segment can hold what they remove; dead nodes always go."""
    writer = SegmentWriter(output, folder)
    part = View(merged, files)
    for table in VALUES:
        for rows in getattr(part, table).merged(keep_tombstones=not oldest):
            writer.append(table, rows)
    for numbers in part.nodes.all_numbers(COPY_NODES):
        described = view.nodes.describe(numbers)
        live = np.isin(numbers, view.keys.rows_with(np.unique(described[:, 0]))[:, -1])
        numbers, described = numbers[live], described[live]
        shingles, offsets = part.nodes.shingles(numbers)
        signatures = part.nodes.signatures(numbers)
        writer.append_nodes(numbers, described[:, :2], np.diff(offsets), signatures, shingles)
    return writer.finish()


def write_manifest(manifest: Manifest, output: Path) -> str:
    """Write the manifest of a new generation; its name."""
    name = f"state/g{manifest.generation:06d}/manifest.json"
    path = output / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(manifest.as_json(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return name


def _mapped(path: Path) -> Any:
    return np.load(path, mmap_mode="r").view(np.ndarray)
