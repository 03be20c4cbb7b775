"""A run under way, watched from outside by the metrics that it writes."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from orchestration.launch.training_failure import WorkerLostError

FIRST_STEP_S = 1200.0
"""How long a run may take to its first step, whatever its steps may take: imports, reading a checkpoint, compiling."""
HANG_GRACE_S = 60.0


class Watchdog:
    """Notices a run that hangs where no rank waits for another: there no collective's timeout ends it."""

    def __init__(self, step_timeout_s: float) -> None:
        # Where ranks do wait for one another, their own error is the better one: it comes first.
        self._limit_s = 2 * step_timeout_s + HANG_GRACE_S
        self._step = 0
        self.begin_again()

    def begin_again(self) -> None:
        """The run has yet to start, or to start again."""
        self._since = time.monotonic()
        self._patience_s = max(self._limit_s, FIRST_STEP_S)

    def saw(self, step: int) -> None:
        """A step was recorded."""
        self._step, self._since, self._patience_s = step, time.monotonic(), self._limit_s

    def check(self) -> None:
        """Raises BuildError when the last step is too long ago."""
        waited = time.monotonic() - self._since
        if waited > self._patience_s:
            raise WorkerLostError(
                f"training recorded no step for {waited:.0f} s, the last one was {self._step}: it hangs, and was ended. Run again: "
                "it resumes from the last complete checkpoint; if steps are that slow, raise step_timeout_s"
            )


class MetricsTail:
    """New whole lines of a metrics file since the last look; starts over in a new file, which a resumed run begins with."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0
        self._inode = 0

    def read(self) -> list[dict[str, Any]]:
        """Lines not seen before."""
        if not self._path.is_file():
            return []
        with self._path.open("rb") as file:
            inode = os.fstat(file.fileno()).st_ino
            if inode != self._inode:
                self._inode, self._position = inode, 0
            file.seek(self._position)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._position += len(whole)
        return [json.loads(line) for line in whole.splitlines()]


def time_left(seconds: float) -> str:
    """h:mm:ss, or m:ss below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
