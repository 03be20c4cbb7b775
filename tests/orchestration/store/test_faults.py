"""Full disks and forbidden folders: a typed error that says what to do, and an intact store."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from orchestration.store import durable
from orchestration.store.contract import StoreUnavailableError
from orchestration.store.git import ref_files
from orchestration.store.git import refs as git_refs
from orchestration.store.git.store import GitStore
from tests.campaigns.store_faults import Fault, inject
from tests.orchestration.store.conftest import tree

CALLS = ("write", "fsync", "rename", "link", "mkdir", "open")


class Faults:
    """Makes the n-th disk call fail with an error, once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: int | None = None
        self.error = errno.ENOSPC
        for name in CALLS:
            monkeypatch.setattr(os, name, self._wrap(getattr(os, name)))

    def _wrap(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.left is not None:
                self.left -= 1
                if self.left < 0:
                    self.left = None
                    raise OSError(self.error, os.strerror(self.error))
            return real(*args, **kwargs)

        return call


def _sweep(faults: Faults, store: GitStore, action: Callable[[int], object], words: str) -> int:
    """Fail every disk call of `action` in turn; returns how many there were."""
    for step in range(400):
        before, refs = tree(store), (store.branches(), store.tags())
        faults.left = step
        try:
            action(step)
        except StoreUnavailableError as error:
            faults.left = None
            if "did not confirm" not in str(error):  # else the ref has changed, and that is what the error says
                assert words in str(error), str(error)
                assert (tree(store), (store.branches(), store.tags())) == (before, refs), f"step {step}"
            assert store.verify().damage == [], f"step {step}"
            assert not list((store.folder / "lfs" / "tmp").iterdir()), f"step {step} left litter"
        else:
            assert faults.left is not None, f"step {step}: a disk call failed, and the store reported success"
            faults.left = None  # no call was left to fail
            return step
    raise AssertionError("the action never got through")


@pytest.mark.parametrize(
    ("error", "words"), [(errno.ENOSPC, "disk is full"), (errno.EIO, "input/output"), (errno.EROFS, "read-only")]
)
def test_any_failing_disk_call_of_a_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, words: str
) -> None:
    store = GitStore.at(tmp_path / "store.git")
    store.commit("main", {"a/1": b"1", "b": b"2"}, message="base")
    faults = Faults(monkeypatch)
    faults.error = error

    def commit(step: int) -> None:
        source = tmp_path / f"source {step}"
        source.write_bytes(b"by path %d" % step)
        store.commit("main", {"a/1": b"%d" % step, "c/d": source}, ["b"], message="x")

    assert _sweep(faults, store, commit, words) > 15


def test_any_failing_disk_call_of_a_commit_of_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = GitStore.at(tmp_path / "store.git")
    monkeypatch.setattr("orchestration.store.git.lfs_objects.BATCH_FILES", 3)
    monkeypatch.setattr("orchestration.store.git.objects.LOOSE_LIMIT", 3)
    faults = Faults(monkeypatch)

    def commit(step: int) -> None:
        store.commit("main", {f"f/{i}": b"%d %d" % (i, step) for i in range(4)}, message="x")

    assert _sweep(faults, store, commit, "disk is full") > 15


def test_any_failing_disk_call_of_a_merge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = GitStore.at(tmp_path / "store.git")
    store.create_branch("b")
    store.commit("b", {"x": b"1"}, message="staged")
    store.commit("main", {"y": b"1"}, message="meanwhile")
    assert _sweep(Faults(monkeypatch), store, lambda _: store.merge("b", message="m"), "disk is full") > 5
    assert tree(store) == {"x": b"1", "y": b"1"}


def test_a_failing_purge_or_gc_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = GitStore.at(tmp_path / "store.git")
    store.commit("main", {"a": b"private", "b": b"public"}, message="x")
    sha256 = store.stat("main", "a").sha256
    faults = Faults(monkeypatch)
    for step in range(50):
        faults.left = step
        try:
            store.purge([sha256], reason="law")
            break
        except StoreUnavailableError:
            faults.left = None
    faults.left = None
    assert not store.lfs.path(sha256).exists()
    assert (store.verify().purged_objects, store.verify().damage) == (1, [])


