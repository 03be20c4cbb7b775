"""The catalog that follows a store costs what changed, and equals one that is read afresh."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestration.identity import catalog
from orchestration.identity.catalog import CatalogError, read_catalog
from orchestration.store.contract import MAIN, CorruptObjectError, ObjectInfo
from orchestration.store.git.store import GitStore


class CountingStore(GitStore):
    """A store that counts what it lists."""

    listed = 0

    def list(self, ref: str, prefix: str = "", suffix: str = "") -> Iterator[ObjectInfo]:
        """Counted."""
        for info in super().list(ref, prefix, suffix):
            self.listed += 1
            yield info


def manifest(asset: str, partition: str | None, version: str) -> bytes:
    return json.dumps({"format": 1, "asset": asset, "partition": partition, "version": version}).encode()


def put(day: int, version: str = "v1") -> dict[str, Path | bytes | ObjectInfo]:
    partition = f"web@202401{day:02d}T000000Z"
    folder = f"sources/crawl_delta/{partition}/"
    return {f"{folder}_manifest.json": manifest("crawl_delta", partition, version), f"{folder}delta.parquet": b"rows"}


def versions(store: GitStore, ref: str = MAIN) -> dict[Any, str]:
    return {key: found["version"] for key, found in read_catalog(store, ref).manifests.items()}


def test_a_catalog_looks_at_manifests_only(tmp_path: Path) -> None:
    store = CountingStore.at(tmp_path / "store.git")
    store.commit(MAIN, put(1) | put(2), message="two nights of two files each")
    read_catalog(store)
    assert store.listed == 2


def test_what_was_read_is_not_listed_again(tmp_path: Path) -> None:
    store = CountingStore.at(tmp_path / "store.git")
    first = store.commit(MAIN, put(1) | put(2), message="two")
    assert len(versions(store)) == 2
    listed = store.listed
    store.commit(MAIN, put(3), message="added")
    store.commit(MAIN, put(2, "v2"), message="changed")
    store.commit(MAIN, {}, ["sources/crawl_delta/web@20240101T000000Z/"], message="removed")
    store.commit(MAIN, {"other/_manifest.json": b"not one of ours"}, message="other")
    now = {("crawl_delta", "web@20240102T000000Z"): "v2", ("crawl_delta", "web@20240103T000000Z"): "v1"}
    assert versions(store) == now
    before = {("crawl_delta", "web@20240101T000000Z"): "v1", ("crawl_delta", "web@20240102T000000Z"): "v1"}
    assert versions(store, first) == before
    assert versions(store) == now
    assert store.listed == listed
    assert versions(CountingStore.at(tmp_path / "store.git")) == now


def test_only_a_few_catalogs_are_kept_and_a_caller_may_change_its_own(tmp_path: Path) -> None:
    store = GitStore.at(tmp_path / "store.git")
    for day in range(1, 9):
        store.commit(MAIN, put(day), message=str(day))
        read_catalog(store).manifests.clear()
    assert len(catalog._recent[store]) == catalog.KEPT_CATALOGS
    assert len(versions(store)) == 8


def test_a_manifest_of_another_format_is_refused(tmp_path: Path) -> None:
    store = GitStore.at(tmp_path / "store.git")
    path = "dedup/corpus/_manifest.json"
    store.commit(MAIN, {path: b'{"format": 2}'}, message="of the future")
    with pytest.raises(CatalogError, match=f"{path}: manifest format 2, this Headwater reads 1"):
        read_catalog(store)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HEADWATER_HOME", str(folder))
    return folder


def afresh(store: GitStore, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[Any, str], int]:
    """What a new process finds, and how many manifests it reads from the store."""
    read: list[str] = []

    def counted(ref: str, path: str) -> bytes:
        read.append(path)
        return GitStore.read_bytes(store, ref, path)

    monkeypatch.setattr(catalog, "_manifest_cache", {})
    catalog._recent.pop(store, None)
    with monkeypatch.context() as patch:
        patch.setattr(store, "read_bytes", counted)
        return versions(store), len(read)


def many(count: int) -> dict[str, Path | bytes | ObjectInfo]:
    keys = [f"web@2{number:03d}0101T000000Z" for number in range(count)]
    return {f"sources/crawl_delta/{key}/_manifest.json": manifest("crawl_delta", key, key) for key in keys}


def test_the_manifests_of_many_nights_are_read_once_in_a_home(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = GitStore.at(tmp_path / "store.git")
    store.commit(MAIN, many(120), message="nights")
    first, read = afresh(store, monkeypatch)
    assert read == len(first) == 120
    with monkeypatch.context() as patch:
        patch.setattr(store, "list", None)  # nor are they listed again
        assert afresh(store, monkeypatch) == (first, 0)
    store.commit(MAIN, put(3) | {"sources/crawl_delta/web@20000101T000000Z/_manifest.json": b""}, message="one more")
    store.commit(MAIN, {}, ["sources/crawl_delta/web@20000101T000000Z/"], message="one less")
    second, read = afresh(store, monkeypatch)
    assert (read, len(second)) == (1, 120)
    assert set(second) == set(first) - {("crawl_delta", "web@20000101T000000Z")} | {
        ("crawl_delta", "web@20240103T000000Z")
    }


def test_what_was_kept_of_another_store_or_of_a_collected_commit_does_not_count(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = GitStore.at(tmp_path / "store.git"), GitStore.at(tmp_path / "other.git")
    store.commit(MAIN, many(120), message="nights")
    afresh(store, monkeypatch)
    other.commit(MAIN, many(110) | put(3), message="other nights")
    found, read = afresh(other, monkeypatch)
    assert (len(found), read) == (111, 1)
    with monkeypatch.context() as patch:
        patch.setattr(other, "list", None)  # what is kept is of the other store now
        assert afresh(other, monkeypatch) == (found, 0)


def test_a_damaged_commit_of_before_does_not_hide_the_present(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = GitStore.at(tmp_path / "store.git")
    store.commit(MAIN, many(120), message="nights")
    afresh(store, monkeypatch)
    store.commit(MAIN, put(3), message="one more")

    def damaged(*_: object) -> None:
        raise CorruptObjectError("a tree is damaged", "0" * 40)

    monkeypatch.setattr(store, "diff", damaged)
    assert len(afresh(store, monkeypatch)[0]) == 121


@pytest.mark.parametrize("damage", ["cut short", "altered", "gone", "not ours"])
def test_what_is_kept_is_believed_only_when_it_is_whole(
    damage: str, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = GitStore.at(tmp_path / "store.git")
    store.commit(MAIN, many(120), message="nights")
    first, _ = afresh(store, monkeypatch)
    kept = home / "scratch" / "manifests.json"
    content = kept.read_bytes()
    wrong = {"cut short": content[:-9], "altered": content.replace(b"web@2", b"web@1"), "gone": None, "not ours": b"{}"}
    if wrong[damage] is None:
        kept.unlink()
    else:
        kept.write_bytes(wrong[damage] or b"")
    assert afresh(store, monkeypatch) == (first, 120)
    assert kept.read_bytes() == content, "and it is written again"


def test_a_few_manifests_are_not_kept(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = GitStore.at(tmp_path / "store.git")
    store.commit(MAIN, many(20), message="nights")
    afresh(store, monkeypatch)
    assert not (home / "scratch").exists()
