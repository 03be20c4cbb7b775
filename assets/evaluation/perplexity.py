"""Held-out loss of every checkpoint, per language and domain, beside a unigram model of the training tokens.

A document is scored as training read it: after the end-of-document token, in windows of the training
sequence length. Loss is nats per token; bits per byte = loss x tokens / ln 2 / UTF-8 bytes, the figure
that can be compared between tokenizers. Of a document cut by `max_tokens_per_document` the bytes count
in proportion to its tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from assets.build import BuildError, Sample, Segment, StageReport
from assets.evaluation.plots import line_plot
from assets.evaluation.scoring import Checkpoint, Scorer
from assets.evaluation.tokens import TokenReader, heldout_rows
from assets.hashing import hash64

ALL = "all"


class PerplexityRecipe(BaseModel):
    """What is scored, and how much of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_tokens_per_cell: int = Field(default=4000, gt=0)
    """Held-out tokens per language and domain; the demo's checkpoints then take seconds each on one core."""
    max_tokens_per_document: int = Field(default=1024, gt=0)
    """The first tokens of a document, so that one long page does not fill a cell (assumption, not measured)."""
    batch_tokens: int = Field(default=4096, gt=0)
    """Tokens in memory per batch, padding included."""


@dataclass(frozen=True)
class HeldoutDocument:
    """The scored part of one held-out document."""

    doc_id: str
    language: str
    domain: str
    tokens: np.ndarray
    utf8_bytes: int


@dataclass(frozen=True)
class Score:
    """Sums over the documents of one cell."""

    documents: int
    tokens: int
    utf8_bytes: int
    loss_sum: float
    unigram_loss_sum: float

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.loss_sum / self.tokens

    @property
    def bits_per_byte(self) -> float:
        """Bits that the model needs per byte of text."""
        return bits_per_byte(self.loss_sum, self.utf8_bytes)


def bits_per_byte(loss_sum: float, utf8_bytes: int) -> float:
    """Total nats to bits per byte of text."""
    return loss_sum / math.log(2) / utf8_bytes


def choose_heldout(mixture: Segment, recipe: PerplexityRecipe) -> list[dict[str, Any]]:
    """Held-out rows of the mixture, up to `max_tokens_per_cell` per (language, domain), chosen by hash of doc_id."""
    rows = [row for row in heldout_rows(mixture) if row["tokens"] > 0]
    if not rows:
        raise BuildError(
            f"mixture_manifest/{mixture.partition} holds out no document: raise the held-out share in [mixture]"
        )
    drawn = dict(
        zip((row["doc_id"] for row in rows), hash64("perplexity", (row["doc_id"] for row in rows)), strict=True)
    )
    rows.sort(key=lambda row: (drawn[row["doc_id"]], row["doc_id"]))
    filled: dict[tuple[str, str], int] = {}
    chosen = []
    for row in rows:
        cell = (row["language"], row["domain"])
        if filled.get(cell, 0) < recipe.max_tokens_per_cell:
            filled[cell] = filled.get(cell, 0) + min(row["tokens"], recipe.max_tokens_per_document)
            chosen.append(row)
    return sorted(chosen, key=lambda row: row["doc_id"])


def read_heldout(chosen: Iterable[Mapping[str, Any]], reader: TokenReader, max_tokens: int) -> list[HeldoutDocument]:
    """The tokens to score of the chosen documents."""
    documents = []
    for row in chosen:
        tokens = np.asarray(reader.tokens(row["doc_id"])[:max_tokens], dtype=np.int64)
        utf8_bytes = max(1, round(row["utf8_bytes"] * len(tokens) / row["tokens"]))
        documents.append(HeldoutDocument(row["doc_id"], row["language"], row["domain"], tokens, utf8_bytes))
    return documents


def windows(tokens: np.ndarray, length: int, start_token: int) -> list[np.ndarray]:
    """Sequences whose tokens 1.. are, end to end, the document's; each begins with the token before it."""
    whole = np.concatenate(([start_token], tokens))
    return [whole[first : first + length + 1] for first in range(0, len(tokens), length)]


def unigram_losses(counts: np.ndarray) -> np.ndarray:
    """Loss of each token id under the add-one unigram model of the counts."""
    return np.log(counts.sum() + len(counts)) - np.log(counts + 1)


