"""Damage of the Git store's own index: refs, commits, trees and pointer blobs. Contents: test_keeping.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestration.store.contract import CorruptObjectError
from orchestration.store.git_store import GitStore
from tests.store.conftest import damage, tree

FILES = {"corpus/a": b"1", "corpus/b": b"2", "tokens/c": b"3"}
DAMAGES = {
    "emptied": lambda path: damage(path, b""),
    "overwritten": lambda path: damage(path, b"\0" * 40),
    "cut": lambda path: damage(path, path.read_bytes()[:-5]),
    "missing": lambda path: path.unlink(),
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "store.git"
    GitStore.at(folder).commit("main", FILES, message="base")
    return folder


def object_file(place: Path, oid: str) -> Path:
    return place / "objects" / oid[:2] / oid[2:]


def object_ids(place: Path) -> dict[str, str]:
    """One object of each kind that `main` needs."""
    store = GitStore.at(place)
    head = store.resolve("main")
    root = store.git.root(head)
    folder = store.git.tree(root)["corpus"][1]
    return {"commit": head, "root": root, "folder": folder, "blob": store.git.tree(folder)["a"][1]}


@pytest.mark.parametrize("how", DAMAGES)
def test_committing_the_same_bytes_over_a_damaged_object_heals_it(place: Path, how: str) -> None:
    blob = object_ids(place)["blob"]
    DAMAGES[how](object_file(place, blob))
    with pytest.raises(CorruptObjectError):
        tree(GitStore.at(place))
    GitStore.at(place).commit("main", {"elsewhere": FILES["corpus/a"]}, message="the same bytes again")
    assert tree(GitStore.at(place)) == {**FILES, "elsewhere": FILES["corpus/a"]}
