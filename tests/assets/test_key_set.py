"""A key set answers as Arrow's `is_in` does, whatever the order and the size of the batches, and hashes no key twice."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import assets.key_set
from assets.build import Segment
from assets.delta_table import Changes, write_changes
from assets.key_set import KeySet
from assets.tables import schema

texts = st.text(st.sampled_from("ab\t0é中😀"), max_size=4)
ROWS = schema({"doc_id": pa.string(), "tokens": pa.int64()}, key=("doc_id",))


@settings(deadline=None)
@given(st.lists(texts, unique=True), st.lists(st.none() | texts), st.booleans())
def test_it_answers_as_is_in_does(keys: list[str], column: list[str | None], chunked: bool) -> None:
    expected = [value is not None and value in keys for value in column]
    values = pa.array(column, pa.string())
    found = KeySet(pa.array(keys, pa.string())).holds(pa.chunked_array([values]) if chunked else values)
    assert found.to_pylist() == expected


def test_keys_come_chunked_too() -> None:
    keys = KeySet(pa.chunked_array([["b", "d"], [], ["a"]], pa.string()))
    assert len(keys) == 3 and keys.holds(pa.array(["a"])).to_pylist() == [True]
    assert keys.rows_per_batch(2) == 3 and keys.rows_per_batch(5) == 5


def _ids(first: int, last: int) -> pa.Array:
    return pa.array(sorted(hashlib.md5(str(number).encode()).hexdigest() for number in range(first, last)))


def test_reading_a_table_in_small_batches_compares_each_removed_key_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = pa.table([_ids(0, 4000), pa.array(range(4000))], schema=ROWS)
    write_changes(tmp_path, "index", Changes.all_new(rows), ROWS, {})
    gone = rows.filter(pc.not_equal(pc.bit_wise_and(rows["tokens"], 1), 0))
    come = pa.table([_ids(4000, 6500), pa.array(range(2500))], schema=ROWS)
    write_changes(tmp_path, "index", Changes(gone, come), ROWS, {path.name: path for path in tmp_path.iterdir()})
    compared: list[int] = []

    class Counting:
        def __getattr__(self, name: str) -> object:
            return getattr(pc, name)

        def is_in(self, column: pa.Array, value_set: pa.Array) -> pa.Array:
            compared.append(len(value_set))
            return pc.is_in(column, value_set=value_set)

    monkeypatch.setattr(assets.key_set, "pc", Counting())
    table = Segment("token_shards", None, "", {path.name: path for path in tmp_path.iterdir()})
    read = sum(batch.num_rows for batch in table.batches("index", rows=8))
    assert read == 2000 + 2500
    assert len(compared) >= 4000 / 8 and sum(compared) <= len(gone)
