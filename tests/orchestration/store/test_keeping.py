"""gc, verify and purge: what is deleted, what is found damaged, what is told apart."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from orchestration.store.contract import (
    CorruptObjectError,
    PathNotFoundError,
    PurgedObjectError,
    RefNotFoundError,
    StoreError,
    VersionedStore,
)
from orchestration.store.git import maintenance
from orchestration.store.lakefs import s3_objects
from tests.orchestration.store.conftest import Backend, damage, sha256_of, tree


@pytest.fixture
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let gc treat objects of this very second as old."""
    monkeypatch.setattr(maintenance, "GRACE_S", -1.0)
    monkeypatch.setattr(s3_objects, "GRACE_S", -1.0)


def history(store: VersionedStore) -> dict[str, str]:
    """Commits that hold one object each, by what keeps them."""
    commits = {}
    commits["old"] = store.commit("main", {"f": b"old"}, message="old")
    commits["tagged"] = store.commit("main", {"f": b"tagged"}, message="tagged")
    store.tag("v1", "main")
    commits["kept"] = store.commit("main", {"f": b"kept"}, message="kept")
    commits["head"] = store.commit("main", {"f": b"head"}, message="head")
    store.create_branch("gone")
    commits["unmerged"] = store.commit("gone", {"f": b"unmerged"}, message="unmerged")
    store.delete_branch("gone")
    return commits


@pytest.mark.usefixtures("no_grace")
def test_gc_deletes_only_what_nothing_needs(store: VersionedStore) -> None:
    commits = history(store)
    rehearsal = store.gc(keep=[commits["kept"][:12]], keep_days=0, dry_run=True)
    assert store.read_bytes(commits["old"], "f") == b"old"
    report = store.gc(keep=[commits["kept"][:12]], keep_days=0)
    assert report == rehearsal
    assert (report.kept_objects, report.deleted_objects, report.deleted_bytes) == (3, 2, len(b"old" + b"unmerged"))
    for name in ("tagged", "kept", "head"):
        assert store.read_bytes(commits[name], "f") == name.encode()
    for name in ("old", "unmerged"):
        with pytest.raises(CorruptObjectError, match="collected by gc"):
            store.read_bytes(commits[name], "f")
    assert len(list(store.log())) == 5
    assert store.verify().damage == []
    assert store.gc(keep=[commits["kept"]], keep_days=0).deleted_objects == 0


@pytest.mark.usefixtures("no_grace")
def test_gc_keeps_young_commits_even_of_deleted_branches(store: VersionedStore) -> None:
    commits = history(store)
    assert store.gc(keep_days=1).deleted_objects == 0
    assert store.read_bytes(commits["unmerged"], "f") == b"unmerged"


def test_gc_keeps_objects_of_the_last_hour(store: VersionedStore) -> None:
    history(store)
    assert store.gc(keep_days=0).deleted_objects == 0


@pytest.mark.usefixtures("no_grace")
def test_gc_with_an_unknown_ref_to_keep_deletes_nothing(store: VersionedStore) -> None:
    commits = history(store)
    with pytest.raises(RefNotFoundError):
        store.gc(keep=["misspelt"], keep_days=0)
    assert store.read_bytes(commits["old"], "f") == b"old"


@pytest.mark.usefixtures("no_grace")
def test_collected_bytes_come_back_when_they_are_stored_again(backend: Backend, store: VersionedStore) -> None:
    commits = history(store)
    store.gc(keep_days=0)
    store.create_branch("b")
    store.commit("b", {"again": b"old"}, message="rebuilt")
    assert store.read_bytes(commits["old"], "f") == b"old"
    backend.object_path(sha256_of(store, "again", "b")).unlink()
    assert [d.problem for d in store.verify().damage] == ["missing"], "what was stored again is not 'collected'"
    with pytest.raises(CorruptObjectError, match="is missing"):
        store.read_bytes("b", "again")


@pytest.mark.usefixtures("no_grace")
def test_revert_to_collected_content_is_refused(store: VersionedStore) -> None:
    commits = history(store)
    store.gc(keep_days=0)
    with pytest.raises(CorruptObjectError, match="collected by gc"):
        store.revert(commits["head"], message="would bring back f=kept")
    assert tree(store) == {"f": b"head"}


