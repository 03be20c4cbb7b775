"""A store is read by the real `git` and `git-lfs`, with no Headwater code."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestration.store.git.store import GitStore
from tests.orchestration.store.conftest import tree

Git = Callable[..., str]


@pytest.fixture
def git(tmp_path: Path) -> Git:
    """Run git with git-lfs set up for a home of its own."""
    if not shutil.which("git") or not shutil.which("git-lfs"):
        pytest.skip("the store is read from outside: apt-get install git git-lfs")
    home = tmp_path / "home"
    home.mkdir()
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C.UTF-8"}

    def run(*arguments: str, cwd: Path) -> str:
        done = subprocess.run(["git", *arguments], cwd=cwd, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"git {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    run("lfs", "install", "--skip-repo", cwd=tmp_path)
    run("config", "--global", "safe.directory", "*", cwd=tmp_path)
    return run


@pytest.fixture
def store(tmp_path: Path) -> GitStore:
    store = GitStore.at(tmp_path / "store.git")
    many = {f"many/{i:03d}.bin": os.urandom(300) + b"%d" % i for i in range(100)}  # goes into a pack
    store.commit("main", many, message="一百个文件", metadata={"asset": "raw_crawl"})
    store.create_branch("build")
    odd = {
        "语料/文档 😀 1.txt": "内容".encode(),
        "empty": b"",
        "-dash": b"d",
        "d/1": b"1",
        "d.e": b"2",
        "d-e/3": b"3",
        "名" * 85: b"long",
    }
    store.commit("build", odd, ["many/000.bin"], message="odd names")
    store.commit("main", {"meanwhile": b"m"}, message="meanwhile")
    store.merge("build", message="published")
    store.tag("v1", "main", "first release")
    return store


def files(folder: Path) -> dict[str, bytes]:
    """Everything in a checkout but Git's own files."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] not in (".git", ".gitattributes")
    }


def test_a_plain_clone_with_git_lfs_reads_the_same_bytes(git: Git, store: GitStore, tmp_path: Path) -> None:
    assert "error" not in git("fsck", "--full", "--strict", cwd=store.folder)
    git("clone", f"file://{store.folder}", "clone", cwd=tmp_path)
    clone = tmp_path / "clone"
    git("lfs", "pull", cwd=clone)
    assert "OK" in git("lfs", "fsck", cwd=clone)
    assert files(clone) == tree(store)
    assert git("status", "--porcelain", cwd=clone) == ""
    log = git("log", "--format=%an <%ae>%n%B", cwd=clone)
    for text in (
        "一百个文件",
        'Headwater-Metadata: {"asset": "raw_crawl"}',
        "published",
        "headwater <headwater@localhost>",
    ):
        assert text in log
    assert "first release" in git("tag", "-n", cwd=clone)


def test_git_may_repack_the_store_under_us(git: Git, store: GitStore, tmp_path: Path) -> None:
    before, log = tree(store), [commit.id for commit in store.log()]
    reader = GitStore.at(store.folder)
    assert len(list(reader.log(limit=2))) == 2
    git("gc", "--quiet", cwd=store.folder)
    assert tree(reader) == before
    assert [commit.id for commit in reader.log()] == log
    head = reader.commit("main", {"after": b"gc"}, message="after gc")
    assert GitStore.at(store.folder).resolve("main") == head
    assert "error" not in git("fsck", "--full", "--strict", cwd=store.folder)


def test_a_commit_pushed_by_git_is_part_of_the_store(git: Git, store: GitStore, tmp_path: Path) -> None:
    git("clone", f"file://{store.folder}", "clone", cwd=tmp_path)
    clone = tmp_path / "clone"
    (clone / "notes.txt").write_text("by hand")
    git("add", "notes.txt", cwd=clone)
    git("-c", "user.name=A", "-c", "user.email=a@b.c", "commit", "-m", "a note", cwd=clone)
    git("push", "origin", "main", cwd=clone)
    assert store.read_bytes("main", "notes.txt") == b"by hand"
    newest = next(iter(store.log()))
    assert (newest.message, newest.metadata) == ("a note", {})
    assert store.verify().damage == []


def test_after_a_takedown_the_rest_is_still_cloned(git: Git, store: GitStore, tmp_path: Path) -> None:
    store.purge([store.stat("main", "meanwhile").sha256], reason="law")
    store.commit("main", {}, ["meanwhile"], message="taken down")
    git("clone", f"file://{store.folder}", "clone", cwd=tmp_path)
    assert files(tmp_path / "clone") == tree(store)
