"""Servers that fail, and what a commit costs: a slice of `make campaign-store`, and cases of their own."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from orchestration.store.contract import CorruptObjectError, StoreError, StoreUnavailableError
from orchestration.store.lakefs import s3_objects
from orchestration.store.lakefs.retrying import TransientError
from orchestration.store.lakefs.s3_bucket import translated
from orchestration.store.lakefs.s3_objects import digest
from orchestration.store.lakefs.settings import LakefsSettings, Patience
from orchestration.store.lakefs.store import LakefsStore
from tests.campaigns.lakefs_faults import IMPATIENT, Proxies, build, examine, inject, prepare, proxies
from tests.orchestration.store.conftest import tree
from tests.orchestration.store.lakefs import servers
from tests.orchestration.store.lakefs.faulty_proxy import FAULTS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def both() -> Iterator[Proxies]:
    with proxies() as started:
        yield started


@pytest.mark.parametrize("server", ["lakefs", "s3"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_costs_a_retry_and_never_data(both: Proxies, tmp_path: Path, server: str, fault: str) -> None:
    nth = 2 + 5 * list(FAULTS).index(fault) % 17
    row = inject(both, tmp_path, server, fault, nth)
    assert row.problem == "", row
    assert row.request, "the build made fewer requests than that"


@pytest.mark.parametrize("fault", ["lost answer", "503 done"])
def test_the_answer_to_a_publishing_merge_is_lost(both: Proxies, tmp_path: Path, fault: str) -> None:
    store = prepare(both, tmp_path)
    build(store, tmp_path)
    merges = [n for n, what in enumerate(both.lakefs.seen, 1) if what.endswith("/merge/main")]
    again = tmp_path / "again"
    again.mkdir()
    row = inject(both, again, "lakefs", fault, merges[0])
    assert (row.problem, row.request.endswith("/merge/main")) == ("", True)


def test_every_fifth_request_fails(both: Proxies, tmp_path: Path) -> None:
    assert inject(both, tmp_path, "lakefs", "lost answer", 2, every=5).problem == ""


def test_a_server_that_stays_away_is_a_typed_error_and_nothing_is_half_done(both: Proxies, tmp_path: Path) -> None:
    store = prepare(both, tmp_path)
    for server in ("lakefs", "s3"):
        both.of(server).arm("500", 3, every=1)
        with pytest.raises(StoreUnavailableError, match="in 6 attempts"):
            build(store, tmp_path)
        both.rest()
        assert tree(store) == {"a/1": b"1", "b": b"2"}
        for name in store.branches():
            if name != "main":
                store.delete_branch(name)
    build(store, tmp_path)
    assert examine(store) == ""


def test_when_it_is_not_known_whether_a_commit_was_made_the_error_says_so(both: Proxies, tmp_path: Path) -> None:
    store = prepare(both, tmp_path)
    store.commit("main", {"x": b"0"}, message="first")
    both.rest()
    store.commit("main", {"x": b"1"}, message="measured")
    merge = next(n for n, what in enumerate(both.lakefs.seen, 1) if what.endswith("/merge/main"))
    both.lakefs.arm("lost answer", merge, every=1)
    with pytest.raises(StoreUnavailableError, match="not known"):
        store.commit("main", {"x": b"2"}, message="asked once")
    both.rest()
    assert [commit.message for commit in store.log()].count("asked once") == 1
    assert store.read_bytes("main", "x") == b"2"


def test_a_large_file_goes_up_in_parts_and_a_lost_part_is_sent_again(
    both: Proxies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_objects, "PART_BYTES", 5 << 20)
    source = tmp_path / "large"
    source.write_bytes(bytes(range(256)) * (11 << 12) + b"tail")
    store = prepare(both, tmp_path)
    patient = replace(store.settings, patience=Patience(attempts=5, first_wait_s=0.01, longest_wait_s=0.05))
    store = LakefsStore(patient)
    both.rest()
    store.commit("main", {"large": source}, message="large")
    parts = [n for n, what in enumerate(both.s3.seen, 1) if what.startswith("PUT") and "sha256" in what]
    assert len(parts) == 3
    assert store.local_path("main", "large").read_bytes() == source.read_bytes()
    stored = store.objects.bucket.head(s3_objects.place(digest("large", source).sha256))
    assert stored and stored.etag == digest("large", source).etag, "what was sent is checked by this ETag"
    store.objects.delete(digest("large", source).sha256)
    both.s3.arm("500", parts[1])
    store.commit("main", {"again": source}, message="again")
    assert both.s3.met
    assert store.verify().damage == []


def test_what_is_there_is_not_sent_again_and_a_commit_costs_its_changes(both: Proxies, tmp_path: Path) -> None:
    store = prepare(both, tmp_path)
    many = {f"d/{i:03d}": b"%d" % i for i in range(60)}
    store.commit("main", many, message="many")
    both.rest()
    store.commit("main", {"d/007": b"changed", "copy/of/1": b"1", "copy/of/2": b"2"}, message="three")
    sent = [what for what in both.s3.seen if what.startswith("PUT") and "/sha256/" in what]
    assert len(sent) == 1
    staged = [what for what in both.lakefs.seen if what.startswith("PUT")]
    assert len(staged) == 4, "three entries and the head file"
    assert both.lakefs.requests < 25
    both.rest()
    store.merge(store.create_branch("b") and "b", message="nothing")
    assert both.s3.requests == 0


def test_wrong_keys_are_named_and_no_secret_is_told(
    both: Proxies, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    store = prepare(both, tmp_path)
    wrong = replace(store.settings, secret="another-secret-of-mine")
    with pytest.raises(StoreError, match="LAKECTL_CREDENTIALS_SECRET_ACCESS_KEY") as caught:
        LakefsStore(wrong)
    both.lakefs.arm("500", 1, every=1)
    with pytest.raises(StoreUnavailableError) as unavailable:
        store.resolve("main")
    both.rest()
    told = f"{caught.value!r} {unavailable.value!r} {wrong!r} {wrong} {caplog.text}"
    assert "another-secret-of-mine" not in told
    assert store.settings.secret not in told


def test_settings_come_from_the_environment_and_say_what_is_missing(tmp_path: Path) -> None:
    environ = servers.store_environment(tmp_path, "http://user:pw@host", "http://s3")
    with pytest.raises(StoreError, match="without a user"):
        LakefsSettings.from_environment("lakefs://abc", environ)
    with pytest.raises(StoreError, match="HEADWATER_LAKEFS_ENDPOINT"):
        LakefsSettings.from_environment("lakefs://abc", {})
    with pytest.raises(StoreError, match="63 lower-case"):
        LakefsSettings.from_environment("lakefs://No_Such", environ)


def test_a_damaged_copy_in_the_cache_is_fetched_again(both: Proxies, tmp_path: Path) -> None:
    store = prepare(both, tmp_path)
    path = store.local_path("main", "a/1")
    path.chmod(0o644)
    path.write_bytes(b"x")
    assert store.local_path("main", "a/1").read_bytes() == b"1"
    with store.open("main", "b") as file:
        assert file.read() == b"2"


def test_bytes_that_come_back_altered_every_time_are_not_given(both: Proxies, tmp_path: Path) -> None:
    store = prepare(both, tmp_path)
    servers.bucket_object(tmp_path, store.stat("main", "a/1").sha256).write_bytes(b"9")
    for read in (store.read_bytes, store.local_path, store.open):
        with pytest.raises(CorruptObjectError, match="altered"):
            read("main", "a/1")
    assert not list((tmp_path / "object-cache").rglob("tmp*"))


def test_a_file_that_another_client_wrote_is_refused_by_name(both: Proxies, tmp_path: Path) -> None:
    store = prepare(both, tmp_path)
    api = store.api
    api.create_branch("theirs", store.resolve("main"))
    api.stage("theirs", "by/hand", "s3://lake/elsewhere/data/x", "0" * 32, 3)
    api.commit("theirs", store.resolve("main"), "by hand", {}, lambda: None)
    with pytest.raises(StoreError, match="by/hand was not written by Headwater"):
        list(store.list("theirs"))
    assert IMPATIENT.attempts == 6


def test_a_bucket_that_is_not_there_is_named(both: Proxies, tmp_path: Path) -> None:
    settings = servers.settings_for(tmp_path, both.lakefs.url, both.s3.url, IMPATIENT)
    store = LakefsStore(replace(settings, namespace="s3://no-such-bucket/x", repository="r-no-bucket"))
    with pytest.raises(StoreError, match="bucket does not exist"):
        store.commit("main", {"a": b"1"}, message="x")
    with pytest.raises(StoreError, match="bucket does not exist"):
        store.gc()


@pytest.mark.parametrize(
    ("code", "status", "kind", "words"),
    [
        ("SignatureDoesNotMatch", 403, StoreError, "AWS_SECRET_ACCESS_KEY"),
        ("AccessDenied", 403, StoreError, "may read and write the bucket"),
        ("SlowDown", 503, TransientError, "SlowDown 503"),
        ("InternalError", 500, TransientError, "InternalError 500"),
        ("PreconditionFailed", 412, FileExistsError, "look"),
    ],
)
def test_what_s3_answers_is_told_apart(code: str, status: int, kind: type[Exception], words: str) -> None:
    answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": {}}}
    error = translated(ClientError(answer, "GetObject"), "look")  # type: ignore[arg-type]
    assert type(error) is kind
    assert words in str(error)
