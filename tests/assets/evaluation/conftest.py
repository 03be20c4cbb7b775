"""A tiny run: six documents, a byte-level tokenizer without merges, two checkpoints of random weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assets import schemas
from assets.build import Segment
from assets.tables import write_table
from assets.tokenizer.encoding import END_OF_TEXT, PAD
from tests.builds import segment_of

RUN = "demo@20260101T000000Z"
VOCABULARY = 258
POSITIONS = 256
ASSETS = ("tokenizer", "token_shards", "mixture_manifest", "order_manifest", "base_checkpoints")

TEXTS: dict[str, tuple[str, str, str, str]] = {
    # doc_id prefix: (language, domain, split, text)
    "a1": ("zh", "documentation", "heldout", "山脚下有一座小小的图书馆，每天早上八点开门。" * 6),
    "b2": ("en", "documentation", "heldout", "The small library at the foot of the hill opens at eight. " * 6),
    "c3": ("zh", "documentation", "train", "河边的磨坊已经停工多年，木轮上长满了青苔。" * 4),
    "d4": ("en", "documentation", "train", "The mill by the river has been silent for many years. " * 8),
    "e5": ("code", "code", "train", "def add(a, b):\n    return a + b\n" * 5),
    "f6": ("code", "code", "heldout", "def double(a):\n    return a * 2\n" * 5),
}


def doc_id(prefix: str) -> str:
    return prefix.ljust(32, "0")


def write_tokenizer(path: Path) -> None:
    """Byte-level BPE with no merges: every byte is one token, ids 2 to 257."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([END_OF_TEXT, PAD, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END_OF_TEXT, PAD])
    tokenizer.save(str(path))


def write_checkpoint(folder: Path, seed: int) -> str:
    """A random Llama as training exports it; returns the SHA-256 of its weights."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=POSITIONS,
        initializer_range=0.3,  # far from uniform, so that differences show
        bos_token_id=None,
        eos_token_id=0,
    )
    model = LlamaForCausalLM(config)
    folder.mkdir(parents=True)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "model.safetensors")
    config.save_pretrained(folder)
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="session")
def encode(world: dict[str, Segment]) -> Callable[[str], list[int]]:
    from assets.tokenizer.encoding import load_tokenizer

    tokenizer = load_tokenizer(world["tokenizer"].path("tokenizer.json"))
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Segment]:
    """All inputs of the evaluation assets, by asset name."""
    from assets.tokenizer.encoding import encode_documents, load_tokenizer

    root = tmp_path_factory.mktemp("world")
    for name in ASSETS:
        (root / name).mkdir()
    write_tokenizer(root / "tokenizer" / "tokenizer.json")
    tokenizer = load_tokenizer(root / "tokenizer" / "tokenizer.json")
    texts = [row[3] for row in TEXTS.values()]
    tokens = dict(zip(TEXTS, encode_documents(tokenizer, texts, np.dtype("<u2")), strict=True))
    _write_shards(root / "token_shards", tokens)
    _write_plan(root, tokens)
    _write_checkpoints(root / "base_checkpoints")
    shared = ("tokenizer", "token_shards")
    return {name: segment_of(root / name, name, None if name in shared else RUN) for name in ASSETS}


def _write_shards(folder: Path, tokens: dict[str, np.ndarray]) -> None:
    rows, offset = [], 0
    for prefix, ids in tokens.items():
        digest = hashlib.sha256(ids.tobytes()).hexdigest()
        row = {"doc_id": doc_id(prefix), "shard": "shard-00000.bin", "offset": offset, "tokens": len(ids)}
        rows.append(row | {"token_sha256": digest})
        offset += len(ids)
    (folder / "shard-00000.bin").write_bytes(b"".join(ids.tobytes() for ids in tokens.values()))
    write_table(folder, "index", rows, schemas.TOKEN_INDEX)


def _write_plan(root: Path, tokens: dict[str, np.ndarray]) -> None:
    mixture: list[dict[str, Any]] = []
    order: list[dict[str, Any]] = []
    for prefix, (language, domain, split, text) in TEXTS.items():
        train = split == "train"
        mixture.append(
            {
                "doc_id": doc_id(prefix),
                "channel": language,
                "language": language,
                "domain": domain,
                "split": split,
                "tokens": len(tokens[prefix]),
                "utf8_bytes": len(text.encode()),
                "stable_uses": 1.0 if train else 0.0,
                "decay_uses": 0.0,
            }
        )
        if train:
            piece = {"sequence": len(order), "piece": 0, "doc_id": doc_id(prefix), "start": 0, "repeat": 0}
            order.append(piece | {"length": 129, "channel": language, "phase": "stable"})
    write_table(root / "mixture_manifest", "documents", mixture, schemas.MIXTURE)
    write_table(root / "order_manifest", "order", order, schemas.ORDER)
    fingerprint = {"order_sha256": "0" * 64, "sequences": 3, "sequence_length": 128, "global_batch_size": 1}
    (root / "order_manifest" / "fingerprint.json").write_text(json.dumps(fingerprint))


def _write_checkpoints(folder: Path) -> None:
    rows = []
    for step in (1, 3):
        name = f"checkpoints/step-{step:08d}"
        digest = write_checkpoint(folder / name / "hf", seed=step)
        row = {"run": RUN, "step": step, "tokens_seen": step * 128, "sequences_seen": step, "train_loss": 5.0}
        rows.append(row | {"learning_rate": 0.001, "folder": name, "weights_sha256": digest, "parameters": 30_000})
    write_table(folder, "checkpoints", rows, schemas.CHECKPOINTS)
    metrics = [
        {"step": step, "loss": 6.0 - step, "gradient_norm": 1.0, "learning_rate": 0.001, "tokens_seen": step * 128}
        | {
            "tokens_per_s": 1.0,
            "data_wait_s": 0.0,
            "step_s": 1.0,
            "mfu": 0.1,
            "monitoring_s": 0.01,
            "channel_loss": {"zh": 5.0},
        }
        for step in (1, 2, 3)
    ]
    write_table(folder, "metrics", metrics, schemas.METRICS)
