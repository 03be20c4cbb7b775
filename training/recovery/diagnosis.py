"""What caused an incident: the documents of its window, or the optimiser.

Losses per document are compared with those of the steps before the window, under the same weights, so it does
not matter how good the weights are. Documents that stand out and carry most of the deviation are the cause. If none
do, the same text has become harder for the weights: that is the optimiser's doing. Everything here is a function of
tables and numbers; scoring.py makes them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa

from training.contract.bands import SIGMA_PER_MAD, IncidentPolicy
from training.recovery.incidents import Cause

FEWEST_OF_A_CHANNEL = 8
"""Reference documents of a channel below which all channels together are the reference."""
SMALLEST_LOSS = 1e-4
"""Nats per token; below it, text is simply known."""
OFF_PLAN = 1.01
"""Ratio of the recorded to the planned learning rate: they are equal but for rounding."""
RANKED = 50
"""Sequences of the window that are written down, those that deviate most first."""


@dataclass(frozen=True)
class Suspect:
    """A document whose loss stands out."""

    doc_id: str
    channel: str
    sequence: int
    """Where it stands out most."""
    loss: float
    expected: float
    sigmas: float
    weights: str  # then | good: under which weights


@dataclass(frozen=True)
class Finding:
    """The cause, and what speaks for it."""

    cause: Cause
    suspects: tuple[Suspect, ...]
    evidence: dict[str, float | None]
    ranking: list[dict[str, Any]]


@dataclass(frozen=True)
class Window:
    """Where an incident is, in steps and in sequences."""

    kind: str
    first_step: int
    last_step: int
    expected: float
    global_batch_size: int
    before_steps: int

    @property
    def begin(self) -> int:
        """First sequence that may have caused it."""
        return max(0, self.first_step - 1 - self.before_steps) * self.global_batch_size

    @property
    def inside(self) -> int:
        """First sequence of its first step."""
        return (self.first_step - 1) * self.global_batch_size

    @property
    def end(self) -> int:
        """Sequence after its last."""
        return self.last_step * self.global_batch_size


def suspects_in(losses: pa.Table, window: Window, policy: IncidentPolicy, weights: str) -> list[Suspect]:
    """Documents from the window's begin on whose loss deviates as the incident does, the furthest first.

    `losses` has sequence, doc_id, channel, tokens, loss for each piece; those before the window are the reference. A drop is
    measured in logarithms: a loss ends at 0, which on its own scale may be less than six widths below the usual.
    """
    falls = window.kind == "loss_drop"
    rows = [row for row in losses.to_pylist() if row["tokens"] >= policy.smallest_document_tokens]
    for row in rows:
        row["place"] = math.log(max(row["loss"], SMALLEST_LOSS)) if falls else row["loss"]
    reference = [row for row in rows if row["sequence"] < window.begin and math.isfinite(row["loss"])]
    usual: dict[str, tuple[float, float]] = {}
    for channel in {row["channel"] for row in rows}:
        mine = [row["place"] for row in reference if row["channel"] == channel]
        values = mine if len(mine) >= FEWEST_OF_A_CHANNEL else [row["place"] for row in reference]
        if values:
            level = median(values)
            usual[channel] = level, SIGMA_PER_MAD * median(abs(value - level) for value in values)
    found: dict[str, Suspect] = {}
    for row in rows:
        if row["sequence"] < window.begin or row["channel"] not in usual:
            continue
        place, spread = usual[row["channel"]]
        level = math.exp(place) if falls else place
        distance = row["loss"] - level
        sigmas = (row["place"] - place) / spread if spread else math.copysign(math.inf, distance)
        if not math.isfinite(row["loss"]):
            sigmas = distance = math.inf
        towards = -sigmas if falls else sigmas
        if towards > policy.document_sigmas and abs(distance) >= policy.smallest_document_change * level:
            suspect = Suspect(row["doc_id"], row["channel"], row["sequence"], row["loss"], level, sigmas, weights)
            if suspect.doc_id not in found or abs(sigmas) > abs(found[suspect.doc_id].sigmas):
                found[suspect.doc_id] = suspect
    return sorted(found.values(), key=lambda s: (-abs(s.sigmas), s.doc_id))


def explained_share(window: Window, trained: np.ndarray, tainted: set[int]) -> float:
    """Share of the window's deviation that the sequences of suspects carry; `trained` are its losses, [steps, batch]."""
    excess = trained.astype(np.float64) - window.expected
    if not np.isfinite(excess).all():
        return 1.0 if tainted else 0.0
    mine = np.isin(np.arange(window.inside, window.end).reshape(excess.shape), sorted(tainted))
    total = excess.sum()
    return float(excess[mine].sum() / total) if total else 0.0


