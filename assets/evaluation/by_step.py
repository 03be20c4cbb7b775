"""The scores of each checkpoint as flat names, for whoever plots them beside the training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

Rows = Sequence[Mapping[str, Any]]


def scores_by_step(perplexity: Rows, probes: Rows, needles: Rows) -> dict[int, dict[str, float]]:
    """Step -> eval/loss, eval/loss/zh, eval/probes/pass_rate, eval/needles/found_rate and the like, steps ascending."""
    found: dict[int, dict[str, float]] = {}
    for row in perplexity:
        scores = found.setdefault(row["step"], {"eval/tokens_seen": float(row["tokens_seen"])})
        if row["domain"] == "all":
            for name in ("loss", "perplexity", "bits_per_byte"):
                scores[f"eval/{name}{_of(row['language'])}"] = float(row[name])
    for step, scores in found.items():
        mine = [row for row in probes if row["step"] == step]
        judged = [row for row in mine if row["passed"] is not None]
        scores |= _means("eval/probes/log_probability", mine, "log_probability")
        scores |= _means("eval/probes/pass_rate", judged, "passed")
        hidden = [row for row in needles if row["step"] == step]
        scores |= _means("eval/needles/found_rate", hidden, "found")
        scores |= _means("eval/needles/answer_log_probability", hidden, "answer_log_probability")
    return dict(sorted(found.items()))


def _of(language: str) -> str:
    return "" if language == "all" else f"/{language}"


def _means(name: str, rows: Rows, column: str) -> dict[str, float]:
    """Over all rows and over those of each language; none where there is no row."""
    groups = {"": list(rows)} if rows else {}
    for row in rows:
        groups.setdefault(_of(row["language"]), []).append(row)
    return {f"{name}{of}": fmean(float(row[column]) for row in group) for of, group in groups.items()}
