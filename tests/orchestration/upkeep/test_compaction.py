"""Packs: the same rows as the partitions they copy, and nothing that is not published."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from assets.build import Segment, SilentProgress, read_tables
from assets.dedup.live import signature_reader
from assets.packs import PackedRows
from assets.tables import write_table
from assets.tokenizer.texts import group_by_crawl, read_texts
from benchmarks.bench_many_segments import make_store
from orchestration.cli.app import app
from orchestration.identity.catalog import read_catalog, segment
from orchestration.identity.digest import MANIFEST, file_sha256
from orchestration.store.contract import PurgedObjectError, StoreError
from orchestration.store.git.store import GitStore
from orchestration.upkeep import compaction
from orchestration.upkeep.compaction import Packs, compact, drop_packs, packs_folder, read_packs
from orchestration.upkeep.takedown import take_down

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


def with_packs(home: Path, asset: str) -> list[Segment]:
    store = store_of(home)
    catalog, packs = read_catalog(store), Packs(home, store)
    manifests = [catalog.manifests[asset, key] for key in catalog.keys(asset)]
    return [segment(store, catalog.commit, manifest, packed=packs.of(manifest)) for manifest in manifests]


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
        packed = with_packs(home, asset)
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
    assert len(read_tables(with_packs(home, "crawl_delta"), "delta", ["url"])) == 1


def test_texts_come_from_the_pack(home: Path) -> None:
    apart = plain(home, "extracted_documents")
    ids = [(doc_id, each.partition or "") for each in apart for doc_id in each.table("documents")["doc_id"].to_pylist()]
    wanted = group_by_crawl(*zip(*ids[::2], strict=True))
    before = list(read_texts(apart, wanted))
    pack(home)
    packed = with_packs(home, "extracted_documents")
    assert all(not each.parts("documents")[0].name.startswith("documents") for each in packed)
    assert list(read_texts(packed, wanted)) == before


def test_a_partition_that_is_published_again_is_not_read_from_an_old_pack(home: Path) -> None:
    pack(home)
    key = plain(home, "filtered_documents")[5].partition or ""
    publish(home, "filtered_documents", key, created_at="later")
    again = with_packs(home, "filtered_documents")
    assert [each.partition for each in again if not each.packed] == [key]
    assert pack(home)["filtered_documents"] == (CRAWLS, 1, CRAWLS * ROWS)
    assert all(each.packed for each in with_packs(home, "filtered_documents"))


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
    segments = with_packs(home, "filtered_documents")
    assert not any(each.packed for each in segments)
    assert not damaged.exists() and not damaged.with_suffix(".json").exists()


def test_a_pack_that_is_not_read_is_not_hashed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack(home)
    hashed: list[str] = []
    monkeypatch.setattr(compaction, "file_sha256", lambda path: hashed.append(path.name) or file_sha256(path))
    segments = with_packs(home, "filtered_documents")
    assert hashed == []
    for each in segments:
        each.table("decisions", ["doc_id"])
    assert len(hashed) == 1


def test_a_description_of_another_kind_is_dropped_with_its_pack(home: Path) -> None:
    pack(home)
    folder = packs_folder(home) / "filtered_documents"
    description = next(folder.glob("*.json"))
    description.write_text(json.dumps({"sha256": "0", "takedowns": 0, "entries": []}))
    assert not any(each.packed for each in with_packs(home, "filtered_documents"))
    assert list(folder.iterdir()) == []


def test_signatures_of_chosen_documents_come_from_the_pack(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "_GROUP_ROWS", 50)
    apart = plain(home, "document_signatures")
    ids = [(doc_id, each.partition) for each in apart for doc_id in each.table("signatures")["doc_id"].to_pylist()]
    wanted = pa.table(dict(zip(("doc_id", "crawl"), zip(*(ids[:20] + ids[21::2]), strict=True), strict=True)))
    columns = ("doc_id", "text_sha256")

    def read(segments: list[Segment]) -> list[dict[str, object]]:
        return [row for batch in signature_reader(segments, wanted)(columns) for row in batch.to_pylist()]

    before = read(apart)
    assert [row["doc_id"] for row in before] == wanted["doc_id"].to_pylist()
    pack(home)
    packed = with_packs(home, "document_signatures")
    monkeypatch.setattr(Segment, "parts", None)  # no partition's own file is opened
    assert read(packed) == before


def test_a_document_that_came_back_is_read_from_the_crawl_that_is_wanted(tmp_path: Path) -> None:
    crawls = [f"web@202401{day:02d}T000000Z" for day in range(1, 21)]
    rows = [{"doc_id": "a", "text_sha256": crawl} for crawl in crawls]
    path = write_table(tmp_path, "pack", pa.Table.from_pylist(rows), pa.Table.from_pylist(rows).schema)
    segments = [
        Segment("document_signatures", crawl, "", {}, packed={"signatures": PackedRows(path, number, 1)})
        for number, crawl in enumerate(crawls)
    ]
    wanted = pa.table({"doc_id": ["a", *"bcdefghijklmnopqrst"], "crawl": [crawls[7], *crawls[:7], *crawls[8:]]})
    found = [
        row for batch in signature_reader(segments, wanted)(("doc_id", "text_sha256")) for row in batch.to_pylist()
    ]
    assert found == [{"doc_id": "a", "text_sha256": crawls[7]}]


def test_after_a_takedown_no_older_pack_is_read_or_kept(home: Path) -> None:
    pack(home)
    store = store_of(home)
    sha256 = next(store.list("main", "documents/extracted_documents/")).sha256
    store.purge([sha256], reason="asked for by its author")
    assert not any(each.packed for each in with_packs(home, "extracted_documents"))
    assert list((packs_folder(home) / "extracted_documents").iterdir()) == []


def test_dropping_leaves_nothing_behind(home: Path) -> None:
    pack(home)
    drop_packs(home)
    assert not packs_folder(home).exists()
    assert not any(each.packed for each in with_packs(home, "extracted_documents"))


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
    assert done.exit_code == 3, done.output  # the documents of this store are slices of one text, which overlap
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
