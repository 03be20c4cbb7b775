"""Branches, tags, merge and revert."""

from __future__ import annotations

import pytest

from orchestration.store.contract import (
    MergeConflictError,
    PurgedObjectError,
    RefNotFoundError,
    StoreError,
    VersionedStore,
)
from tests.orchestration.store.conftest import sha256_of, tree


def test_branches_are_isolated(store: VersionedStore) -> None:
    store.commit("main", {"a": b"1"}, message="base")
    start = store.create_branch("build/corpus/1")
    store.commit("build/corpus/1", {"a": b"2"}, message="staged")
    assert start == store.resolve("main")
    assert tree(store) == {"a": b"1"}
    assert tree(store, "build/corpus/1") == {"a": b"2"}
    store.delete_branch("build/corpus/1")
    assert list(store.branches()) == ["main"]
    with pytest.raises(RefNotFoundError):
        store.resolve("build/corpus/1")


def test_names_that_are_taken_or_ambiguous_are_refused(store: VersionedStore) -> None:
    store.create_branch("one")
    store.tag("v1", "main")
    for name in ("one", "main", "v1", "one/below", "deadbeef", "", " x", "a b", "a..b", "-d", "HEAD", "x.lock", "~"):
        with pytest.raises(StoreError):
            store.create_branch(name)
    with pytest.raises(StoreError, match="deleted"):
        store.delete_branch("main")
    with pytest.raises(RefNotFoundError):
        store.delete_branch("never was")
    with pytest.raises(RefNotFoundError):
        store.create_branch("two", "no such source")
    assert sorted(store.branches()) == ["main", "one"]


def test_a_commit_has_an_id_and_prefixes(store: VersionedStore) -> None:
    commit = store.commit("main", {"a": b"1"}, message="x")
    assert store.resolve(commit) == store.resolve(commit[:8]) == store.resolve("main") == commit
    with pytest.raises(RefNotFoundError):
        store.resolve(commit[:7])


def test_a_tag_is_for_ever(store: VersionedStore) -> None:
    first = store.commit("main", {"a": b"1"}, message="x")
    store.tag("release/1", "main", "第一版")
    second = store.commit("main", {"a": b"2"}, message="y")
    store.tag("release/1", first)
    with pytest.raises(StoreError, match="already names"):
        store.tag("release/1", "main")
    store.create_branch("b")
    with pytest.raises(StoreError, match="already"):
        store.tag("b", "main")
    assert store.tags() == {"release/1": first}
    assert store.resolve("release/1") == first != second
    assert tree(store, "release/1") == {"a": b"1"}


def test_merge_of_a_branch_that_is_ahead_keeps_its_message(store: VersionedStore) -> None:
    store.create_branch("b")
    staged = store.commit("b", {"a": b"1"}, message="staged")
    before = store.resolve("main")
    merged = store.merge("b", message="publish", metadata={"asset": "corpus"})
    newest = next(iter(store.log()))
    assert newest.id == merged == store.resolve("main")
    assert (newest.message, newest.metadata, newest.parents) == ("publish", {"asset": "corpus"}, (before, staged))
    assert tree(store) == {"a": b"1"}
    assert store.merge("b", message="nothing left to merge") == merged


def test_three_way_merge_takes_both_sides(store: VersionedStore) -> None:
    store.commit("main", {"a/1": b"1", "a/2": b"2", "b/1": b"3", "same": b"0"}, message="base")
    store.create_branch("b")
    store.commit("b", {"a/1": b"theirs", "new/x": b"t", "same": b"both"}, ["b/"], message="theirs")
    store.commit("main", {"a/2": b"ours", "new/y": b"o", "same": b"both"}, message="ours")
    store.merge("b", message="merge")
    assert tree(store) == {"a/1": b"theirs", "a/2": b"ours", "new/x": b"t", "new/y": b"o", "same": b"both"}


CONFLICTS = {
    "both changed": ({"a/1": b"t"}, [], {"a/1": b"o"}, [], ["a/1"]),
    "both added": ({"n": b"t"}, [], {"n": b"o"}, [], ["n"]),
    "we deleted, they changed": ({"a/1": b"t", "fine": b"t"}, [], {}, ["a/"], ["a/1"]),
    "we changed, they deleted": ({}, ["a/"], {"a/2": b"o"}, [], ["a/2"]),
    "they need a file where we need a folder": ({"n": b"t"}, [], {"n/x": b"o"}, [], ["n", "n/x"]),
    "two at once": ({"a/1": b"t", "a/2": b"t"}, [], {"a/1": b"o", "a/2": b"o"}, [], ["a/1", "a/2"]),
}