def diagnose(
    window: Window,
    policy: IncidentPolicy,
    *,
    then: pa.Table,
    good: pa.Table | None,
    trained: np.ndarray,
    reference_trained: float,
    metrics: Sequence[Mapping[str, Any]],
) -> Finding:
    """`then` and `good` are losses under the weights of the moment and of the last good checkpoint; `trained` are the losses
    of the window's sequences when they were trained on; `reference_trained` is the mean of those before it; `metrics` are
    the rows of the window's steps, with `planned_learning_rate` and `expected_gradient_norm`.
    """
    candidates = suspects_in(good, window, policy, "good") if good is not None else []
    if good is None or window.kind == "loss_drop":
        # Weights that a spike has spoilt find fault with clean text, too. What was learned by heart, only they know.
        candidates += suspects_in(then, window, policy, "then")
    best: dict[str, Suspect] = {}
    for suspect in candidates:
        if suspect.doc_id not in best or abs(suspect.sigmas) > abs(best[suspect.doc_id].sigmas):
            best[suspect.doc_id] = suspect
    suspects = sorted(best.values(), key=lambda s: (-abs(s.sigmas), s.doc_id))
    tainted = {row["sequence"] for row in then.to_pylist() if row["doc_id"] in best and row["sequence"] < window.end}
    share = explained_share(window, trained, tainted)
    clean_now = mean_loss(then, 0, window.begin)
    evidence: dict[str, float | None] = {
        "suspect_documents": len(suspects),
        "explained_share": share,
        "clean_loss_when_trained": reference_trained,
        "clean_loss_then": clean_now,
        "clean_loss_good": mean_loss(good, 0, window.begin) if good is not None else None,
        "window_loss_when_trained": float(trained.mean()),
        "window_loss_then": mean_loss(then, window.inside, window.end),
        "window_loss_good": mean_loss(good, window.inside, window.end) if good is not None else None,
        "learning_rate_over_plan": max(row["learning_rate"] / row["planned_learning_rate"] for row in metrics),
        "gradient_over_expected": max(row["gradient_norm"] / row["expected_gradient_norm"] for row in metrics),
    }
    cause: Cause = "unexplained"
    if suspects and share >= policy.smallest_explained_share:
        cause = "data"
    elif optimiser_deviates(window, policy, evidence):
        cause = "optimiser"
    ranking = rank_sequences(window, trained, then)
    return Finding(cause, tuple(suspects) if cause == "data" else (), evidence, ranking)


def optimiser_deviates(window: Window, policy: IncidentPolicy, evidence: Mapping[str, float | None]) -> bool:
    """Clean text has become harder, the learning rate is not the planned one, gradients exploded, or good weights find
    nothing wrong with the text of the spike.
    """
    good = evidence["window_loss_good"]
    now, before = evidence["clean_loss_then"], evidence["clean_loss_when_trained"]
    gradient, rate = evidence["gradient_over_expected"], evidence["learning_rate_over_plan"]
    assert now is not None
    assert before is not None
    assert gradient is not None
    assert rate is not None
    worse = 1 + policy.smallest_relative_change
    trained = evidence["window_loss_when_trained"] or 0.0
    return (
        window.kind == "non_finite"
        or (window.kind == "loss_spike" and good is not None and trained >= good * worse)
        or not math.isfinite(now)
        or now >= before * worse
        or rate > OFF_PLAN
        or gradient >= policy.smallest_gradient_ratio
    )


def mean_loss(losses: pa.Table, begin: int, end: int) -> float:
    """Mean over the tokens of sequences begin, ..., end - 1; NaN where there are none."""
    sequence = losses["sequence"].to_numpy()
    mine = (sequence >= begin) & (sequence < end)
    tokens = losses["tokens"].to_numpy()[mine]
    return float((losses["loss"].to_numpy()[mine] * tokens).sum() / tokens.sum()) if mine.any() else math.nan


def rank_sequences(window: Window, trained: np.ndarray, then: pa.Table) -> list[dict[str, Any]]:
    """The window's sequences whose loss was furthest from the expected one when they were trained on."""
    documents: dict[int, list[str]] = {}
    for row in then.select(["sequence", "doc_id"]).to_pylist():
        documents.setdefault(row["sequence"], []).append(row["doc_id"])
    first = window.inside
    losses = trained.ravel()
    distance = np.where(np.isfinite(losses), np.abs(losses - window.expected), np.inf)
    order = np.lexsort((np.arange(len(losses)), -distance))[:RANKED]
    return [
        {
            "sequence": first + int(at),
            "step": (first + int(at)) // window.global_batch_size + 1,
            "loss": float(losses[at]),
            "expected": window.expected,
            "doc_ids": documents.get(first + int(at), []),
        }
        for at in order
    ]


def as_json(finding: Finding) -> dict[str, Any]:
    """For decision.json."""
    return asdict(finding) | {"suspects": [asdict(suspect) for suspect in finding.suspects]}
