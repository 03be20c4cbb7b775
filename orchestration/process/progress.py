"""Where progress goes: bars in a terminal, lines in a log when there is none."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from assets.build import Progress
from orchestration.process.terminal import visible


class FinishingProgress(Progress, Protocol):
    """A Progress that the publisher can close."""

    def finish(self, note: str) -> None: ...


LOG_EVERY_S = 5.0
NOTE_CHARACTERS = 48
_active: TerminalProgress | LineProgress | None = None


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

    def finish(self, note: str) -> None:
        """Log the last word."""
        self._log.info(f"{self._label}: {note}")


class LineProgress:
    """Plain lines on a console that is no terminal: a start, a sign of life, an end."""

    def __init__(self, console: Any) -> None:
        self._console, self._label, self._started, self._last = console, "", 0.0, 0.0

    def start(self, label: str) -> None:
        """Begin a piece of work."""
        self._label, self._started = label, time.monotonic()
        self._last = self._started

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        """A line at most every LOG_EVERY_S seconds."""
        if time.monotonic() - self._last >= LOG_EVERY_S:
            self._last = time.monotonic()
            self._say(f"{done:,}{f'/{total:,}' if total else ''} {note}")

    def finish(self, note: str) -> None:
        """The last word, with the seconds it took."""
        self._say(f"{note}, {time.monotonic() - self._started:.1f} s")

    def _say(self, text: str) -> None:
        self._console.print(visible(f"  {self._label}: {text}"), soft_wrap=True, markup=False)


class TerminalProgress:
    """One rich bar per asset and partition."""

    def __init__(self, bars: Any) -> None:
        self._bars = bars
        self._task: Any = None

    def start(self, label: str) -> None:
        """Begin a bar."""
        self._task = self._bars.add_task(label, total=None, note="")

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        """Move the current bar."""
        if self._task is not None:
            self._bars.update(self._task, completed=done, total=total, note=visible(note)[-NOTE_CHARACTERS:])

    def finish(self, note: str) -> None:
        """Fill the current bar; its last word stays on the screen."""
        if self._task is not None:
            self._bars.update(self._task, completed=1, total=1, note=visible(note)[:NOTE_CHARACTERS])
            self._bars.stop_task(self._task)
            self._task = None


@contextmanager
def terminal(console: Any) -> Iterator[TerminalProgress | LineProgress]:
    """Show the progress of every build in this process, as bars or lines, until the block ends."""
    global _active
    if not console.is_terminal:
        _active = LineProgress(console)
        try:
            yield _active
        finally:
            _active = None
        return
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.table import Column

    columns = (
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
        BarColumn(bar_width=16, table_column=Column(no_wrap=True)),
        TimeElapsedColumn(table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[note]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
    )
    with Progress(*columns, console=console, refresh_per_second=4) as bars:
        progress = TerminalProgress(bars)
        _active = progress
        try:
            yield progress
        finally:
            _active = None


def progress_for(label: str, log: Any = None) -> FinishingProgress:
    """The terminal bars if this process shows some, else log lines."""
    if _active is not None:
        _active.start(label)
        return _active
    return LogProgress(log or logging.getLogger("headwater"), label)
