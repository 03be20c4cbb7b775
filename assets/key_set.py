"""Which rows have one of many keys, asked batch by batch.

Arrow's `is_in` hashes all keys at each call: right for one large batch, ruinous for many small ones. A key
set is sorted once, and a batch that is smaller than the set is compared only with the keys in its own range.
Through a table sorted by the column, all batches together so cost rows + keys however small they are. A table in
another order is read in batches of `rows_per_batch`, at least as large as the set: then, too, no key is hashed
more often than a row is read.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


class KeySet:
    """Keys without nulls, in any order; a null is never among them."""

    def __init__(self, keys: pa.Array | pa.ChunkedArray) -> None:
        joined = keys.combine_chunks() if isinstance(keys, pa.ChunkedArray) else keys
        self._keys = pa.concat_arrays(joined.chunks) if isinstance(joined, pa.ChunkedArray) else joined

    def __len__(self) -> int:
        return len(self._keys)

    def holds(self, column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
        """One boolean per value."""
        return pc.is_in(column, value_set=self._keys if len(self._keys) <= len(column) else self._in_range(column))

    def rows_per_batch(self, least: int) -> int:
        """How many rows to read at a time from a table that is not sorted by the keys."""
        return max(least, len(self._keys))

    def _in_range(self, column: pa.Array | pa.ChunkedArray) -> pa.Array:
        low, high = pc.min_max(column).as_py().values()
        if low is None:  # only nulls, or nothing
            return self._keys.slice(0, 0)
        first = bisect_left(self._ordered, low, key=_value)
        return self._ordered.slice(first, bisect_right(self._ordered, high, lo=first, key=_value) - first)

    @cached_property
    def _ordered(self) -> pa.Array:
        return self._keys.take(pc.sort_indices(self._keys))


def _value(scalar: pa.Scalar) -> Any:
    return scalar.as_py()
