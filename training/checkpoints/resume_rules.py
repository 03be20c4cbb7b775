"""Which checkpoint a request may continue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training.checkpoints.files import read_marker
from training.contract.errors import ResumeMismatchError
from training.contract.request import TrainRequest

DECAY_DECIDES = (
    "schedule.total_steps",
    "schedule.decay_steps",
    "schedule.min_lr_ratio",
    "data.decay_order_fingerprint",
)
"""Fields of a run's identity that decide nothing until the decay phase begins."""


def check_resumable(folder: Path, request: TrainRequest) -> None:
    """Raises ResumeMismatchError naming each field in which the checkpoint's run differs from the request.

    A checkpoint of the stable phase may be continued by any decay, and by another run if the request names it
    in `resume_from`: so several decays branch off one stable phase. One of the decay phase by its own alone.
    """
    marker = read_marker(folder)
    decay_after, different = differences(marker, request, other_run=folder == request.resume_from)
    if different:
        begun = (
            ""
            if marker["step"] <= decay_after
            else f" (its decay phase, or that of the request, begins after step {decay_after})"
        )
        raise ResumeMismatchError(
            f"checkpoint {folder.name} of run {marker['identity']['run']}{begun} cannot be continued with this request, which "
            f"differs in {'; '.join(different)}. Start with an empty output folder, or restore the values of the checkpoint"
        )


def differences(marker: dict[str, Any], request: TrainRequest, *, other_run: bool) -> tuple[int, list[str]]:
    """(last step before either decay phase, each field that keeps the request from continuing the marker's checkpoint).

    `other_run`: its name may be another one, as long as no decay has begun.
    """
    saved, wanted = _flat(marker["identity"]), _flat(request.identity())
    decay_after = min(saved["schedule.total_steps"] - saved["schedule.decay_steps"], request.schedule.stable_until)
    free: set[str] = set()
    if marker["step"] <= decay_after:
        free.update(DECAY_DECIDES, ("run",) if other_run else ())
    return decay_after, [
        f"{k}: {saved.get(k)!r} -> {wanted.get(k)!r}"
        for k in sorted((saved | wanted).keys() - free)
        if saved.get(k) != wanted.get(k)
    ]


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
