"""Loss on held-out documents while training runs: the same documents every time, per channel.

The sample is an order of its own (assets/training/heldout_order.py packs it, each channel in sequences of its own), scored with
forward passes through the layout of the run.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from training.data.amended_order import Amending
from training.data.order_dataset import OrderReader
from training.watching.scoring import score_pieces

if TYPE_CHECKING:
    from training.trainer import OrderedTrainer


def open_heldout(trainer: OrderedTrainer) -> OrderReader:
    """The order of the held-out sample."""
    request = trainer.request
    data = request.data.model_copy(update={"order": request.watch.heldout, "decay": None})
    return OrderReader(data, request.model.sequence_length, request.model.vocab_size, request.lookup)


def heldout_rows(trainer: OrderedTrainer) -> list[dict[str, Any]]:
    """step, channel, documents, tokens, loss, perplexity of the weights of now; `all` is every token. All ranks must call it."""
    reader = open_heldout(trainer)  # small: one serves for documents and for tokens
    scored = score_pieces(trainer, np.arange(reader.sequences), lambda: reader, Amending())
    channel = np.array(scored["channel"].to_pylist())
    doc_ids = np.array(scored["doc_id"].to_pylist())
    tokens, losses = scored["tokens"].to_numpy(), scored["loss"].to_numpy()
    rows = []
    for name in [*sorted(set(channel.tolist())), "all"]:
        mine = np.ones(len(channel), dtype=bool) if name == "all" else channel == name
        loss = float((losses[mine] * tokens[mine]).sum() / tokens[mine].sum())
        rows.append(
            {
                "step": trainer.step,
                "channel": name,
                "documents": len(set(doc_ids[mine].tolist())),
                "tokens": int(tokens[mine].sum()),
                "loss": loss,
                "perplexity": math.exp(min(loss, 700.0)),
            }
        )
    return rows