def document_losses(scorer: Scorer, documents: Sequence[HeldoutDocument], window: int, start_token: int) -> list[float]:
    """Summed loss of each document."""
    pieces = [(i, w) for i, d in enumerate(documents) for w in windows(d.tokens, window, start_token)]
    totals = [0.0] * len(documents)
    for (i, _), losses in zip(pieces, scorer.loss_of_tokens([w for _, w in pieces]), strict=True):
        totals[i] += float(losses.sum())
    return totals


def score_cells(
    documents: Sequence[HeldoutDocument], losses: Sequence[float], unigram: np.ndarray
) -> dict[tuple[str, str], Score]:
    """Sums per (language, domain), (language, all) and (all, all)."""
    cells: dict[tuple[str, str], list[tuple[int, int, float, float]]] = {}
    for document, loss in zip(documents, losses, strict=True):
        row = (len(document.tokens), document.utf8_bytes, loss, float(unigram[document.tokens].sum()))
        for cell in ((document.language, document.domain), (document.language, ALL), (ALL, ALL)):
            cells.setdefault(cell, []).append(row)
    return {
        cell: Score(
            documents=len(rows),
            tokens=sum(row[0] for row in rows),
            utf8_bytes=sum(row[1] for row in rows),
            loss_sum=math.fsum(row[2] for row in rows),
            unigram_loss_sum=math.fsum(row[3] for row in rows),
        )
        for cell, rows in sorted(cells.items())
    }


def score_rows(checkpoint: Checkpoint, cells: Mapping[tuple[str, str], Score]) -> list[dict[str, Any]]:
    """Rows of PERPLEXITY for one checkpoint. Figures are rounded: digits below 1e-6 are arithmetic noise."""
    return [
        {
            "run": checkpoint.run,
            "step": checkpoint.step,
            "tokens_seen": checkpoint.tokens_seen,
            "language": language,
            "domain": domain,
            "documents": score.documents,
            "tokens": score.tokens,
            "utf8_bytes": score.utf8_bytes,
            "loss": round(score.loss, 6),
            "perplexity": round(math.exp(score.loss), 4),
            "bits_per_byte": round(score.bits_per_byte, 6),
            "unigram_loss": round(score.unigram_loss_sum / score.tokens, 6),
        }
        for (language, domain), score in cells.items()
    ]


def report(rows: Sequence[Mapping[str, Any]], vocabulary: int) -> StageReport:
    """Counts, trends and plots of all checkpoints' rows (sorted by step)."""
    whole = [row for row in rows if row["language"] == ALL]
    by_language = [row for row in rows if row["domain"] == ALL]
    final = whole[-1]
    # With a single checkpoint there is no trend: compare with a model that knows nothing.
    start = whole[0]["loss"] if len(whole) > 1 else math.log(vocabulary)
    final_rows = [row for row in rows if row["step"] == final["step"]]
    stats = {
        "checkpoints": len(whole),
        "heldout_documents": final["documents"],
        "heldout_tokens": final["tokens"],
        "start_loss": round(start, 6),
        "final_loss": final["loss"],
        "best_loss": min(row["loss"] for row in whole),
        "unigram_loss": final["unigram_loss"],
        "loss_fall": round(start - final["loss"], 6),
        "gain_over_unigram": round(final["unigram_loss"] - final["loss"], 6),
        "rise_above_best": round(final["loss"] - min(row["loss"] for row in whole), 6),
        "final_bits_per_byte": {row["language"]: row["bits_per_byte"] for row in final_rows if row["domain"] == ALL},
    }
    columns = ("language", "domain", "documents", "tokens", "loss", "perplexity", "bits_per_byte", "unigram_loss")
    sample = Sample(f"Step {final['step']}", columns, tuple(tuple(row[c] for c in columns) for row in final_rows))
    series = {language: _trend(by_language, language, "bits_per_byte") for language in _languages(by_language)}
    losses = {language: _trend(by_language, language, "loss") for language in _languages(by_language)}
    losses["all, unigram (baseline)"] = _trend(by_language, ALL, "unigram_loss")
    return StageReport(
        tokens_in=final["tokens"],
        stats=stats,
        samples=[sample],
        plots={
            "Held-out bits per byte": line_plot("bits per byte", series),
            "Held-out loss": line_plot("loss, nats per token", losses),
        },
    )


def _languages(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted({row["language"] for row in rows})


def _trend(rows: Sequence[Mapping[str, Any]], language: str, column: str) -> tuple[list[float], list[float]]:
    of_language = [row for row in rows if row["language"] == language]
    return [row["tokens_seen"] for row in of_language], [row[column] for row in of_language]
