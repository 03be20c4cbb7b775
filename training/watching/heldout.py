"""Loss on held-out documents while training runs: the same documents every time, per channel.

The sample is an order of its own (assets/training/heldout_order.py packs it, each channel in sequences of its own), scored with
forward passes through the layout of the run.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from training.data.amended_order import Amending
from training.data.order_dataset import OrderReader
from training.watching.scoring import PieceScorer


def heldout_rows(scorer: PieceScorer, reader: OrderReader, step: int) -> list[dict[str, Any]]:
    """step, channel, documents, tokens, loss, perplexity of the weights of now; `all` is every token. All ranks must call it."""
    scored = scorer.score(np.arange(reader.sequences), lambda: reader, Amending())  # small: one reader serves for both
    channel = np.array(scored["channel"].to_pylist())
    doc_ids = np.array(scored["doc_id"].to_pylist())
    tokens, losses = scored["tokens"].to_numpy(), scored["loss"].to_numpy()
    rows = []
    for name in [*sorted(set(channel.tolist())), "all"]:
        mine = np.ones(len(channel), dtype=bool) if name == "all" else channel == name
        loss = float((losses[mine] * tokens[mine]).sum() / tokens[mine].sum())
        rows.append(
            {
                "step": step,
                "channel": name,
                "documents": len(set(doc_ids[mine].tolist())),
                "tokens": int(tokens[mine].sum()),
                "loss": loss,
                "perplexity": math.exp(min(loss, 700.0)),
            }
        )
    return rows
