"""Documents' tokens by doc_id, in memory that does not grow with the corpus.

    lookup/doc_ids.bin    S32[documents], ascending        binary search over mapped pages
    lookup/places.bin     (shard, offset, tokens) of each
    lookup/lookup.json    written last: shards by number, and how many tokens each must have

The token index is Parquet: to look one document up in it means to decode the 65,536 rows around it,
and a block of the order names documents from everywhere. So it is written out once per run as two
flat files, 52 bytes per document, which all ranks of a machine map: they share its page cache.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from training.contract.errors import OrderError, ShardError

DOC_ID = np.dtype("S32")
PLACE = np.dtype([("shard", "<u4"), ("offset", "<i8"), ("tokens", "<i8")])
INDEX_COLUMNS = ["doc_id", "shard", "offset", "tokens"]
INDEX_ROWS = 8192
"""Rows of the index in memory at a time."""


def fixed_width(doc_ids: pa.Array) -> np.ndarray:
    """doc_ids as S32. Raises ShardError for one that does not fit."""
    longest = pc.max(pc.binary_length(doc_ids)).as_py() or 0
    if longest > DOC_ID.itemsize:
        raise ShardError(f"a doc_id has {longest} bytes; at most {DOC_ID.itemsize} can be looked up")
    padded = pc.ascii_rpad(doc_ids, DOC_ID.itemsize, "\0")
    return np.frombuffer(padded.buffers()[2], dtype=DOC_ID, count=len(doc_ids))


def lookup_of(index: Collection[Path], folder: Path) -> Path:
    """The lookup of these index files inside `folder`; written if it is not there, by one process of those that ask."""
    stamp = hashlib.sha256()
    for part in index:
        status = part.stat()
        stamp.update(f"{part.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    lookup = folder / stamp.hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the ranks of a run ask at the same time; let go with the file
        if not (lookup / "lookup.json").is_file():
            shutil.rmtree(lookup, ignore_errors=True)  # of a writer that was killed
            lookup.mkdir()
            _write_lookup(index, lookup)
    return lookup


def _write_lookup(index: Collection[Path], lookup: Path) -> None:
    numbers: dict[str, int] = {}
    needed = np.zeros(0, np.int64)
    last, rows = b"", 0
    with (lookup / "doc_ids.bin").open("wb") as doc_ids, (lookup / "places.bin").open("wb") as places:
        for part in index:
            for batch in pq.ParquetFile(part, memory_map=True).iter_batches(INDEX_ROWS, columns=INDEX_COLUMNS):
                if not len(batch):
                    continue
                ids, place = fixed_width(batch["doc_id"]), np.empty(len(batch), PLACE)
                if ids[0] <= last or np.any(ids[1:] <= ids[:-1]):
                    raise ShardError(f"the token index must be strictly ascending by doc_id; {part} is not")
                last, rows = ids[-1], rows + len(ids)
                named = batch["shard"].dictionary_encode()
                of_batch = np.array([numbers.setdefault(n, len(numbers)) for n in named.dictionary.to_pylist()])
                place["shard"] = of_batch[named.indices.to_numpy()]
                place["offset"], place["tokens"] = batch["offset"].to_numpy(), batch["tokens"].to_numpy()
                needed = np.pad(needed, (0, len(numbers) - len(needed)))
                np.maximum.at(needed, place["shard"], place["offset"] + place["tokens"])
                ids.tofile(doc_ids)
                place.tofile(places)
        for file in (doc_ids, places):
            file.flush()
            os.fsync(file.fileno())
    content = {"documents": rows, "shards": list(zip(numbers, needed.tolist(), strict=True))}
    temporary = lookup / "lookup.tmp"
    temporary.write_text(json.dumps(content), "utf-8")
    os.replace(temporary, lookup / "lookup.json")


class TokenStore:
    """Documents' tokens over memory-mapped shards. Refuses a shard that the index does not fit."""

    def __init__(self, index: Collection[Path], shards: Mapping[str, Path], dtype: str, folder: Path) -> None:
        """`folder` keeps the lookup; a later attempt of the same run finds it there."""
        lookup = lookup_of(index, folder)
        content = json.loads((lookup / "lookup.json").read_text("utf-8"))
        self._documents = content["documents"]
        # Views of the maps: a memmap object costs microseconds at every slice.
        self._doc_ids = _mapped(lookup / "doc_ids.bin", DOC_ID)
        self._places = _mapped(lookup / "places.bin", PLACE)
        self._item = np.dtype(dtype).newbyteorder("<")
        self._paths = [self._checked(name, needed, shards, dtype) for name, needed in content["shards"]]
        self._tokens: dict[int, np.ndarray] = {}

    def _checked(self, name: str, needed: int, shards: Mapping[str, Path], dtype: str) -> Path:
        if name not in shards or not shards[name].is_file():
            raise ShardError(
                f"the token index places documents in {name}, which the request does not give (it gives {sorted(shards)[:5]})"
            )
        found, rest = divmod(shards[name].stat().st_size, self._item.itemsize)
        if rest or found < needed:
            raise ShardError(
                f"{name} holds {found} {dtype} tokens and {rest} stray bytes, but the token index needs {needed}: it is truncated "
                "or of another type; verify the store and publish token_shards again"
            )
        return shards[name]

    def places(self, doc_ids: np.ndarray, start: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(shard number, position in it) of stretches of documents (S32). Raises OrderError naming one that does not exist."""
        distinct, which = np.unique(doc_ids, return_inverse=True)
        rows = np.searchsorted(self._doc_ids, distinct)
        known = rows < self._documents
        known[known] = self._doc_ids[rows[known]] == distinct[known]
        if not known.all():
            lost = bytes(distinct[~known][0]).decode()
            raise OrderError(f"the order uses document {lost}, which the token index does not have")
        place = self._places[rows][which]
        wrong = np.flatnonzero((start < 0) | (length < 1) | (start + length > place["tokens"]))
        if len(wrong):
            at = wrong[0]
            raise OrderError(
                f"the order wants tokens [{start[at]}, {start[at] + length[at]}) of {bytes(doc_ids[at]).decode()}, "
                f"which has {place['tokens'][at]}"
            )
        return place["shard"], place["offset"] + start

    def name(self, shard: int) -> str:
        """File of a shard."""
        return self._paths[shard].name

    def read(self, shard: int, begin: int, length: int) -> np.ndarray:
        """`length` tokens of a shard from position `begin`, as they lie in it."""
        if shard not in self._tokens:
            self._tokens[shard] = _mapped(self._paths[shard], self._item)
        return self._tokens[shard][begin : begin + length]


def _mapped(path: Path, dtype: np.dtype) -> np.ndarray:
    if not path.stat().st_size:
        return np.empty(0, dtype)  # an empty file cannot be mapped
    return np.asarray(np.memmap(path, dtype=dtype, mode="r"))
