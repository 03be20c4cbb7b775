"""Where a run starts from. One function decides, top to bottom; all ranks call it and come to the same."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch.distributed as dist

from training.checkpoints.branching import take_over
from training.checkpoints.files import (
    MARKER,
    damage_of,
    first_damage,
    keeps_state,
    remove_incomplete,
    resumable_checkpoints,
    set_aside,
    step_of,
)
from training.checkpoints.resume_rules import check_resumable
from training.contract.errors import CheckpointDamagedError, ResumeMismatchError
from training.contract.request import TrainRequest

log = logging.getLogger(__name__)
Told = TypeVar("Told")


@dataclass(frozen=True)
class Start:
    """What a run starts from, and what was done to find it."""

    kind: Literal["own checkpoint", "resume_from", "branch", "hugging face", "random weights"]
    folder: Path | None = None
    """Of the checkpoint that is continued; None at step 0."""
    taken_over_from: str | None = None
    """The run whose steps were taken over."""
    set_aside: list[dict[str, Any]] = field(default_factory=list)
    """Checkpoints of this run that were damaged."""


def starting_point(request: TrainRequest, group: dist.ProcessGroup | None) -> Start:
    """The newest whole checkpoint of the run itself, else the one that it is told to continue, else what another run has
    trained of the same stable phase, else a Hugging Face model, else random weights.

    Raises ResumeMismatchError for a checkpoint that this request must not continue, CheckpointDamagedError for one that it
    names and that is not what was saved.
    """
    ranks = _Ranks(group)
    own, aside = _newest_whole(request, ranks)
    if own is not None:
        start = Start("own checkpoint", own, set_aside=aside)
    elif request.resume_from is not None:
        start = Start("resume_from", _checked(request.resume_from, ranks), set_aside=aside)
    elif (run := ranks.told(lambda: take_over(request))) is not None:
        taken, damaged = _newest_whole(request, ranks)
        start = Start("branch" if taken else "random weights", taken, run, aside + damaged)
    else:
        start = Start("hugging face" if request.start_from_hf else "random weights", set_aside=aside)
    if start.folder is not None:
        check_resumable(start.folder, request)
    return start


class _Ranks:
    """What rank 0 finds is told to the others; files are read by all, each its share."""

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self._group = group

    def told(self, find: Callable[[], Told]) -> Told:
        told: list[Any] = [find() if dist.get_rank() == 0 else None]
        dist.broadcast_object_list(told, src=0, group=self._group)
        return told[0]

    def damage(self, folder: Path) -> str | None:
        found: list[str | None] = [None] * dist.get_world_size()
        dist.all_gather_object(found, damage_of(folder, dist.get_rank(), dist.get_world_size()), group=self._group)
        return first_damage(found)


def _newest_whole(request: TrainRequest, ranks: _Ranks) -> tuple[Path | None, list[dict[str, Any]]]:
    """The newest whole checkpoint of this run, and what was set aside to get to it."""
    begun_at = request.resume_from
    first = step_of(begun_at) if begun_at is not None and begun_at.name.startswith("step-") else 0
    aside: list[dict[str, Any]] = []
    if dist.get_rank() == 0:
        remove_incomplete(request.output)
    while True:
        folder = ranks.told(
            lambda: next(iter(resumable_checkpoints(request.output, request.checkpoint_steps, first)), None)
        )
        if folder is None:
            return None, aside
        reason = ranks.damage(folder)
        if reason is None:
            return folder, aside
        if dist.get_rank() == 0:
            moved = set_aside(folder, request.output, reason)
            log.error("checkpoint %s is damaged: %s. It is set aside as %s", folder.name, reason, moved)
            aside.append({"checkpoint": folder.name, "reason": reason, "moved_to": f"{moved.parent.name}/{moved.name}"})


def _checked(folder: Path, ranks: _Ranks) -> Path:
    if not (folder / MARKER).is_file():
        raise ResumeMismatchError(f"resume_from {folder} is not a complete checkpoint: it has no {MARKER}")
    if not keeps_state(folder):
        raise ResumeMismatchError(
            f"resume_from {folder} was kept without its optimiser's state (state_steps of its run): it can be evaluated, or "
            "begun from as start_from_hf, but not continued"
        )
    if reason := ranks.damage(folder):
        raise CheckpointDamagedError(
            f"resume_from {folder} is damaged: {reason}. Name another checkpoint, or restore this one from its store"
        )
    return folder
