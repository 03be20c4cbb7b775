"""A tiny synthetic run: shards of random tokens, an order over them, and the request that trains on it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from assets.schemas import ORDER, TOKEN_INDEX
from assets.tables import write_table

VOCABULARY = 128
SEQUENCE_LENGTH = 32
CHANNELS = ("code", "en", "zh")


def doc_id(number: int) -> str:
    """A stable made-up document id."""
    return hashlib.sha256(f"document {number}".encode()).hexdigest()[:32]


def write_tokens(folder: Path, documents: int = 40, seed: int = 0) -> list[tuple[str, int]]:
    """index.parquet and two uint16 shards of documents of 20 to 90 skewed random tokens; returns (doc_id, tokens)."""
    generator = np.random.default_rng(seed)
    ids = sorted(doc_id(number) for number in range(documents))
    rows, shards, lengths = [], ([], []), []
    for number, identity in enumerate(ids):
        shard = number % 2
        tokens = np.minimum(generator.geometric(0.08, int(generator.integers(20, 90))), VOCABULARY - 1).astype("<u2")
        rows.append(
            {
                "doc_id": identity,
                "shard": f"shard-{shard:05d}.bin",
                "offset": sum(map(len, shards[shard])),
                "tokens": len(tokens),
                "token_sha256": hashlib.sha256(tokens.tobytes()).hexdigest(),
            }
        )
        shards[shard].append(tokens)
        lengths.append((identity, len(tokens)))
    for shard, parts in enumerate(shards):
        (folder / f"shard-{shard:05d}.bin").write_bytes(np.concatenate(parts).tobytes())
    write_table(folder, "index", rows, TOKEN_INDEX)
    return lengths


def write_order(
    folder: Path,
    lengths: list[tuple[str, int]],
    sequences: int,
    *,
    first: int = 0,
    name: str = "order",
    sequence_length: int = SEQUENCE_LENGTH,
) -> None:
    """order.parquet: documents laid end to end, cut every `sequence_length` + 1 tokens, round and round."""
    rows: list[dict[str, Any]] = []
    document, start, repeat = 0, 0, 0
    for sequence in range(first, first + sequences):
        room, piece = sequence_length + 1, 0
        while room:
            identity, tokens = lengths[document]
            length = min(room, tokens - start)
            rows.append(
                {
                    "sequence": sequence,
                    "piece": piece,
                    "doc_id": identity,
                    "start": start,
                    "length": length,
                    "repeat": repeat,
                    "channel": CHANNELS[document % 3],
                    "phase": "decay" if first else "stable",
                }
            )
            room, piece, start = room - length, piece + 1, start + length
            if start == tokens:
                document, start = (document + 1) % len(lengths), 0
                repeat += document == 0
    write_table(folder, name, rows, ORDER)


def write_phases(folder: Path, lengths: list[tuple[str, int]], stable: int, decay: int) -> None:
    """An order_manifest in two phases; the decay reads the documents backwards."""
    write_order(folder, lengths, stable, name="order-00000")
    write_order(folder, lengths[::-1], decay, first=stable, name="order-00001")
    phases = [
        {"phase": "stable", "file": "order-00000.parquet", "first_sequence": 0, "order_sha256": "stable-1"},
        {"phase": "decay", "file": "order-00001.parquet", "first_sequence": stable, "order_sha256": "decay-1"},
    ]
    (folder / "fingerprint.json").write_text(json.dumps({"phases": phases}))


def tiny_request(data: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """A request of 6 steps of 4 sequences on a model of two layers; `changes` replace top-level keys."""
    request = {
        "run": "tiny",
        "model": {
            "dim": 32,
            "n_layers": 2,
            "n_heads": 4,
            "n_kv_heads": 2,
            "vocab_size": VOCABULARY,
            "sequence_length": SEQUENCE_LENGTH,
        },
        "schedule": {"total_steps": 6, "warmup_steps": 2, "decay_steps": 2, "peak_lr": 0.01, "min_lr_ratio": 0.1},
        "global_batch_size": 4,
        "local_batch_size": 2,
        "seed": 7,
        "checkpoint_steps": [1, 3, 6],
        "data": {
            "order": [str(data / "order.parquet")],
            "order_fingerprint": "order-1",
            "index": [str(data / "index.parquet")],
            "shards": {name: str(data / name) for name in ("shard-00000.bin", "shard-00001.bin")},
            "dtype": "uint16",
            "channels": list(CHANNELS),
        },
        "tokenizer_version": "tokenizer-1",
        "output": str(output),
        "report_every_steps": 2,
    }
    return json.loads(json.dumps(request)) | changes


def write_request(folder: Path, request: dict[str, Any]) -> Path:
    """request.json in a folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "request.json"
    path.write_text(json.dumps(request), "utf-8")
    return path
