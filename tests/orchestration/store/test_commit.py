"""Commits, and reading them back."""

from __future__ import annotations

import hashlib
import os
import zlib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestration.store import open_store, paths
from orchestration.store.contract import (
    CorruptObjectError,
    InvalidPathError,
    LostRaceError,
    ObjectInfo,
    PathNotFoundError,
    RefNotFoundError,
    StoreError,
    VersionedStore,
)
from tests.orchestration.store.conftest import Backend, sha256_of, tree


def test_a_new_store_is_empty_and_has_main(store: VersionedStore) -> None:
    assert list(store.branches()) == ["main"]
    assert tree(store) == {}


def test_what_was_put_is_read_back_by_another_process_view(backend: Backend, store: VersionedStore) -> None:
    content = {"corpus/part-0.parquet": b"\x00\xff" * 500, "语料/文档 😀.txt": "内容".encode(), "empty": b""}
    commit = store.commit("main", content, message="三个文件\n\nbody", metadata={"run": "a\nb", "键": '"值"'})
    again = backend.open()
    assert tree(again, commit) == tree(again) == content
    info = again.stat("main", "语料/文档 😀.txt")
    assert info.sha256 == hashlib.sha256("内容".encode()).hexdigest()
    assert info.size_bytes == 6
    with again.open("main", "corpus/part-0.parquet") as file:
        assert file.read(2) == b"\x00\xff"
    assert again.local_path("main", "empty").read_bytes() == b""
    newest = next(iter(again.log()))
    assert (newest.id, newest.message, dict(newest.metadata)) == (
        commit,
        "三个文件\n\nbody",
        {"run": "a\nb", "键": '"值"'},
    )
    assert abs((datetime.now(UTC) - datetime.fromisoformat(newest.committed_at)).total_seconds()) < 60


def test_a_message_that_imitates_metadata_stays_a_message(store: VersionedStore) -> None:
    message = 'x\n\nHeadwater-Metadata: {"forged": "yes"}\n'
    store.commit("main", {"a": b"1"}, message=message, metadata={"true": "1"})
    newest = next(iter(store.log()))
    assert newest.message == message
    assert newest.metadata == {"true": "1"}


def test_files_are_taken_by_path(store: VersionedStore, tmp_path: Path) -> None:
    source = tmp_path / "big.bin"
    source.write_bytes(b"x" * 3_000_000)
    link = tmp_path / "link.bin"
    link.symlink_to(source)
    store.commit("main", {"one": source, "two": link, "again": source}, message="by path")
    assert {p: len(d) for p, d in tree(store).items()} == {"one": 3_000_000, "two": 3_000_000, "again": 3_000_000}
    assert os.stat(store.local_path("main", "one")).st_mode & 0o222 == 0
    source.unlink()
    assert store.read_bytes("main", "two") == b"x" * 3_000_000


def test_what_is_already_stored_is_put_again_without_its_bytes(backend: Backend, store: VersionedStore) -> None:
    first = store.commit("main", {"a/1": b"content"}, message="base")
    info = store.stat(first, "a/1")
    store.commit("main", {"b/again": info}, ["a/"], message="moved")
    assert tree(store) == {"b/again": b"content"}
    assert store.stat("main", "b/again") == ObjectInfo("b/again", info.sha256, info.size_bytes)
    head = store.resolve("main")
    backend.object_path(info.sha256).unlink()
    with pytest.raises(CorruptObjectError, match="c/third"):
        store.commit("main", {"c/third": info}, message="it is gone")
    assert store.resolve("main") == head


@pytest.mark.parametrize("kind", ["missing", "folder", "text"])
def test_what_is_not_a_file_is_refused(store: VersionedStore, tmp_path: Path, kind: str) -> None:
    source = {"missing": tmp_path / "no", "folder": tmp_path, "text": "a string"}[kind]
    before = store.resolve("main")
    with pytest.raises(StoreError, match=r"out/file"):
        store.commit("main", {"ok": b"1", "out/file": source}, message="x")  # type: ignore[dict-item]
    assert store.resolve("main") == before


