"""Planned runs over made-up token counts: no text is needed to plan and order."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from assets.mixture.mixture import Documents, MixtureRecipe, documents_table, join, plan, plan_rows
from assets.mixture.order import Pieces, PlannedDocuments, cut_sequences, pieces_table, plan_uses
from assets.mixture.shape import RunShape
from assets.schemas import ORDER


def corpus_and_index(sizes: dict[str, list[int]], quality: float = 0.5) -> tuple[pa.Table, pa.Table]:
    """Tables of a corpus with these documents: channel -> tokens of each."""
    corpus, index = [], []
    for channel, tokens in sizes.items():
        for number, count in enumerate(tokens):
            doc_id = hashlib.sha256(f"{channel}/{number}".encode()).hexdigest()[:32]
            corpus.append(
                {
                    "doc_id": doc_id,
                    "url": f"https://made.example/{channel}/{number}",
                    "source": "made",
                    "language": channel,
                    "domain": "documentation",
                    "quality": quality + 0.4 * (number % 2),
                    "utf8_bytes": 4 * count,
                }
            )
            index.append({"doc_id": doc_id, "tokens": count})
    return pa.Table.from_pylist(corpus), pa.Table.from_pylist(index)


def shape_of(steps: int, decay: int, batch: int = 4, length: int = 31) -> RunShape:
    return RunShape(total_steps=steps, decay_steps=decay, global_batch_size=batch, sequence_length=length)


@dataclass
class Ordered:
    """A planned and ordered run."""

    documents: Documents
    planned: PlannedDocuments
    table: pa.Table
    targets: dict[tuple[str, str], int]
    groups: list[Pieces]


def ordered(
    corpus: pa.Table, index: pa.Table, recipe: MixtureRecipe, shape: RunShape, seed: int = 1, group: int = 8192
) -> Ordered:
    documents = join(corpus, index)
    mixture = plan(documents, recipe, shape)
    planned = PlannedDocuments.of(documents_table(mixture))
    targets = {(str(r["phase"]), str(r["channel"])): int(str(r["tokens"])) for r in plan_rows(mixture, recipe, shape)}
    groups = list(cut_sequences(plan_uses(planned, targets, shape, seed), shape, seed, group))
    table = pa.concat_tables([pieces_table(pieces, planned).cast(ORDER) for pieces in groups])
    return Ordered(documents, planned, table, targets, groups)


def shuffled(table: pa.Table, seed: int) -> pa.Table:
    return table.take(np.random.default_rng(seed).permutation(table.num_rows))
