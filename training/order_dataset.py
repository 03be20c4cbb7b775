"""The planned order as batches: sequence number -> pieces of documents -> tokens.

    order.parquet                index.parquet                  shards
    sequence piece doc_id        doc_id -> shard, offset        memory-mapped little-endian ids
        7      0   3fa.. [0:120)
        7      1   b02.. [0:137)   120 + 137 = sequence_length + 1: inputs and labels are shifted views

The only state is the next sequence number and the fingerprint of the order, so any data-parallel
degree can continue any checkpoint. A worker-based loader would have to save one state per worker
and rank; reading a memory-mapped batch takes well under a millisecond, so none is needed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from training.errors import OrderError, ResumeMismatchError, ShardError
from training.request import Data


@dataclass(frozen=True)
class Sequence:
    """Tokens of one sequence and the channel number of each."""

    tokens: np.ndarray  # int64[sequence_length + 1]
    channels: np.ndarray  # int8[sequence_length + 1]


class TokenStore:
    """Documents' tokens by doc_id, over memory-mapped shards. Refuses a shard that the index does not fit."""

    def __init__(self, index: Collection[Path], shards: Mapping[str, Path], dtype: str) -> None:
        columns = ["doc_id", "shard", "offset", "tokens"]
        table = pa.concat_tables([pq.ParquetFile(part).read(columns=columns) for part in index]).combine_chunks()
        self._doc_ids = np.asarray(table["doc_id"].to_numpy(zero_copy_only=False), dtype="S32")
        if np.any(self._doc_ids[1:] <= self._doc_ids[:-1]):
            raise ShardError("the token index must be strictly ascending by doc_id")
        names = pc.unique(table["shard"]).to_pylist()
        self._shard = pc.index_in(table["shard"], pa.array(names)).to_numpy(zero_copy_only=False)
        self._offset = table["offset"].to_numpy()
        self._length = table["tokens"].to_numpy()
        self._tokens = [self._open(name, number, shards, dtype) for number, name in enumerate(names)]

    def _open(self, name: str, number: int, shards: Mapping[str, Path], dtype: str) -> np.ndarray:
        if name not in shards or not shards[name].is_file():
            raise ShardError(
                f"the token index places documents in {name}, which the request does not give (it gives {sorted(shards)[:5]})"
            )
        mine = self._shard == number
        needed = int((self._offset[mine] + self._length[mine]).max())
        item = np.dtype(dtype).newbyteorder("<")
        found, rest = divmod(shards[name].stat().st_size, item.itemsize)
        if rest or found < needed:
            raise ShardError(
                f"{name} holds {found} {dtype} tokens and {rest} stray bytes, but the token index needs {needed}: it is truncated "
                "or of another type; verify the store and publish token_shards again"
            )
        return np.memmap(shards[name], dtype=item, mode="r")

    def read(self, doc_id: str, start: int, length: int) -> np.ndarray:
        """`length` tokens of a document from `start`. Raises OrderError if it has no such tokens."""
        key = doc_id.encode()
        row = int(np.searchsorted(self._doc_ids, key))
        if row == len(self._doc_ids) or self._doc_ids[row] != key:
            raise OrderError(f"the order uses document {doc_id}, which the token index does not have")
        if start < 0 or length < 1 or start + length > self._length[row]:
            raise OrderError(
                f"the order wants tokens [{start}, {start + length}) of {doc_id}, which has {self._length[row]}"
            )
        begin = int(self._offset[row]) + start
        return self._tokens[self._shard[row]][begin : begin + length]


