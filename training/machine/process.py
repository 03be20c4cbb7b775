"""A rank must not outlive the process that started it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

LAUNCHER = "HEADWATER_LAUNCHER_PID"
"""Set by a launcher on the same machine."""

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent (torchrun's agent) ends; end now if the launcher is gone already.

    The agent dies with the launcher. If that happened before this call there is no parent left to die,
    and this rank would wait for the others until the process group's timeout.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    launcher = os.environ.get(LAUNCHER)
    if launcher and not Path("/proc", launcher).exists():
        raise SystemExit(f"the launcher {launcher} ended before this rank began")
