"""A stamp from the future freezes nothing: it is refused, said, and what bears one already can be taken back."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from assets.build import SilentProgress
from orchestration.doctor import checks as doctor
from orchestration.graph.alert_sensor import crawls_of_sources
from orchestration.graph.unfinished import abandon, registered
from orchestration.identity import key_order
from orchestration.identity.key_order import KeyOrderError, believable, check_order
from orchestration.identity.partitions import PartitionError
from orchestration.publish.publisher import Publisher, publish
from orchestration.run.driver import Driver, Options, RunFailedError
from orchestration.stages import BY_NAME
from orchestration.upkeep.alerts import of_crawls
from tests.orchestration.nights import Nights

NOW = datetime(2026, 1, 10, 12, tzinfo=UTC)
FIRST, SECOND, THIRD, FUTURE = "20260101T000000Z", "20260102T000000Z", "20260103T000000Z", "20360101T000000Z"
ALPHA = f"alpha@{FUTURE}"


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_order, "now", lambda: NOW)


def test_a_key_is_of_now_and_after_what_is_published() -> None:
    published = [f"a@{SECOND}", f"b@{THIRD}", f"a-b@{THIRD}"]
    for fine in (f"a@{SECOND}", f"a@{THIRD}", f"c@{FIRST}", "a@20260111T115959Z"):
        check_order("crawl", fine, published)
    with pytest.raises(KeyOrderError, match=rf"a@{FIRST} is before a@{SECOND}, the newest published crawl of a") as old:
        check_order("crawl", f"a@{FIRST}", published)
    assert not old.value.of_a_clock
    with pytest.raises(
        KeyOrderError, match=r"more than a day ahead of the clock, which says 20260110T120000Z"
    ) as ahead:
        check_order("run", "a@20260111T120001Z", published)
    assert ahead.value.of_a_clock
    check_order("crawl", ALPHA, [ALPHA])  # what is published stays what it is


def test_what_hides_later_ones_is_named_with_the_way_out() -> None:
    published = [f"a@{SECOND}", "a@20350101T000000Z", "a@20360101T000000Z"]
    with pytest.raises(KeyOrderError, match=r"run --abandon a@20350101T000000Z --abandon a@20360101T000000Z`") as found:
        check_order("crawl", f"a@{THIRD}", published)
    assert found.value.of_a_clock


def test_only_moments_that_have_been_are_believed() -> None:
    assert believable([f"a@{FIRST}", ALPHA, "whatever", "a@20269999T000000Z"]) == [f"a@{FIRST}"]


@pytest.fixture(scope="module")
def frozen_once(tmp_path_factory: pytest.TempPathFactory) -> Nights:
    """Two sources, crawled once; then alpha by a clock that was ten years ahead, when its page 0 had changed."""
    with pytest.MonkeyPatch.context() as patch:
        nights = Nights.create(tmp_path_factory.mktemp("nights"), patch, "alpha", "beta")
        nights.run(at=FIRST)
        nights.write("alpha", 0, "en 70")
        patch.setattr(key_order, "now", lambda: datetime(2036, 1, 1, tzinfo=UTC))
        nights.run("alpha", at=FUTURE)
    return nights


@pytest.fixture
def frozen(frozen_once: Nights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nights:
    return frozen_once.copy(tmp_path, monkeypatch)


def way_out(words: str) -> tuple[str, ...]:
    """What `--abandon` is given in the command that a message names."""
    command = re.search(r"`headwater run ([^`]*)`", words)
    assert command, words
    return tuple(command[1].replace("--abandon", "").split())


@pytest.mark.slow
def test_a_frozen_source_is_told_of_and_led_out(frozen: Nights) -> None:
    frozen.write("alpha", 7, "en 77")
    frozen.write("beta", 7, "en 78")
    with pytest.raises(RunFailedError, match=f"alpha@{SECOND} is before {ALPHA}, which is published") as failed:
        frozen.run("alpha", "beta", at=SECOND)
    assert frozen.documents() == {"alpha": 6, "beta": 7}, "the other source goes on"
    assert f"alpha@{SECOND}" not in registered(frozen.workplace, "crawl")
    frozen.run("alpha", at=SECOND, abandon=way_out(str(failed.value)))
    assert frozen.catalog().partitions("raw_crawl") == sorted(
        f"{s}@{t}" for s in frozen.sources for t in (FIRST, SECOND)
    )
    assert frozen.documents() == {"alpha": 7, "beta": 7}
    assert frozen.status().needing() == []
    assert "withdrawn" in {name for commit in frozen.workplace.store.log(limit=40) for name in commit.metadata}


@pytest.mark.slow
def test_after_the_way_out_all_is_as_if_it_had_not_been(frozen: Nights, tmp_path: Path) -> None:
    frozen.run("alpha", at=SECOND, abandon=(ALPHA,))
    with pytest.MonkeyPatch.context() as patch:
        other = frozen.copy(tmp_path / "other", patch)
        (other.folder / "state").rename(other.folder / "frozen")
        (other.folder / "state").mkdir()
        other.write("alpha", 0, "en 0")
        other.run(at=FIRST)
        other.write("alpha", 0, "en 70")
        other.run("alpha", at=SECOND)
        plain = {key: manifest["version"] for key, manifest in other.catalog().manifests.items()}
    named = {key: manifest["version"] for key, manifest in frozen.catalog().manifests.items()}
    assert named.keys() == plain.keys()
    assert named["corpus", None] == plain["corpus", None]


@pytest.mark.slow
def test_no_door_lets_a_partition_from_the_future_in(frozen: Nights) -> None:
    key = "beta@20300101T000000Z"
    with pytest.raises(RunFailedError, match=f"{key} is more than a day ahead"):
        frozen.run("beta", at="20300101T000000Z")
    assert key not in frozen.workplace.instance.get_dynamic_partitions("crawl")
    place = frozen.workplace
    publisher = Publisher(place.store, place.config, place.home, SilentProgress())
    with pytest.raises(KeyOrderError, match=f"{key} is more than a day ahead"):
        publish(publisher, "raw_crawl", key)
    with pytest.raises(KeyOrderError, match="tiny@20300101T000000Z is more than a day ahead"):
        publish(publisher, "mixture_manifest", "tiny@20300101T000000Z")
    assert place.store.branches().keys() == {"main"}


@pytest.mark.slow
def test_a_crawl_that_another_overtook_is_not_merged(frozen: Nights) -> None:
    place = frozen.workplace
    publisher = Publisher(place.store, place.config, place.home, SilentProgress())
    with publisher.publishing(BY_NAME["raw_crawl"], f"beta@{SECOND}") as staged:
        publish(publisher, "raw_crawl", f"beta@{THIRD}")
        with pytest.raises(KeyOrderError, match=f"beta@{SECOND} is before beta@{THIRD}"):
            publisher.merge(staged)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_begun_partition_from_the_future_is_in_nobodys_way(frozen: Nights) -> None:
    key = "beta@20300101T000000Z"
    frozen.workplace.instance.add_dynamic_partitions("crawl", [key])
    driver = Driver(frozen.workplace, Options("tiny", recrawl=("beta",), at=SECOND))
    assert driver.due_crawls() == [f"beta@{SECOND}"]
    frozen.run(abandon=(key,))
    assert key not in frozen.workplace.instance.get_dynamic_partitions("crawl")


@pytest.mark.slow
def test_only_what_is_from_the_future_is_withdrawn_and_what_follows_it_with_it(frozen: Nights) -> None:
    place = frozen.workplace
    with pytest.raises(PartitionError, match=f"beta@{FIRST} is published"):
        abandon(place, [f"beta@{FIRST}"])
    crawl = place.store.read_bytes("main", f"sources/raw_crawl/{ALPHA}/_manifest.json")
    later = crawl.replace(ALPHA.encode(), b"alpha@20370101T000000Z")
    put: dict[str, Path | bytes] = {"sources/raw_crawl/alpha@20370101T000000Z/_manifest.json": later}
    place.store.commit("main", put, message="a later one")
    with pytest.raises(PartitionError, match="can be abandoned together") as found:
        abandon(place, [ALPHA])
    abandon(place, way_out(str(found.value)))
    assert not [key for _, key in frozen.catalog().manifests if key and key_order.is_ahead(key)]


@pytest.mark.slow
def test_a_run_from_the_future_is_led_out_the_same_way(frozen: Nights) -> None:
    place, run = frozen.workplace, f"tiny@{FUTURE}"
    made = f'{{"format": 1, "asset": "mixture_manifest", "partition": "{run}", "pin": "{frozen.catalog().commit}"}}'
    place.store.commit("main", {f"mixture/mixture_manifest/{run}/_manifest.json": made.encode()}, message="a run")
    with pytest.raises(KeyOrderError, match=f"tiny@{FIRST} is before {run}") as found:
        check_order("run", f"tiny@{FIRST}", frozen.catalog().partitions("mixture_manifest"))
    abandon(place, way_out(str(found.value)))
    assert frozen.catalog().partitions("mixture_manifest") == []


@pytest.mark.slow
def test_a_schedule_is_red_while_its_source_is_frozen_and_skips_a_night_that_was_crawled(frozen: Nights) -> None:
    with pytest.raises(Exception, match="recrawl_alpha") as found:
        frozen.tick("recrawl_alpha", datetime(2026, 1, 9, 3, tzinfo=UTC))
    assert f"--abandon {ALPHA}" in str(found.value.__cause__)
    assert frozen.tick("recrawl_beta", datetime(2025, 12, 31, 3, tzinfo=UTC)).skipped
    assert frozen.tick("recrawl_beta", datetime(2026, 1, 9, 3, tzinfo=UTC)).requests


@pytest.mark.slow
def test_an_alert_tells_of_missed_nights_although_a_crawl_bears_a_later_stamp(frozen: Nights) -> None:
    place, late = frozen.workplace, datetime(2026, 1, 9, tzinfo=UTC).timestamp()
    on = {"recrawl_alpha": 1.0}
    crawls, _ = crawls_of_sources(place.instance, place.config.sources, frozen.catalog(), late, on)
    assert (crawls.source, crawls.published) == ("alpha", [f"alpha@{FIRST}"])
    assert [alert.kind for alert in of_crawls(crawls, 3)] == ["night_missed"]


@pytest.mark.slow
def test_the_doctor_names_partitions_from_the_future_and_a_clock_before_the_newest_commit(frozen: Nights) -> None:
    place = doctor._Place(frozen.workplace.home, frozen.folder / "config", False, {})
    clock, future = doctor._clock(place)
    assert clock.ok
    assert "the newest commit of the store is of 20" in clock.found
    assert (future.ok, future.severity) == (False, "error")
    abandon(frozen.workplace, way_out(future.remedy))
    assert [finding.ok for finding in doctor._clock(place)] == [True]
    for path in (doctor.REPOSITORY / "pyproject.toml", place.home, place.config_dir):
        assert path.exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orchestration.doctor.machine.time.time", lambda: os.stat(place.home).st_mtime - 7 * 86400)
        (wrong,) = doctor._clock(place)
    assert not wrong.ok
    assert re.search(r"the clock is 16[78]\.\d hours before the newest (commit of the store|file)", wrong.found)