def test_removals_come_before_puts(store: VersionedStore) -> None:
    store.commit("main", {"a/1": b"1", "a/2": b"2", "a/b/3": b"3", "ab": b"4", "c": b"5"}, message="base")
    store.commit("main", {"a/2": b"new"}, ["a/", "c", "not/there", "nor/this/"], message="replace the folder")
    assert tree(store) == {"a/2": b"new", "ab": b"4"}
    store.commit("main", {"a": b"now a file"}, ["a/"], message="folder to file")
    assert tree(store) == {"a": b"now a file", "ab": b"4"}
    store.commit("main", {"a/x/y": b"folder again"}, ["a"], message="file to folder")
    assert tree(store) == {"a/x/y": b"folder again", "ab": b"4"}


def test_a_removal_means_exactly_what_it_names(store: VersionedStore) -> None:
    content = {"a/1": b"1", "a.txt": b"2"}
    store.commit("main", content, message="base")
    store.commit("main", {}, ["a", "a.txt/"], message="a is a folder, a.txt a file: neither is removed")
    assert tree(store) == content


def test_no_change_makes_no_commit(store: VersionedStore) -> None:
    head = store.commit("main", {"a": b"1"}, message="one")
    assert store.commit("main", {"a": b"1"}, ["b"], message="same again") == head
    assert store.commit("main", {"a": b"1"}, ["a"], message="removed and put back") == head
    assert store.commit("main", {}, message="nothing") == head


@pytest.mark.parametrize(
    ("put", "remove"),
    [({"a": b"", "a/b": b""}, []), ({"x": b""}, []), ({"f/y": b""}, []), ({"x/1/2": b""}, [])],
    ids=["both new", "file over folder", "folder over file", "deeper"],
)
def test_a_file_cannot_also_be_a_folder(store: VersionedStore, put: dict[str, bytes], remove: list[str]) -> None:
    head = store.commit("main", {"x/1": b"1", "f": b"2"}, message="base")
    with pytest.raises(InvalidPathError, match="folder"):
        store.commit("main", put, remove, message="clash")
    assert store.resolve("main") == head


@pytest.mark.parametrize(
    "path",
    ["", "/", "/abs", "a//b", "a/", "./a", "a/../b", "..", "nul\0", "new\nline", "back\\slash", ".git/config",
     "a/.GIT", ".gitattributes", "x/.gitmodules", "a/.g\u200cit", "GIT~1", "lone\ud800", "x" * 256, "é" * 128, "a/" * 70 + "a", "long/" * 210],
)  # fmt: skip
def test_bad_paths_are_refused(store: VersionedStore, path: str) -> None:
    head = store.resolve("main")
    with pytest.raises(InvalidPathError):
        store.commit("main", {path: b"x", "good": b"y"}, message="x")
    assert store.resolve("main") == head


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(
            st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
            st.sampled_from(
                ["语料/分片 01.parquet", "😀", "名" * 85, "a" * 255, "-rf", "a b", " lead", "con", "~", "é", "é"]
            ),
            st.lists(st.sampled_from(["a", "b", "..", "", "中", "Ａ", ".git"]), max_size=4).map("/".join),
        ),
        max_size=5,
    )
)
def test_any_text_is_stored_exactly_or_refused(backend: Backend, store: VersionedStore, names: list[str]) -> None:
    if backend.name != "git" and zlib.crc32("".join(names).encode()) % 5:
        return  # over HTTP an example takes a third of a second: a fifth of them will do
    content = {name: name.encode("utf-8", "replace") for name in names}
    before = tree(store)
    try:
        store.commit("main", content, [p for p in before if p not in content], message="weird names")
    except InvalidPathError:
        valid = []
        for name in content:
            try:
                valid.append(paths.check_path(name))
            except InvalidPathError:
                assert tree(store) == before
                return
        folders = {parts[:i] for parts in valid for i in range(1, len(parts))}
        assert folders & set(valid), f"valid paths without a clash were refused: {names}"
        assert tree(store) == before
    else:
        assert tree(store) == content


