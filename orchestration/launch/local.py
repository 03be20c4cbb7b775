"""torchrun on this machine. It never outlives this process, and no rank outlives it.

Three ways lead to the end of every rank: the normal one (torchrun's agent is told to stop and stops
its ranks), this process ends without a word (the kernel kills the agent, and each rank with its
agent), or the agent hangs (its process group is killed).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from orchestration.launch import program
from training.contract.request import TrainRequest

STOP_GRACE_S = 10.0
"""How long torchrun may take to stop its ranks before it is killed."""

RESOLVER = {"RES_OPTIONS": "timeout:1 attempts:1"}
"""torch's store asks the resolver for the name of 127.0.0.1, and would wait 10 s for one that does not answer."""

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)  # loaded before any fork: the child between fork and exec must not load libraries


class LocalJob(subprocess.Popen[bytes]):
    """torchrun on this machine."""

    log_path: Path
    waiting = False


@contextlib.contextmanager
def started(
    request_path: Path, request: TrainRequest, workdir: Path, environment: Mapping[str, str]
) -> Iterator[LocalJob]:
    """torchrun in a process group of its own; stopped when the block ends, however it ends."""
    log_path, ranks = workdir / "torchrun.log", request.layout.ranks
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command += ["-m", program.PROGRAM, "--request", str(request_path)]
    own = {"PYTHONPATH": program.module_path(), "HEADWATER_LAUNCHER_PID": str(os.getpid())}
    child = RESOLVER | os.environ | own | program.rank_environment(request) | dict(environment)
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("wb") as log:
        process = LocalJob(command, env=child, stdout=log, stderr=log, process_group=0, preexec_fn=_die_with_parent)
        process.log_path = log_path
        try:
            yield process
        finally:
            stop(process)


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the process group to end, then make it. Ranks are in groups of their own and die with the agent."""
    for signal_number, patience in ((signal.SIGTERM, STOP_GRACE_S), (signal.SIGKILL, None)):
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal_number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
