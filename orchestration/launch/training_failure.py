"""Why a run ended, from what it left; and whether it is worth to start it again."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

from tenacity import RetryCallState
from tenacity.stop import stop_base

from assets.build import BuildError
from training.contract import outputs

TAIL_CHARACTERS = 3000


class WorkerLostError(BuildError):
    """A process of the run was killed, hung, or lost its connection: the request is not to blame."""


class StopWithoutProgress(stop_base):
    """No more restarts after so many in a row that saved no new checkpoint.

    A run that makes progress may be restarted without limit: on a large cluster something is always lost.
    """

    def __init__(self, output: Path, restarts: int) -> None:
        self._output = output
        self._restarts = restarts
        self._left = restarts
        self._newest = newest_checkpoint(output)

    def __call__(self, retry_state: RetryCallState) -> bool:
        newest = newest_checkpoint(self._output)
        if newest > self._newest:
            self._newest, self._left = newest, self._restarts
        self._left -= 1
        return self._left < 0


def newest_checkpoint(output: Path) -> int:
    """Step of the newest complete checkpoint, requested or rolling; 0 if there is none."""
    folders = (output / outputs.CHECKPOINTS, output.with_name(f"{output.name}-{outputs.ROLLING}"))
    markers = [marker for folder in folders for marker in folder.glob(f"step-*/{outputs.MARKER}")]
    return max((int(marker.parent.name.removeprefix("step-")) for marker in markers), default=0)


def failure(status: int, error_path: Path, log_path: Path) -> BuildError:
    """The training program's own last error; where it left none, who was killed by which signal, and its output's tail."""
    logs = error_path.parent / outputs.LOGS
    output = log_path.read_text("utf-8", errors="replace") if log_path.is_file() else ""
    killed = _killed(status, output)
    if error_path.is_file():
        error = json.loads(error_path.read_text("utf-8"))
        return _own_failure(error, killed, logs)
    tail = f"End of its output:\n{output[-TAIL_CHARACTERS:]}\nLogs: {logs}"
    kind = WorkerLostError if killed else BuildError
    return kind(f"training ended without an error of its own: {killed or f'exit status {status}'}. {tail}")


def _own_failure(error: dict[str, Any], killed: str | None, logs: Path) -> BuildError:
    kind = WorkerLostError if error["worth_a_restart"] else BuildError
    message = f"training stopped on rank {error['rank']}: {error['type']}: {error['message']}"
    if error["expected"]:
        return kind(message)
    if killed:  # the others only see that the connection is closed
        message = f"{killed}. Then {message}"
    return kind(f"{message}\n{error['traceback']}\nLogs: {logs}")


_RANK_ENDED = re.compile(r"failed \(exitcode: (?P<code>-?\d+)\) local_rank: (?P<rank>\d+)")
"""torchrun's line about the first rank that ended badly."""


def _killed(status: int, output: str) -> str | None:
    """Who was ended by a signal: a rank, as torchrun reports it, or torchrun itself."""
    if status < 0:
        return f"torchrun was killed by {_signal(-status)}"
    found = _RANK_ENDED.search(output)
    if found is None or int(found["code"]) >= 0:
        return None
    number = -int(found["code"])
    memory = ", often for want of memory: lower local_batch_size" if number == signal.SIGKILL else ""
    return f"rank {found['rank']} was killed by {_signal(number)}{memory}"


def _signal(number: int) -> str:
    return f"signal {number} ({signal.Signals(number).name})"
