"""What is the lakeFS store's own in keeping: gc against commits, work branches of killed processes, names."""

from __future__ import annotations

import itertools
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestration.store.contract import PurgedObjectError, StoreUnavailableError
from orchestration.store.lakefs import s3_objects
from orchestration.store.lakefs.names import TRANSIT, decode, encode
from orchestration.store.lakefs.retrying import TransientError, persist, retry_after_s
from orchestration.store.lakefs.settings import Patience, objects_area
from orchestration.store.lakefs.store import LakefsStore
from tests.orchestration.store.conftest import tree
from tests.orchestration.store.lakefs import servers


@pytest.fixture
def store(tmp_path: Path) -> LakefsStore:
    store = servers.lakefs_store(tmp_path)
    store.commit("main", {"a": b"1"}, message="base")
    return store


def test_one_gc_at_a_time_and_a_dead_one_is_forgotten(store: LakefsStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.objects.begin_sweep()
    with pytest.raises(StoreUnavailableError, match="another gc"):
        store.gc()
    monkeypatch.setattr(s3_objects, "SWEEP_TIMEOUT_S", -1.0)
    assert store.gc().deleted_objects == 0
    assert store.objects.bucket.read_mark("sweep.json") is None


def test_a_gc_dated_in_the_future_is_a_dead_one(store: LakefsStore) -> None:
    future = (datetime.now(UTC) + timedelta(days=365)).isoformat(timespec="seconds")
    store.objects.bucket.write_mark("sweep.json", {"since": future, "by": "a machine with a wrong clock"})
    started = time.monotonic()
    store.commit("main", {"b": b"2"}, message="does not wait")
    assert time.monotonic() - started < 30
    assert store.gc().deleted_objects == 0


def test_the_first_thing_a_process_does_may_be_a_gc(store: LakefsStore, tmp_path: Path) -> None:
    assert servers.lakefs_store(tmp_path).gc().deleted_objects == 0  # it knows nothing of what `store` has read


def test_a_commit_waits_for_a_gc_under_way(store: LakefsStore) -> None:
    store.objects.begin_sweep()
    writer = threading.Thread(target=lambda: store.commit("main", {"b": b"2"}, message="waits"))
    writer.start()
    time.sleep(0.5)
    assert tree(store) == {"a": b"1"}
    store.objects.end_sweep()
    writer.join(60)
    assert tree(store) == {"a": b"1", "b": b"2"}


def test_what_is_put_again_is_made_young(store: LakefsStore, monkeypatch: pytest.MonkeyPatch) -> None:
    sha256 = store.stat("main", "a").sha256
    time.sleep(1.1)  # S3 tells times in seconds
    old = store.objects.bucket.head(s3_objects.place(sha256))
    monkeypatch.setattr(s3_objects, "GRACE_S", 1.0)
    store.create_branch("b")
    store.commit("b", {"c": b"1"}, message="the same bytes")
    young = store.objects.bucket.head(s3_objects.place(sha256))
    assert old and young
    assert old.age_s > 1.0 > young.age_s - 0.99
    assert (young.etag, young.size_bytes) == (old.etag, old.size_bytes)


def test_an_emptied_record_of_a_takedown_still_bans_and_is_told(store: LakefsStore, tmp_path: Path) -> None:
    sha256 = store.stat("main", "a").sha256
    store.purge([sha256], reason="law")
    record = servers.bucket_object(tmp_path, sha256)
    record.key = f"{record.key.partition('/sha256/')[0]}/purged/{sha256}.json"
    for content in (b"", b"[]", b"{}"):
        assert record.exists()
        record.write_bytes(content)
        with pytest.raises(PurgedObjectError, match="record was damaged"):
            store.read_bytes("main", "a")
        assert [(each.sha256, each.kind, each.problem) for each in store.verify().damage] == [
            (f"purged/{sha256}.json", "takedown", "altered")
        ]
    store.purge([sha256], reason="law, again")
    assert (store.takedowns(), store.verify().damage) == ({sha256: "law, again"}, [])


def test_work_branches_of_killed_processes_are_cleared_away(
    store: LakefsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = store.resolve("main")
    store.api.create_branch(f"{TRANSIT}{int(time.time()) - 7200}-dead", head)
    store.api.create_branch(f"{TRANSIT}{int(time.time())}-alive", head)
    store.api.create_branch(f"{TRANSIT}{int(time.time()) + 10**8}-dead-in-the-future", head)
    assert list(store.branches()) == ["main"]
    store.gc()
    assert [name.rpartition("-")[2] for name in store.api.branches()] == ["alive", "main"]


@given(st.text(min_size=1, max_size=40))
def test_names_come_back_and_stay_apart(name: str) -> None:
    coded = encode(name)
    assert coded.isascii()
    assert all(character.isalnum() or character in "-_" for character in coded)
    assert decode(coded) == name or any(0xD800 <= ord(character) < 0xE000 for character in name)
    assert not coded.startswith(TRANSIT)


def test_names_that_are_not_ours_are_not_listed(store: LakefsStore) -> None:
    store.create_branch("build/x-1_2")
    assert store.api.branch("build_2fx-1_5f2") == store.resolve("main")
    store.api.create_branch("made_in_the_ui", store.resolve("main"))
    assert sorted(store.branches()) == ["build/x-1_2", "main"]


@pytest.mark.parametrize(
    ("namespace", "area"),
    [
        ("s3://lake/name", "s3://lake/name-objects"),
        ("s3://lake/a/b/", "s3://lake/a/b-objects"),
        ("s3://lake", "s3://lake/headwater-objects"),
        ("s3://lake/", "s3://lake/headwater-objects"),
    ],
)
def test_our_objects_lie_beside_the_namespace(namespace: str, area: str) -> None:
    assert objects_area(namespace) == area
    assert not (area + "/").startswith(namespace.rstrip("/") + "/data/")


def test_a_server_may_say_how_long_to_wait() -> None:
    assert [retry_after_s(value) for value in ("0.2", "-3", "1e9", "Wed, 21 Oct 2026", None)] == [
        0.2,
        0,
        120,
        None,
        None,
    ]
    calls: list[float] = []

    def attempt(number: int) -> str:
        calls.append(time.monotonic())
        if number < 3:
            raise TransientError("busy", retry_after_s=0.15)
        return "done"

    assert persist(attempt, Patience(attempts=3, first_wait_s=60.0), "wait") == "done"
    assert all(0.14 < later - sooner < 5 for sooner, later in itertools.pairwise(calls))
    with pytest.raises(StoreUnavailableError, match=r"could not wait.*2 attempts \(busy\)"):
        persist(lambda number: attempt(1), Patience(attempts=2, first_wait_s=0.01), "wait")
