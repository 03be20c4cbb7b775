"""A sample of held-out documents as an order: what the training program scores every so many steps.

Documents come in the order of a hash of their doc_id, so that the sample is random, the same for every run of a mixture, and
keeps most of its documents when the corpus changes. Those of a channel are laid end to end in sequences of their own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field

from assets.build import Segment
from assets.schemas import ORDER
from assets.tables import write_table
from training.contract.request import Watch


class WatchRecipe(BaseModel):
    """What is measured of a run besides each step's losses."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layers_every_steps: int = Field(
        10, ge=0, description="gradient, weight and update norms and activations per layer; 0 = never"
    )
    heldout_every_steps: int = Field(0, ge=0, description="loss on held-out documents per channel; 0 = never")
    heldout_documents: int = Field(200, gt=0, description="of each channel, at most")
    heldout_tokens: int = Field(16_384, gt=0, description="of each channel, at most: forward passes cost steps")


def heldout_sample(mixture: Segment, recipe: WatchRecipe, sequence_length: int, folder: Path) -> Watch:
    """The `watch` of a request; writes heldout.parquet into `folder` where a sample is wanted and there is one.

    A channel whose held-out documents fill no sequence is left out.
    """
    watch = Watch(layers_every_steps=recipe.layers_every_steps)
    if not recipe.heldout_every_steps:
        return watch
    documents = mixture.table("documents", ["doc_id", "channel", "split", "tokens"])
    rows: list[dict[str, Any]] = []
    heldout = documents.filter(pc.equal(documents["split"], "heldout")).to_pylist()
    for channel in sorted({row["channel"] for row in heldout}):
        mine = sorted((row for row in heldout if row["channel"] == channel), key=lambda row: _rank(row["doc_id"]))
        first = rows[-1]["sequence"] + 1 if rows else 0
        rows += _packed(mine[: recipe.heldout_documents], first, sequence_length + 1, recipe.heldout_tokens)
    if not rows:
        return watch
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder, "heldout", rows, ORDER)
    return Watch(
        layers_every_steps=recipe.layers_every_steps,
        heldout_every_steps=recipe.heldout_every_steps,
        heldout=(folder / "heldout.parquet",),
    )


def _rank(doc_id: str) -> str:
    return hashlib.sha256(f"heldout sample\0{doc_id}".encode()).hexdigest()


def _packed(documents: Sequence[dict[str, Any]], first: int, window: int, most_tokens: int) -> list[dict[str, Any]]:
    """Whole sequences of `window` tokens; what is left of the last one is dropped."""
    rows: list[dict[str, Any]] = []
    sequence, piece, room = first, 0, window
    for document in documents:
        start = 0
        while start < document["tokens"] and (sequence - first) * window < most_tokens:
            length = min(room, document["tokens"] - start)
            rows.append(
                {
                    "sequence": sequence,
                    "piece": piece,
                    "doc_id": document["doc_id"],
                    "start": start,
                    "length": length,
                    "repeat": 0,
                    "channel": document["channel"],
                    "phase": "heldout",
                }
            )
            start, room, piece = start + length, room - length, piece + 1
            if not room:
                sequence, piece, room = sequence + 1, 0, window
    return [row for row in rows if row["sequence"] < sequence]