@pytest.mark.parametrize("case", CONFLICTS)
def test_conflicts_name_their_paths_and_change_nothing(store: VersionedStore, case: str) -> None:
    their_put, their_remove, our_put, our_remove, paths = CONFLICTS[case]
    store.commit("main", {"a/1": b"1", "a/2": b"2"}, message="base")
    store.create_branch("b")
    store.commit("b", their_put, their_remove, message="theirs")
    head = store.commit("main", our_put, our_remove, message="ours")
    before = tree(store)
    with pytest.raises(MergeConflictError, match=paths[0]) as caught:
        store.merge("b", message="merge")
    assert caught.value.paths == paths
    assert store.resolve("main") == head
    assert tree(store) == before


def test_a_branch_can_follow_main_and_be_merged_back(store: VersionedStore) -> None:
    store.create_branch("long")
    for i in range(3):
        store.commit("long", {f"l/{i}": b"l"}, message=f"long {i}")
        store.commit("main", {f"m/{i}": b"m"}, message=f"main {i}")
        store.merge("main", into="long", message="follow")
    store.merge("long", message="back")
    assert set(tree(store)) == {f"{s}/{i}" for s in "lm" for i in range(3)}
    assert store.diff("main", "long") == []


def test_revert_undoes_one_commit_and_keeps_later_ones(store: VersionedStore) -> None:
    store.commit("main", {"a": b"1", "b": b"1"}, message="base")
    bad = store.commit("main", {"a": b"bad", "c": b"bad"}, ["b"], message="bad")
    store.commit("main", {"d": b"later"}, message="later")
    store.revert(bad, message="undo it")
    assert tree(store) == {"a": b"1", "b": b"1", "d": b"later"}
    newest = next(iter(store.log()))
    assert (newest.message, newest.metadata["reverts"]) == ("undo it", bad)


def test_revert_of_a_merge_undoes_what_it_brought(store: VersionedStore) -> None:
    store.create_branch("b")
    store.commit("b", {"a": b"1"}, message="one")
    store.commit("b", {"b": b"2"}, message="two")
    store.commit("main", {"m": b"m"}, message="meanwhile")
    store.revert(store.merge("b", message="publish"), message="take it back")
    assert tree(store) == {"m": b"m"}


def test_revert_refuses_what_later_commits_touched(store: VersionedStore) -> None:
    bad = store.commit("main", {"a": b"1", "b": b"1"}, message="bad")
    head = store.commit("main", {"a": b"2"}, message="later change of the same path")
    with pytest.raises(MergeConflictError) as caught:
        store.revert(bad, message="undo")
    assert caught.value.paths == ["a"]
    assert store.resolve("main") == head


def test_revert_needs_a_commit_of_this_branch_with_a_parent(store: VersionedStore) -> None:
    root = store.resolve("main")
    with pytest.raises(StoreError, match="first of the store"):
        store.revert(root, message="undo")
    store.create_branch("b")
    elsewhere = store.commit("b", {"a": b"1"}, message="on b")
    with pytest.raises(StoreError, match="not in the history"):
        store.revert(elsewhere, message="undo")


def test_neither_merge_nor_revert_brings_back_what_was_taken_down(store: VersionedStore) -> None:
    added = store.commit("main", {"a": b"private"}, message="base")
    removal = store.commit("main", {}, ["a"], message="removed")
    store.create_branch("b")
    store.commit("b", {"x": b"also private"}, message="staged")
    store.purge([sha256_of(store, "a", added), sha256_of(store, "x", "b")], reason="asked by the author")
    head = store.resolve("main")
    with pytest.raises(PurgedObjectError, match="asked by the author"):
        store.revert(removal, message="undo")
    with pytest.raises(PurgedObjectError, match="asked by the author"):
        store.merge("b", message="merge")
    assert store.resolve("main") == head


def test_ancestors_are_named_with_a_tilde(store: VersionedStore) -> None:
    first = store.commit("main", {"a": b"1"}, message="one")
    second = store.commit("main", {"a": b"2"}, message="two")
    assert [store.resolve(f"main~{n}") for n in range(2)] == [second, first]
    with pytest.raises(RefNotFoundError, match="only"):
        store.resolve("main~9")
