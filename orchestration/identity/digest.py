"""The data version of a data set: a hash over its logical rows and the hashes of its other files.

How rows are grouped into files, and columns or files declared volatile, do not count. Rows are
combined by a sum (LtHash: Bellare and Micciancio 1997; the parameters are those of Lewi et al. 2019,
1,024 lanes of 16 bits, over 200 bits of collision resistance), so that a table that was updated has
the digest of the same table built at once, and finding it costs the update: the rows that came are
added, the rows that went are subtracted (assets/delta_table.py), nothing else is read.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as types

from assets.tables import VOLATILE_KEY

MANIFEST = "_manifest.json"
REPORT = "_report.json"
DIGESTS = "_digests.json"
"""Digest of each file of a data set that may be kept by the next version."""
HIDDEN = (MANIFEST, REPORT, DIGESTS)

LANES = 1024
REMOVED = ".removed"
_BATCH = 2048  # rows hashed at once: 4 MB of lanes

Sum = npt.NDArray[np.uint16]


@dataclass(frozen=True)
class FileDigest:
    """What one file contributes: the sum of its row hashes, or the SHA-256 of a file that is no table."""

    sha256: str = ""
    columns: tuple[str, ...] = ()
    rows: int = 0
    total: bytes = b""

    def as_json(self) -> dict[str, Any]:
        """For `_digests.json`."""
        if self.sha256:
            return {"sha256": self.sha256}
        return {"columns": self.columns, "rows": self.rows, "sum": base64.b64encode(self.total).decode()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> FileDigest:
        """The inverse of `as_json`."""
        if "sha256" in value:
            return cls(sha256=value["sha256"])
        return cls("", tuple(value["columns"]), value["rows"], base64.b64decode(value["sum"]))


@dataclass(frozen=True)
class FolderDigest:
    """Data version, live rows of each table, and the contribution of each file."""

    version: str
    rows: dict[str, int]
    files: dict[str, FileDigest]


def table_name(file_name: str) -> str:
    """`folder/name-00001.parquet` and `folder/name.parquet` are parts of the table `folder/name`."""
    stem = file_name.removesuffix(".parquet")
    head, dash, number = stem.rpartition("-")
    return head if dash and number.isdigit() else stem


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def table_digest(path: Path) -> FileDigest:
    """The contribution of one Parquet file."""
    file = pq.ParquetFile(path)
    metadata = file.schema_arrow.metadata or {}
    volatile = set(metadata.get(VOLATILE_KEY, b"").decode().split(","))
    columns = [name for name in file.schema_arrow.names if name not in volatile]
    total = np.zeros(LANES, dtype=np.uint16)
    rows = 0
    for batch in file.iter_batches(batch_size=_BATCH, columns=columns):
        lines = map(orjson.dumps, zip(*map(_values, batch.columns), strict=True))
        lanes = b"".join([hashlib.shake_128(line).digest(2 * LANES) for line in lines])
        total += np.frombuffer(lanes, dtype="<u2").reshape(-1, LANES).sum(axis=0, dtype=np.uint16)
        rows += len(batch)
    return FileDigest("", tuple(columns), rows, total.astype("<u2").tobytes())


def _values(column: pa.Array) -> list[Any]:
    """The cells of a column as JSON values, equal for equal cells. Long lists of numbers go as one hash of their bytes."""
    kind = column.type
    if types.is_list(kind) and types.is_primitive(kind.value_type) and not column.values.null_count:
        values, ends = column.values.to_numpy(zero_copy_only=False), column.offsets.to_numpy()
        cells = [
            hashlib.blake2b(values[start:end].tobytes(), digest_size=32).hexdigest() for start, end in pairwise(ends)
        ]
        return (
            cells
            if not column.null_count
            else [c if v else None for c, v in zip(cells, column.is_valid().to_pylist(), strict=True)]
        )
    if types.is_timestamp(kind):
        column = column.cast(pa.int64())
    if not column.null_count and (types.is_integer(column.type) or types.is_floating(column.type)):
        return column.to_numpy().tolist()
    return column.to_pylist()


def digest_folder(
    folder: Path, volatile_files: Iterable[str] = (), kept: Mapping[str, FileDigest] | None = None
) -> FolderDigest:
    """Digest of a staged folder and of the files it keeps from an earlier version, which are not read again."""
    patterns = [*HIDDEN, *volatile_files]
    files = {name: digest for name, digest in (kept or {}).items() if not _matches(name, patterns)}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if not _matches(name, patterns):
            files[name] = table_digest(path) if name.endswith(".parquet") else FileDigest(sha256=file_sha256(path))
    return _combine(files)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _combine(files: dict[str, FileDigest]) -> FolderDigest:
    tables: dict[str, tuple[tuple[str, ...], int, Sum]] = {}
    hasher = hashlib.sha256()
    for name, digest in sorted(files.items()):
        if digest.sha256:
            hasher.update(f"file {name} {digest.sha256}\n".encode())
            continue
        table = table_name(name)
        sign = 1
        if table.endswith(REMOVED):
            table, sign = table.removesuffix(REMOVED), -1
        columns, rows, total = tables.get(table, (digest.columns, 0, np.zeros(LANES, dtype=np.uint16)))
        if columns != digest.columns:
            raise ValueError(
                f"parts of table {table} have columns {columns} and {digest.columns}; all parts need the same"
            )
        part = np.frombuffer(digest.total, dtype="<u2")
        tables[table] = (columns, rows + sign * digest.rows, total + part if sign > 0 else total - part)
    for table, (columns, _, total) in sorted(tables.items()):
        found = hashlib.sha256(orjson.dumps(columns) + total.astype("<u2").tobytes()).hexdigest()
        hasher.update(f"table {table} {found}\n".encode())
    return FolderDigest(hasher.hexdigest(), {table: rows for table, (_, rows, _) in sorted(tables.items())}, files)


def data_version(folder: Path, volatile_files: Iterable[str] = ()) -> tuple[str, dict[str, int]]:
    """(data version, rows of each table) of a folder that stands alone."""
    found = digest_folder(folder, volatile_files)
    return found.version, found.rows
