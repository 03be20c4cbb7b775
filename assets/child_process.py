"""Processes that a stage starts: none outlives it, however the stage ends; and what one of them took."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Have the kernel end this process when its parent ends (Linux); end now if it has already."""
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("the parent process is gone")


def end_forks_with_parent() -> None:
    """The same for this process and for every process it forks from now on."""
    end_with_parent()
    os.register_at_fork(after_in_child=end_with_parent)


def peak_rss_bytes() -> int | None:
    """Largest resident size of this process; None where the system does not say. Not getrusage: what it reports for a
    new process begins with the size of the one that started it."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")), None)
