"""A small world whose text can be learned, with faults planted in it: garbage, pages of newlines.

Each channel is a Markov chain of its own over part of the vocabulary, so the loss falls from log(128) = 4.85 to about 2.
A planted document takes the place of one of the same length: all sequences but its own are those of the clean world.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from assets.schemas import ORDER, TOKEN_INDEX
from assets.tables import write_table

VOCABULARY = 128
SEQUENCE_LENGTH = 64
BATCH = 8
NEWLINE = 1
CHANNELS = ("code", "en", "zh")
SUCCESSORS = 6
"""Tokens that may follow a token: with their skewed probabilities, 1.6 nats."""
WORLD_APART = 10_000_000
"""Seeds of one world from those of the next."""


def doc_id(number: int) -> str:
    """The id of a document by its number."""
    return hashlib.sha256(f"planted {number}".encode()).hexdigest()[:32]


def chain(channel: int, world: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(successors of each token, their cumulated probabilities) of one channel."""
    generator = np.random.default_rng(100 + channel + WORLD_APART * world)
    successors = generator.integers(2, VOCABULARY, (VOCABULARY, SUCCESSORS))
    successors[:, 0] = np.where(generator.random(VOCABULARY) < 0.15, NEWLINE, successors[:, 0])
    successors[NEWLINE, 0] = NEWLINE  # empty lines
    weights = 0.6 ** np.arange(SUCCESSORS)
    return successors, np.cumsum(weights / weights.sum())


def text(number: int, length: int, world: int = 0) -> np.ndarray:
    """The tokens of a clean document."""
    successors, cumulated = chain(number % 3, world)
    generator = np.random.default_rng(10_000 + number + WORLD_APART * world)
    tokens = np.empty(length, np.int64)
    tokens[0] = generator.integers(2, VOCABULARY)
    picks = np.searchsorted(cumulated, generator.random(length))
    for at in range(1, length):
        tokens[at] = successors[tokens[at - 1], min(picks[at], SUCCESSORS - 1)]
    return tokens


def planted_text(kind: str, number: int, length: int, world: int = 0) -> np.ndarray:
    """The tokens of a document that should not be there."""
    if kind == "newlines":
        return np.full(length, NEWLINE)
    return np.random.default_rng(20_000 + number + WORLD_APART * world).integers(2, VOCABULARY, length)


def write_world(
    shards: Path,
    order: Path,
    steps: int,
    *,
    kind: str = "none",
    planted_steps: Collection[int] = (),
    reuse_after: int = 0,
    sequence_length: int = SEQUENCE_LENGTH,
    world: int = 0,
) -> tuple[list[str], list[str]]:
    """shard, index and order of a run; returns (all doc_ids, planted doc_ids).

    Documents that begin inside `planted_steps` are planted; a few of them are used again `reuse_after` steps later. Each
    `world` has chains, documents and lengths of its own.
    """
    needed = steps * BATCH * (sequence_length + 1)
    generator = np.random.default_rng(5 + WORLD_APART * world)
    lengths: list[int] = []
    while sum(lengths) < needed:
        lengths.append(int(generator.integers(40, 160)))
    begins = np.cumsum([0, *lengths[:-1]]) // (BATCH * (sequence_length + 1)) + 1
    planted = [n for n, step in enumerate(begins) if step in planted_steps] if kind != "none" else []
    sequence = list(range(len(lengths)))
    for number in [n for n, step in enumerate(begins) if step in planted_steps][:3] if reuse_after else []:
        later = int(np.searchsorted(begins, begins[number] + reuse_after))
        lengths[later] = lengths[number] = min(lengths[later], lengths[number])
        sequence[later] = number
    lengths.append(needed)  # covers what the shortened ones left, and is cut off where the order ends
    sequence.append(len(lengths) - 1)
    _write_tokens(shards, lengths, kind, set(planted), world)
    _write_order(order, sequence, lengths, steps * BATCH, sequence_length)
    return sorted(doc_id(n) for n in range(len(lengths))), sorted(doc_id(n) for n in planted)


def _write_tokens(folder: Path, lengths: list[int], kind: str, planted: set[int], world: int) -> None:
    rows: list[dict[str, Any]] = []
    parts: list[np.ndarray] = []
    offset = 0
    for number, length in enumerate(lengths):
        tokens = planted_text(kind, number, length, world) if number in planted else text(number, length, world)
        parts.append(tokens.astype("<u2"))
        rows.append(
            {
                "doc_id": doc_id(number),
                "shard": "shard-00000.bin",
                "offset": offset,
                "tokens": length,
                "token_sha256": hashlib.sha256(parts[-1].tobytes()).hexdigest(),
            }
        )
        offset += length
    (folder / "shard-00000.bin").write_bytes(np.concatenate(parts).tobytes())
    write_table(folder, "index", sorted(rows, key=lambda row: row["doc_id"]), TOKEN_INDEX)


def _write_order(folder: Path, documents: list[int], lengths: list[int], sequences: int, sequence_length: int) -> None:
    rows: list[dict[str, Any]] = []
    at, start, uses = 0, 0, {0: 0} if documents else {}
    for sequence in range(sequences):
        room, piece = sequence_length + 1, 0
        while room:
            number = documents[at]
            length = min(room, lengths[number] - start)
            rows.append(
                {
                    "sequence": sequence,
                    "piece": piece,
                    "doc_id": doc_id(number),
                    "start": start,
                    "length": length,
                    "repeat": uses[number],
                    "channel": CHANNELS[number % 3],
                    "phase": "stable",
                }
            )
            room, piece, start = room - length, piece + 1, start + length
            if start == lengths[number]:
                at, start = at + 1, 0
                uses[documents[at]] = uses.get(documents[at], -1) + 1
    write_table(folder, "order-00000", rows, ORDER)


def planted_request(data: Path, output: Path, steps: int, **changes: Any) -> dict[str, Any]:
    """A request on a world whose shard, index and order lie in one folder; incidents are watched and acted on."""
    request: dict[str, Any] = {
        "run": "planted",
        "model": {
            "dim": 64,
            "n_layers": 2,
            "n_heads": 4,
            "n_kv_heads": 2,
            "vocab_size": VOCABULARY,
            "sequence_length": SEQUENCE_LENGTH,
        },
        "schedule": {
            "total_steps": steps,
            "warmup_steps": 10,
            "decay_steps": steps // 5,
            "peak_lr": 0.01,
            "min_lr_ratio": 0.1,
        },
        "global_batch_size": BATCH,
        "local_batch_size": BATCH,
        "seed": 7,
        "checkpoint_steps": [*range(40, steps, 40), steps],
        "data": {
            "order": [str(data / "order-00000.parquet")],
            "order_fingerprint": "planted-order",
            "index": [str(data / "index.parquet")],
            "shards": {"shard-00000.bin": str(data / "shard-00000.bin")},
            "dtype": "uint16",
            "channels": list(CHANNELS),
        },
        "tokenizer_version": "tokenizer-1",
        "incidents": {},
        "output": str(output),
        "report_every_steps": 50,
    }
    return request | changes