@pytest.mark.parametrize("limit", [64, 0], ids=["each file synced", "many files synced at once"])
def test_nothing_is_named_before_it_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """The order: sync, rename, sync the folder, move the branch. What a power loss leaves: test_power_loss.py."""
    store = GitStore.at(tmp_path / "store.git")
    monkeypatch.setattr("orchestration.store.git.lfs_objects.BATCH_FILES", limit)
    monkeypatch.setattr("orchestration.store.git.objects.LOOSE_LIMIT", limit)
    unsynced: set[str] = set()
    renames = 0
    real_open, real_fsync, real_rename = os.open, os.fsync, os.rename
    real_link, real_move, real_sync_all = os.link, git_refs.GitRefs.move, durable.sync_filesystem

    def opened(path: Any, flags: int, *args: Any) -> int:
        if flags & os.O_CREAT and not str(path).endswith(".lock"):
            unsynced.add(os.path.abspath(path))
        return real_open(path, flags, *args)

    def linked(source: Any, target: Any) -> None:
        unsynced.add(str(target))
        real_link(source, target)

    def synced(fd: int) -> None:
        unsynced.discard(os.readlink(f"/proc/self/fd/{fd}"))
        real_fsync(fd)

    def renamed(source: Any, target: Any) -> None:
        nonlocal renames
        renames += 1
        assert str(source) not in unsynced, f"{source} is renamed before it is synced"
        unsynced.add(os.path.dirname(target))
        real_rename(source, target)

    def moved(*args: Any) -> None:
        assert not unsynced, f"the branch moves before these are synced: {unsynced}"
        real_move(*args)

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "link", linked)
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    monkeypatch.setattr(git_refs.GitRefs, "move", moved)
    monkeypatch.setattr(durable, "sync_filesystem", lambda folder: (real_sync_all(folder), unsynced.clear()))
    source = tmp_path / "source"
    source.write_bytes(b"by path")
    store.commit("main", {"a/b": b"1", "c": source}, message="x")
    assert renames >= 4
    assert tree(store) == {"a/b": b"1", "c": b"by path"}


def test_a_ref_that_moved_although_its_sync_failed_is_not_reported_as_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = GitStore.at(tmp_path / "store.git")
    with monkeypatch.context() as patch:
        patch.setattr(ref_files.durable, "sync_folders", lambda _: os.close(9999))
        for action in (lambda: store.create_branch("b"), lambda: store.delete_branch("b")):
            with pytest.raises(StoreUnavailableError, match="refs/heads/b: changed, but the disk did not confirm"):
                action()
    assert list(store.branches()) == ["main"]


