"""Packs: the same rows as the partitions they copy, and nothing that is not published."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from assets.build import Segment, SilentProgress, read_tables
from assets.tokenizer.texts import group_by_crawl, read_texts
from benchmarks.bench_many_segments import make_store
from orchestration import compaction
from orchestration.catalog import read_catalog, segment
from orchestration.cli import app
from orchestration.compaction import compact, drop_packs, packs_folder, read_packs, with_packs
from orchestration.digest import MANIFEST
from orchestration.store.contract import PurgedObjectError, StoreError
from orchestration.store.git_store import GitStore
from orchestration.takedown import take_down

CRAWLS, ROWS = 40, 3
TABLES = compaction.PACKED_TABLES.items()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home whose store holds many small crawls."""
    make_store(tmp_path / "home", CRAWLS, ROWS)
    return tmp_path / "home"


def store_of(home: Path) -> GitStore:
    return GitStore.at(home / "store.git")


def plain(home: Path, asset: str) -> list[Segment]:
    store = store_of(home)
    catalog = read_catalog(store)
    return [segment(store, catalog.commit, catalog.manifests[asset, key]) for key in catalog.keys(asset)]


def pack(home: Path) -> dict[str, tuple[int, int, int]]:
    store = store_of(home)
    done = compact(store, read_catalog(store), home, SilentProgress())
    return {each.asset: (each.partitions, each.packs, each.rows) for each in done}


def publish(home: Path, asset: str, partition: str, **changes: object) -> None:
    """Publish a partition again: a manifest with some other values."""
    store = store_of(home)
    catalog = read_catalog(store)
    manifest = {**catalog.manifests[asset, partition], **changes}
    path = f"documents/{asset}/{partition}/{MANIFEST}"
    store.commit("main", {path: json.dumps(manifest).encode()}, message="again")


def test_packed_partitions_read_as_before(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "_GROUP_ROWS", 50)  # several row groups, cut inside and between partitions
    assert pack(home) == dict.fromkeys(compaction.PACKED_TABLES, (CRAWLS, 1, CRAWLS * ROWS))
    for asset, table in TABLES:
        apart = plain(home, asset)
        packed = with_packs(apart, home, store_of(home))
        assert all(table in each.packed for each in packed)
        for one, other in zip(apart, packed, strict=True):
            assert one.table(table).equals(other.table(table))
            assert [b.to_pylist() for b in one.batches(table, ["doc_id"])] == [
                b.to_pylist() for b in other.batches(table, ["doc_id"])
            ]
        some = [*packed[3:7], apart[7], *packed[20:], packed[0]]
        wanted = [row for each in some for row in each.table(table, ["url", "doc_id"]).to_pylist()]
        found = [row for each in read_tables(some, table, ["url", "doc_id"]) for row in each.to_pylist()]
        assert found == wanted
    assert len(read_tables(with_packs(plain(home, "crawl_delta"), home, store_of(home)), "delta", ["url"])) == 1


def test_texts_come_from_the_pack(home: Path) -> None:
    apart = plain(home, "extracted_documents")
    ids = [(doc_id, each.partition or "") for each in apart for doc_id in each.table("documents")["doc_id"].to_pylist()]
    wanted = group_by_crawl(*zip(*ids[::2], strict=True))
    before = list(read_texts(apart, wanted))
    pack(home)
    packed = with_packs(apart, home, store_of(home))
    assert all(not each.parts("documents")[0].name.startswith("documents") for each in packed)
    assert list(read_texts(packed, wanted)) == before


def test_a_partition_that_is_published_again_is_not_read_from_an_old_pack(home: Path) -> None:
    pack(home)
    key = plain(home, "filtered_documents")[5].partition or ""
    publish(home, "filtered_documents", key, created_at="later")
    again = with_packs(plain(home, "filtered_documents"), home, store_of(home))
    assert [each.partition for each in again if not each.packed] == [key]
    assert pack(home)["filtered_documents"] == (CRAWLS, 1, CRAWLS * ROWS)
    assert all(each.packed for each in with_packs(plain(home, "filtered_documents"), home, store_of(home)))


