"""Saves and restores the state of a run; training goes on while a checkpoint is written.

A save holds the step only while the state is copied in memory. One thread then writes the distributed
checkpoint (all ranks, over a process group of their own), takes the SHA-256 of each file, exports the
Hugging Face model and writes the marker; until that, the checkpoint does not exist. One save at a time:
the next one, and the end of training, wait for it.

    save()   copy -> [thread] dcp/ -> sums -> hf/ -> complete.json
    resume() the state of the checkpoint that starting_point.py names, if it names one

The folders are described in files.py.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_saver import save as write_checkpoint
from torch.distributed.checkpoint.stateful import Stateful
from torchtitan.components.checkpoint import CheckpointManager

from training.checkpoints.branching import heldout_sha256
from training.checkpoints.files import (
    KEPT_ROLLING,
    MARKER,
    FileSums,
    complete_checkpoints,
    drop_old_rolling,
    drop_state,
    file_sums,
    keeps_state,
    marker_text,
    read_marker,
    remove_checkpoint,
    rolling_folder,
    step_folder,
    step_of,
)
from training.checkpoints.hf_export import export_hf
from training.checkpoints.staging import MemoryStager
from training.checkpoints.starting_point import Start, starting_point
from training.contract import outputs
from training.contract.errors import CheckpointSaveError
from training.contract.request import TrainRequest
from training.machine.durable_files import fsync, write_durably
from training.machine.environment import environment

log = logging.getLogger(__name__)


class ListedCheckpoints(CheckpointManager):
    """torchtitan's checkpoint manager, saving at the requested steps and resuming from whole checkpoints only."""

    def __init__(
        self, *, request: TrainRequest, job_config: dict[str, Any], describe: Callable[[], dict[str, Any]], **parts: Any
    ) -> None:
        super().__init__(base_folder=str(request.output), **parts)
        self._request = request
        self._job_config = job_config
        self._describe = describe
        self._stager = MemoryStager()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        self.save_stall_s = 0.0
        """How long the last save held the step."""

    def resume(self) -> Start:
        """Go to where the run starts from: the state of a checkpoint is loaded here, other weights by the trainer."""
        start = starting_point(self._request, self.pg)
        if start.folder is not None:
            states = self._states_to_load(model_only=False)
            self.dcp_load(states, checkpoint_id=str(start.folder / "dcp"), from_hf=False, from_quantized=False)
        if dist.get_rank() == 0:
            self._record_attempt(start)
        return start

    def _record_attempt(self, start: Start) -> None:
        line = {
            "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "resumed_from": start.folder.name if start.folder else None,
            "step": read_marker(start.folder)["step"] if start.folder else 0,
            "taken_over_from": start.taken_over_from,
            "restarted_after": os.environ.get("HEADWATER_RESTARTED_AFTER"),
            "set_aside": start.set_aside,
        }
        path = self._request.output / outputs.ATTEMPTS
        before = path.read_text("utf-8") if path.is_file() else ""
        write_durably(path, f"{before}{json.dumps(line)}\n")  # never into the old file: it may be linked into a store

    def save(self, curr_step: int, last_step: bool = False) -> None:
        """Begin to save if this step is wanted. Raises CheckpointSaveError if the save before it failed."""
        if self._pending is not None and self._pending.done():
            self.wait()
        request = self._request
        listed = curr_step in request.checkpoint_steps
        if not listed and not (request.rolling_every_steps and curr_step % request.rolling_every_steps == 0):
            return
        begin = time.perf_counter()
        self.wait()
        folder = (step_folder if listed else rolling_folder)(request.output, curr_step)
        if dist.get_rank() == 0 and folder.exists():
            remove_checkpoint(folder)  # of steps that are trained again
        description = self._describe()
        state = {
            key: part.state_dict() if isinstance(part, Stateful) else part
            for key, part in self._flattened_model_states_sd().items()
        }
        staged = self._stager.stage(state)
        self._pending = self._thread.submit(self._complete, staged, folder, curr_step, description)
        self.save_stall_s = time.perf_counter() - begin

    @property
    def saving(self) -> bool:
        """Whether a checkpoint is being written behind the steps."""
        return self._pending is not None and not self._pending.done()

    def wait(self) -> None:
        """Return when nothing is being saved any more. Raises CheckpointSaveError if that failed."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _complete(self, staged: dict[str, Any], folder: Path, step: int, description: dict[str, Any]) -> None:
        """In the thread: everything that the step need not wait for."""
        try:
            write_checkpoint(staged, checkpoint_id=str(folder / "dcp"), process_group=self.pg)
            sums = self._sums(folder)
            if dist.get_rank() == 0:
                self._publish(folder, step, description, sums)
        except BaseException as error:  # as DCP's own is
            free = shutil.disk_usage(self._request.output).free
            if dist.get_rank() == 0:
                remove_checkpoint(folder)  # gives its space back, if that was what failed
            whole = complete_checkpoints(self._request.output)
            raise CheckpointSaveError(
                f"the checkpoint of step {step} could not be saved: {_cause(error)}; {free / 2**20:,.1f} MiB of its disk "
                f"were free. {f'The last whole one is {whole[-1].name}' if whole else 'There is no earlier one'}: make room or "
                f"mend the disk of {self._request.output.name}/ and run again, it resumes there"
            ) from error

    def _sums(self, folder: Path) -> FileSums:
        """Of all ranks' files; complete on rank 0."""
        rank = dist.get_rank()
        mine = [*folder.glob(f"dcp/__{rank}_*"), *([folder / "dcp/.metadata"] if rank == 0 else [])]
        gathered: list[FileSums] | None = [{}] * dist.get_world_size() if rank == 0 else None
        dist.gather_object(file_sums(folder, mine), gathered, dst=0, group=self.pg)
        return {name: entry for sums in gathered or () for name, entry in sums.items()}

    def _publish(self, folder: Path, step: int, description: dict[str, Any], sums: FileSums) -> None:
        request = self._request
        content = {
            "step": step,
            "sequences_seen": step * request.global_batch_size,
            "tokens_seen": request.tokens_seen(step),
            **description,
            "order_fingerprint": request.data.order_fingerprint,
            "decay_order_fingerprint": request.decay_order_fingerprint,
            "tokenizer_version": request.tokenizer_version,
            "identity": request.identity(),
            "request": request.portable(),
            "job_config": self._job_config,
            "heldout_sha256": heldout_sha256(request),
            "environment": environment(),
        }
        if step in request.checkpoint_steps:
            hf = folder / "hf"
            content["weights_sha256"] = export_hf(folder / "dcp", hf, request.model, request.end_of_document_id)
            sums |= file_sums(folder, sorted(hf.iterdir()))
        content["files"] = sums
        metrics = request.output / outputs.METRICS
        if metrics.is_file():
            fsync(metrics)  # a checkpoint must not survive a power cut that its metrics do not
        write_durably(folder / MARKER, marker_text(content))
        last = step == request.schedule.total_steps
        drop_old_rolling(request.output, 0 if last else KEPT_ROLLING)
        if last and request.state_steps is not None:
            for older in complete_checkpoints(request.output):
                if step_of(older) not in request.state_steps and keeps_state(older):
                    drop_state(older)

    def close(self) -> None:
        """Wait for a save under way, also when training ended badly: what it writes belongs to an earlier step."""
        if not hasattr(self, "_thread"):
            return  # __del__ of one that could not be made
        self._thread.shutdown(wait=True)
        if self._pending is not None and (error := self._pending.exception()):
            log.error("%s", error)
        self._stager.close()
        super().close()


def _cause(error: BaseException) -> str:
    """The system's own message: DCP wraps what each rank ran into, and torch.save what the disk said."""
    if isinstance(error, CheckpointException):
        rank, (first, _) = next(iter(error.failures.items()))
        return f"rank {rank}: {_cause(first)}"
    under: BaseException | None = error
    while under is not None and not isinstance(under, OSError):
        under = under.__cause__ or under.__context__
    return f"{type(under or error).__name__}: {under or error}"
