"""Checkpoints as folders: where they lie, which are whole, what becomes of one that is not.

    OUTPUT/checkpoints/step-00000100/
        dcp/            torchtitan's distributed checkpoint: weights, optimiser, schedule, position in the order
        hf/             config.json, model.safetensors
        complete.json   written last: what was saved, from what, in which environment, and the SHA-256 of every file
    OUTPUT-rolling/step-00000120/     the same without hf/: only to resume from, replaced by newer ones
    OUTPUT-damaged/step-00000100/     set aside: its files are not those that were saved; damage.txt says which

A folder without `complete.json` is the rest of an interrupted save: never loaded, removed at the next start.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from training.contract.outputs import CHECKPOINTS, MARKER, ROLLING, checkpoint_folder
from training.machine.durable_files import write_durably

KEPT_ROLLING = 2
"""The newest may turn out damaged: one more to fall back on."""

FileSums = dict[str, dict[str, Any]]
"""Path inside the checkpoint -> {bytes, sha256}."""


def step_folder(output: Path, step: int) -> Path:
    """Folder of one requested step; zero-padded so that names sort as steps do."""
    return output / checkpoint_folder(step)


def rolling_folder(output: Path, step: int) -> Path:
    """Folder of one step that is saved only to resume from: beside the output, all of which is published."""
    return beside(output, ROLLING) / f"step-{step:08d}"


def beside(output: Path, name: str) -> Path:
    """A neighbour of the output folder: what belongs to the run but is not published with it."""
    return output.with_name(f"{output.name}-{name}")


def step_of(folder: Path) -> int:
    """Step of a checkpoint folder, from its name."""
    return int(folder.name.removeprefix("step-"))


def _folders(output: Path) -> list[Path]:
    return [*output.glob(f"{CHECKPOINTS}/step-*"), *beside(output, ROLLING).glob("step-*")]


def complete_checkpoints(output: Path) -> list[Path]:
    """Complete checkpoint folders, requested and rolling ones, oldest step first. Their files are not looked at."""
    return sorted((folder for folder in _folders(output) if (folder / MARKER).is_file()), key=step_of)


def read_marker(folder: Path) -> dict[str, Any]:
    """What a complete checkpoint says of itself."""
    return json.loads((folder / MARKER).read_text("utf-8"))


def resumable_checkpoints(output: Path, requested: Iterable[int], first: int) -> list[Path]:
    """Complete checkpoints that a run may continue from, newest first.

    Not those behind a requested step (after step `first`) that has no checkpoint: going on there would never make it.
    """
    complete = complete_checkpoints(output)
    made = {step_of(folder) for folder in complete if folder.parent == output / CHECKPOINTS}
    missing = min((step for step in requested if step > first and step not in made), default=None)
    found = [folder for folder in complete if missing is None or step_of(folder) < missing]
    return [folder for folder in reversed(found) if keeps_state(folder)]


def keeps_state(folder: Path) -> bool:
    """Whether a run can be continued from a complete checkpoint: not if only its model was kept.

    One whose marker cannot be read counts: it is to be found damaged, not passed over.
    """
    try:
        return read_marker(folder).get("keeps_state", True)
    except ValueError:
        return True


def drop_state(folder: Path) -> None:
    """Keep the model of a checkpoint (hf/) and let go of the optimiser's state: three quarters of its bytes.

    The marker says so first: an interruption leaves a file too many, never one that is missed.
    """
    marker = read_marker(folder)
    kept = {name: entry for name, entry in marker["files"].items() if not name.startswith("dcp/")}
    write_durably(folder / MARKER, marker_text(marker | {"files": kept, "keeps_state": False}))
    shutil.rmtree(folder / "dcp", ignore_errors=True)


def marker_text(content: dict[str, Any]) -> str:
    """As markers are written."""
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def remove_incomplete(output: Path) -> None:
    """Remove what interrupted saves left."""
    for folder in _folders(output):
        if not (folder / MARKER).is_file():
            shutil.rmtree(folder)


def remove_checkpoint(folder: Path) -> None:
    """Remove a checkpoint, its marker first: a removal that is interrupted leaves an incomplete one."""
    (folder / MARKER).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def drop_old_rolling(output: Path, keep: int = KEPT_ROLLING) -> None:
    """Remove all but the newest complete rolling checkpoints."""
    rolling = beside(output, "rolling")
    found = sorted((marker.parent for marker in rolling.glob(f"step-*/{MARKER}")), key=step_of)
    for folder in found[: len(found) - keep]:
        remove_checkpoint(folder)
    if keep == 0:
        shutil.rmtree(rolling, ignore_errors=True)


def file_sums(folder: Path, files: Iterable[Path]) -> FileSums:
    """Size and SHA-256 of files of a checkpoint, read back from the disk."""
    sums = {}
    for path in files:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        sums[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": digest}
    return sums


def damage_of(folder: Path, part: int = 0, parts: int = 1) -> str | None:
    """Why a complete checkpoint is not what was saved, or None. Ranks that look together each take one `part`.

    The part looks at every `parts`-th file; sizes are compared before any file is read.
    """
    try:
        files: FileSums = read_marker(folder)["files"]
    except (OSError, ValueError, KeyError) as error:
        return f"{MARKER} cannot be read: {type(error).__name__} {error}"
    mine = sorted(files)[part::parts]
    for name in mine:
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if (size := path.stat().st_size) != files[name]["bytes"]:
            return f"{name} has {size:,} bytes, but {files[name]['bytes']:,} were saved"
    for name in mine:
        if file_sums(folder, [folder / name])[name] != files[name]:
            return f"{name} has the right size but not the SHA-256 that was saved"
    return None


def set_aside(folder: Path, output: Path, reason: str) -> Path:
    """Move a damaged checkpoint out of the way, for inspection; returns where it is now."""
    target = beside(output, "damaged") / folder.name
    number = 1
    while target.exists():
        number += 1
        target = target.with_name(f"{folder.name}-{number}")
    target.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(target)
    (target / "damage.txt").write_text(f"{reason}\n", "utf-8")
    return target


def first_damage(found: Sequence[str | None]) -> str | None:
    """The first reason of those that several ranks found."""
    return next((reason for reason in found if reason), None)
