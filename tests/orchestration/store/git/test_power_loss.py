"""Power loss at any moment: what the store reported is there, what it was about to do is there whole or not at all.

The calls that a child makes are replayed on a disk that loses what was not synced (lossy_disk.py), and after each
call the store that such a loss leaves is opened, verified and compared.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestration.store.contract import PurgedObjectError, StoreError
from orchestration.store.git.store import GitStore
from tests.orchestration.store.git.lossy_disk import (
    Call,
    LossyDisk,
    by_chance,
    only_synced,
    python,
    record,
    write_files,
)

ROOT = Path(__file__).resolve().parents[4]
PRIVATE = b"private"
SHA256 = hashlib.sha256(PRIVATE).hexdigest()
MANY = {f"many/{number}": b"many %d" % number for number in range(5)}

CHILD = """
import os, sys
from pathlib import Path
from orchestration.store import durable
from orchestration.store.git import lfs_objects, maintenance, objects
from orchestration.store.git.store import GitStore

folder, sabotage = Path(sys.argv[1]), sys.argv[2]
if sabotage == "files":
    real = os.fsync
    os.fsync = lambda fd: real(fd) if os.path.isdir(f"/proc/self/fd/{fd}") else None
if sabotage == "folders":
    durable.sync_folders = lambda folders: None
if sabotage == "many":
    durable.sync_filesystem = lambda folder: None
maintenance.GRACE_S = -1.0
lfs_objects.BATCH_FILES = objects.LOOSE_LIMIT = 4
marks = os.open(folder.parent / "marks", os.O_WRONLY | os.O_CREAT)
store = GitStore.at(folder / "store.git")
source = folder / "source"
source.write_bytes(b"by path")
actions = {
    "branch": lambda: store.create_branch("build/x/1"),
    "commit": lambda: store.commit("build/x/1", {"a/1": b"new", "c/d": source}, ["b"], message="staged"),
    "merge": lambda: store.merge("build/x/1", message="published"),
    "tag": lambda: store.tag("run/x", "main", "planned"),
    "delete": lambda: store.delete_branch("build/x/1"),
    "many": lambda: store.commit("main", {f"many/{n}": b"many %d" % n for n in range(5)}, message="many"),
    "purge": lambda: store.purge([sys.argv[3]], reason="law"),
    "gc": lambda: store.gc(keep_days=0),
    "again": lambda: store.commit("main", {"b": b"2"}, message="what gc collected is stored again"),
}
for name, action in actions.items():
    action()
    os.write(marks, name.encode())
"""
OLD = {"a/1": b"1", "b": b"2", "p": PRIVATE}
NEW = {"a/1": b"new", "c/d": b"by path", "p": PRIVATE}
STATES = [OLD, NEW, NEW | MANY, NEW | MANY | {"b": b"2"}]


def content(store: GitStore, ref: str) -> dict[str, bytes]:
    found = {}
    for info in store.list(ref):
        try:
            found[info.path] = store.read_bytes(ref, info.path)
        except PurgedObjectError:
            found[info.path] = PRIVATE
    return found


def problem(folder: Path, done: list[str]) -> str:
    """What is wrong with a store after a power loss, `done` having been reported; empty if nothing is."""
    try:
        store = GitStore.at(folder, create=False)
        if damage := store.verify().damage:
            return f"damage: {damage[0]}"
        main, branches, tags = content(store, "main"), store.branches(), store.tags()
    except StoreError as error:
        return str(error)
    reported = STATES[("merge" in done) + ("many" in done) + ("again" in done)]
    following = STATES[min(len(STATES) - 1, STATES.index(reported) + 1)]
    if main not in (reported, following):
        return f"main holds {sorted(main)}"
    staged = content(store, "build/x/1") if "build/x/1" in branches else None
    wrong = {
        "branch": staged is None and "tag" not in done,
        "commit": staged != NEW and "tag" not in done,
        "tag": "run/x" not in tags or content(store, "run/x") != NEW,
        "delete": staged is not None,
        "purge": list(store.takedowns()) != [SHA256] or store.lfs.path(SHA256).exists(),
    }
    lost = [name for name in done if wrong.get(name)]
    return f"reported and lost: {', '.join(lost)}" if lost else ""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, list[Call]]]:
    """The store before, and the calls of a child; recorded once for each way to sabotage it."""
    known: dict[str, tuple[Path, list[Call]]] = {}

    def run(sabotage: str) -> tuple[Path, list[Call]]:
        if sabotage not in known:
            folder = tmp_path_factory.mktemp(f"power-{sabotage}")
            work, before = folder / "work", folder / "before"
            work.mkdir()
            GitStore.at(work / "store.git").commit("main", OLD, message="base")
            shutil.copytree(work, before)
            calls = record(python(CHILD, str(work), sabotage, SHA256), ROOT, folder / "trace.txt")
            known[sabotage] = (work, calls)
            shutil.rmtree(work)
            before.rename(work)  # so that the paths in the calls are those of the model
        return known[sabotage]

    return run


def first_problem(work: Path, calls: list[Call], target: Path, survives: Callable[[int], Callable[[], float]]) -> str:
    """Lose power after each call that changed something; the first problem that is met."""
    disk, done, points, before = LossyDisk(work), list[str](), 0, ""
    marks = -1
    for number, call in enumerate(calls):
        if call.name == "openat" and call.strings()[0].endswith(b"/marks"):
            marks = call.result
        reported = call.name == "write" and call.fd() == marks
        if reported:
            done.append(call.strings()[0].decode())
        if not (disk.apply(call) or reported):
            continue
        points += 1
        left = disk.after_power_loss(survives(number))
        if (state := f"{sorted(left.items())} {done}") == before:
            continue
        before = state
        shutil.rmtree(target, ignore_errors=True)
        write_files(target, left)
        if what := problem(target / "store.git", done):
            return f"after call {number} ({call.name}), {done[-1:]} done: {what}"
    assert points > 150, "the recording met hardly any call of the store"
    assert done[-1] == "again", "the child did not come to its end"
    return ""


@pytest.mark.parametrize("chance", [None, 1, 2], ids=["only what was synced", "some more", "some other"])
def test_no_power_loss_takes_what_was_reported_or_leaves_a_mix(
    recorded: Callable[[str], tuple[Path, list[Call]]], tmp_path: Path, chance: int | None
) -> None:
    work, calls = recorded("nothing")
    survives = (lambda _: only_synced) if chance is None else (lambda number: by_chance(1_000_000 * chance + number))
    assert first_problem(work, calls, tmp_path / "lost", survives) == ""


@pytest.mark.parametrize("sabotage", ["files", "folders", "many"])
def test_a_store_that_forgets_a_kind_of_sync_is_caught(
    recorded: Callable[[str], tuple[Path, list[Call]]], tmp_path: Path, sabotage: str
) -> None:
    """The test of the test: without the syncs of files, of folders, or of a commit of many files, it must fail."""
    work, calls = recorded(sabotage)
    assert first_problem(work, calls, tmp_path / "lost", lambda _: only_synced)
