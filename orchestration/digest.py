"""The data version of a data set: SHA-256 over its sorted logical rows and the hashes of its other files.

How rows are grouped into files, and columns or files declared volatile, do not count.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

import orjson
import pyarrow.parquet as pq

from assets.tables import VOLATILE_KEY

MANIFEST = "_manifest.json"
REPORT = "_report.json"


def table_name(file_name: str) -> str:
    """`folder/name-00001.parquet` and `folder/name.parquet` are parts of the table `folder/name`."""
    stem = file_name.removesuffix(".parquet")
    head, dash, number = stem.rpartition("-")
    return head if dash and number.isdigit() else stem


def table_digest(paths: Iterable[Path]) -> tuple[str, int]:
    """(SHA-256 over the sorted hashes of the logical rows, row count) of the parts of one table."""
    hashes: list[bytes] = []
    columns: list[str] = []
    for path in paths:
        file = pq.ParquetFile(path)
        metadata = file.schema_arrow.metadata or {}
        volatile = set(metadata.get(VOLATILE_KEY, b"").decode().split(","))
        columns = [name for name in file.schema_arrow.names if name not in volatile]
        for batch in file.iter_batches(batch_size=4096, columns=columns):
            for row in batch.to_pylist():
                hashes.append(hashlib.sha256(orjson.dumps(row, option=orjson.OPT_SORT_KEYS)).digest())
    hashes.sort()
    hasher = hashlib.sha256(orjson.dumps(columns))
    for row_hash in hashes:
        hasher.update(row_hash)
    return hasher.hexdigest(), len(hashes)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def data_version(folder: Path, volatile_files: Iterable[str] = ()) -> tuple[str, dict[str, int]]:
    """(data version, rows of each table) of a staged folder."""
    patterns = [MANIFEST, REPORT, *volatile_files]
    tables: dict[str, list[Path]] = {}
    hasher = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if any(fnmatch(name, pattern) for pattern in patterns):
            continue
        if name.endswith(".parquet"):
            tables.setdefault(table_name(name), []).append(path)
        else:
            hasher.update(f"file {name} {file_sha256(path)}\n".encode())
    rows = {}
    for name, paths in sorted(tables.items()):
        digest, rows[name] = table_digest(paths)
        hasher.update(f"table {name} {digest}\n".encode())
    return hasher.hexdigest(), rows
