"""A store moves between backends with its history, and what was interrupted continues."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestration.store import open_store
from orchestration.store.contract import PurgedObjectError, StoreError, VersionedStore
from orchestration.store.copy import ORIGIN, copy_store
from orchestration.store.git import maintenance
from tests.orchestration.store.conftest import BACKENDS, sha256_of, tree
from tests.orchestration.store.lakefs import servers


def filled(store: VersionedStore) -> VersionedStore:
    """Branches, merges, a tag, a takedown and collected content."""
    store.commit("main", {"a/1": b"1", "b": b"2", "语料/文 1": b"3"}, message="base\n\nbody", metadata={"键": "值"})
    store.tag("run/first", "main")
    store.create_branch("build/x/1")
    store.commit("build/x/1", {"c/2": b"c", "old": b"collected later"}, ["b"], message="staged")
    store.commit("main", {"private": b"private page", "public": b"p"}, message="meanwhile")
    store.merge("build/x/1", message="publish", metadata={"asset": "x"})
    store.commit("main", {"z": b"z"}, ["old"], message="removed")
    store.delete_branch("build/x/1")
    store.create_branch("side")
    store.commit("side", {"s": b"s"}, message="on the side")
    store.purge([sha256_of(store, "private")], reason="asked by the author")
    return store


def history(store: VersionedStore, ref: str = "main") -> list[tuple[str, list[tuple[str, str]], int]]:
    """In no order (that of side branches may differ), without the first commit, which each backend words its way."""
    commits = [commit for commit in store.log(ref) if commit.parents]
    return sorted(
        (c.message, sorted((k, v) for k, v in c.metadata.items() if k != ORIGIN), len(c.parents)) for c in commits
    )


def readable(store: VersionedStore, ref: str) -> dict[str, bytes]:
    found = {}
    for info in store.list(ref):
        try:
            found[info.path] = store.read_bytes(ref, info.path)
        except PurgedObjectError:
            continue
    return found


@pytest.mark.parametrize(("here", "there"), [("git", "lakefs"), ("lakefs", "git"), ("git", "git")])
def test_a_copy_has_the_same_history_and_digests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: str, there: str
) -> None:
    source = filled(BACKENDS[here](tmp_path / "here").open())
    if here == "git":
        monkeypatch.setattr(maintenance, "GRACE_S", -1.0)
        source.gc(keep_days=0)
    target = BACKENDS[there](tmp_path / "there").open()
    report = copy_store(source, target)  # type: ignore[arg-type]
    assert history(target) == history(source)
    assert (sorted(target.branches()), target.branches().keys()) == (["main", "side"], source.branches().keys())
    for ref in ("main", "side", "run/first"):
        assert tree(target, ref) == readable(source, ref)
    pinned = source.tags()["run/first"]
    assert target.resolve(pinned) == target.tags()["run/first"], "the ids that runs pinned are still found"
    with pytest.raises(PurgedObjectError, match="asked by the author"):
        target.commit("main", {"back": b"private page"}, message="x")
    assert any("private: taken down" in line for line in report.left_out)
    assert any("old: collected" in line for line in report.left_out) == (here == "git")
    again = copy_store(source, target)  # type: ignore[arg-type]
    assert (again.commits, again.already_there) == (0, report.commits + 1)


def test_an_interrupted_copy_continues_and_a_later_one_brings_what_is_new(tmp_path: Path) -> None:
    source, target = filled(BACKENDS["git"](tmp_path / "a").open()), BACKENDS["git"](tmp_path / "b").open()

    def stop(line: str) -> None:
        if line.startswith("commit 4"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_store(source, target, stop)  # type: ignore[arg-type]
    report = copy_store(source, target)  # type: ignore[arg-type]
    assert report.already_there == 4
    assert tree(target) == readable(source, "main")
    source.commit("main", {"new": b"n"}, message="later")
    source.commit("side", {"s": b"s2"}, message="later on the side")
    report = copy_store(source, target)  # type: ignore[arg-type]
    assert (report.commits, report.branches) == (2, 1)
    assert tree(target, "side") == readable(source, "side")
    assert history(target) == history(source)


def test_a_store_with_a_life_of_its_own_is_not_overwritten(tmp_path: Path) -> None:
    source, target = filled(BACKENDS["git"](tmp_path / "a").open()), BACKENDS["git"](tmp_path / "b").open()
    head = target.commit("main", {"mine": b"1"}, message="mine")
    with pytest.raises(StoreError, match="not of the source"):
        copy_store(source, target)  # type: ignore[arg-type]
    assert target.resolve("main") == head


def test_the_command_copies_to_lakefs_and_back(tmp_path: Path) -> None:
    here = filled(BACKENDS["git"](tmp_path / "here").open())
    urls = servers.server_urls()
    environ = {
        **os.environ,
        **servers.store_environment(tmp_path, urls["lakefs"], urls["s3"]),
        "HEADWATER_OBJECT_CACHE": str(tmp_path / "cache"),
    }
    away = f"lakefs://{servers.repository_of(tmp_path)}"

    def headwater(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "orchestration.cli", "store", "copy", *arguments]
        return subprocess.run(command, cwd=servers.ROOT, env=environ, capture_output=True, text=True)

    there = headwater(str(tmp_path / "here" / "store.git"), away)
    assert (there.returncode, "all equal" in there.stdout) == (0, True), there.stderr
    back = headwater(away, str(tmp_path / "back.git"), "--json")
    assert back.returncode == 0, back.stderr
    assert json.loads(back.stdout)["takedowns"] == 1
    assert tree(open_store(tmp_path / "back.git")) == readable(here, "main")
    wrong = headwater(str(tmp_path / "nowhere"), away)
    assert (wrong.returncode, "there is no store at" in wrong.stderr) == (1, True)
