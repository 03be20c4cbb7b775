"""What benchmarks measure with: a process of its own, its CPU time, its peak memory."""

from __future__ import annotations

import resource
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any


def apart(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """The result of a call in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def cpu_s() -> float:
    """CPU seconds of this process, its threads and its ended children."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, kinds))


def anonymous_mb() -> float:
    """Anonymous memory of this process in MB. Mapped files are left out: the system takes their pages back at need."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


class PeakMemory:
    """Largest anonymous memory of this process in MB, looked at 20 times a second."""

    def __enter__(self) -> PeakMemory:
        self.mb, self._end = anonymous_mb(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(0.05):
            self.mb = max(self.mb, anonymous_mb())
