"""Checkpoints at listed steps, each complete or not there.

    checkpoints/step-00000100/
        dcp/            torchtitan's distributed checkpoint: weights, optimiser, schedule, position in the order
        hf/             config.json, model.safetensors
        complete.json   written last: what was saved, from what, in which environment

A folder without `complete.json` is the rest of an interrupted save: never loaded, removed at the
next start. Saving is synchronous: at our sizes it costs half a second, and an asynchronous save that
is interrupted has already let training go on past it.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torchtitan.components.checkpoint import AsyncMode, CheckpointManager

from training.errors import ResumeMismatchError
from training.hf_export import export_hf
from training.request import TrainRequest

MARKER = "complete.json"


def step_folder(output: Path, step: int) -> Path:
    """Folder of one step; zero-padded so that names sort as steps do."""
    return output / "checkpoints" / f"step-{step:08d}"


def complete_checkpoints(output: Path) -> list[Path]:
    """Complete checkpoint folders, oldest first."""
    return sorted(marker.parent for marker in output.glob(f"checkpoints/step-*/{MARKER}"))


def read_marker(folder: Path) -> dict[str, Any]:
    """What a complete checkpoint says of itself."""
    return json.loads((folder / MARKER).read_text("utf-8"))


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
    saved, wanted = _flat(marker["identity"]), _flat(request.identity())
    decay_after = min(saved["schedule.total_steps"] - saved["schedule.decay_steps"], request.schedule.stable_until)
    free: set[str] = set()
    if marker["step"] <= decay_after:
        free.update(DECAY_DECIDES, ("run",) if folder == request.resume_from else ())
    different = [
        f"{k}: {saved.get(k)!r} -> {wanted.get(k)!r}"
        for k in sorted((saved | wanted).keys() - free)
        if saved.get(k) != wanted.get(k)
    ]
    if different:
        begun = "" if free else f" (its decay phase, or that of the request, begins after step {decay_after})"
        raise ResumeMismatchError(
            f"checkpoint {folder.name} of run {saved['run']}{begun} cannot be continued with this request, which "
            f"differs in {'; '.join(different)}. Start with an empty output folder, or restore the values of the checkpoint"
        )


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


class ListedCheckpoints(CheckpointManager):
    """torchtitan's checkpoint manager, saving at the requested steps and resuming from whole checkpoints only."""

    def __init__(
        self, *, request: TrainRequest, job_config: dict[str, Any], describe: Callable[[], dict[str, Any]], **parts: Any
    ) -> None:
        super().__init__(base_folder=str(request.output), **parts)
        self._request = request
        self._job_config = job_config
        self._describe = describe

    def load(self, step: int = -1) -> bool:
        """Continue from the last complete checkpoint of the output folder, else from `resume_from`, else start anew."""
        if dist.get_rank() == 0:
            self._remove_incomplete()
        dist.barrier()
        found = complete_checkpoints(self._request.output)
        folder = found[-1] if found else self._request.resume_from
        if folder is None:
            return False
        if not (folder / MARKER).is_file():
            raise ResumeMismatchError(f"resume_from {folder} is not a complete checkpoint: it has no {MARKER}")
        check_resumable(folder, self._request)
        states = self._states_to_load(model_only=False)
        self.dcp_load(states, checkpoint_id=str(folder / "dcp"), from_hf=False, from_quantized=False)
        return True

    def _remove_incomplete(self) -> None:
        whole = set(complete_checkpoints(self._request.output))
        for folder in (self._request.output / "checkpoints").glob("step-*"):
            if folder not in whole:
                shutil.rmtree(folder)

    def save(self, curr_step: int, last_step: bool = False) -> None:
        """Save if this step is listed; returns when the checkpoint is complete on every rank."""
        if curr_step not in self._request.checkpoint_steps:
            return
        folder = step_folder(self._request.output, curr_step)
        with torch.no_grad():
            self.dcp_save(self._flattened_model_states_sd(), str(folder / "dcp"), AsyncMode.DISABLED)
        if dist.get_rank() == 0:
            weights_sha256 = export_hf(
                folder / "dcp", folder / "hf", self._request.model, self._request.end_of_document_id
            )
            self._write_marker(folder, curr_step, weights_sha256)
        dist.barrier()

    def _write_marker(self, folder: Path, step: int, weights_sha256: str) -> None:
        request = self._request
        content = {
            "step": step,
            "sequences_seen": step * request.global_batch_size,
            "tokens_seen": request.tokens_seen(step),
            "weights_sha256": weights_sha256,
            **self._describe(),
            "order_fingerprint": request.data.order_fingerprint,
            "decay_order_fingerprint": request.decay_order_fingerprint,
            "tokenizer_version": request.tokenizer_version,
            "identity": request.identity(),
            "request": request.portable(),
            "job_config": self._job_config,
            "environment": environment(),
        }
        metrics = request.output / "metrics.jsonl"
        if metrics.is_file():
            _fsync(metrics)  # a checkpoint must not survive a power cut that its metrics do not
        temporary = folder / f"{MARKER}.tmp"
        temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", "utf-8")
        _fsync(temporary)
        temporary.replace(folder / MARKER)
        _fsync(folder)


def environment() -> dict[str, Any]:
    """What the numbers of a run may depend on besides its request."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "ranks": dist.get_world_size() if dist.is_initialized() else 1,
        "threads": torch.get_num_threads(),
        "libraries": {name: version(name) for name in ("torch", "torchtitan", "numpy", "pyarrow", "safetensors")},
    }


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
