"""Which pieces of which documents make up each training sequence.

Per phase and channel, documents stand in a circle ordered by hash. The stable phase walks the circle
until the channel's tokens are given; the decay phase walks on from there, so that no document is used
again while another waits. Each round of the walk is shuffled by hash(seed, document, repeat), put end to
end and cut every sequence_length + 1 tokens. The sequences of a round are shuffled again (else one long
document fills a batch) and the channels interleaved by relative position, so that every batch has the
planned shares.

Everything is drawn by hash: the same plan gives the same order on any machine, in any order of rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from assets.build import BuildError
from assets.hashing import hash64, mix64
from assets.mixture.shape import DECAY, STABLE, RunShape

SEQUENCES_PER_GROUP = 8192
"""Sequences computed and written at a time: memory and Parquet row groups stay bounded."""

DIGEST_ROW = np.dtype(
    [
        ("sequence", "<i8"),
        ("piece", "<i4"),
        ("doc_id", "S32"),
        ("start", "<i8"),
        ("length", "<i8"),
        ("repeat", "<i4"),
        ("channel", "S16"),
        ("phase", "S8"),
    ]
)
"""One piece as bytes; an order_sha256 is the SHA-256 of all pieces of a phase, or of the run, in order."""


class OrderRecipe(BaseModel):
    """Recipe table [order]."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    seed: int = Field(1, ge=0, description="another seed reads the same documents in another order")


@dataclass(frozen=True)
class PlannedDocuments:
    """documents.parquet of the mixture, sorted by doc_id, as aligned columns."""

    doc_ids: pa.Array
    channels: np.ndarray
    tokens: np.ndarray
    heldout: np.ndarray
    readable: dict[str, np.ndarray]
    """Phase -> mask of the documents with planned uses."""

    @classmethod
    def of(cls, table: pa.Table) -> PlannedDocuments:
        table = table.sort_by("doc_id").combine_chunks()
        longest = max(map(len, table["doc_id"].to_pylist()), default=0)
        if longest > DIGEST_ROW["doc_id"].itemsize:
            raise BuildError(f"mixture_manifest: a doc_id has {longest} characters; at most 32 can be identified")
        return cls(
            doc_ids=pa.array(table["doc_id"].to_pylist(), pa.string()),
            channels=np.array(table["channel"].to_pylist(), dtype=object),
            tokens=table["tokens"].to_numpy(),
            heldout=np.array([split == "heldout" for split in table["split"].to_pylist()], dtype=bool),
            readable={phase: table[f"{phase}_uses"].to_numpy() > 0 for phase in (STABLE, DECAY)},
        )


@dataclass(frozen=True)
class Uses:
    """Stretches of documents in the order in which they are read: aligned arrays."""

    row: np.ndarray
    start: np.ndarray
    length: np.ndarray
    repeat: np.ndarray
    round: np.ndarray
    """Number of the round of the walk, within the phase."""


Streams = dict[str, dict[str, Uses]]
"""Phase -> channel -> its uses, end to end: a whole number of sequences."""


def plan_uses(documents: PlannedDocuments, targets: dict[tuple[str, str], int], shape: RunShape, seed: int) -> Streams:
    """Who is read where in each channel; targets: (phase, channel) -> tokens. Raises BuildError when they do not fit."""
    for phase, _, sequences in shape.phases():
        given = [tokens for (of_phase, _), tokens in targets.items() if of_phase == phase]
        if sum(given) != sequences * shape.window or any(tokens % shape.window for tokens in given):
            raise BuildError(
                f"mixture_manifest plans {given} tokens for phase {phase}, the recipe wants {sequences} sequences of "
                f"{shape.window}: they are of different recipes; plan the run again"
            )
    draw = hash64(f"order/{seed}", documents.doc_ids.to_pylist())
    streams: Streams = {phase: {} for phase, _, _ in shape.phases()}
    for channel in sorted({channel for _, channel in targets}):
        members = np.flatnonzero((documents.channels == channel) & ~documents.heldout)
        circle = members[np.argsort(draw[members], kind="stable")]
        used = np.zeros(len(documents.tokens), dtype=np.int64)
        position, inside = 0, 0
        for phase in streams:
            target = targets.get((phase, channel), 0)
            if target:
                readable = documents.readable[phase][circle]
                uses, position, inside = _walk(circle, readable, documents.tokens, used, position, inside, target)
                streams[phase][channel] = _shuffle(uses, draw)
    return streams


