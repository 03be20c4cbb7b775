"""Names as columns of unsigned integers: fixed width, the order of the strings kept, no Python object per row.

A doc_id of the graph (32 hexadecimal digits) takes 16 bytes; any other id its UTF-8 bytes, padded.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from assets.build import BuildError

Columns = npt.NDArray[np.uint64]
"""Shape (rows, columns); rows compare like the strings they stand for."""

IdKind = Literal["hash128", "text"]
"""hash128: the doc_ids of the graph. text: any id, as in plain files."""

_DIGITS = b"0123456789abcdef"
_VALUE = np.full(256, 255, dtype=np.uint8)
_VALUE[np.frombuffer(_DIGITS, dtype=np.uint8)] = np.arange(16)
_PAIR = np.frombuffer(bytes(c for high in _DIGITS for low in _DIGITS for c in (high, low)), dtype="<u2")


def encode_ids(names: pa.Array | pa.ChunkedArray, kind: IdKind) -> Columns:
    """Ids as columns. Raises BuildError for an id that the kind cannot hold."""
    return encode_hex(names, 32) if kind == "hash128" else encode_text(names)


def decode_ids(columns: Columns, kind: IdKind) -> pa.Array:
    """The strings again."""
    if kind == "text":
        return decode_text(columns)
    digits = _PAIR[_big_endian(columns)].view(np.uint8)
    offsets = np.arange(0, 32 * (len(columns) + 1), 32, dtype=np.int64)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(digits))]
    return pa.Array.from_buffers(pa.large_string(), len(columns), buffers).cast(pa.string())


def encode_hex(names: pa.Array | pa.ChunkedArray, digits: int) -> Columns:
    """The first 16 bytes of hexadecimal digests of `digits` digits."""
    if not len(names):
        return np.zeros((0, 2), dtype=np.uint64)
    array = _one_array(names)
    if array.null_count or pc.min_max(pc.binary_length(array)).as_py() != {"min": digits, "max": digits}:
        raise BuildError(f"an id of {digits} hexadecimal digits is needed, found {_first_other(array, digits)!r}")
    values = _VALUE[np.frombuffer(_data(array), dtype=np.uint8).reshape(-1, digits)[:, :32]]
    wrong = (values == 255).any(axis=1)
    if wrong.any():
        found = array[int(np.flatnonzero(wrong)[0])].as_py()
        raise BuildError(f"an id of {digits} lower-case hexadecimal digits is needed, found {found!r}")
    packed = np.ascontiguousarray((values[:, ::2] << 4) | values[:, 1::2])
    return packed.view(">u8").astype(np.uint64)


def encode_text(names: pa.Array | pa.ChunkedArray, width: int | None = None) -> Columns:
    """UTF-8 bytes, padded with NUL to `width` columns of 8 bytes, or to what the longest needs."""
    array = _one_array(names)
    if array.null_count:
        raise BuildError(f"{array.null_count} ids or times are null; each document needs both")
    longest = pc.max(pc.binary_length(array)).as_py() or 0
    columns = width or max(1, -(-longest // 8))
    if longest > 8 * columns:
        raise BuildError(f"at most {8 * columns} bytes are kept of {array[0].as_py()!r} and its like, found {longest}")
    data = np.frombuffer(_data(array), dtype=np.uint8)
    if (data == 0).any():
        raise BuildError("an id or a time holds a NUL character")
    lengths = pc.binary_length(array).to_numpy().astype(np.int64)
    packed = np.zeros((len(array), 8 * columns), dtype=np.uint8)
    packed[np.arange(8 * columns) < lengths[:, None]] = data
    return packed.view(">u8").astype(np.uint64)


def decode_text(columns: Columns) -> pa.Array:
    """The strings again."""
    width = 8 * columns.shape[1]
    padded: list[bytes] = _big_endian(columns).view(f"S{width}").ravel().tolist()
    return pa.array(padded, type=pa.binary()).cast(pa.string())


def order_of(columns: Columns) -> npt.NDArray[np.int64]:
    """The permutation that sorts the rows."""
    return np.lexsort(columns.T[::-1])


def _one_array(names: pa.Array | pa.ChunkedArray) -> pa.Array:
    array = names.combine_chunks() if isinstance(names, pa.ChunkedArray) else names
    return array.cast(pa.large_string())


def _data(array: pa.Array) -> memoryview:
    offsets = np.frombuffer(array.buffers()[1], dtype=np.int64)[array.offset : array.offset + len(array) + 1]
    start, stop = int(offsets[0]), int(offsets[-1])
    return memoryview(array.buffers()[2] or b"")[start:stop]


def _big_endian(columns: Columns) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(columns.astype(">u8")).view(np.uint8)


def _first_other(array: pa.Array, digits: int) -> str | None:
    lengths = pc.fill_null(pc.binary_length(array), -1).to_numpy(zero_copy_only=False)
    return array[int(np.flatnonzero(lengths != digits)[0])].as_py()


def id_keys(names: pa.Array | pa.ChunkedArray, kind: IdKind) -> Columns:
    """Two columns that stand for an id wherever only equality counts: the id itself, or a digest of a text id."""
    if kind == "hash128":
        return encode_hex(names, 32)
    digests = b"".join(blake2b(name.encode(), digest_size=16).digest() for name in names.to_pylist())
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64).reshape(-1, 2)


def as_bytes(columns: Columns) -> npt.NDArray[np.bytes_]:
    """One byte string per row, for searching and sorting by whole rows."""
    return _big_endian(columns).view(f"S{8 * columns.shape[1]}").ravel()


def positions(wanted: Columns, ordered: npt.NDArray[np.bytes_]) -> npt.NDArray[np.int64]:
    """Where each row stands in sorted `as_bytes` rows; -1 where it does not."""
    if not len(ordered):
        return np.full(len(wanted), -1, dtype=np.int64)
    keys = as_bytes(wanted)
    found = np.minimum(np.searchsorted(ordered, keys), len(ordered) - 1)
    return np.where(ordered[found] == keys, found, -1)
