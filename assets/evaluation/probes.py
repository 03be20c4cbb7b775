"""Probability probes: how probable a checkpoint finds a right answer, and whether more so than a wrong one.

A tiny base model cannot follow a quiz, but the probability of single words moves long before. The score
is the mean log probability per token of the target after its prompt; a probe passes when that is higher
than for the contrast. Watch the trend: a base model of a few million parameters guesses at many of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from assets.build import BuildError, Sample, StageReport
from assets.evaluation.items import Probe
from assets.evaluation.plots import line_plot
from assets.evaluation.scoring import AnswerScorer, Checkpoint


class ProbesRecipe(BaseModel):
    """Which probes are asked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kinds: tuple[str, ...] = ("continuation", "contrast", "sentence", "instruction")
    """Kinds of probes that are scored."""
    batch_tokens: int = Field(default=4096, gt=0)
    """Tokens in memory per batch."""


class Encode(Protocol):
    """Text to token ids, without special tokens."""

    def __call__(self, text: str) -> list[int]: ...


def question_tokens(
    encode: Encode, prompt: str, answers: Sequence[str], start_token: int
) -> tuple[list[int], list[list[int]]]:
    """Prompt tokens and the tokens of each answer after it.

    Prompt and answer are encoded together, as the text would be in training, and cut where they stop
    agreeing with the prompt: a merge across the boundary belongs to the answer, for all answers alike.
    """
    alone = encode(prompt) if prompt else []
    whole = [encode(prompt + answer) for answer in answers]
    cut = min(min(_common(alone, tokens), len(tokens) - 1) for tokens in whole)
    return [start_token, *whole[0][:cut]], [tokens[cut:] for tokens in whole]


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))


def choose_probes(probes: Sequence[Probe], recipe: ProbesRecipe) -> list[Probe]:
    """The probes of the recipe's kinds, sorted by id. Raises BuildError when there are none."""
    chosen = sorted((probe for probe in probes if probe.kind in recipe.kinds), key=lambda probe: probe.id)
    if not chosen:
        raise BuildError(f"[probes] kinds = {list(recipe.kinds)} selects none of {len(probes)} probes")
    return chosen


def probe_rows(
    checkpoint: Checkpoint, scorer: AnswerScorer, probes: Sequence[Probe], encode: Encode, start_token: int
) -> list[dict[str, Any]]:
    """Rows of PROBES for one checkpoint."""
    asked = []
    for probe in probes:
        answers = [probe.target] if probe.contrast is None else [probe.target, probe.contrast]
        asked.append(question_tokens(encode, probe.prompt, answers, start_token))
    losses = scorer.loss_of_answers([prefix for prefix, _ in asked], [answers for _, answers in asked])
    rows = []
    for probe, scored in zip(probes, losses, strict=True):
        log_probabilities = [round(-float(np.mean(answer)), 6) for answer in scored]
        contrast = log_probabilities[1] if probe.contrast is not None else None
        rows.append(
            {
                "run": checkpoint.run,
                "step": checkpoint.step,
                "tokens_seen": checkpoint.tokens_seen,
                "probe_id": probe.id,
                "language": probe.language,
                "kind": probe.kind,
                "prompt": probe.prompt,
                "target": probe.target,
                "log_probability": log_probabilities[0],
                "contrast_log_probability": contrast,
                "passed": None if contrast is None else log_probabilities[0] > contrast,
            }
        )
    return rows


def report(rows: Sequence[Mapping[str, Any]], vocabulary: int) -> StageReport:
    """Trends per kind and language, and the final answers."""
    steps = sorted({row["step"] for row in rows})
    first, final = ([row for row in rows if row["step"] == step] for step in (steps[0], steps[-1]))
    # With a single checkpoint there is no trend: compare with a model that knows nothing.
    start = _mean(first) if len(steps) > 1 else round(-math.log(vocabulary), 6)
    judged = [row for row in final if row["passed"] is not None]
    groups = sorted({(row["language"], row["kind"]) for row in rows})
    stats: dict[str, Any] = {
        "checkpoints": len(steps),
        "probes": len(final),
        "judged": len(judged),
        "start_log_probability": start,
        "final_log_probability": _mean(final),
        "log_probability_rise": round(_mean(final) - start, 6),
        "passed": {str(step): sum(bool(r["passed"]) for r in rows if r["step"] == step) for step in steps},
        "pass_rate": round(sum(row["passed"] for row in judged) / len(judged), 4) if judged else 0.0,
        "final_by_group": {f"{g[0]} {g[1]}": _mean([r for r in final if _group(r) == g]) for g in groups},
    }
    columns = ("probe_id", "prompt", "target", "log_probability", "contrast_log_probability", "passed")
    sample = Sample(f"Step {steps[-1]}", columns, tuple(tuple(row[c] for c in columns) for row in final))
    trend = {
        f"{group[0]} {group[1]}": _trend([row for row in rows if _group(row) == group], steps, _mean)
        for group in groups
    }
    passes = {
        language: _trend([row for row in rows if row["language"] == language], steps, _pass_rate)
        for language in sorted({row["language"] for row in rows})
    }
    return StageReport(
        stats=stats,
        samples=[sample],
        plots={
            "Log probability of the target": line_plot("nats per token", trend),
            "Share of probes passed": line_plot("share", passes),
        },
    )


def _group(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["language"], row["kind"]


def _mean(rows: Sequence[Mapping[str, Any]]) -> float:
    return round(float(np.mean([row["log_probability"] for row in rows])), 6)


def _pass_rate(rows: Sequence[Mapping[str, Any]]) -> float:
    judged = [row["passed"] for row in rows if row["passed"] is not None]
    return float(np.mean(judged)) if judged else 0.0


def _trend(rows: Sequence[Mapping[str, Any]], steps: Sequence[int], value: Any) -> tuple[list[float], list[float]]:
    at_step = [[row for row in rows if row["step"] == step] for step in steps]
    return [found[0]["tokens_seen"] for found in at_step], [value(found) for found in at_step]
