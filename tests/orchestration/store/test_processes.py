"""Several processes at once, and processes that are killed."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestration.store.contract import LostRaceError, VersionedStore
from orchestration.store.git import ref_files, refs
from tests.orchestration.store.conftest import BACKENDS, Backend, tree

pytestmark = pytest.mark.slow

WRITERS, COMMITS_EACH = 8, 6
STRIDE = {"git": 1, "lakefs": 6}
"""Of the sweep of kills: over HTTP, looking at the store after each takes seconds. The campaign tries them all."""
FORK = multiprocessing.get_context("fork")


def _write(name: str, folder: Path, writer: int, start: Any) -> None:
    store = BACKENDS[name](folder).open()
    start.wait()
    for i in range(COMMITS_EACH):
        while True:
            head = store.resolve("main")
            count = int(store.read_bytes(head, "counter"))
            try:
                store.commit(
                    "main",
                    {f"w{writer}/{i}": b"%d %d" % (writer, i), "counter": b"%d" % (count + 1)},
                    message=f"{writer} {i}",
                    expected_parent=head,
                )
                break
            except LostRaceError:
                time.sleep(random.uniform(0, 0.01))


def _merge(name: str, folder: Path, writer: int, start: Any) -> None:
    store = BACKENDS[name](folder).open()
    start.wait()
    for i in range(COMMITS_EACH):
        branch = f"build/{writer}/{i}"
        store.create_branch(branch)
        store.commit(branch, {f"m{writer}/{i}": b"m"}, message="staged")
        store.merge(branch, message=f"merge {writer} {i}")
        store.delete_branch(branch)


def _read(name: str, folder: Path, stop: Any, failures: Any) -> None:
    store = BACKENDS[name](folder).open()
    while not stop.is_set():
        head = store.resolve("main")
        content = tree(store, head)
        written = sum(1 for path in content if path.startswith("w"))
        if int(content["counter"]) != written:
            failures.put(f"{head}: counter {content['counter']!r}, {written} files")
            return


def _run(targets: list[tuple[Callable[..., None], tuple[Any, ...]]]) -> None:
    processes = [FORK.Process(target=target, args=args) for target, args in targets]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * len(processes)


def test_writers_and_readers_in_many_processes_lose_nothing(
    backend: Backend, store: VersionedStore, tmp_path: Path
) -> None:
    store.commit("main", {"counter": b"0"}, message="start")
    start, stop, failures = FORK.Barrier(WRITERS + 2), FORK.Event(), FORK.Queue()
    readers = [FORK.Process(target=_read, args=(backend.name, tmp_path, stop, failures)) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        _run(
            [(_write, (backend.name, tmp_path, i, start)) for i in range(WRITERS)]
            + [(_merge, (backend.name, tmp_path, i, start)) for i in range(2)]
        )
    finally:
        stop.set()
        for reader in readers:
            reader.join(30)
    assert [reader.exitcode for reader in readers] == [0, 0]
    assert failures.empty()
    content = tree(store)
    assert int(content.pop("counter")) == WRITERS * COMMITS_EACH
    assert len(content) == (WRITERS + 2) * COMMITS_EACH
    messages = [commit.message for commit in store.log()]
    assert {f"{w} {i}" for w in range(WRITERS) for i in range(COMMITS_EACH)} <= set(messages)
    assert list(store.branches()) == ["main"]
    assert store.verify().damage == []


def _killed_at(step: int, action: Callable[[], object]) -> bool:
    """Run `action` in a child that SIGKILLs itself at the step-th change of the disk or request; False if it got through."""
    child = os.fork()
    if child == 0:
        try:
            left = [step]

            def counting(real: Callable[..., Any]) -> Callable[..., Any]:
                def call(*args: Any, **kwargs: Any) -> Any:
                    if left[0] == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                    left[0] -= 1
                    return real(*args, **kwargs)

                return call

            for name in ("open", "write", "fsync", "rename", "link", "unlink", "mkdir", "chmod", "utime"):
                setattr(os, name, counting(getattr(os, name)))
            for name in ("send", "sendall"):  # a backend on a server changes that server's disk, by requests
                setattr(socket.socket, name, counting(getattr(socket.socket, name)))
            refs.GitRefs.move = counting(refs.GitRefs.move)  # type: ignore[method-assign]
            action()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def test_a_kill_at_any_step_of_a_commit_leaves_the_old_head_or_the_new(
    backend: Backend, store: VersionedStore, tmp_path: Path
) -> None:
    old = {"a/1": b"1", "b": b"2"}
    store.commit("main", old, message="base")
    source = tmp_path / "source.bin"
    for step in range(0, 200, STRIDE.get(backend.name, 12)):
        source.unlink(missing_ok=True)
        source.write_bytes(b"by path %d" % step)
        put = {"a/1": b"new %d" % step, "c/d/e": source}
        new = {**old, "a/1": put["a/1"], "c/d/e": source.read_bytes()}
        killed = _killed_at(step, lambda: backend.open().commit("main", put, message="under fire"))  # noqa: B023
        survivor = backend.open()
        assert tree(survivor) in (old, new), f"step {step}"
        assert survivor.verify().damage == [], f"step {step}"
        if not killed:
            assert tree(survivor) == new
            break
        survivor.commit("main", {"after": b"%d" % step}, message="the next commit works")
        survivor.commit("main", {"a/1": b"1"}, ["after", "c/"], message="back")
        assert tree(survivor) == old
    assert 15 < step < 198, "the sweep did not meet the writing, or never ended"


LOOP = """
import sys
from pathlib import Path
from tests.orchestration.store.conftest import BACKENDS
store = BACKENDS[sys.argv[1]](Path(sys.argv[2])).open()
for i in range(int(sys.argv[3]), 10**6):
    store.commit("main", {f"n/{i % 50}": b"%d" % i, "last": b"%d" % i}, message=str(i))
    print(i, flush=True)