def _walk(
    circle: np.ndarray,
    readable: np.ndarray,
    tokens: np.ndarray,
    used: np.ndarray,
    position: int,
    inside: int,
    target: int,
) -> tuple[Uses, int, int]:
    """Go round the circle from `position` (its first `inside` tokens are used) until `target` tokens are given.

    Returns the uses and where the next phase goes on; `used` counts the uses begun of each document.
    """
    if not readable.any():
        raise BuildError(f"mixture_manifest plans {target} tokens of a channel that has no document to read")
    places = np.concatenate([np.arange(position, len(circle)), np.arange(position)])
    places = places[readable[places]]
    head: list[tuple[int, int, int, int]] = []
    if inside and len(places) and places[0] == position:
        # The document that the phase before was cut in: its rest, as the same use.
        row = int(circle[position])
        taken = min(int(tokens[row]) - inside, target)
        head = [(row, inside, taken, int(used[row]) - 1)]
        if taken < tokens[row] - inside:
            return _as_uses(head, _none()), position, inside + taken
        places = np.roll(places, -1)
    target -= sum(length for _, _, length, _ in head)
    rows = circle[places]
    lengths = tokens[rows]
    total = int(lengths.sum())
    rounds, rest = divmod(target, total)
    ends = np.cumsum(lengths)
    whole = int(np.searchsorted(ends, rest, side="right"))
    cut = rest - int(ends[whole - 1] if whole else 0)
    counts = np.full(len(rows), rounds) + (np.arange(len(rows)) < whole + bool(cut))
    index = np.concatenate([np.arange(len(rows))] * rounds + [np.arange(whole + bool(cut))])
    round_number = np.repeat(np.arange(rounds + 1), [len(rows)] * rounds + [whole + bool(cut)])
    length = lengths[index].copy()
    if cut:
        length[-1] = cut
    tail = Uses(rows[index], np.zeros(len(index), np.int64), length, used[rows[index]] + round_number, round_number)
    used[rows] += counts
    following = int(places[whole % len(places)])
    return _as_uses(head, tail), following, cut


def _as_uses(head: list[tuple[int, int, int, int]], tail: Uses) -> Uses:
    columns = np.array(head, dtype=np.int64).reshape(-1, 4).T
    return Uses(
        row=np.concatenate([columns[0], tail.row]),
        start=np.concatenate([columns[1], tail.start]),
        length=np.concatenate([columns[2], tail.length]),
        repeat=np.concatenate([columns[3], tail.repeat]),
        round=np.concatenate([np.zeros(len(head), np.int64), tail.round]),
    )


def _none() -> Uses:
    return Uses(*(np.zeros(0, np.int64) for _ in range(5)))


def _shuffle(uses: Uses, draw: np.ndarray) -> Uses:
    """Each round in its own order; a document's uses stay a round apart."""
    order = np.lexsort((uses.row, mix64(draw[uses.row], uses.repeat), uses.round))
    return Uses(*(getattr(uses, name)[order] for name in ("row", "start", "length", "repeat", "round")))