class OrderReader:
    """Random access to the sequences of an order manifest, one row group in memory at a time."""

    COLUMNS = ("sequence", "piece", "doc_id", "start", "length", "channel")

    def __init__(self, data: Data, sequence_length: int, vocab_size: int) -> None:
        self._files = [pq.ParquetFile(part) for part in data.order]
        self._groups = [(file, group) for file in self._files for group in range(file.num_row_groups)]
        self._store = TokenStore(data.index, data.shards, data.dtype)
        self._sequence_length = sequence_length
        self._vocab_size = vocab_size
        self._channels = {name: number for number, name in enumerate(data.channels)}
        self._first, self._last = self._ranges()
        self.sequences = int(self._last[-1]) + 1 if len(self._last) else 0
        self._loaded: dict[int, pa.Table] = {}

    def _ranges(self) -> tuple[np.ndarray, np.ndarray]:
        """First and last sequence number of each row group, from the Parquet statistics."""
        statistics = []
        for file, group in self._groups:
            column = file.schema_arrow.get_field_index("sequence")
            found = file.metadata.row_group(group).column(column).statistics
            if found is None or not found.has_min_max:
                raise OrderError("the order has no Parquet statistics for `sequence`: write it with statistics on")
            statistics.append((found.min, found.max))
        first = np.array([low for low, _ in statistics], dtype=np.int64)
        last = np.array([high for _, high in statistics], dtype=np.int64)
        if np.any(first[1:] < last[:-1]):
            raise OrderError("the order must be sorted by sequence")
        return first, last

    def _group(self, number: int) -> pa.Table:
        if number not in self._loaded:
            for old in [n for n in self._loaded if abs(n - number) > 1]:
                del self._loaded[old]
            file, group = self._groups[number]
            self._loaded[number] = file.read_row_group(group, columns=list(self.COLUMNS))
        return self._loaded[number]

    def _pieces(self, number: int) -> list[dict[str, Any]]:
        begin = int(np.searchsorted(self._last, number, side="left"))
        end = int(np.searchsorted(self._first, number, side="right"))
        rows: list[dict[str, Any]] = []
        for group in range(begin, end):
            table = self._group(group)
            sequences = table["sequence"].to_numpy()
            low, high = np.searchsorted(sequences, [number, number + 1])
            rows += table.slice(int(low), int(high - low)).to_pylist()
        if not rows:
            raise OrderError(f"the order has no sequence {number}; it plans {self.sequences}")
        return rows

    def sequence(self, number: int) -> Sequence:
        """Tokens of one sequence. Its pieces must be numbered from 0 and add up to sequence_length + 1 tokens."""
        pieces = self._pieces(number)
        wanted = self._sequence_length + 1
        if [p["piece"] for p in pieces] != list(range(len(pieces))):
            raise OrderError(f"the pieces of sequence {number} are {[p['piece'] for p in pieces]}, not 0, 1, 2, ...")
        total = sum(p["length"] for p in pieces)
        if total != wanted:
            raise OrderError(f"the pieces of sequence {number} have {total} tokens, not sequence_length + 1 = {wanted}")
        tokens = np.empty(wanted, dtype=np.int64)
        channels = np.empty(wanted, dtype=np.int8)
        position = 0
        for piece in pieces:
            if piece["channel"] not in self._channels:
                raise OrderError(
                    f"sequence {number} is of channel {piece['channel']!r}; the request knows {list(self._channels)}"
                )
            span = slice(position, position + piece["length"])
            tokens[span] = self._store.read(piece["doc_id"], piece["start"], piece["length"])
            channels[span] = self._channels[piece["channel"]]
            position += piece["length"]
        if tokens.max() >= self._vocab_size:
            raise ShardError(
                f"sequence {number} holds token {tokens.max()}, outside the vocabulary of {self._vocab_size}"
            )
        return Sequence(tokens, channels)


class OrderLoader:
    """Batches of one data-parallel rank: a position in the order, and nothing else, is its state."""

    def __init__(
        self, reader: OrderReader, fingerprint: str, local_batch_size: int, dp_rank: int, dp_degree: int
    ) -> None:
        self._reader = reader
        self._fingerprint = fingerprint
        self._local_batch_size = local_batch_size
        self._dp_rank = dp_rank
        self._dp_degree = dp_degree
        self.position = 0
        """Next sequence number of the whole run, the same on each rank."""

    @property
    def planned_sequences(self) -> int:
        """Sequences of the whole order."""
        return self._reader.sequences

    def __iter__(self) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        """Inputs with the channel of each target, and the targets; until the order is used up."""
        while True:
            together = self._local_batch_size * self._dp_degree
            if self.position + together > self._reader.sequences:
                return
            first = self.position + self._dp_rank * self._local_batch_size
            rows = [self._reader.sequence(first + row) for row in range(self._local_batch_size)]
            tokens = torch.from_numpy(np.stack([row.tokens for row in rows]))
            channels = torch.from_numpy(np.stack([row.channels for row in rows]))
            self.position += together  # the state that resumes after this batch
            yield {"input": tokens[:, :-1], "channels": channels[:, 1:]}, tokens[:, 1:]

    def state_dict(self) -> dict[str, Any]:
        """Position and fingerprint: equal on all ranks, so that any number of ranks can read it back."""
        return {"next_sequence": self.position, "order_fingerprint": self._fingerprint}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the checkpoint. Raises ResumeMismatchError if it was made from another order."""
        if state["order_fingerprint"] != self._fingerprint:
            raise ResumeMismatchError(
                f"the checkpoint read order {state['order_fingerprint']}, the request gives {self._fingerprint}: "
                "positions in one mean nothing in the other; start a new run, or give the order of the checkpoint"
            )
        self.position = int(state["next_sequence"])
