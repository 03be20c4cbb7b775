"""Watches the processes of a build, and kills or stops one of them at a chosen moment of its life."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

FREEZE_S = 32.0
"""More than a page may take (`extraction.timeout_s` = 30)."""
LONGEST_S = 240.0
LOOK_S = 0.002
SILENT: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
COMMANDS = {
    "assets.sources.web.spider": "crawler",
    "multiprocessing.forkserver": "fork server",
    "multiprocessing.resource_tracker": "resource tracker",
    "torch.distributed.run": "agent",
    "training.main": "rank",
}
"""Part of a command line -> kind of process; what a fork server forks is a worker, what that or the build forks a sandbox."""


@dataclass
class Child:
    """One process under the build, and when it was seen alive (seconds since the build began)."""

    kind: str
    first_s: float
    last_s: float

    @property
    def lived_s(self) -> float:
        """As seen from outside."""
        return self.last_s - self.first_s


@dataclass(frozen=True)
class Watch:
    """Which process to disturb: the n-th of a kind, so long after it appeared. By itself it only looks."""

    kind: str = ""
    nth: int = 1
    delay_s: float = 0.0
    effect: str = ""


@dataclass
class _View:
    seen: dict[int, Child] = field(default_factory=dict)
    kinds: dict[int, str] = field(default_factory=dict)

    def look(self, root: int, now_s: float) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            self.kinds[root] = "build"
            for process in [psutil.Process(root), *psutil.Process(root).children(recursive=True)]:
                self._add(process, now_s)

    def _add(self, process: psutil.Process, now_s: float) -> None:
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return
            # A new process shows its parent's command line until it has its own.
            if process.pid not in self.seen or self.seen[process.pid].kind == "sandbox":
                kind = self.kinds[process.pid] = self._kind(process)
                first = self.seen[process.pid].first_s if process.pid in self.seen else now_s
                self.seen[process.pid] = Child(kind, first, now_s)
            self.seen[process.pid].last_s = now_s
        except psutil.NoSuchProcess:
            pass

    def _kind(self, process: psutil.Process) -> str:
        if self.kinds.get(process.pid) == "build":
            return "build"
        parent = self.kinds.get(process.ppid(), "")
        if parent == "fork server":
            return "worker"
        command = " ".join(process.cmdline())
        if parent == "worker":
            return "sandbox"
        return next((kind for part, kind in COMMANDS.items() if part in command), "sandbox")

    def nth(self, watch: Watch, now_s: float) -> int | None:
        """The process to disturb now."""
        of_kind = [(child, pid) for pid, child in self.seen.items() if child.kind == watch.kind]
        if len(of_kind) < watch.nth:
            return None
        child, pid = of_kind[watch.nth - 1]
        return pid if now_s >= child.first_s + watch.delay_s else None


def disturbed(build: Callable[[], None], home: Path, watch: Watch) -> tuple[str, bool, list[Child]]:
    """Run a build in a forked child: how it ended, whether the disturbance met a living process, whom it had."""
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        os._exit(_attempt(build, home))
    outcome, met, seen = _watch(pid, watch, lambda: _poll(pid))
    if outcome == "1" and (home / "error.txt").exists():
        outcome = (home / "error.txt").read_text().split(":")[0]
    return outcome, met, seen


def _attempt(build: Callable[[], None], home: Path) -> int:
    try:
        from assets.child_process import end_forks_with_parent

        end_forks_with_parent()
        build()
    except BaseException as error:
        with contextlib.suppress(OSError):
            (home / "error.txt").write_text(f"{type(error).__name__}: {error}")
        return 1
    return 0


def _poll(pid: int) -> int | None:
    ended, state = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(state) if ended else None


def watched(process: subprocess.Popen[str], watch: Watch) -> tuple[str, bool, list[Child]]:
    """The same for a command that was started."""
    return _watch(process.pid, watch, process.poll)


def _watch(pid: int, watch: Watch, poll: Callable[[], int | None]) -> tuple[str, bool, list[Child]]:
    started, view, met = time.monotonic(), _View(), False
    while (code := poll()) is None:
        now_s = time.monotonic() - started
        if now_s > LONGEST_S:
            _end(pid)
            while poll() is None:
                time.sleep(LOOK_S)
            return "hung", met, list(view.seen.values())
        view.look(pid, now_s)
        if watch.effect and not met and (victim := view.nth(watch, now_s)):
            met = _disturb(victim, pid, watch.effect)
            if not met:
                watch = Watch()  # it had gone
        time.sleep(LOOK_S)
    names = {0: "finished", -signal.SIGKILL: "killed"}
    return names.get(code, str(code)), met, list(view.seen.values())


def _disturb(victim: int, root: int, effect: str) -> bool:
    try:
        process = psutil.Process(victim)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        if effect == "KILL":
            process.kill()
            return True
        tree = [process] if victim != root else [process, *process.children(recursive=True)]
        _signal(tree, signal.SIGSTOP)
        time.sleep(FREEZE_S)
        _signal(tree, signal.SIGCONT)
        return True
    except psutil.NoSuchProcess:
        return False


def _signal(tree: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _end(pid: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        tree = psutil.Process(pid).children(recursive=True)
        _signal([psutil.Process(pid), *tree], signal.SIGKILL)