def test_what_is_said_to_be_there_already_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk reports an error once: the second attempt finds the ref moved, and must not call that a success unseen."""
    store = GitStore.at(tmp_path / "store.git")
    store.create_branch("b")
    store.commit("b", {"x": b"1"}, message="staged")
    real, failing = durable.sync_folders, [True]

    def sync(folders: Iterable[Path]) -> None:
        wanted = list(folders)
        if failing[0] and any(folder.name == "heads" for folder in wanted):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(wanted)

    monkeypatch.setattr(durable, "sync_folders", sync)
    for action in (
        lambda: store.merge("b", message="m"),
        lambda: store.merge("b", message="m"),
        lambda: store.commit("main", {"x": b"1"}, message="nothing new"),
    ):
        with pytest.raises(StoreUnavailableError, match="did not confirm"):
            action()
    failing[0] = False
    assert store.merge("b", message="m") == store.resolve("main")
    assert tree(store) == {"x": b"1"}


def test_a_failed_sync_of_a_new_folder_is_not_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, failing = durable.sync_folders, [True]

    def sync(folders: Iterable[Path]) -> None:
        if failing[0]:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        synced.extend(wanted := list(folders))
        real(wanted)

    synced: list[Path] = []
    monkeypatch.setattr(durable, "sync_folders", sync)
    with pytest.raises(OSError, match="Input/output"):
        durable.make_folder(tmp_path / "a" / "b", within=tmp_path)
    failing[0] = False
    durable.make_folder(tmp_path / "a" / "b", within=tmp_path)
    assert set(synced) == {tmp_path, tmp_path / "a"}


def test_a_lost_folder_of_locks_is_made_again(tmp_path: Path) -> None:
    store = GitStore.at(tmp_path / "store.git")
    shutil.rmtree(store.folder / "headwater")
    store.commit("main", {"a": b"1"}, message="x")
    assert tree(store) == {"a": b"1"}


def test_a_lock_file_that_others_no_longer_find_locks_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "lock"
    real, moved = durable._open_lock, []

    def slow(path: Path) -> int:
        fd = real(path)
        if not moved:
            moved.append(path.rename(tmp_path / "lost"))
        return fd

    monkeypatch.setattr(durable, "_open_lock", slow)
    with (
        durable.locked(lock, timeout_s=1, what="a"),
        pytest.raises(StoreUnavailableError),
        durable.locked(lock, timeout_s=0.05, what="b"),
    ):
        pass


def test_a_disk_that_is_full_for_libgit2_too(tmp_path: Path) -> None:
    """The kernel refuses every write of the process, also those made inside libgit2 (the refs)."""
    store = GitStore.at(tmp_path / "store.git")
    store.commit("main", {"a": b"1"}, message="base")
    source = tmp_path / "source"
    source.write_bytes(b"taken by hard link")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
            try:
                store.commit("main", {"b": source}, message="x")
            except StoreUnavailableError as error:
                code = 0 if "size limit" in str(error) else 2
            for action in (lambda: store.create_branch("b"), lambda: store.tag("t", "main")):
                try:
                    action()
                    code = 3
                except StoreUnavailableError:
                    pass
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert tree(store) == {"a": b"1"}
    assert (list(store.branches()), store.tags()) == (["main"], {})
    assert store.commit("main", {"b": b"2"}, message="works again")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    store = GitStore.at(tmp_path / "store.git")
    (store.folder / "lfs" / "tmp").chmod(0o500)
    try:
        with pytest.raises(StoreUnavailableError, match="permission denied"):
            store.commit("main", {"a": b"1"}, message="x")
    finally:
        (store.folder / "lfs" / "tmp").chmod(0o700)
    assert tree(store) == {}


def test_a_copy_is_made_where_links_are_not_possible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = GitStore.at(tmp_path / "store.git")
    source = tmp_path / "source"
    source.write_bytes(b"x" * 5_000_000)

    def no_link(*_: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", no_link)
    store.commit("main", {"a": source}, message="x")
    assert store.read_bytes("main", "a") == source.read_bytes()
    assert not os.path.samefile(source, store.local_path("main", "a"))
    assert source.stat().st_mode & 0o200


def test_a_lock_held_too_long_is_named(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with (
        durable.locked(lock, timeout_s=1, what="a"),
        pytest.raises(StoreUnavailableError, match="the other is still held"),
        durable.locked(lock, shared=True, timeout_s=0.05, what="the other"),
    ):
        pass


@pytest.mark.parametrize("step", range(0, 40, 3))
def test_creating_a_store_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    with monkeypatch.context() as patch:
        faults = Faults(patch)
        faults.left = step
        try:
            GitStore.at(tmp_path / "store.git")
        except StoreUnavailableError:
            assert not (tmp_path / "store.git").exists()
    assert tree(GitStore.at(tmp_path / "store.git")) == {}


@pytest.mark.parametrize(
    "fault",
    [
        Fault("write", "ENOSPC", 9),
        Fault("fsync", "EIO", 4),
        Fault("fsync", "EIO", 2),
        Fault("rename", "KILL", 3),
        Fault("rename", "KILL", 9),
    ],
    ids=str,
)
def test_a_slice_of_the_campaign_of_system_calls(tmp_path: Path, fault: Fault) -> None:
    row = inject(tmp_path, fault)
    assert row.met
    assert row.problem == ""
