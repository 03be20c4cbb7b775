"""Ctrl-C is never lost: Python drops an interrupt raised inside a finaliser or a weak reference's callback."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def interrupts_are_never_lost() -> Iterator[None]:
    """Send an interrupt again that Python could only report as "exception ignored", until one is heard.

    Database drivers clean up in such callbacks all the time, so a build of many small transactions meets it.
    """
    previous, main = sys.unraisablehook, threading.main_thread()

    def hook(unraisable: Any) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt) or _is_dagsters(unraisable.exc_type):
            again = threading.Timer(0.05, signal.pthread_kill, (main.ident, signal.SIGINT))  # after the callback ends
            again.daemon = True
            again.start()
        else:
            previous(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = previous


def _is_dagsters(kind: type[BaseException]) -> bool:
    """Whether Dagster raised it for an interrupt; a command that never met Dagster does not import it for this."""
    dagster: Any = sys.modules.get("dagster")
    return dagster is not None and issubclass(kind, dagster.DagsterExecutionInterruptedError)
