"""gc packs the small files of the history: everything reads as before, nothing is lost, damage stays visible."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pygit2
import pytest

from orchestration.store.contract import StoreError
from orchestration.store.git import packing
from orchestration.store.git.packing import PACK_FROM, loose_objects
from orchestration.store.git.store import GitStore
from tests.orchestration.store.conftest import tree

NIGHTS = 40


@pytest.fixture
def store(tmp_path: Path) -> GitStore:
    store = GitStore.at(tmp_path / "store.git")
    for night in range(NIGHTS):
        store.commit("main", {f"crawl/{night:03d}/documents": b"%d" % night}, message=f"night {night}")
    store.tag("run/one", "main", "kept forever")
    return store


def loose(store: GitStore) -> dict[str, Path]:
    return dict(loose_objects(store.git.folder))


def disk_bytes(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*"))


def test_packed_history_reads_as_before(store: GitStore) -> None:
    already_open = GitStore.at(store.folder)
    before = {commit.id: tree(store, commit.id) for commit in store.log()}
    tags, count, size = store.tags(), len(loose(store)), disk_bytes(store.git.folder)
    assert count > 4 * NIGHTS
    assert store.gc(dry_run=True).packed_objects == count
    assert len(loose(store)) == count
    assert store.gc().packed_objects == count
    assert loose(store) == {}
    assert disk_bytes(store.git.folder) < size / 8
    for reader in (store, already_open, GitStore.at(store.folder)):
        assert {commit.id: tree(reader, commit.id) for commit in reader.log()} == before
        assert reader.tags() == tags
    assert store.verify().damage == []
    store.commit("main", {"crawl/after/documents": b"0"}, message="after")  # the same content as the first night
    assert store.read_bytes("main", "crawl/after/documents") == b"0"
    assert store.gc().packed_objects == 0  # too few


def test_the_real_git_agrees(store: GitStore) -> None:
    store.gc()
    done = subprocess.run(
        ["git", "-c", "safe.directory=*", "fsck", "--full", "--strict"],
        cwd=store.folder,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, "missing" in done.stdout + done.stderr) == (0, False), done.stderr


def test_an_object_of_a_deleted_branch_is_kept(store: GitStore) -> None:
    store.create_branch("build/x")
    commit = store.commit("build/x", {"f": b"never merged"}, message="unmerged")
    store.delete_branch("build/x")
    store.gc(keep_days=1)
    assert store.read_bytes(commit, "f") == b"never merged"


@pytest.mark.parametrize("harm", [b"", b"garbage", None])
def test_a_damaged_object_is_not_hidden_in_a_pack(store: GitStore, harm: bytes | None) -> None:
    first, second, *_ = loose(store).values()
    first.chmod(0o600)
    first.write_bytes(second.read_bytes() if harm is None else harm)
    count = len(loose(store))
    assert packing.pack_loose(store.git) == count - 1
    assert list(loose(store).values()) == [first]


def test_a_full_disk_in_the_middle_loses_nothing(store: GitStore, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {commit.id: tree(store, commit.id) for commit in store.log()}
    count = len(loose(store))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", full)
        with pytest.raises(StoreError, match="disk is full"):
            store.gc()
    assert len(loose(store)) == count
    assert {commit.id: tree(store, commit.id) for commit in GitStore.at(store.folder).log()} == before
    # killed between the pack and the end of the deletions: the next gc packs the rest
    monkeypatch.setattr(packing, "PACK_BYTES", 1)
    left = list(loose(store).values())
    calls = []
    real = Path.unlink

    def dies(path: Path, **options: bool) -> None:
        calls.append(path)
        if len(calls) > 10:
            raise KeyboardInterrupt
        real(path, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", dies)
        with pytest.raises(KeyboardInterrupt):
            store.gc()
    assert 0 < len(loose(store)) < len(left)
    assert {commit.id: tree(store, commit.id) for commit in GitStore.at(store.folder).log()} == before


def test_a_few_objects_stay_loose(tmp_path: Path) -> None:
    store = GitStore.at(tmp_path / "small.git")
    store.commit("main", {"f": b"1"}, message="one")
    assert 0 < len(loose(store)) < PACK_FROM
    assert store.gc().packed_objects == 0
    assert pygit2.Repository(str(store.folder)).head_is_unborn is False
