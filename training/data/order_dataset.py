"""The planned order as batches: sequence number -> pieces of documents -> tokens.

    order.parquet                lookup (token_store.py)      shards
    sequence piece doc_id        doc_id -> shard, offset      memory-mapped little-endian ids
        7      0   3fa.. [0:120)
        7      1   b02.. [0:137)   120 + 137 = sequence_length + 1: inputs and labels are shifted views

A thread reads one block of batches ahead while the block before it is trained on. Memory is two blocks
and a few thousand rows of the order, however long the order and however large the corpus.

The decay phase may have an order of its own, whose sequences are numbered on: then several decays can
branch off one stable phase.

The only state is the next sequence number and the fingerprints of the orders, so any data-parallel
degree can continue any checkpoint. A loader with worker processes would have to save one state per
worker and rank; one thread is enough, because a block is copied from mapped files.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from training.contract.errors import OrderError, ResumeMismatchError, ShardError
from training.contract.request import Data
from training.data.token_store import TokenStore, fixed_width

BLOCK_TOKENS = 1 << 18
"""Tokens of one rank that are read at once: 2.4 MB, and 5 to 10 ms of reading from the page cache."""
ORDER_ROWS = 8192
"""Rows of the order that are decoded at once."""
ORDER_COLUMNS = ["sequence", "piece", "doc_id", "start", "length", "channel"]


@dataclass(frozen=True)
class Block:
    """Sequences, one in each row."""

    tokens: np.ndarray  # int64[sequences, sequence_length + 1]
    channels: np.ndarray  # int8, of the same shape: the channel number of each token
    pieces: np.ndarray  # int32, of the same shape: the number of the piece inside its sequence


class OrderRows:
    """The rows of an order manifest by range of sequences. Reading forward costs least."""

    def __init__(self, parts: Collection[Path]) -> None:
        self._parts = tuple(parts)
        self._groups: list[tuple[int, int]] = []
        statistics: list[tuple[int, int]] = []
        for number, part in enumerate(self._parts):
            file = pq.ParquetFile(part)
            column = file.schema_arrow.get_field_index("sequence")
            for group in range(file.num_row_groups):
                found = file.metadata.row_group(group).column(column).statistics
                if found is None or not found.has_min_max:
                    raise OrderError(
                        f"{part.name} has no Parquet statistics for `sequence`: write the order with statistics on"
                    )
                self._groups.append((number, group))
                statistics.append((found.min, found.max))
        self._first, self._last = np.array(statistics, dtype=np.int64).reshape(-1, 2).T
        if np.any(self._first[1:] < self._last[:-1]):
            raise OrderError(f"{self.name}: the order must be sorted by sequence")
        self.first = int(self._first[0]) if len(self._first) else 0
        self.end = int(self._last[-1]) + 1 if len(self._last) else 0
        self._next = 0
        self._batches: Iterator[pa.RecordBatch] = self._from(0)
        self._rest: pa.RecordBatch | None = None

    @property
    def name(self) -> str:
        """Its file, or the first of its files, for errors."""
        return self._parts[0].name

    def _from(self, sequence: int) -> Iterator[pa.RecordBatch]:
        """Rows from the row group that holds a sequence onwards."""
        opened, file = -1, None
        for part, group in self._groups[int(np.searchsorted(self._last, sequence)) :]:
            if part != opened or file is None:
                opened, file = part, pq.ParquetFile(self._parts[part], memory_map=True)
            yield from file.iter_batches(ORDER_ROWS, row_groups=[group], columns=ORDER_COLUMNS)

    def between(self, low: int, high: int) -> pa.Table:
        """The rows of the sequences low, low + 1, ..., high - 1; those that the order does not have are missing."""
        if low < self._next:
            self._batches, self._rest = self._from(low), None
        self._next = high
        found = []
        while (batch := self._rest if self._rest is not None else next(self._batches, None)) is not None:
            begin, end = np.searchsorted(batch["sequence"].to_numpy(), [low, high])
            found.append(batch.slice(begin, end - begin))
            self._rest = batch.slice(end) if end < len(batch) else None
            if self._rest is not None:
                break
        return pa.Table.from_batches(found) if found else pa.table({name: [] for name in ORDER_COLUMNS})


class OrderReader:
    """Sequences of an order, and of the decay phase's own from its first sequence on, as tokens. Not for two threads at once."""

    def __init__(self, data: Data, sequence_length: int, vocab_size: int, lookup: Path, decay_from: int = 0) -> None:
        """`lookup` is a folder for what is made from the token index; ranks of one machine should share it.

        `decay_from` is the sequence at which `data.decay` takes over. The stable order may go on beyond it: a
        decay may branch off anywhere. Raises OrderError when the two do not meet there.
        """
        self._stable = OrderRows(data.order)
        self._decay = OrderRows(data.decay.order) if data.decay else None
        self._switch = decay_from if self._decay else self._stable.end
        if self._decay and (self._decay.first != decay_from or self._stable.end < decay_from):
            raise OrderError(
                f"{self._decay.name}: the decay phase begins at sequence {decay_from}, but its manifest at "
                f"{self._decay.first}, and the stable manifest ends before {self._stable.end}"
            )
        self._store = TokenStore(data.index, data.shards, data.dtype, lookup)
        self.window = sequence_length + 1
        self._vocab_size = vocab_size
        self._channels = {name: number for number, name in enumerate(data.channels)}

    @property
    def sequences(self) -> int:
        """Sequences of the whole run."""
        return (self._decay or self._stable).end

    def read(self, numbers: np.ndarray) -> Block:
        """The sequences of ascending numbers. Their pieces must be numbered from 0 and add up to the window."""
        of_stable, of_decay = np.split(numbers, np.searchsorted(numbers, [self._switch]))
        if self._decay is None or not len(of_decay):
            return self._read(self._stable, numbers)
        if not len(of_stable):
            return self._read(self._decay, numbers)
        both = self._read(self._stable, of_stable), self._read(self._decay, of_decay)
        return Block(*(np.concatenate([getattr(b, name) for b in both]) for name in ("tokens", "channels", "pieces")))

    def rows(self, low: int, high: int) -> pa.Table:
        """ORDER_COLUMNS of the sequences low, ..., high - 1."""
        parts = [self._stable.between(low, min(high, self._switch))] if low < self._switch else []
        if self._decay is not None and high > self._switch:
            parts.append(self._decay.between(max(low, self._switch), high))
        return pa.concat_tables(parts) if parts else pa.table({name: [] for name in ORDER_COLUMNS})

    def _read(self, order: OrderRows, numbers: np.ndarray) -> Block:
        try:
            return self._block(order, numbers)
        except OrderError as error:
            raise OrderError(f"{order.name}: {error}") from None

    def _block(self, order: OrderRows, numbers: np.ndarray) -> Block:
        rows = order.between(int(numbers[0]), int(numbers[-1]) + 1).combine_chunks()
        sequence = rows["sequence"].to_numpy()
        row_of = np.searchsorted(numbers, sequence)
        mine = numbers[np.minimum(row_of, len(numbers) - 1)] == sequence
        rows, sequence = rows.filter(pa.array(mine)).combine_chunks(), sequence[mine]
        length, piece = rows["length"].to_numpy(), rows["piece"].to_numpy()
        self._check(numbers, sequence, piece, length)
        doc_ids = fixed_width(rows["doc_id"].combine_chunks())
        shards, begins = self._store.places(doc_ids, rows["start"].to_numpy(), length)
        ends = np.cumsum(length)
        tokens = np.empty(len(numbers) * self.window, dtype=np.int64)
        for shard, begin, count, end in zip(
            shards.tolist(), begins.tolist(), length.tolist(), ends.tolist(), strict=True
        ):
            tokens[end - count : end] = self._store.read(shard, begin, count)
        if tokens.max() >= self._vocab_size:
            at = int(np.argmax(tokens))
            row = int(np.searchsorted(ends, at, side="right"))
            raise ShardError(
                f"{self._store.name(int(shards[row]))}: document {doc_ids[row].decode()}, read by sequence {sequence[row]}, "
                f"holds token {tokens[at]}, outside the vocabulary of {self._vocab_size}"
            )
        channels = np.repeat(self._channel_numbers(rows["channel"], sequence), length)
        shape = (len(numbers), self.window)
        return Block(tokens.reshape(shape), channels.reshape(shape), np.repeat(piece, length).reshape(shape))

    def _check(self, numbers: np.ndarray, sequence: np.ndarray, piece: np.ndarray, length: np.ndarray) -> None:
        found, first, pieces = np.unique(sequence, return_index=True, return_counts=True)
        if len(found) < len(numbers):
            missing = np.setdiff1d(numbers, found)[0]
            raise OrderError(f"the order has no sequence {missing}; it plans {self.sequences}")
        wrong = np.flatnonzero(piece != np.arange(len(piece)) - np.repeat(first, pieces))
        if len(wrong):
            number = sequence[wrong[0]]
            raise OrderError(
                f"the pieces of sequence {number} are {piece[sequence == number].tolist()}, not 0, 1, 2, ..."
            )
        total = np.add.reduceat(length, first)
        wrong = np.flatnonzero(total != self.window)
        if len(wrong):
            raise OrderError(
                f"the pieces of sequence {found[wrong[0]]} have {total[wrong[0]]} tokens, not sequence_length + 1 = {self.window}"
            )

    def _channel_numbers(self, column: pa.ChunkedArray, sequence: np.ndarray) -> np.ndarray:
        named = column.combine_chunks().dictionary_encode()
        numbers = np.array([self._channels.get(name, -1) for name in named.dictionary.to_pylist()], dtype=np.int8)
        found = numbers[named.indices.to_numpy()]
        if np.any(found < 0):
            at = int(np.argmin(found))
            raise OrderError(
                f"sequence {sequence[at]} is of channel {column[at].as_py()!r}; the request knows {list(self._channels)}"
            )
        return found


