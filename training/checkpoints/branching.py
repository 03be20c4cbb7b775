"""What another run has trained of the same stable phase is taken over, not trained again.

Runs that differ in their decay alone are one run until it begins: several decays branch off one stable phase, and each
costs its own steps only. Taken over is what would come out bit for bit the same: the request, the layout, what is watched
and the environment are those of the other run, and no incident was acted on before. So whether there was anything to take
over changes nothing that is published but the record of attempts.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

from training.checkpoints.files import (
    MARKER,
    complete_checkpoints,
    keeps_state,
    marker_text,
    read_marker,
    rolling_folder,
    step_folder,
    step_of,
)
from training.checkpoints.resume_rules import differences
from training.contract.outputs import CHECKPOINTS, INCIDENTS, RECORDS
from training.contract.request import TrainRequest
from training.machine.durable_files import write_durably
from training.machine.environment import environment

DECIDES_BITS = (
    "parallelism",
    "pipeline",
    "execution",
    "local_batch_size",
    "threads",
    "incidents",
    "watch",
)
"""Fields of a request that may differ when a run is continued, but not when its bits are to be the same."""


def take_over(request: TrainRequest) -> str | None:
    """Fill the output with what the run of `branch_from` has trained; its name, None if it does not fit.

    Not where incidents of this run were acted on. An interruption leaves whole checkpoints or none.
    """
    other = request.branch_from
    if other is None or (request.output / INCIDENTS).exists():
        return None
    shared = shared_checkpoints(other, request)
    if not shared:
        return None
    _copy_records(other, request.output)
    for folder in shared:
        _adopt(folder, request)
    return str(read_marker(shared[-1])["run"])


def shared_checkpoints(other: Path, request: TrainRequest) -> list[Path]:
    """Checkpoints of another run's output that this run would make just so, and last the one that it can go on from."""
    found = {}
    bits = _bits(
        {"request": request.portable(), "heldout_sha256": heldout_sha256(request), "environment": environment()}
    )
    for folder in complete_checkpoints(other):
        with contextlib.suppress(ValueError, KeyError):  # of another version of this program, or damaged
            if folder.parent == other / CHECKPOINTS and _is_ours(read_marker(folder), request, bits):
                found[step_of(folder)] = folder
    for last in sorted(found, reverse=True):
        wanted = [step for step in request.checkpoint_steps if step < last]
        if keeps_state(found[last]) and found.keys() >= set(wanted):
            return [found[step] for step in (*wanted, last)]
    return []


def _is_ours(marker: dict[str, Any], request: TrainRequest, bits: dict[str, Any]) -> bool:
    decay_after, different = differences(marker, request, other_run=True)
    return marker["step"] <= decay_after and not different and not marker["amendments"] and _bits(marker) == bits


def _bits(marker: dict[str, Any]) -> dict[str, Any]:
    """What must be equal besides a run's identity for its bits to be."""
    request, place = marker["request"], marker["environment"]
    return {
        **{name: request[name] for name in DECIDES_BITS},
        "channels": request["data"]["channels"],
        "heldout_sha256": marker["heldout_sha256"],
        **{name: place[name] for name in ("python", "machine", "device", "libraries")},
    }


def heldout_sha256(request: TrainRequest) -> str | None:
    """Of the order over held-out documents; None where they are never scored."""
    if not request.watch.heldout_every_steps:
        return None
    digest = hashlib.sha256()
    for path in request.watch.heldout:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _copy_records(other: Path, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    for name in RECORDS:
        if (other / name).is_file():
            (output / name).unlink(missing_ok=True)  # never into it: it may be linked into a store
            shutil.copyfile(other / name, output / name)


def _adopt(folder: Path, request: TrainRequest) -> None:
    """The checkpoint as one of this run's: the same files, a marker that says for which run."""
    step = step_of(folder)
    target = (step_folder if step in request.checkpoint_steps else rolling_folder)(request.output, step)
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / MARKER:
            _same_file(path.resolve(), target / path.relative_to(folder))
    marker = read_marker(folder)
    ours = {
        "run": request.run,
        "identity": request.identity(),
        "request": request.portable(),
        "decay_order_fingerprint": request.decay_order_fingerprint,
        "taken_over_from": marker["run"],
    }
    write_durably(target / MARKER, marker_text(marker | ours))


def _same_file(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another disk
        shutil.copyfile(source, target)