def test_few_new_partitions_wait_and_many_are_merged_with_small_packs(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_of(home)
    everything = read_catalog(store)
    counts = []
    for crawls in (20, 30, 36, 40):
        catalog = read_catalog(store)
        keys = catalog.partitions("filtered_documents")[:crawls]
        catalog.manifests = {(a, p): m for (a, p), m in everything.manifests.items() if p in keys}
        done = compact(store, catalog, home, SilentProgress())
        counts.append(next((each.partitions, each.packs) for each in done if each.asset == "filtered_documents"))
    assert counts == [(20, 1), (20, 1), (36, 1), (36, 1)]
    monkeypatch.setattr(compaction, "LEAST_PARTITIONS", 2)
    assert pack(home)["filtered_documents"] == (40, 2, 120)  # 4 new beside 36: the large pack is left alone


def test_a_damaged_pack_is_deleted_and_the_partitions_are_read(home: Path) -> None:
    pack(home)
    damaged = next(read_packs(packs_folder(home) / "filtered_documents", "decisions")).path
    damaged.write_bytes(damaged.read_bytes()[:-20] + b"x" * 20)
    segments = with_packs(plain(home, "filtered_documents"), home, store_of(home))
    assert not any(each.packed for each in segments)
    assert not damaged.exists() and not damaged.with_suffix(".json").exists()


def test_after_a_takedown_no_older_pack_is_read_or_kept(home: Path) -> None:
    pack(home)
    store = store_of(home)
    sha256 = next(store.list("main", "documents/extracted_documents/")).sha256
    store.purge([sha256], reason="asked for by its author")
    assert not any(each.packed for each in with_packs(plain(home, "extracted_documents"), home, store_of(home)))
    assert list((packs_folder(home) / "extracted_documents").iterdir()) == []


def test_dropping_leaves_nothing_behind(home: Path) -> None:
    pack(home)
    drop_packs(home)
    assert not packs_folder(home).exists()
    assert not any(each.packed for each in with_packs(plain(home, "extracted_documents"), home, store_of(home)))


def holding(home: Path, sentence: str) -> list[str]:
    """Files of the home that hold a sentence, as it is or in a Parquet file."""
    found = []
    for path in sorted(path for path in home.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if content[:4] == b"PAR1":
            cells = (cell for row in pq.read_table(path).to_pylist() for cell in row.values())
            content = "\n".join(map(str, cells)).encode()
        if sentence.encode() in content:
            found.append(path.relative_to(home).as_posix())
    return found


def test_a_takedown_leaves_no_copy_of_the_text(home: Path) -> None:
    pack(home)
    shutil.rmtree(home / "files")  # that the store was made from
    store, path = store_of(home), "documents/extracted_documents/"
    taken = next(info for info in store.list("main", path) if info.path.endswith(".parquet"))
    sentence = pq.read_table(store.local_path("main", taken.path))["text"][0].as_py()
    assert {place.split("/")[0] for place in holding(home, sentence)} == {"store.git", "packs"}
    done = CliRunner().invoke(
        app,
        ["takedown", f"main:{taken.path}", "--reason", "asked for by its author"],
        env={"HEADWATER_HOME": str(home)},
    )
    assert done.exit_code == 0, done.output
    assert holding(home, sentence) == []
    with pytest.raises(PurgedObjectError, match="asked for by its author"):
        store_of(home).read_bytes("main", taken.path)
    assert take_down(store_of(home), home, [taken.sha256], "again").freed_bytes == 0


def test_a_takedown_names_an_object(home: Path) -> None:
    pack(home)
    with pytest.raises(StoreError, match="'documents' is no object: give its SHA-256"):
        take_down(store_of(home), home, ["documents"], "a reason")
    with pytest.raises(StoreError, match="needs a reason"):
        take_down(store_of(home), home, ["0" * 64], " ")
    assert packs_folder(home).exists()
