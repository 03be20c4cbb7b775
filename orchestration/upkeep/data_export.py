"""`headwater export`: rows of any published table to Parquet, JSON Lines or a Hugging Face folder, here or on S3.

Streams batch by batch. A file appears whole or not at all; what is there already is never replaced unasked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from assets.build import BuildError, Segment
from orchestration.identity.catalog import Catalog, segment
from orchestration.process.terminal import listed
from orchestration.stages import BY_NAME
from orchestration.store.contract import VersionedStore

BATCH_ROWS = 1024
SHARD_ROWS = 100_000  # of a Hugging Face folder
COMPRESSIONS = ("gz", "bz2", "xz", "zst")
TEXT_ASSET = "extracted_documents"

CARD = """\
---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*.parquet
---
# {asset}

{sentence}

Exported by Headwater from table `{table}` of `{asset}`{partitions}, store commit {commit}. {rows} rows.
Each row's own `licence` and `url`, where the table has them, say where it is from and under which terms.
"""


@dataclass(frozen=True)
class Subject:
    """What is exported: ASSET[@PARTITION][#TABLE]."""

    asset: str
    partition: str | None
    table: str | None

    @classmethod
    def parse(cls, text: str) -> Subject:
        """Raises BuildError for an asset that does not exist."""
        head, _, table = text.partition("#")
        asset, at, partition = head.partition("@")
        if asset not in BY_NAME:
            raise BuildError(f"{text!r}: no asset {asset!r}; assets: {', '.join(BY_NAME)}")
        if at and BY_NAME[asset].partition is None:
            raise BuildError(f"{text!r}: {asset} has no partitions; leave out @{partition}")
        return cls(asset, partition if at else None, table or None)


@dataclass(frozen=True)
class Exported:
    """What an export wrote."""

    destination: str
    table: str
    rows: int
    files: int


def export(
    store: VersionedStore,
    catalog: Catalog,
    subject: Subject,
    destination: str,
    *,
    with_text: bool = False,
    overwrite: bool = False,
    s3_endpoint: str = "",
) -> Exported:
    """Write the table of all (or one of the) partitions. Raises BuildError for what is not published or in the way."""
    segments = _segments(store, catalog, subject)
    table = subject.table or _only_table(segments[0])
    sink = _Destination(destination, overwrite, s3_endpoint)
    batches = _batches(store, catalog, segments, table, with_text)
    if sink.is_folder:
        return _write_folder(sink, batches, table, subject, catalog.commit, segments)
    with sink.open("") as out:
        if sink.kind == "parquet":
            rows = _write_parquet(out, batches)
        else:
            with _packed(out, sink.compression) as packed:
                rows = _write_lines(packed, batches)
    return Exported(destination, table, rows, 1)


def _segments(store: VersionedStore, catalog: Catalog, subject: Subject) -> list[Segment]:
    keys = catalog.keys(subject.asset)
    if subject.partition is not None:
        if subject.partition not in keys:
            known = ", ".join(str(key) for key in keys[-10:]) or "none"
            raise BuildError(f"{subject.asset} has no published partition {subject.partition!r}; the newest: {known}")
        keys = [subject.partition]
    if not keys:
        raise BuildError(f"{subject.asset} is not published yet: `headwater run` builds it")
    return [segment(store, catalog.commit, catalog.manifests[subject.asset, key]) for key in keys]


def _only_table(found: Segment) -> str:
    tables = sorted(found.manifest["rows"])
    if len(tables) != 1:
        named = "documents" if "documents" in tables else None
        if named is None or found.asset != "corpus":
            raise BuildError(
                f"{found.asset} has the tables {', '.join(tables) or 'none'}: name one as {found.asset}#TABLE"
            )
        return named
    return tables[0]


def _batches(
    store: VersionedStore, catalog: Catalog, segments: list[Segment], table: str, with_text: bool
) -> Iterator[pa.RecordBatch]:
    for found in segments:
        if table not in found.manifest["rows"]:
            raise BuildError(
                f"{found.asset} has no table {table!r}; it has {', '.join(sorted(found.manifest['rows']))}"
            )
        if with_text:
            yield from _with_text(store, catalog, found, table)
        else:
            yield from found.batches(table, rows=BATCH_ROWS)


def _with_text(store: VersionedStore, catalog: Catalog, found: Segment, table: str) -> Iterator[pa.RecordBatch]:
    """Rows with title and text of their documents, crawl by crawl: the table is in memory, the texts stream by."""
    rows = found.table(table)
    if not {"doc_id", "crawl"} <= set(rows.column_names):
        raise BuildError(
            f"{found.asset}#{table} has no doc_id and crawl: --text is for tables of documents, like corpus"
        )
    for crawl in sorted(set(rows["crawl"].to_pylist())):
        wanted = rows.filter(pc.equal(rows["crawl"], crawl)).combine_chunks()
        manifest = catalog.get(TEXT_ASSET, crawl)
        if manifest is None:
            raise BuildError(f"{TEXT_ASSET}/{crawl}, which holds texts of {found.asset}, is not published any more")
        missing = len(wanted)
        for batch in segment(store, catalog.commit, manifest).batches(
            "documents", ["doc_id", "title", "text"], BATCH_ROWS
        ):
            places = pc.index_in(batch["doc_id"], wanted["doc_id"].combine_chunks())
            kept = pc.is_valid(places)
            chosen = wanted.take(places.filter(kept)).append_column("title", batch["title"].filter(kept))
            chosen = chosen.append_column("text", batch["text"].filter(kept))
            missing -= len(chosen)
            yield from chosen.to_batches()
        if missing:
            raise BuildError(
                f"{TEXT_ASSET}/{crawl} lacks {missing} documents that {found.asset} names: verify the store"
            )


class _Destination:
    """A file or a folder, here or on S3."""

    def __init__(self, place: str, overwrite: bool, s3_endpoint: str) -> None:
        self.place, self._overwrite = place, overwrite
        self._s3: Any = None
        if place.startswith("s3://"):
            from assets.sources.streams.inputs import open_s3

            self._s3 = open_s3(s3_endpoint)
        name = place.rstrip("/").rpartition("/")[2]
        parts = name.lower().split(".")
        self.compression = parts.pop() if parts[-1] in COMPRESSIONS else ""
        suffix = parts[-1] if len(parts) > 1 else ""
        self.is_folder = place.endswith("/") or suffix not in ("parquet", "jsonl", "ndjson")
        self.kind = "parquet" if suffix == "parquet" else "jsonl"
        if self.is_folder and (self.compression or (suffix and not place.endswith("/"))):
            raise BuildError(
                f"{place}: the name must end in .parquet, .jsonl (or .jsonl.zst, .gz, .bz2, .xz), or name a folder with a final /"
            )
        if self.kind == "parquet" and self.compression and not self.is_folder:
            raise BuildError(f"{place}: Parquet is compressed inside; leave out .{self.compression}")
        if not overwrite and self._exists():
            raise BuildError(f"{place} is there already: name another destination, or pass --overwrite")

    def _exists(self) -> bool:
        if self._s3 is not None:
            return bool(self._s3.exists(self.place.rstrip("/")))
        path = Path(self.place)
        return any(path.iterdir()) if path.is_dir() else path.exists()

    def open(self, name: str) -> Any:
        """A file of the destination for writing; it appears when it is closed without an error."""
        place = f"{self.place.rstrip('/')}/{name}" if name else self.place
        if self._s3 is not None:
            return _S3File(self._s3.open(place, "wb"))
        path = Path(place)
        path.parent.mkdir(parents=True, exist_ok=True)
        return _LocalFile(path)

    def clear(self) -> None:
        """Remove the shards of an earlier export, which may have had more of them."""
        if self._s3 is not None:
            old = self._s3.glob(f"{self.place.rstrip('/')}/data/train-*.parquet")
            if old:
                self._s3.rm(old)
        else:
            for path in Path(self.place).glob("data/train-*.parquet"):
                path.unlink()


class _LocalFile:
    """Written under another name, renamed when all of it is there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._unfinished = path.with_name(f"{path.name}.unfinished")

    def __enter__(self) -> BinaryIO:
        self._file = self._unfinished.open("wb")
        return self._file

    def __exit__(self, error: object, *_: object) -> None:
        self._file.close()
        if error is None:
            self._unfinished.replace(self._path)
        else:
            self._unfinished.unlink()


class _S3File:
    """An object that is put when all of it is there; a failed upload leaves none."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __enter__(self) -> Any:
        return self._file

    def __exit__(self, error: object, *_: object) -> None:
        if error is None:
            self._file.close()
        else:
            self._file.discard()


def _packed(out: BinaryIO, compression: str) -> Any:
    """A compressing stream on `out`; the stream itself where there is no compression."""
    if compression == "gz":
        import gzip

        return gzip.GzipFile(fileobj=out, mode="wb", mtime=0)
    if compression == "bz2":
        import bz2

        return bz2.BZ2File(out, "wb")
    if compression == "xz":
        import lzma

        return lzma.LZMAFile(out, "wb")
    if compression == "zst":
        from backports.zstd import ZstdFile

        return ZstdFile(out, "wb")
    from contextlib import nullcontext

    return nullcontext(out)


def _write_lines(out: BinaryIO, batches: Iterator[pa.RecordBatch]) -> int:
    import orjson

    rows = 0
    for batch in batches:
        for row in batch.to_pylist():
            out.write(orjson.dumps(row, default=_json_value) + b"\n")
        rows += len(batch)
    return rows


def _json_value(value: Any) -> Any:
    """Times as ISO 8601, bytes as base64, pairs of a map as a list of two."""
    import base64

    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(f"{type(value).__name__} has no JSON form here")


def _write_parquet(out: BinaryIO, batches: Iterator[pa.RecordBatch]) -> int:
    first = next(batches, None)
    if first is None:
        raise BuildError("the table has no row: there is nothing to export")
    plain = _without_maps(first)
    rows = len(plain)
    with pq.ParquetWriter(out, plain.schema, compression="zstd") as writer:
        writer.write_table(plain)
        for batch in batches:
            writer.write_table(_without_maps(batch))
            rows += len(batch)
    return rows


def _without_maps(batch: pa.RecordBatch) -> pa.Table:
    """The batch with maps as lists of {key, value}, which every reader knows, and without our own metadata."""
    columns = []
    for column in batch.columns:
        if pa.types.is_map(column.type):
            pairs = pa.StructArray.from_arrays([column.keys, column.items], names=["key", "value"])
            column = pa.ListArray.from_arrays(column.offsets, pairs)
        columns.append(column)
    return pa.Table.from_arrays(columns, names=batch.schema.names)


def _write_folder(
    sink: _Destination,
    batches: Iterator[pa.RecordBatch],
    table: str,
    subject: Subject,
    commit: str,
    segments: list[Segment],
) -> Exported:
    """What `datasets.load_dataset` reads: data/train-*.parquet and a card that says so."""
    sink.clear()
    rows = files = 0
    for shard in _shards(batches):
        with sink.open(f"data/train-{files:05d}.parquet") as out:
            rows += _write_parquet(out, iter(shard))
        files += 1
    if not files:
        raise BuildError("the table has no row: there is nothing to export")
    partitions = f" ({listed([str(s.partition) for s in segments], 20)})" if segments[0].partition else ""
    sentence = BY_NAME[subject.asset].sentence
    card: Mapping[str, Any] = {"asset": subject.asset, "sentence": sentence, "table": table, "partitions": partitions}
    with sink.open("README.md") as out:
        out.write(CARD.format(**card, commit=commit[:12], rows=f"{rows:,}").encode())
    return Exported(sink.place, table, rows, files + 1)


def _shards(batches: Iterator[pa.RecordBatch]) -> Iterator[Iterator[pa.RecordBatch]]:
    """Batches in groups of about SHARD_ROWS rows; each group is consumed before the next one begins."""
    for first in batches:

        def group(first: pa.RecordBatch = first) -> Iterator[pa.RecordBatch]:
            rows = len(first)
            yield first
            while rows < SHARD_ROWS and (batch := next(batches, None)) is not None:
                rows += len(batch)
                yield batch

        yield group()
