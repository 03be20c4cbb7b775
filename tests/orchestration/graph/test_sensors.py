"""Sensors and schedules through Dagster's own ticks: one bad unit, retries with back-off, runs that overlap."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterRunStatus

from orchestration.graph import retries
from orchestration.run.driver import RunFailedError
from tests.orchestration.nights import Nights

pytestmark = pytest.mark.slow

FIRST, SECOND, THIRD = "20260101T000000Z", "20260102T000000Z", "20260103T000000Z"
STALE, INDEX = "build_what_is_stale", "index_new_runs"


@pytest.fixture(scope="module")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> Nights:
    """Two sources, both of them crawled once."""
    with pytest.MonkeyPatch.context() as patch:
        nights = Nights.create(tmp_path_factory.mktemp("nights"), patch, "alpha", "beta")
        nights.run(at=FIRST)
    return nights


@pytest.fixture
def built(built_once: Nights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nights:
    return built_once.copy(tmp_path, monkeypatch)


def night(number: int) -> datetime:
    return datetime(2026, 1, number, tzinfo=UTC)


def under_way(nights: Nights, job: str, partition: str | None = None) -> Any:
    """A run that another process has begun, as Dagster records it."""
    from orchestration.graph.definitions import defs

    return nights.workplace.instance.create_run_for_job(
        defs.resolve_job_def(job),
        status=DagsterRunStatus.STARTED,
        tags={"dagster/partition": partition} if partition else {},
    )


def ended(nights: Nights, run: Any) -> None:
    nights.workplace.instance.report_run_canceled(run)


def break_stage(patch: pytest.MonkeyPatch, group: str, asset: str, partition: str = "") -> None:
    """A stage fails, as by a fault that passes."""
    import importlib

    module = importlib.import_module(f"assets.{group}.defs")
    whole = getattr(module, asset)

    def broken(build: Any) -> Any:
        if (build.partition or "").startswith(partition):
            raise ConnectionError("the network is away")
        return whole(build)

    patch.setattr(module, asset, broken)


def test_the_nights_crawl_build_and_index(built: Nights) -> None:
    assert built.tick(STALE).skipped == built.tick(INDEX).skipped == "everything is fresh"
    built.write("beta", 9, "en 99")
    crawl = built.tick("recrawl_beta", night(2))
    assert crawl.execute() == [True]
    stale = built.tick(STALE)
    assert [(job, key) for job, key, _ in stale.asked] == [("curate_job", None)]
    assert built.tick(INDEX).asked == []  # its corpus is not fresh
    assert stale.execute() == [True]
    index = built.tick(INDEX)
    assert [job for job, _, _ in index.asked] == ["audit_job"]
    assert index.execute() == [True]
    assert built.documents() == {"alpha": 6, "beta": 7}
    assert built.status().needing() == []


def test_an_unfinished_crawl_keeps_no_other_source_waiting(built: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    for source, content in (("alpha", "en 98"), ("beta", "en 99")):
        built.write(source, 9, content)
    with monkeypatch.context() as patch:
        break_stage(patch, "documents", "extracted_documents", "alpha")
        assert built.tick("recrawl_alpha", night(2)).execute() == [False]
        assert built.tick("recrawl_beta", night(2)).execute() == [True]
        again = built.tick(STALE)
        unfinished = ["extracted_documents", "filtered_documents", "document_signatures"]
        assert again.asked == [("crawl_job", f"alpha@{SECOND}", unfinished)]
        assert again.execute() == [False]
        others = built.tick(STALE)
        assert [job for job, _, _ in others.asked] == ["curate_job"]
        assert others.execute() == [True]
    assert built.documents() == {"alpha": 6, "beta": 7}


def test_crawls_that_a_changed_recipe_made_stale_are_built_again(built: Nights) -> None:
    recipe = built.folder / "config/recipes/curation.toml"
    recipe.write_text(recipe.read_text() + "filters.en.min_characters = 7\n")
    crawls = built.tick(STALE)
    assert crawls.asked == [
        ("crawl_job", f"{source}@{FIRST}", ["filtered_documents", "document_signatures"])
        for source in ("alpha", "beta")
    ]
    assert crawls.execute() == [True, True]
    while requests := built.tick(STALE):
        if not requests.asked:
            break
        assert requests.execute() == [True]
    assert built.tick(INDEX).execute() in ([True], [])
    assert built.status().needing() == []


def test_what_failed_is_asked_for_again_after_longer_and_longer_waits(
    built: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    built.write("alpha", 9, "en 99")
    assert built.tick("recrawl_alpha", night(2)).execute() == [True]
    clock = [datetime.now(UTC)]
    monkeypatch.setattr(retries, "now", lambda: clock[0])
    with monkeypatch.context() as patch:
        break_stage(patch, "dedup", "corpus")
        assert built.tick(STALE).execute() == [False]
        assert built.tick(STALE).execute() == [False]  # the rest of it: the clusters are there now
        keys = set()
        for wait in retries.BACK_OFF:
            early = built.tick(STALE)
            assert early.requests == []
            assert "waits until" in (early.skipped or "")
            clock[0] += wait + timedelta(minutes=1)
            again = built.tick(STALE)
            keys |= {request.run_key for request in again.requests}
            assert again.execute() == [False]
        assert len(keys) == len(retries.BACK_OFF), "Dagster starts no run of a key that it has seen"
        clock[0] += timedelta(days=1)
        assert "is asked for again when something changes" in (built.tick(STALE).skipped or "")
    built.write("beta", 9, "en 98")
    assert built.tick("recrawl_beta", night(2)).execute() == [True]
    assert built.tick(STALE).execute() == [True]
    assert built.documents() == {"alpha": 7, "beta": 7}


def test_a_crawl_that_failed_is_tried_again_by_itself(built: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [datetime.now(UTC)]
    monkeypatch.setattr(retries, "now", lambda: clock[0])
    built.kill("alpha")
    assert built.tick("recrawl_alpha", night(2)).execute() == [False]
    assert "waits until" in (built.tick(STALE).skipped or "")
    clock[0] += retries.BACK_OFF[0]
    clock[0] += timedelta(minutes=1)
    again = built.tick(STALE)
    assert [(job, key) for job, key, _ in again.asked] == [("crawl_job", f"alpha@{SECOND}")]
    built.revive("alpha")
    assert again.execute() == [True]
    assert f"alpha@{SECOND}" in built.catalog().partitions("raw_crawl")


def test_a_verdict_is_not_asked_for_again(built: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    for page in range(30):
        built.write("alpha", page, f"binary {page}")  # a night of pages without text
    crawl = built.tick("recrawl_alpha", night(2))
    assert crawl.execute() == [False]
    again = built.tick(STALE)
    assert again.execute() == [False], (again.skipped, again.asked, crawl.errors)
    monkeypatch.setattr(retries, "now", lambda: datetime.now(UTC) + timedelta(days=1))
    assert "BlockedError: another try would fail too" in (built.tick(STALE).skipped or "")


def test_nothing_is_asked_for_while_a_run_that_it_depends_on_is_under_way(built: Nights) -> None:
    built.write("alpha", 9, "en 99")
    assert built.tick("recrawl_alpha", night(2)).execute() == [True]
    curate = under_way(built, "curate_job")
    waits = built.tick(STALE)
    assert waits.requests == []
    assert "duplicate_clusters" in (waits.skipped or "")
    assert f"run {curate.run_id[:8]}) is under way" in (waits.skipped or "")
    ended(built, curate)
    publishing = under_way(built, "crawl_job", f"beta@{FIRST}")
    assert "is under way" in (built.tick(STALE).skipped or "")
    ended(built, publishing)
    fetching = under_way(built, "crawl_job", f"beta@{SECOND}")
    assert [job for job, _, _ in built.tick(STALE).asked] == ["curate_job"]  # a polite crawl takes hours
    assert "not crawled twice at a time" in (built.tick("recrawl_beta", night(3)).skipped or "")
    ended(built, fetching)
    assert built.tick(STALE).execute() == [True]
    curate = under_way(built, "curate_job")
    assert "is under way" in (built.tick(INDEX).skipped or "")
    assert "is under way" in (built.tick("retrain_tiny", night(4)).skipped or "")
    ended(built, curate)
    assert built.tick(INDEX).execute() == [True]
    training = under_way(built, "pretrain_job", f"tiny@{SECOND}")
    assert f"mixture_manifest[tiny@{SECOND}]" in (built.tick("retrain_tiny", night(4)).skipped or "")
    ended(built, training)
    assert len(built.tick("retrain_tiny", night(4)).requests) == 1


def test_a_crawl_that_publishes_while_curate_runs_makes_no_run_red(
    built: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    from assets.dedup import defs
    from tests.quality.test_global_yields import World

    built.write("alpha", 9, "en 99")
    built.write("beta", 9, "en 98")
    assert built.tick("recrawl_alpha", night(2)).execute() == [True]
    whole = defs.duplicate_clusters

    def overtaken(build: Any) -> Any:
        built.workplace.instance.add_dynamic_partitions("crawl", [f"beta@{THIRD}"])
        world = World(built.folder, built.folder / "state", night=2)
        world.crawl("beta")
        return whole(build)

    with monkeypatch.context() as patch:
        patch.setattr(defs, "duplicate_clusters", overtaken)
        overtaken_run = built.tick(STALE)
        assert overtaken_run.execute() == [True], overtaken_run.errors
    assert built.status().items["corpus", None].state == "stale"
    assert built.tick(STALE).execute() == [True]
    assert built.documents() == {"alpha": 7, "beta": 7}


def test_the_same_by_hand_is_refused_and_red(built: Nights) -> None:
    recipe = built.folder / "config/recipes/curation.toml"
    recipe.write_text(recipe.read_text() + "dedup.threshold = 0.85\n")
    from dagster import AssetKey

    from orchestration.graph.definitions import defs

    done = defs.resolve_job_def("curate_job").execute_in_process(
        instance=built.workplace.instance, asset_selection=[AssetKey("corpus")], raise_on_error=False
    )
    assert not done.success
    with pytest.raises(RunFailedError):
        built.kill("alpha")
        built.run("alpha")


def test_dagster_starts_a_run_again_whose_process_died_and_no_other(built: Nights) -> None:
    instance = built.workplace.instance
    assert instance.run_retries_enabled
    assert instance.run_retries_max_retries == 2
    assert not instance.run_retries_retry_on_asset_or_op_failure


def test_an_untouched_dagster_yaml_of_an_earlier_version_is_brought_up_to_date(
    built: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hashlib

    from orchestration.process import workplace

    settings = built.folder / "state/dagster/dagster.yaml"
    settings.write_text("telemetry: {enabled: false}\n")
    assert "run_retries" not in built.workplace.dagster_home.joinpath("dagster.yaml").read_text()
    earlier = frozenset({hashlib.sha256(settings.read_bytes()).hexdigest()})
    monkeypatch.setattr(workplace, "EARLIER_DAGSTER_YAML", earlier)
    assert "run_retries" in built.workplace.dagster_home.joinpath("dagster.yaml").read_text()


def test_runs_of_the_command_are_runs_of_their_job_with_verdicts_per_partition(built: Nights) -> None:
    from dagster import AssetCheckKey, AssetKey, RunsFilter

    instance = built.workplace.instance
    listed = instance.get_runs(
        RunsFilter(job_name="crawl_job", tags={".dagster/repository": "__repository__@headwater"})
    )
    assert {run.tags["headwater/source"] for run in listed} == {"alpha", "beta"}
    assert all("never built" in run.tags["headwater/reason"] for run in listed)
    for page in range(30):
        built.write("alpha", page, f"binary {page}")  # a night of pages without text
    assert built.tick("recrawl_alpha", night(2)).execute() == [False]
    assert built.tick("recrawl_beta", night(2)).execute() == [True]
    key = AssetCheckKey(AssetKey("extracted_documents"), "source_was_not_wiped_out")
    infos = built.workplace.instance.event_log_storage.get_asset_check_partition_info([key])
    assert {info.partition_key: info.latest_execution_status.value for info in infos if info.is_current} == {
        f"alpha@{FIRST}": "SUCCEEDED",
        f"beta@{FIRST}": "SUCCEEDED",
        f"alpha@{SECOND}": "FAILED",
        f"beta@{SECOND}": "SUCCEEDED",
    }


def test_a_source_that_is_late_is_seen_although_its_schedule_is_off(built: Nights) -> None:
    from orchestration.graph.freshness import verdict

    late = verdict(built.workplace.instance, "alpha")
    assert not late.passed
    assert f"its last published crawl is alpha@{FIRST}" in (late.description or "")
    assert "The schedule recrawl_alpha is off" in (late.description or "")
    built.run("alpha")
    assert verdict(built.workplace.instance, "alpha").passed
    assert not verdict(built.workplace.instance, "beta").passed