"""


def test_kills_at_random_moments(backend: Backend, store: VersionedStore, tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    confirmed = -1
    for round_number in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", LOOP, backend.name, str(tmp_path), str(confirmed + 1)],
            cwd=root,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout
        confirmed = int(process.stdout.readline())
        time.sleep(random.Random(round_number).uniform(0.01, 0.1))
        process.send_signal(signal.SIGKILL)
        lines = process.stdout.read().split()
        process.wait()
        confirmed = max([confirmed, *map(int, lines)])
        last = int(store.read_bytes("main", "last"))
        assert last in (confirmed, confirmed + 1), "a confirmed commit was lost"
        assert store.verify().damage == []
        confirmed = last


def test_a_ref_lock_left_by_a_killed_process_is_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = BACKENDS["git"](tmp_path)
    store = backend.open()
    lock = tmp_path / "store.git" / "refs" / "heads" / "main.lock"
    lock.write_text("")
    monkeypatch.setattr(ref_files, "STALE_LOCK_S", 0.2)
    started = time.monotonic()
    store.commit("main", {"a": b"1"}, message="x")
    assert 0.1 < time.monotonic() - started < 5
    assert not lock.exists()


def test_a_lock_dated_in_the_future_is_cleared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = BACKENDS["git"](tmp_path).open()
    store.create_branch("gone")
    monkeypatch.setattr(ref_files, "STALE_LOCK_S", 0.2)
    for name, action in (
        ("main", lambda: store.commit("main", {"a": b"1"}, message="x")),
        ("gone", lambda: store.delete_branch("gone")),
    ):
        lock = tmp_path / "store.git" / "refs" / "heads" / f"{name}.lock"
        lock.write_text("")
        os.utime(lock, (time.time() + 86_400, time.time() + 86_400))
        started = time.monotonic()
        action()
        assert 0.1 < time.monotonic() - started < 5
        assert not lock.exists()
