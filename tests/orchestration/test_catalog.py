"""The catalog that follows a store costs what changed, and equals one that is read afresh."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestration import catalog
from orchestration.catalog import CatalogError, read_catalog
from orchestration.store.contract import MAIN, ObjectInfo
from orchestration.store.git_store import GitStore


class CountingStore(GitStore):
    """A store that counts what it lists."""

    listed = 0

    def list(self, ref: str, prefix: str = "") -> Iterator[ObjectInfo]:
        """Counted."""
        for info in super().list(ref, prefix):
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