def test_a_lost_race_is_refused_and_writes_nothing(store: VersionedStore) -> None:
    old = store.resolve("main")
    head = store.commit("main", {"a": b"1"}, message="first", expected_parent=old)
    with pytest.raises(LostRaceError, match="retry"):
        store.commit("main", {"a": b"2"}, message="second", expected_parent=old)
    with pytest.raises(LostRaceError):
        store.commit("main", {}, message="no change, but stale all the same", expected_parent=old)
    assert store.resolve("main") == head
    assert tree(store) == {"a": b"1"}


def test_reading_what_is_not_there(store: VersionedStore) -> None:
    store.commit("main", {"a/b": b"1"}, message="x")
    for path in ("a", "a/", "a/b/", "a/b/c", "c", "", ".gitattributes"):
        with pytest.raises(PathNotFoundError):
            store.read_bytes("main", path)
    for ref in ("nowhere", "0" * 40, "", "..", "HEAD~1", "ref with space"):
        with pytest.raises(RefNotFoundError):
            store.stat(ref, "a/b")
    with pytest.raises(RefNotFoundError, match="branches: main"):
        store.commit("nowhere", {"a": b""}, message="x")


def test_list_is_sorted_and_takes_any_prefix(store: VersionedStore) -> None:
    names = ["a", "a-b/x", "a.b", "a0", "ab/c", "aa/b/c", "b/1", "b/10", "b/2", "中/文", "é"]
    names += ["d/1", "d-e/x", "d.e", "d0", "d!"]  # Git sorts the folder d as d/, after d-e and d.e
    store.commit("main", dict.fromkeys(names, b""), message="x")
    assert [i.path for i in store.list("main")] == sorted(names)
    for prefix in ("a", "aa/", "aa/b", "b/1", "b", "中", "zzz", "aa/b/c", "aa/b/c/d"):
        assert [i.path for i in store.list("main", prefix)] == sorted(n for n in names if n.startswith(prefix))
    assert [i.path for i in store.list("main", "a", "/c")] == ["aa/b/c", "ab/c"]


def test_log_with_a_path_names_only_commits_that_changed_it(store: VersionedStore) -> None:
    first = store.commit("main", {"a/1": b"1"}, message="add a/1")
    store.commit("main", {"b": b"1"}, message="unrelated")
    second = store.commit("main", {"a/2": b"1"}, message="add a/2")
    third = store.commit("main", {}, ["a/1"], message="remove a/1")
    assert [c.id for c in store.log(path="a/")] == [third, second, first]
    assert [c.id for c in store.log(path="a/1")] == [third, first]
    assert [c.id for c in store.log(path="a/1", limit=1)] == [third]
    assert [c.message for c in store.log(limit=2)] == ["remove a/1", "add a/2"]
    assert len(list(store.log(first))) == 2


def test_diff(store: VersionedStore) -> None:
    before = store.commit("main", {"keep": b"1", "a/x": b"1", "a/y": b"2", "f": b"3"}, message="before")
    after = store.commit("main", {"a/x": b"new", "f/g": b"3", "z": b"9"}, ["a/y", "f"], message="after")
    changes = store.diff(before, after)
    assert [(c.path, c.kind) for c in changes] == [
        ("a/x", "changed"),
        ("a/y", "removed"),
        ("f", "removed"),
        ("f/g", "added"),
        ("z", "added"),
    ]
    assert changes[0].before and changes[0].after
    assert changes[0].after.sha256 == sha256_of(store, "a/x")
    assert [c.path for c in store.diff(before, after, "a/")] == ["a/x", "a/y"]
    assert [c.kind for c in store.diff(after, before, "f")] == ["added", "removed"]
    assert store.diff(after, after) == []


def test_open_store_names_what_it_cannot_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADWATER_LAKEFS_ENDPOINT", raising=False)
    with pytest.raises(StoreError, match="HEADWATER_LAKEFS_ENDPOINT"):
        open_store("lakefs://repository")
    with pytest.raises(StoreError, match="unknown kind"):
        open_store("s3://bucket")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("mine")
    with pytest.raises(StoreError, match="not a Headwater store"):
        open_store(tmp_path / "other")
    assert (tmp_path / "other" / "file").read_text() == "mine"
