"""What the training program left, as tables: checked against what was asked, then described."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from assets.build import BuildError
from training.contract import outputs
from training.contract.request import TrainRequest

VOLATILE_FILES = (
    f"{outputs.CHECKPOINTS}/*/dcp/*",
    f"{outputs.CHECKPOINTS}/*/{outputs.MARKER}",
    *outputs.RECORDS,
    outputs.ATTEMPTS,
    outputs.INCIDENTS_PASSED,
    f"{outputs.INCIDENTS}/*",
)
"""Bytes that name files by rank or describe the machine. The data are the tables and the exports."""


def attempts_of(output: Path) -> list[dict[str, Any]]:
    """One entry per start of the training program: where it went on, and the damaged checkpoints that it set aside."""
    return _lines(output / outputs.ATTEMPTS)


def jsonl_rows(path: Path) -> list[dict[str, Any]]:
    """Lines of a file that the program writes only when it was asked to measure."""
    return _lines(path) if path.is_file() else []


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def metric_rows(output: Path, steps: int) -> list[dict[str, Any]]:
    """One row per step 1..steps. Raises BuildError where a step is missing or recorded twice."""
    rows = _lines(output / outputs.METRICS)
    found = [row["step"] for row in rows]
    if found != list(range(1, steps + 1)):
        wrong = next((i + 1 for i, step in enumerate(found) if step != i + 1), len(found) + 1)
        raise BuildError(
            f"{outputs.METRICS} has {len(found)} lines for {steps} steps and goes wrong at step {wrong}: the training program "
            "records each step once; delete the output folder of this attempt and train again"
        )
    return [row | {"channel_loss": sorted(row["channel_loss"].items())} for row in rows]


def checkpoint_rows(output: Path, request: TrainRequest, metrics: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per requested step. Raises BuildError if one is not complete or its weights are not those that were saved."""
    rows = []
    for step in request.checkpoint_steps:
        folder = outputs.checkpoint_folder(step)
        marker = output / folder / outputs.MARKER
        if not marker.is_file():
            raise BuildError(
                f"{folder} is not complete, though training ended: train again, it resumes before this step"
            )
        said = json.loads(marker.read_text("utf-8"))
        weights = output / folder / "hf" / "model.safetensors"
        sha256 = file_sha256(weights)
        if sha256 != said["weights_sha256"]:
            raise BuildError(
                f"{folder}/hf/model.safetensors has SHA-256 {sha256}, but was saved as {said['weights_sha256']}: "
                "the file was changed or damaged; delete the folder and train again"
            )
        metric = metrics[step - 1]
        rows.append(
            {
                "run": request.run,
                "step": step,
                "tokens_seen": said["tokens_seen"],
                "sequences_seen": said["sequences_seen"],
                "train_loss": metric["loss"],
                "learning_rate": metric["learning_rate"],
                "folder": folder,
                "weights_sha256": sha256,
                "parameters": parameters_in(weights),
            }
        )
    return rows


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parameters_in(weights: Path) -> int:
    """Numbers in a safetensors file, from its header: 8 bytes of length, then JSON."""
    with weights.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def statistics(metrics: Sequence[Mapping[str, Any]], request: TrainRequest) -> dict[str, Any]:
    """What the checks of base_checkpoints look at."""
    losses = [row["loss"] for row in metrics]
    tail = losses[-max(1, len(losses) // 20) :]
    final = sum(tail) / len(tail)
    clip = request.optimiser.max_gradient_norm
    seconds = sum(row["step_s"] for row in metrics)
    channels = sorted({name for row in metrics for name, _ in row["channel_loss"]})
    uniform = math.log(request.model.vocab_size)
    return {
        "steps": len(metrics),
        "checkpoints": len(request.checkpoint_steps),
        "tokens_seen": metrics[-1]["tokens_seen"],
        "first_loss": losses[0],
        "final_loss": final,
        "final_loss_share_of_first": final / losses[0],
        "first_loss_over_uniform": losses[0] / uniform,
        "uniform_loss": uniform,
        "largest_gradient_norm": max(row["gradient_norm"] for row in metrics),
        "clipped_share": sum(row["gradient_norm"] > clip for row in metrics) / len(metrics),
        "tokens_per_s": median(row["tokens_per_s"] for row in metrics),
        "mfu": median(row["mfu"] for row in metrics),
        "monitoring_share": sum(row["monitoring_s"] for row in metrics) / seconds if seconds else 0.0,
        "data_wait_share": sum(row["data_wait_s"] for row in metrics) / seconds if seconds else 0.0,
        "final_channel_loss": {name: _mean_of_channel(metrics[-len(tail) :], name) for name in channels},
    }


def _mean_of_channel(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = [value for row in rows for channel, value in row["channel_loss"] if channel == name]
    return sum(values) / len(values) if values else None


def channel_curves(
    metrics: Sequence[Mapping[str, Any]], points: int = 120
) -> dict[str, tuple[list[float], list[float]]]:
    """Loss over steps per channel, averaged over equal stretches so that a plot stays readable."""
    stretch = max(1, len(metrics) // points)
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for begin in range(0, len(metrics), stretch):
        rows = metrics[begin : begin + stretch]
        named = {"all": [row["loss"] for row in rows]}
        for row in rows:
            for name, value in row["channel_loss"]:
                named.setdefault(name, []).append(value)
        for name, values in named.items():
            x, y = curves.setdefault(name, ([], []))
            x.append(rows[-1]["step"])
            y.append(sum(values) / len(values))
    return curves