class SequenceReader(Protocol):
    """What gives a loader its sequences: an OrderReader, or one that amends it."""

    window: int

    @property
    def sequences(self) -> int: ...

    def read(self, numbers: np.ndarray) -> Block: ...


@dataclass(frozen=True)
class OrderIdentity:
    """Which orders a position is in: goes into each checkpoint."""

    order_fingerprint: str
    decay_order_fingerprint: str
    decay_from: int
    """First sequence of the decay phase."""


class OrderLoader:
    """Batches of one data-parallel rank: a position in the order, and nothing else, is its state."""

    def __init__(
        self,
        reader: SequenceReader,
        identity: OrderIdentity,
        local_batch_size: int,
        dp_rank: int,
        dp_degree: int,
        with_documents: bool = False,
    ) -> None:
        """`with_documents` adds to each batch which document of its sequence an input token is of."""
        self._reader = reader
        self._identity = identity
        self._local_batch_size = local_batch_size
        self._dp_rank = dp_rank
        self._with_documents = with_documents
        self._together = local_batch_size * dp_degree
        self._most_batches = max(1, BLOCK_TOKENS // (local_batch_size * reader.window))
        self.position = 0
        """Next sequence number of the whole run, the same on each rank. Set it before iterating."""

    @property
    def planned_sequences(self) -> int:
        """Sequences of the whole order."""
        return self._reader.sequences

    def __iter__(self) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        """Inputs with the channel of each target, and the targets; until the order is used up.

        The first block is one batch, so that training starts at once; the next ones double up to BLOCK_TOKENS.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="order") as reading:
            ahead = self._begin(reading, self.position, 1)
            while ahead is not None:
                batches, block = ahead[0], ahead[1].result()
                ahead = self._begin(reading, self.position + batches * self._together, 2 * batches)
                tokens, channels, pieces = (
                    torch.from_numpy(of_block).split(self._local_batch_size)
                    for of_block in (block.tokens, block.channels, block.pieces)
                )
                for batch in range(batches):
                    self.position += self._together  # the state that resumes after this batch
                    inputs = {"input": tokens[batch][:, :-1], "channels": channels[batch][:, 1:]}
                    if self._with_documents:
                        inputs["documents"] = pieces[batch][:, :-1]
                    yield inputs, tokens[batch][:, 1:]

    def _begin(self, reading: ThreadPoolExecutor, position: int, batches: int) -> tuple[int, Future[Block]] | None:
        """(batches, block of this rank's sequences) that start at a position; None when the order is used up."""
        batches = min(batches, self._most_batches, (self._reader.sequences - position) // self._together)
        if batches < 1:
            return None
        first = position + self._dp_rank * self._local_batch_size
        starts = first + np.arange(batches) * self._together
        numbers = (starts[:, None] + np.arange(self._local_batch_size)).ravel()
        return batches, reading.submit(self._reader.read, numbers)

    def state_dict(self) -> dict[str, Any]:
        """Position and orders: equal on all ranks, so that any number of ranks can read it back."""
        return {"next_sequence": self.position} | asdict(self._identity)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the checkpoint. Raises ResumeMismatchError if what it has read was of another order."""
        saved = OrderIdentity(**{name: state[name] for name in asdict(self._identity)})
        names = ["order_fingerprint"]
        if state["next_sequence"] > min(saved.decay_from, self._identity.decay_from):
            names += ["decay_from", "decay_order_fingerprint"]
        for name in names:
            if getattr(saved, name) != getattr(self._identity, name):
                raise ResumeMismatchError(
                    f"the checkpoint read {name} {getattr(saved, name)}, the request gives {getattr(self._identity, name)}: "
                    "positions in one mean nothing in the other; start a new run, or give the order of the checkpoint"
                )
        self.position = int(state["next_sequence"])
