"""Needle in a haystack, short form: can the model use a fact placed at a known depth of its context?

    <end of document> held-out text ... NEEDLE ... held-out text QUESTION -> answer or distractor

The haystack is held-out text of the needle's language, cut so that question and longest answer end
exactly at the context length. Found = the right answer is more probable (mean per token) than every
distractor of the same form. A model may prefer an answer by itself, so the same question is asked of a
haystack without the needle: only the difference to that control shows that the context was used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, cycle, islice
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from assets.build import BuildError, Sample, Segment, StageReport
from assets.evaluation.items import Needle
from assets.evaluation.plots import heat_map, line_plot
from assets.evaluation.probes import Encode, question_tokens
from assets.evaluation.scoring import AnswerScorer, Checkpoint
from assets.evaluation.tokens import heldout_rows
from assets.hashing import hash64


class NeedlesRecipe(BaseModel):
    """Languages, lengths and depths that are tried."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    languages: tuple[str, ...] = ("zh", "en")
    """Languages of needles and haystacks; each needs held-out documents."""
    context_tokens: tuple[int, ...] = (128, 256, 512)
    """Context lengths in tokens; those beyond the model's positions are left out."""
    depths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Where the needle stands in the haystack: 0 = before it, 1 = right before the question."""
    batch_tokens: int = Field(default=4096, gt=0)
    """Tokens in memory per batch."""


@dataclass(frozen=True)
class Trial:
    """One question to the model. `depth` is None in the control: the haystack without the needle."""

    needle: Needle
    context_tokens: int
    depth: float | None
    prefix: list[int]
    answers: list[list[int]]  # the right one first


def haystack_documents(mixture: Segment, languages: Sequence[str]) -> dict[str, list[str]]:
    """Held-out doc_ids per language, sorted. Raises BuildError for a language without any."""
    found: dict[str, list[str]] = {language: [] for language in languages}
    for row in heldout_rows(mixture):
        # A document of one token is its end token alone.
        if row["language"] in found and row["tokens"] > 1:
            found[row["language"]].append(row["doc_id"])
    for language, doc_ids in found.items():
        if not doc_ids:
            raise BuildError(
                f"mixture_manifest/{mixture.partition} holds out no {language!r} document to hide a needle in: "
                "raise the held-out share in [mixture] or take the language out of [needles] languages"
            )
    return {language: sorted(doc_ids) for language, doc_ids in found.items()}


def haystack_for(needle: Needle, doc_ids: Sequence[str], limit: int) -> list[str]:
    """At most `limit` documents in an order drawn for this needle, so that needles see different text."""
    drawn = hash64(f"needle {needle.id}", doc_ids).tolist()
    return [doc_id for _, doc_id in sorted(zip(drawn, doc_ids, strict=True))][:limit]


def usable_lengths(recipe: NeedlesRecipe, max_tokens: int) -> list[int]:
    """Context lengths that the model has positions for. Raises BuildError when there are none."""
    lengths = sorted({length for length in recipe.context_tokens if length <= max_tokens})
    if not lengths:
        raise BuildError(
            f"[needles] context_tokens {list(recipe.context_tokens)} are all beyond the model's {max_tokens} positions"
        )
    return lengths


def build_trials(
    needle: Needle, texts: Sequence[np.ndarray], encode: Encode, start_token: int, length: int, depths: Sequence[float]
) -> list[Trial]:
    """All depths and the control for one needle and length. `texts`: haystack documents without their end tokens."""
    sentence = encode(f"\n{needle.needle}\n")
    prompt, answers = question_tokens(encode, f"\n{needle.question}", [needle.answer, *needle.distractors], start_token)
    question = prompt[1:]
    room = length - 1 - len(question) - max(len(answer) for answer in answers)
    if room - len(sentence) < 1:
        raise BuildError(
            f"needle {needle.id} has {len(sentence)} tokens, its question and answer {length - 1 - room}: no haystack "
            f"fits into {length} tokens; take {length} out of [needles] context_tokens"
        )
    hay = list(islice(chain.from_iterable(text.tolist() for text in cycle(texts)), room))
    trials = [Trial(needle, length, None, [start_token, *hay, *question], answers)]
    hay = hay[: room - len(sentence)]
    for depth in depths:
        place = round(depth * len(hay))
        prefix = [start_token, *hay[:place], *sentence, *hay[place:], *question]
        trials.append(Trial(needle, length, depth, prefix, answers))
    return trials


def needle_rows(
    checkpoint: Checkpoint, scorer: AnswerScorer, trials: Sequence[Trial]
) -> tuple[list[dict[str, Any]], float]:
    """Rows of NEEDLES for one checkpoint, and the share of controls whose right answer was best by itself."""
    losses = scorer.loss_of_answers([trial.prefix for trial in trials], [trial.answers for trial in trials])
    rows, controls = [], []
    for trial, scored in zip(trials, losses, strict=True):
        answer, *distractors = (round(-float(np.mean(one)), 6) for one in scored)
        found = answer > max(distractors)
        if trial.depth is None:
            controls.append(found)
            continue
        rows.append(
            {
                "run": checkpoint.run,
                "step": checkpoint.step,
                "tokens_seen": checkpoint.tokens_seen,
                "language": trial.needle.language,
                "context_tokens": trial.context_tokens,
                "depth": trial.depth,
                "needle": trial.needle.needle,
                "answer_log_probability": answer,
                "distractor_log_probability": max(distractors),
                "found": found,
            }
        )
    rows.sort(key=lambda row: (row["language"], row["context_tokens"], row["depth"], row["needle"]))
    return rows, round(float(np.mean(controls)), 4)


def report(
    rows: Sequence[Mapping[str, Any]], control_rates: Mapping[int, float], chance: float, vocabulary: int
) -> StageReport:
    """Trend over checkpoints and a map of the last one."""
    steps = sorted({row["step"] for row in rows})
    first, final = ([row for row in rows if row["step"] == step] for step in (steps[0], steps[-1]))
    # With a single checkpoint there is no trend: compare with a model that knows nothing.
    start = _answer(first) if len(steps) > 1 else round(-math.log(vocabulary), 6)
    found_rate = _share(final)
    cells = {(row["language"], row["context_tokens"], row["depth"]) for row in final}
    lines = sorted({(language, length) for language, length, _ in cells})
    depths = sorted({depth for _, _, depth in cells})
    shares = [[_share([row for row in final if _cell(row) == (*line, depth)]) for depth in depths] for line in lines]
    stats: dict[str, Any] = {
        "checkpoints": len(steps),
        "trials": len(final),
        "found_rate": found_rate,
        "control_rate": control_rates[steps[-1]],
        "gain_over_control": round(found_rate - control_rates[steps[-1]], 4),
        "chance": round(chance, 4),
        "found_by_step": {str(step): _share([row for row in rows if row["step"] == step]) for step in steps},
        "start_answer_log_probability": start,
        "final_answer_log_probability": _answer(final),
        "answer_log_probability_rise": round(_answer(final) - start, 6),
    }
    tokens_seen = [next(row["tokens_seen"] for row in rows if row["step"] == step) for step in steps]
    trend = {
        "needle found": (tokens_seen, [_share([row for row in rows if row["step"] == step]) for step in steps]),
        "without needle (baseline)": (tokens_seen, [control_rates[step] for step in steps]),
    }
    columns = ("language", "context_tokens", "depth", "needle", "answer_log_probability")
    columns += ("distractor_log_probability", "found")
    return StageReport(
        stats=stats,
        samples=[Sample(f"Step {steps[-1]}", columns, tuple(tuple(row[c] for c in columns) for row in final))],
        plots={
            f"Needles found at step {steps[-1]}": heat_map(
                [f"{language} {length}" for language, length in lines],
                [f"depth {depth:g}" for depth in depths],
                shares,
                "share found",
            ),
            "Needles found over training": line_plot("share", trend),
        },
    )


def _cell(row: Mapping[str, Any]) -> tuple[str, int, float]:
    return row["language"], row["context_tokens"], row["depth"]


def _share(rows: Sequence[Mapping[str, Any]]) -> float:
    return round(float(np.mean([row["found"] for row in rows])), 4)


def _answer(rows: Sequence[Mapping[str, Any]]) -> float:
    return round(float(np.mean([row["answer_log_probability"] for row in rows])), 6)
