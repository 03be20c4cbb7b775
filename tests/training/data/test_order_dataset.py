"""The planned order is read exactly, on any number of ranks, from any position."""

from __future__ import annotations

import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.training import tiny
from training.contract.errors import OrderError, ResumeMismatchError, ShardError
from training.contract.request import Data
from training.data import order_dataset
from training.data.order_dataset import OrderIdentity, OrderLoader, OrderReader
from training.data.token_store import TokenStore, lookup_of

LENGTH = tiny.SEQUENCE_LENGTH


def reader(folder: Path, **changes: Any) -> OrderReader:
    return reader_of(tiny.tiny_request(folder, folder)["data"] | changes)


def reader_of(content: dict[str, Any], vocab_size: int = tiny.VOCABULARY, decay_from: int = 0) -> OrderReader:
    """Its lookup is made in a folder of its own and, being mapped, outlives it."""
    with tempfile.TemporaryDirectory() as lookup:
        return OrderReader(Data.model_validate(content), LENGTH, vocab_size, Path(lookup), decay_from)


def tokens_of(source: OrderReader, number: int) -> list[int]:
    return source.read(np.array([number])).tokens[0].tolist()


IDENTITY = OrderIdentity("order-1", "order-1", 40)


def loader(
    folder: Path, local: int = 1, rank: int = 0, degree: int = 1, identity: OrderIdentity = IDENTITY
) -> OrderLoader:
    return OrderLoader(reader(folder), identity, local, rank, degree)


def in_phases(folder: Path, local: int, rank: int, degree: int, name: str = "decay") -> OrderLoader:
    """order.parquet, and from sequence 16 on one of the decays."""
    content = tiny.tiny_request(folder, folder)["data"]
    content["decay"] = {"order": [str(folder / f"{name}.parquet")], "order_fingerprint": name}
    return OrderLoader(reader_of(content, decay_from=16), OrderIdentity("order-1", name, 16), local, rank, degree)


def expected_sequence(folder: Path, number: int, order: str = "order") -> list[int]:
    """Straight from the tables, without the reader."""
    index = {row["doc_id"]: row for row in pq.read_table(folder / "index.parquet").to_pylist()}
    tokens: list[int] = []
    for piece in pq.read_table(folder / f"{order}.parquet").to_pylist():
        if piece["sequence"] == number:
            place = index[piece["doc_id"]]
            shard = np.fromfile(folder / place["shard"], dtype="<u2")
            begin = place["offset"] + piece["start"]
            tokens += shard[begin : begin + piece["length"]].tolist()
    return tokens


def test_a_sequence_is_its_pieces_end_to_end(data: Path) -> None:
    source = reader(data)
    assert source.sequences == 40
    for number in (0, 17, 39):
        assert tokens_of(source, number) == expected_sequence(data, number)


def test_labels_are_the_inputs_shifted_by_one(data: Path) -> None:
    batch, labels = next(iter(loader(data, local=2)))
    assert batch["input"].shape == labels.shape == (2, LENGTH)
    assert torch.equal(batch["input"][:, 1:], labels[:, :-1])
    assert batch["channels"].shape == labels.shape


