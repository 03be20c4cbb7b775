"""No process that a stage starts outlives it, however the stage ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

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
