"""What a stage sees of the world: its inputs, its recipe, a folder to fill; and what it gives back.

Every asset is made by one function `build(build: Build) -> StageReport` in its group's `defs.py`.
The function reads `build.inputs`, writes Parquet (or WARC, or shards) into `build.output` and
returns counts, statistics, samples and plots. It knows neither Dagster nor the store: the publisher
(`orchestration/publish/publisher.py`) resolves the inputs before and stages, checks and merges after.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel

from assets.delta_table import Changes, Part, key_columns, read_batches, read_parts, table_parts, write_changes
from assets.errors import HeadwaterError
from assets.key_set import KeySet
from assets.packs import PackedRows, read_rows
from assets.packs import read_batches as read_packed_batches

RecipeT = TypeVar("RecipeT", bound=BaseModel)


class BuildError(HeadwaterError):
    """A stage cannot go on. The message says the rule, the value found, the file and row, and what to do."""


@dataclass(slots=True)  # not frozen: a build makes thousands, and a frozen one takes 2.7 times as long to make
class Segment:
    """One published partition of one asset: immutable files, read by their logical name.

    `files` maps the logical name ("documents.parquet", "shard-00000.bin") to a readable local path,
    which need not carry the same name (the store keeps objects under their SHA-256).
    """

    asset: str
    partition: str | None
    version: str
    files: Mapping[str, Path]
    manifest: Mapping[str, Any] = field(default_factory=dict)
    packed: Mapping[str, PackedRows] = field(default_factory=dict)
    """Table -> its rows in a file that it shares with other partitions: the same rows, read faster."""

    def path(self, name: str) -> Path:
        """Local path of one file. Raises BuildError naming the files that exist."""
        try:
            return self.files[name]
        except KeyError:
            where = f"{self.asset}/{self.partition}" if self.partition else self.asset
            raise BuildError(f"{where} has no file {name!r}; it has {sorted(self.files)[:20]}") from None

    def parts(self, table: str) -> list[Path]:
        """Files of one table in order: `table.parquet`, or `table-00000.parquet`, `table-00001.parquet`, ..."""
        names = sorted(n for n in self.files if n == f"{table}.parquet" or _is_part(n, table))
        if not names:
            self.path(f"{table}.parquet")
        return [self.files[n] for n in names]

    def table(self, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The whole table in memory; for tables that are small by nature (decisions, manifests of a run)."""
        if packed := self.packed.get(table):
            return read_rows(packed, columns)
        if updates := self._updates(table):
            return read_parts(updates, columns)
        cols = list(columns) if columns is not None else None
        return pa.concat_tables([pq.ParquetFile(p).read(columns=cols) for p in self.parts(table)])

    def batches(self, table: str, columns: Sequence[str] | None = None, rows: int = 4096) -> Iterator[pa.RecordBatch]:
        """The table as record batches of at most `rows` rows: memory stays bounded by a batch."""
        if packed := self.packed.get(table):
            yield from read_packed_batches(packed, columns, rows)
            return
        if updates := self._updates(table):
            for live in read_batches(updates, columns, rows):
                yield from live.to_batches()
            return
        cols = list(columns) if columns is not None else None
        for part in self.parts(table):
            yield from pq.ParquetFile(part).iter_batches(batch_size=rows, columns=cols)

    def rows(self, table: str, column: str, values: pa.Array, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows whose `column` is one of some values, a batch in memory at a time; `columns` must include it."""
        schema: pa.Schema | None = None
        found, wanted = [], KeySet(values)
        for batch in self.batches(table, columns, rows=wanted.rows_per_batch(65536)) if len(values) else ():
            schema = batch.schema
            rows = batch.filter(wanted.holds(batch.column(column)))
            if len(rows):
                found.append(rows)
        if schema is not None:
            return pa.Table.from_batches(found, schema=schema)
        updates = self._updates(table)  # a table without rows has no batches
        empty = pq.read_schema(updates[0].added if updates else self.parts(table)[0]).empty_table()
        return empty.select(list(columns)) if columns is not None else empty

    def plain(self, table: str, folder: Path) -> list[Path]:
        """Files of one table for a program that reads Parquet in order of the key: an updated table is written as one file."""
        updates = self._updates(table)
        if len(updates) < 2:
            return self.parts(table)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{table}.parquet"
        pq.write_table(read_parts(updates), path, compression="zstd")
        return [path]

    def _updates(self, table: str) -> list[Part]:
        """Parts of a table that is kept up to date by changes (assets/delta_table.py); empty for others."""
        parts = table_parts(self.files, table)
        return parts if parts and key_columns(pq.read_schema(parts[0].added)) else []

    def changes(self, table: str, since: str) -> Changes | None:
        """What turned version `since` of a table into this one; None when that is not the version it was made from."""
        if since == self.version:
            empty = pq.read_schema(table_parts(self.files, table)[0].added).empty_table()
            return Changes(empty, empty)
        extends = self.manifest.get("extends")
        if extends is None or extends["version"] != since or table not in extends["updates"]:
            return None
        number = extends["updates"][table]
        parts = table_parts(self.files, table)
        empty = pq.read_schema(parts[0].added).empty_table()
        if number is None:
            return Changes(empty, empty)
        part = next(part for part in parts if part.number == number)
        removed = pq.ParquetFile(part.removed).read() if part.removed else empty
        return Changes(removed, pq.ParquetFile(part.added).read())


def read_tables(segments: Sequence[Segment], table: str, columns: Sequence[str] | None = None) -> list[pa.Table]:
    """The tables of segments, in order; neighbours that lie side by side in a pack are one table."""
    runs = neighbours(segments, table)
    return [read_rows(rows, columns) if rows else some[0].table(table, columns) for rows, some in runs]


def neighbours(segments: Iterable[Segment], table: str) -> Iterator[tuple[PackedRows | None, list[Segment]]]:
    """Segments in order: those whose rows lie side by side in a pack together, with the place of all; others alone."""
    run: list[Segment] = []
    place: PackedRows | None = None
    end = -1
    for segment in segments:
        rows = segment.packed.get(table)
        if place and rows and rows.first == end and (rows.pack is place.pack or rows.pack == place.pack):
            run.append(segment)
            end += rows.count
            continue
        if run:
            yield place and PackedRows(place.pack, place.first, end - place.first), run
        run, place = [segment], rows
        end = rows.first + rows.count if rows else -1
    if run:
        yield place and PackedRows(place.pack, place.first, end - place.first), run


def _is_part(name: str, table: str) -> bool:
    stem, dot, suffix = name.partition(".")
    return dot == "." and suffix == "parquet" and stem.startswith(f"{table}-") and stem[len(table) + 1 :].isdigit()


class Progress(Protocol):
    """Where a stage says how far it is: a bar in the terminal, log lines in Dagster."""

    def update(self, done: int, total: int | None = None, note: str = "") -> None: ...


class SilentProgress:
    """Progress for tests and library use."""

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        """Say nothing."""


class TrainerLauncher(Protocol):
    """Starts the training program and waits for it; implemented by orchestration/launch/trainer.py.

    `run(request_path, workdir)` returns when the program ended well; it raises BuildError with the
    program's own last error otherwise, and ends every rank if this process is ended.
    """

    def run(self, request_path: Path, workdir: Path, progress: Progress) -> None: ...


class PipelineExecutor(Protocol):
    """Runs the tasks of a datatrove pipeline somewhere; implemented by assets/executors/local.py and its neighbours.

    `run` returns when every task is complete; it raises BuildError that says which one is not and why otherwise.
    """

    def run(self, pipeline: list[Any], tasks: int, logging_dir: Path, progress: Progress) -> None: ...


@dataclass(frozen=True)
class Base:
    """An earlier version of an asset that was made by the same code and recipe: what has changed since is its inputs."""

    segment: Segment
    inputs: Mapping[str, Mapping[str, str]]
    """Upstream asset -> partition ("" if none) -> the data version that was read."""


@dataclass(frozen=True)
class Build:
    """Everything one build of one partition of one asset may read and write."""

    asset: str
    partition: str | None
    output: Path
    """Folder to fill. Empty, unless an earlier attempt with the same fingerprint was interrupted
    and the asset is declared `resumable`: then it holds what that attempt left."""
    scratch: Path
    """Folder for intermediate files; deleted after publishing, kept (same fingerprint) after a failure."""
    inputs: Mapping[str, Sequence[Segment]]
    """Upstream asset name -> its segments, sorted by partition."""
    recipes: Mapping[str, Any]
    """Recipe table name -> its raw TOML table (a dict)."""
    workers: int = 1
    executor: PipelineExecutor | None = None
    """Where datatrove pipelines run; None: on `workers` processes of this machine."""
    progress: Progress = field(default_factory=SilentProgress)
    previous: Segment | None = None
    """The accepted version of this same asset and partition, if there is one."""
    base: Base | None = None
    """`previous`, if the same code and recipe made it: the build may update it instead of starting afresh."""
    others: Sequence[Segment] = ()
    """Other partitions of this asset that the same code made, the newest first, where the asset is `resumable`: what they
    computed may be taken over as long as the result is the same without."""
    trainer: TrainerLauncher | None = None
    fingerprint: str = ""

    def one(self, asset: str) -> Segment:
        """The single segment of an input. Raises BuildError when there is not exactly one."""
        found = self.inputs.get(asset, ())
        if len(found) != 1:
            raise BuildError(f"{self.asset} needs exactly one version of {asset}, found {len(found)}")
        return found[0]

    def all(self, asset: str) -> Sequence[Segment]:
        """All segments of an input, sorted by partition; may be empty."""
        return self.inputs.get(asset, ())

    def added(self, asset: str) -> list[Segment] | None:
        """Partitions of an input that `base` has not read; None when one that it has read changed or is gone."""
        if self.base is None:
            return None
        known = self.base.inputs.get(asset, {})
        now = {segment.partition or "": segment.version for segment in self.all(asset)}
        if any(now.get(partition) != version for partition, version in known.items()):
            return None
        return [segment for segment in self.all(asset) if (segment.partition or "") not in known]

    def changes(self, asset: str, table: str) -> Changes | None:
        """What changed in a table of an unpartitioned input since `base` read it; None when that cannot be told."""
        since = self.base.inputs.get(asset, {}).get("") if self.base else None
        return self.one(asset).changes(table, since) if since else None

    def recipe(self, table: str, model: type[RecipeT]) -> RecipeT:
        """The recipe table as its pydantic model. The publisher has validated it already."""
        return model.model_validate(self.recipes.get(table, {}))


@dataclass
class Extension:
    """How an output continues an earlier version: files that still belong to it, and the part of each table that is new."""

    segment: Segment
    kept: set[str] = field(default_factory=set)
    updates: dict[str, int | None] = field(default_factory=dict)


class UpdatedTables:
    """Tables of an output that continue those of an earlier version (`base`), or begin where there is none."""

    def __init__(self, output: Path, base: Segment | None) -> None:
        self._output, self._base = output, base
        self.extends = Extension(base) if base else None

    def write(self, table: str, changes: Changes, schema: pa.Schema) -> None:
        """Write what changes in a table."""
        update = write_changes(self._output, table, changes, schema, self._base.files if self._base else {})
        if self.extends:
            self.extends.kept.update(update.kept)
            self.extends.updates[table] = update.number

    def keep(self, files: Iterable[str]) -> None:
        """Keep further files of the earlier version as they are."""
        if self.extends:
            self.extends.kept.update(files)

    def segment(self) -> Segment:
        """The output as it will be published, kept files included."""
        kept = {name: self.extends.segment.files[name] for name in self.extends.kept} if self.extends else {}
        written = {
            path.relative_to(self._output).as_posix(): path for path in self._output.rglob("*") if path.is_file()
        }
        return Segment("staged", None, "staged", kept | written)


@dataclass(frozen=True)
class Sample:
    """Rows worth looking at, shown as a table in the UI."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


@dataclass
class StageReport:
    """What a build says of itself. `stats` is what checks see; texts go only into `samples`."""

    documents_in: int | None = None
    """Documents (captures, for sources) that came in; None where the asset does not handle documents."""
    documents_kept: int | None = None
    dropped: dict[str, int] = field(default_factory=dict)
    """Drop reason -> documents. in = kept + sum(dropped), always: the publisher checks it."""
    tokens_in: int | None = None
    tokens_out: int | None = None
    stats: dict[str, Any] = field(default_factory=dict)
    """JSON: name -> number, string, or {label: number}. Of an asset without partitions, `documents_by_source` and
    `dropped_by_source` (source -> reason -> documents) are what yield alarms compare with earlier versions."""
    samples: list[Sample] = field(default_factory=list)
    plots: dict[str, bytes] = field(default_factory=dict)
    """Title -> PNG bytes."""
    volatile_files: tuple[str, ...] = ()
    """Glob patterns of files whose bytes carry times or addresses of this one execution (WARC files,
    metrics): published, but not part of the data version."""
    extends: Extension | None = None
    """Set when the output adds to files of an earlier version instead of replacing it."""

    def as_json(self) -> dict[str, Any]:
        """Counts and statistics, for the manifest."""
        return json.loads(
            json.dumps(
                {
                    "documents_in": self.documents_in,
                    "documents_kept": self.documents_kept,
                    "dropped": dict(sorted(self.dropped.items())),
                    "tokens_in": self.tokens_in,
                    "tokens_out": self.tokens_out,
                    "stats": self.stats,
                }
            )
        )
