"""What benchmarks measure with: a process of its own, its CPU time, its peak memory; goals and their verdicts."""

from __future__ import annotations

import json
import os
import platform
import resource
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tests.campaigns.commit import commit

Goal = tuple[str, float, str, float]
"""(what, measured, ">=" or "<=", limit)."""


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


def finish(rows: list[dict[str, Any]], goals: Sequence[Goal], result: Path) -> int:
    """Print the goals, write the result file; the exit status is 1 where a goal was missed."""
    verdicts = [
        {
            "goal": name,
            "measured": round(value, 4),
            "asked": f"{sign} {limit}",
            "met": value >= limit if sign == ">=" else value <= limit,
        }
        for name, value, sign, limit in goals
    ]
    for verdict in verdicts:
        ending = "ok" if verdict["met"] else "MISSED"
        print(f"{verdict['goal']:<62} {verdict['measured']:>10}   asked {verdict['asked']:<8} {ending}")
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    content = {"goals": verdicts, "rows": rows, "commit": commit(), "machine": machine}
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0 if all(verdict["met"] for verdict in verdicts) else 1
