"""Where progress goes: bars in a terminal, lines in a log when there is none."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from assets.build import Progress

LOG_EVERY_S = 5.0
_active: Progress | None = None


class LogProgress:
    """One log line at most every LOG_EVERY_S seconds, and one at the end."""

    def __init__(self, log: Any, label: str) -> None:
        self._log, self._label, self._last = log, label, 0.0

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        """Log `label: done/total note`."""
        now = time.monotonic()
        if now - self._last < LOG_EVERY_S and done != total:
            return
        self._last = now
        self._log.info(f"{self._label}: {done}{f'/{total}' if total else ''} {note}".rstrip())


class TerminalProgress:
    """One rich bar per asset and partition; the caller moves to the next with `start`."""

    def __init__(self, bars: Any) -> None:
        self._bars = bars
        self._task: Any = None

    def start(self, label: str) -> None:
        """Begin a bar."""
        self._task = self._bars.add_task(label, total=None, note="")

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        """Move the current bar."""
        if self._task is not None:
            self._bars.update(self._task, completed=done, total=total, note=note)

    def finish(self, note: str) -> None:
        """Close the current bar with a last word."""
        if self._task is not None:
            task = self._bars.tasks[self._bars.task_ids.index(self._task)]
            total = task.total or max(task.completed, 1)
            self._bars.update(self._task, completed=total, total=total, note=note)
            self._bars.stop_task(self._task)
            self._task = None


@contextmanager
def terminal(console: Any) -> Iterator[TerminalProgress]:
    """Show the progress of every build in this process as bars until the block ends."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    global _active
    columns = (
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description}", table_column=None),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, refresh_per_second=4) as bars:
        progress = TerminalProgress(bars)
        _active = progress
        try:
            yield progress
        finally:
            _active = None


def progress_for(label: str, log: Any = None) -> Progress:
    """The terminal bars if this process shows some, else log lines."""
    if isinstance(_active, TerminalProgress):
        _active.start(label)
        return _active
    return LogProgress(log or logging.getLogger("headwater"), label)
