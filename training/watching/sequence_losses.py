"""The loss of every sequence at the step that trained on it: 4 bytes each, at a place given by its number.

    sequence_losses.f32    little-endian float32; sequence s of the run at byte 4 * s, mean nats per token

Which documents made a step's loss is answered from here, long after the step.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from training.contract.outputs import SEQUENCE_LOSSES

LOSS = np.dtype("<f4")


class SequenceLosses:
    """Reads and writes the file of one run. A step that is trained again overwrites its sequences."""

    def __init__(self, output: Path, global_batch_size: int) -> None:
        self._path = output / SEQUENCE_LOSSES
        self._batch = global_batch_size

    def write(self, step: int, losses: np.ndarray) -> None:
        """Losses of one step (1-based), in the order of its sequences."""
        self._path.touch()
        with self._path.open("r+b", buffering=0) as file:
            file.seek((step - 1) * self._batch * LOSS.itemsize)
            file.write(losses.astype(LOSS).tobytes())

    def read(self, first_step: int, last_step: int) -> np.ndarray:
        """float32[steps, global_batch_size], both ends included; NaN where nothing was written."""
        found = np.full((last_step - first_step + 1) * self._batch, np.nan, LOSS)
        begin = (first_step - 1) * self._batch
        if self._path.is_file():
            there = np.fromfile(self._path, LOSS, count=len(found), offset=begin * LOSS.itemsize)
            found[: len(there)] = there
        return found.reshape(-1, self._batch)