@pytest.mark.parametrize("degree", [1, 2, 4])
def test_every_degree_reads_the_same_global_batches(data: Path, degree: int) -> None:
    """4 sequences a step; with fewer ranks each takes more rows."""
    ranks = [iter(loader(data, 4 // degree, rank, degree)) for rank in range(degree)]
    for step in range(10):
        rows = torch.cat([next(rank)[1] for rank in ranks])
        wanted = [expected_sequence(data, step * 4 + row)[1:] for row in range(4)]
        assert rows.tolist() == wanted


def test_any_degree_resumes_at_any_position(data: Path) -> None:
    whole = [labels.tolist() for _, labels in loader(data)]
    assert len(whole) == 40
    for consumed in (1, 3, 7):
        before = loader(data, local=4)
        batches = iter(before)
        for _ in range(consumed):
            next(batches)
        state = before.state_dict()
        after = [loader(data, 2, rank, 2) for rank in range(2)]
        for rank in after:
            rank.load_state_dict(state)
        merged = [
            row for first, second in zip(*after, strict=True) for row in [*first[1].tolist(), *second[1].tolist()]
        ]
        assert merged == [row for labels in whole[consumed * 4 :] for row in labels]
        assert [rank.state_dict() for rank in after] == [{"next_sequence": 40} | asdict(IDENTITY)] * 2


@pytest.mark.parametrize("degree", [1, 2])
def test_blocks_of_any_size_give_the_same_batches(data: Path, monkeypatch: pytest.MonkeyPatch, degree: int) -> None:
    """One batch a block, a few, all; rows of the order a few at a time."""
    whole = [labels.tolist() for _, labels in loader(data, 2, degree - 1, degree)]
    for block_tokens, order_rows in ((1, 1), (5 * 2 * (LENGTH + 1), 7), (1 << 20, 16)):
        monkeypatch.setattr(order_dataset, "BLOCK_TOKENS", block_tokens)
        monkeypatch.setattr(order_dataset, "ORDER_ROWS", order_rows)
        assert [labels.tolist() for _, labels in loader(data, 2, degree - 1, degree)] == whole


def test_an_error_of_the_block_read_ahead_reaches_the_batch_that_needs_it(data: Path, tmp_path: Path) -> None:
    broken = changed_order(data, tmp_path, lambda rows: rows[-1].update(doc_id="f" * 32))
    batches = iter(OrderLoader(broken, IDENTITY, 1, 0, 1))
    read = [next(batches) for _ in range(31)]  # blocks of 1, 2, 4, 8, 16 batches
    assert len(read) == 31
    with pytest.raises(OrderError, match=r"document f{32}, which the token index does not have"):
        next(batches)


def test_the_lookup_is_made_once_and_again_where_its_writer_was_killed(data: Path, tmp_path: Path) -> None:
    index = [data / "index.parquet"]
    with ThreadPoolExecutor(4) as ranks:
        made = set(ranks.map(lambda _: lookup_of(index, tmp_path), range(4)))
    (lookup,) = made
    before = {path.name: (path.stat().st_ino, path.read_bytes()) for path in lookup.iterdir()}
    assert lookup_of(index, tmp_path) == lookup
    assert {path.name: (path.stat().st_ino, path.read_bytes()) for path in lookup.iterdir()} == before
    (lookup / "lookup.json").unlink()
    (lookup / "doc_ids.bin").write_bytes(b"torn")
    lookup_of(index, tmp_path)
    assert {path.name: path.read_bytes() for path in lookup.iterdir()} == {k: v[1] for k, v in before.items()}


def test_a_checkpoint_of_another_order_is_refused(data: Path) -> None:
    state = loader(data).state_dict()
    with pytest.raises(ResumeMismatchError, match="read order_fingerprint order-1, the request gives order-2"):
        loader(data, identity=OrderIdentity("order-2", "order-2", 40)).load_state_dict(state)


@pytest.mark.parametrize("degree", [1, 2, 4])
@pytest.mark.parametrize("consumed", [0, 3, 4, 5])
def test_the_decay_phase_reads_its_own_order_from_its_first_step_on(data: Path, degree: int, consumed: int) -> None:
    """4 sequences a step, decay from step 5 on; resumed before, at and after the border on any degree."""
    wanted = [expected_sequence(data, number, "order" if number < 16 else "decay")[1:] for number in range(28)]
    before = in_phases(data, 4, 0, 1)
    batches = iter(before)
    for _ in range(consumed):
        next(batches)
    ranks = [in_phases(data, 4 // degree, rank, degree) for rank in range(degree)]
    for rank in ranks:
        rank.load_state_dict(before.state_dict())
    read = [row for parts in zip(*ranks, strict=True) for _, labels in parts for row in labels.tolist()]
    assert read == wanted[4 * consumed :]
    assert expected_sequence(data, 16) != expected_sequence(data, 16, "decay")


def test_a_block_may_begin_in_one_phase_and_end_in_the_next(data: Path) -> None:
    """One sequence a batch: blocks of 1, 2, 4, 8, 16; the fifth is of sequences 15 to 27."""
    read = [labels.tolist() for _, labels in in_phases(data, 1, 0, 1)]
    assert read == [[expected_sequence(data, number, "order" if number < 16 else "decay")[1:]] for number in range(28)]


def test_another_decay_may_continue_the_stable_phase_but_not_a_decay_that_has_begun(data: Path) -> None:
    trunk = in_phases(data, 4, 0, 1)
    batches = iter(trunk)
    for _ in range(4):
        next(batches)
    other = in_phases(data, 4, 0, 1, "other-decay")
    other.load_state_dict(trunk.state_dict())
    read = [row for _, labels in other for row in labels.tolist()]
    assert read == [expected_sequence(data, number, "other-decay")[1:] for number in range(16, 36)]
    next(batches)
    with pytest.raises(ResumeMismatchError, match="decay_order_fingerprint decay, the request gives other-decay"):
        in_phases(data, 4, 0, 1, "other-decay").load_state_dict(trunk.state_dict())


def test_a_decay_that_does_not_begin_where_the_schedule_does_is_refused(data: Path) -> None:
    content = tiny.tiny_request(data, data)["data"]
    content["decay"] = {"order": [str(data / "decay.parquet")], "order_fingerprint": "decay"}
    with pytest.raises(OrderError, match=r"decay\.parquet: .* begins at sequence 20, but its manifest at 16"):
        reader_of(content, decay_from=20)


def test_a_truncated_shard_is_refused_before_training(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    shard = folder / "shard-00001.bin"
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(ShardError, match=r"shard-00001\.bin holds \d+ uint16 tokens .* truncated"):
        reader(folder)
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ShardError, match="1 stray bytes"):
        reader(folder)


def test_a_missing_shard_and_a_wrong_type_are_refused(data: Path) -> None:
    shards = {"shard-00000.bin": str(data / "shard-00000.bin")}
    with pytest.raises(ShardError, match=r"places documents in shard-00001\.bin"):
        reader(data, shards=shards)
    with pytest.raises(ShardError, match="uint32 tokens"):
        reader(data, dtype="uint32")


def test_tokens_outside_the_vocabulary_are_refused(data: Path) -> None:
    small = reader_of(tiny.tiny_request(data, data)["data"], vocab_size=4)
    with pytest.raises(
        ShardError, match=r"shard-\d+\.bin: document [0-9a-f]{32}, read by .* outside the vocabulary of 4"
    ):
        tokens_of(small, 0)


def changed_order(data: Path, folder: Path, change: Any, row_group_size: int = 16) -> OrderReader:
    folder.mkdir(exist_ok=True)
    rows = pq.read_table(data / "order.parquet").to_pylist()
    change(rows)
    schema = pq.read_schema(data / "order.parquet")
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "order.parquet", row_group_size=row_group_size)
    return reader(data, order=[str(folder / "order.parquet")])


def test_row_groups_of_any_size_give_the_same_sequences(data: Path, tmp_path: Path) -> None:
    whole = reader(data)
    for size in (1, 3, 16):
        cut = changed_order(data, tmp_path, lambda rows: None, size)
        for number in (39, 0, 20):
            assert tokens_of(cut, number) == tokens_of(whole, number)


def test_an_order_in_parts_reads_as_one(data: Path, tmp_path: Path) -> None:
    table = pq.read_table(data / "order.parquet")
    pq.write_table(table.slice(0, 50), tmp_path / "order-00000.parquet")
    pq.write_table(table.slice(50), tmp_path / "order-00001.parquet")
    parts = reader(data, order=[str(tmp_path / f"order-0000{n}.parquet") for n in (0, 1)])
    whole = reader(data)
    assert parts.sequences == 40
    assert all(tokens_of(parts, n) == tokens_of(whole, n) for n in range(40))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda rows: rows[0].update(length=rows[0]["length"] - 1), "have 32 tokens, not sequence_length \\+ 1 = 33"),
        (lambda rows: rows[0].update(piece=5), "not 0, 1, 2"),
        (lambda rows: rows[0].update(doc_id="f" * 32), "which the token index does not have"),
        (lambda rows: rows[0].update(start=90), "the order wants tokens"),
        (lambda rows: rows[0].update(channel="latin"), "channel 'latin'"),
    ],
)
def test_an_order_that_contradicts_the_tokens_is_refused(data: Path, tmp_path: Path, change: Any, reason: str) -> None:
    with pytest.raises(OrderError, match=rf"order\.parquet: .*{reason}"):
        tokens_of(changed_order(data, tmp_path, change), 0)


def test_an_unsorted_order_and_a_sequence_past_the_end_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(OrderError, match="sorted by sequence"):
        changed_order(data, tmp_path, lambda rows: rows.reverse())
    with pytest.raises(OrderError, match="has no sequence 40; it plans 40"):
        tokens_of(reader(data), 40)


def test_an_unsorted_index_is_refused(data: Path, tmp_path: Path) -> None:
    rows = pq.read_table(data / "index.parquet").to_pylist()
    schema = pq.read_schema(data / "index.parquet")
    pq.write_table(pa.Table.from_pylist(rows[::-1], schema=schema), tmp_path / "index.parquet")
    with pytest.raises(ShardError, match="strictly ascending"):
        TokenStore([tmp_path / "index.parquet"], {}, "uint16", tmp_path)
