"""What was checked is what is merged: a branch that another process staged on meanwhile is refused."""

from __future__ import annotations

import pytest

from orchestration.store.contract import LostRaceError, VersionedStore
from tests.orchestration.store.conftest import tree


def stage(store: VersionedStore, content: bytes) -> str:
    """What a stager does: its branch anew, one commit on it."""
    if "build" in store.branches():
        store.delete_branch("build")
    start = store.create_branch("build")
    return store.commit("build", {"data": content}, message="staged", expected_parent=start)


def test_two_stagers_and_one_merger(store: VersionedStore) -> None:
    head = store.resolve("main")
    checked = stage(store, b"checked")
    unchecked = stage(store, b"its blocking check failed")
    with pytest.raises(LostRaceError, match=f"'build' is at {unchecked[:12]}, not at {checked[:12]}"):
        store.merge("build", message="publish", expected_head=checked)
    assert (store.resolve("main"), tree(store)) == (head, {})


def test_stage_stage_merge_merge(store: VersionedStore) -> None:
    first, second = stage(store, b"first"), stage(store, b"second")
    with pytest.raises(LostRaceError):
        store.merge("build", message="publish", expected_head=first)
    merged = store.merge("build", message="publish", expected_head=second[:12])
    assert tree(store) == {"data": b"second"}
    assert next(iter(store.log())).parents[1] == second
    store.delete_branch("build")
    with pytest.raises(LostRaceError, match="deleted"):
        store.merge("build", message="publish", expected_head=first)
    assert store.resolve("main") == merged


def test_a_commit_that_was_added_after_the_check_is_not_merged(store: VersionedStore) -> None:
    checked = stage(store, b"checked")
    store.commit("build", {"more": b"unchecked"}, message="added")
    with pytest.raises(LostRaceError):
        store.merge("build", message="publish", expected_head=checked)
    assert tree(store) == {}


def test_a_branch_that_moves_while_it_is_merged_brings_only_what_was_checked(
    store: VersionedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other stager comes between the look at the branch and the merge: the commit that was looked at is merged."""
    checked = stage(store, b"checked")
    compare = type(store)._three_way  # type: ignore[attr-defined]

    def late(self: VersionedStore, *args: object) -> object:
        monkeypatch.undo()
        store.commit("build", {"data": b"unchecked"}, message="added")
        return compare(self, *args)

    monkeypatch.setattr(type(store), "_three_way", late)
    store.merge("build", message="publish", expected_head=checked)
    assert tree(store) == {"data": b"checked"}
