"""An earlier run with the same stable phase, as a folder that the training program can take checkpoints from."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from assets.build import BuildError, Segment
from training.contract import outputs
from training.contract.request import TrainRequest

log = logging.getLogger(__name__)

CHECKPOINT = f"{outputs.CHECKPOINTS}/step-"


def branch_folder(others: Sequence[Segment], request: TrainRequest, folder: Path) -> Path | None:
    """The output of the newest run that read the same order with the same model, with its checkpoints from before the decay.

    Links into the store, which may have to fetch them: so only one run is looked at. Whether a checkpoint fits is for the
    training program to say, which hashes what it continues.
    """
    for segment in others:
        wanted = [
            name
            for name in segment.files
            if name in outputs.RECORDS or 0 < _step(name) <= request.schedule.stable_until
        ]
        marker = next((name for name in wanted if name.endswith(f"/{outputs.MARKER}")), None)
        try:
            if marker is not None and _alike(json.loads(segment.path(marker).read_text("utf-8")), request):
                return _linked(segment, wanted, folder / "branch")
        except BuildError as error:  # a file is damaged: every step is trained then
            log.warning("nothing is taken over from run %s: %s", segment.partition, error)
    return None


def _linked(segment: Segment, names: Sequence[str], folder: Path) -> Path:
    for name in names:
        link = folder / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(segment.path(name).absolute())
    return folder


def _alike(marker: Mapping[str, Any], request: TrainRequest) -> bool:
    """Worth a look: what is compared here are the fields that recipes change most."""
    theirs, ours = marker["request"], request.portable()
    same_order = marker["order_fingerprint"] == request.data.order_fingerprint
    return same_order and all(theirs[name] == ours[name] for name in ("model", "optimiser", "parallelism"))


def _step(name: str) -> int:
    """Of a checkpoint's file; 0 for any other."""
    return int(name.removeprefix(CHECKPOINT).partition("/")[0]) if name.startswith(CHECKPOINT) else 0