DAMAGES = {
    "altered": lambda path: damage(path, b"bad content 1"),
    "wrong_size": lambda path: damage(path, b"bad c"),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("problem", DAMAGES)
def test_verify_names_the_files_and_commits_of_a_damaged_object(
    backend: Backend, store: VersionedStore, problem: str
) -> None:
    first = store.commit("main", {"a/1": b"bad content 0", "fine": b"1"}, message="first")
    second = store.commit("main", {"b/copy": b"bad content 0"}, message="second")
    store.commit("main", {}, ["a/", "b/"], message="third, without it")
    store.create_branch("side", first)
    side = store.commit("side", {"other": b"2"}, message="on a branch")
    sha256 = sha256_of(store, "a/1", first)
    DAMAGES[problem](backend.object_path(sha256))
    report = store.verify()
    assert [(d.sha256, d.problem, d.paths) for d in report.damage] == [(sha256, problem, ("a/1", "b/copy"))]
    assert set(report.damage[0].commits) == {first, second, side}
    assert (report.objects_checked, report.purged_objects) == (3, 0)
    assert store.verify("main").damage == []
    assert [d.problem for d in store.verify("side").damage] == [problem]
    with pytest.raises(CorruptObjectError, match="a/1") as caught:
        store.read_bytes(first, "a/1")
    assert caught.value.sha256 == sha256


def test_one_flipped_bit_is_found(backend: Backend, store: VersionedStore) -> None:
    content = bytearray(os.urandom(200_000))
    store.commit("main", {"a": bytes(content), "b": b"fine"}, message="x")
    content[123_456] ^= 1
    damage(backend.object_path(sha256_of(store, "a")), bytes(content))
    assert [d.problem for d in store.verify().damage] == ["altered"]
    with pytest.raises(CorruptObjectError, match="altered"):
        store.read_bytes("main", "a")


@pytest.mark.parametrize("problem", DAMAGES)
def test_building_the_same_bytes_again_heals_a_damaged_object(
    backend: Backend, store: VersionedStore, problem: str
) -> None:
    store.commit("main", {"a": b"content"}, message="x")
    DAMAGES[problem](backend.object_path(sha256_of(store, "a")))
    store.create_branch("b")
    store.commit("b", {"rebuilt": b"content"}, message="y")
    assert store.verify().damage == []
    assert store.read_bytes("main", "a") == b"content"


@pytest.mark.slow
def test_verify_of_a_share_is_repeatable_and_grows_to_all(store: VersionedStore) -> None:
    store.commit("main", {f"f{i}": b"%d" % i for i in range(40)}, message="x")
    assert store.verify(fraction=0.25).objects_checked == 10
    assert store.verify(fraction=0.001).objects_checked == 1
    assert store.verify(fraction=0.25, seed=7).bytes_checked == store.verify(fraction=0.25, seed=7).bytes_checked
    assert store.verify().objects_checked == 40


def test_purge_deletes_the_bytes_under_every_commit_and_keeps_the_history(
    backend: Backend, store: VersionedStore
) -> None:
    first = store.commit("main", {"a": b"private page", "b": b"public"}, message="one")
    second = store.commit("main", {"copy": b"private page"}, message="two")
    sha256 = sha256_of(store, "a")
    assert store.purge([sha256], reason="takedown 42: 作者要求") == len(b"private page")
    assert not backend.object_path(sha256).exists()
    for ref, path in ((first, "a"), (second, "copy"), ("main", "a")):
        with pytest.raises(PurgedObjectError, match="takedown 42: 作者要求"):
            store.read_bytes(ref, path)
        with pytest.raises(PurgedObjectError):
            store.open(ref, path)
        with pytest.raises(PurgedObjectError):
            store.local_path(ref, path)
        assert store.stat(ref, path).sha256 == sha256
    assert store.read_bytes("main", "b") == b"public"
    report = store.verify()
    assert (report.purged_objects, report.objects_checked, report.damage) == (1, 1, [])
    assert store.purge([sha256], reason="again") == 0
    with pytest.raises(PurgedObjectError, match="takedown 42"):
        store.read_bytes("main", "a")


def test_purged_bytes_may_not_come_back(store: VersionedStore, tmp_path: Path) -> None:
    added = store.commit("main", {"a": b"private page"}, message="one")
    head = store.commit("main", {}, ["a"], message="out")
    store.purge([sha256_of(store, "a", added)], reason="law")
    source = tmp_path / "page"
    source.write_bytes(b"private page")
    for content in (b"private page", source):
        with pytest.raises(PurgedObjectError, match="law"):
            store.commit("main", {"new": b"fine", "again": content}, message="x")
    assert store.resolve("main") == head
    with pytest.raises(PathNotFoundError):
        store.stat("main", "new")


def test_purge_can_ban_bytes_before_they_arrive(store: VersionedStore) -> None:
    assert store.purge([hashlib.sha256(b"never").hexdigest()], reason="court order") == 0
    with pytest.raises(PurgedObjectError, match="court order"):
        store.commit("main", {"a": b"never"}, message="x")


def test_purge_refuses_nonsense(store: VersionedStore) -> None:
    with pytest.raises(StoreError, match="SHA-256"):
        store.purge(["abc"], reason="x")
    with pytest.raises(StoreError, match="reason"):
        store.purge(["0" * 64], reason=" ")


@pytest.mark.usefixtures("no_grace")
def test_gc_finishes_an_interrupted_purge(backend: Backend, store: VersionedStore) -> None:
    store.commit("main", {"a": b"private"}, message="x")
    sha256 = sha256_of(store, "a")
    place = backend.object_path(sha256)
    store.purge([sha256], reason="law")
    place.write_bytes(b"private")  # as if killed between the tombstone and the deletion
    assert store.gc().deleted_objects == 1
    assert not place.exists()
    with pytest.raises(PurgedObjectError, match="law"):
        store.read_bytes("main", "a")