def place_sequences(uses: dict[str, Uses], window: int, salt: str) -> tuple[np.ndarray, np.ndarray]:
    """(channel number, number inside the channel) of each sequence of a phase, in the order of training."""
    numbers, channels, positions = [], [], []
    for place, (channel, stream) in enumerate(sorted(uses.items())):
        count = int(stream.length.sum()) // window
        local = np.arange(count)
        first_use = np.searchsorted(np.cumsum(stream.length), local * window, side="right")
        draw = mix64(np.broadcast_to(hash64(salt, [channel]), count), local)
        numbers.append(local[np.lexsort((draw, stream.round[first_use]))])
        channels.append(np.full(count, place))
        positions.append((local + 0.5) / max(count, 1))
    if not numbers:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    channel_numbers = np.concatenate(channels)
    order = np.lexsort((channel_numbers, np.concatenate(positions)))
    return channel_numbers[order], np.concatenate(numbers)[order]


@dataclass(frozen=True)
class Pieces:
    """Consecutive rows of the order, complete sequences only: aligned arrays."""

    sequence: np.ndarray
    piece: np.ndarray
    row: np.ndarray
    start: np.ndarray
    length: np.ndarray
    repeat: np.ndarray
    phase: str


def cut_sequences(streams: Streams, shape: RunShape, seed: int, group: int = SEQUENCES_PER_GROUP) -> Iterator[Pieces]:
    """The pieces of all sequences in order, `group` sequences at a time."""
    for phase, first, sequences in shape.phases():
        uses = streams[phase]
        ends = {channel: np.cumsum(stream.length) for channel, stream in uses.items()}
        channel_of, number_of = place_sequences(uses, shape.window, f"sequences/{seed}/{phase}")
        for low in range(0, sequences, group):
            places = np.arange(low, min(low + group, sequences))
            parts = []
            for place, channel in enumerate(sorted(uses)):
                mine = places[channel_of[places] == place]
                parts.append(_cut(uses[channel], ends[channel], number_of[mine], mine + first, shape.window))
            columns = [np.concatenate([part[i] for part in parts]) for i in range(6)]
            order = np.lexsort((columns[1], columns[0]))
            sequence, piece, row, start, length, repeat = (column[order] for column in columns)
            yield Pieces(sequence, piece.astype(np.int32), row, start, length, repeat.astype(np.int32), phase)


def _cut(
    uses: Uses, ends: np.ndarray, numbers: np.ndarray, sequences: np.ndarray, window: int
) -> tuple[np.ndarray, ...]:
    """(sequence, piece, row, start, length, repeat) of the numbered windows of one channel's stream."""
    begins = ends - uses.length
    low, high = numbers * window, (numbers + 1) * window
    first = np.searchsorted(ends, low, side="right")
    count = np.searchsorted(begins, high, side="left") - first
    piece = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    use = np.repeat(first, count) + piece
    at = np.maximum(begins[use], np.repeat(low, count))
    until = np.minimum(ends[use], np.repeat(high, count))
    start = uses.start[use] + at - begins[use]
    return np.repeat(sequences, count), piece, uses.row[use], start, until - at, uses.repeat[use]


def pieces_table(pieces: Pieces, documents: PlannedDocuments) -> pa.Table:
    """Rows of order_manifest/<run>/order-*.parquet."""
    return pa.table(
        {
            "sequence": pieces.sequence,
            "piece": pieces.piece,
            "doc_id": documents.doc_ids.take(pa.array(pieces.row)),
            "start": pieces.start,
            "length": pieces.length,
            "repeat": pieces.repeat,
            "channel": pa.array(documents.channels[pieces.row].tolist(), pa.string()),
            "phase": pa.array([pieces.phase] * len(pieces.row), pa.string()),
        }
    )


def update_digest(hasher: hashlib._Hash, table: pa.Table) -> None:
    """Feed pieces to order_sha256; how they are grouped does not matter."""
    rows = np.empty(table.num_rows, dtype=DIGEST_ROW)
    for name in DIGEST_ROW.names or ():
        column = table.column(name)
        rows[name] = column.to_numpy() if DIGEST_ROW[name].kind == "i" else [v.encode() for v in column.to_pylist()]
    hasher.update(rows.tobytes())
