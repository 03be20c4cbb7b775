"""Dagster's history is trimmed: what the UI shows of assets, partitions and checks is the same before and after.

No `from __future__ import annotations` here: Dagster looks at the type of `context` itself.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
import yaml
from dagster._core.storage.runs.schema import RunsTable

from orchestration.process.workplace import DAGSTER_YAML, RETENTION_YAML, Workplace
from orchestration.upkeep.run_history import TrimmedHistory, trim_history
from tests.deploy.test_postgres import DEPLOY, port  # noqa: F401  # a fixture

NIGHTS = ["site@1", "site@2", "site@3"]
PICTURE = "![x](data:image/png;base64," + "A" * 30_000 + ")"
CRAWLS = dg.DynamicPartitionsDefinition(name="crawl")


@dg.asset(partitions_def=CRAWLS, check_specs=[dg.AssetCheckSpec("counted", asset="crawl")])
def crawl(context: dg.AssetExecutionContext) -> Iterator[Any]:
    context.log.info("crawled " * 200)
    yield dg.AssetCheckResult(passed=True, check_name="counted", metadata={"n": 1})
    yield dg.MaterializeResult(
        metadata={"plot": dg.MetadataValue.md(PICTURE), "documents": 7, "store commit": "abc"},
        data_version=dg.DataVersion(context.partition_key),
    )


@dg.asset(check_specs=[dg.AssetCheckSpec("whole", asset="corpus", blocking=True)], output_required=False)
def corpus(context: dg.AssetExecutionContext) -> Iterator[Any]:
    good = context.run.tags.get("bad") is None
    yield dg.AssetCheckResult(passed=good, check_name="whole")
    if good:
        yield dg.MaterializeResult(metadata={"plot": dg.MetadataValue.md(PICTURE)})


@pytest.fixture(params=["sqlite", "postgres"])
def instance(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dg.DagsterInstance]:
    settings = yaml.safe_load(DAGSTER_YAML)
    if request.param == "postgres":
        pytest.importorskip("dagster_postgres", reason="pip install 'headwater[postgres]'")
        settings = yaml.safe_load((DEPLOY / "dagster.yaml").read_text("utf-8"))
        place = {"hostname": "127.0.0.1", "port": request.getfixturevalue("port")}
        settings["storage"]["postgres"]["postgres_db"] |= place
        monkeypatch.setenv("DAGSTER_POSTGRES_PASSWORD", "not asked for here")
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(settings))
    with dg.DagsterInstance.from_config(str(tmp_path)) as found:
        yield found


def run(instance: dg.DagsterInstance, asset: dg.AssetsDefinition, key: str | None = None, **tags: str) -> str:
    if key:
        instance.add_dynamic_partitions("crawl", [key])
    done = dg.materialize([asset], instance=instance, partition_key=key, tags=tags, raise_on_error=False)
    return done.run_id


def seen(instance: dg.DagsterInstance) -> dict[str, Any]:
    """What the UI asks for."""
    newest = instance.get_latest_materialization_event(dg.AssetKey("crawl"))
    checks = instance.event_log_storage.get_latest_asset_check_execution_by_key(
        [dg.AssetCheckKey(dg.AssetKey("crawl"), "counted"), dg.AssetCheckKey(dg.AssetKey("corpus"), "whole")]
    )
    return {
        "partitions": sorted(instance.get_materialized_partitions(dg.AssetKey("crawl"))),
        "newest": newest and newest.asset_materialization and sorted(newest.asset_materialization.metadata),
        "corpus": instance.get_latest_materialization_event(dg.AssetKey("corpus")),
        "checks": {key.name: (c.run_id, c.status, c.event and c.event.dagster_event) for key, c in checks.items()},
    }


def test_old_runs_leave_and_the_ui_knows_the_same(instance: dg.DagsterInstance) -> None:
    nights = [run(instance, crawl, key) for key in NIGHTS]
    superseded, newest, blocked = run(instance, corpus), run(instance, corpus), run(instance, corpus, bad="yes")
    again = run(instance, crawl, NIGHTS[-1])
    under_way = instance.create_run_for_job(dg.define_asset_job("j", [corpus]).resolve(asset_graph=graph()))
    before = seen(instance)
    assert before["partitions"] == NIGHTS
    assert trim_history(instance) == TrimmedHistory()  # nothing is old
    planned = trim_history(instance, -1, dry_run=True)
    assert seen(instance) == before
    done = trim_history(instance, -1)
    assert (done.deleted_runs, done.shortened_runs) == (planned.deleted_runs, planned.shortened_runs) == (2, 5)
    assert seen(instance) == before
    left = {each.run_id for each in instance.get_runs()}
    assert left == {*nights[:2], again, newest, blocked, under_way.run_id}
    assert not left & {superseded, nights[2]}
    for each in left - {under_way.run_id}:
        assert instance.all_logs(each) == [] or "Postgres" in type(instance.event_log_storage).__name__
    assert trim_history(instance, -1) == TrimmedHistory()
    assert run(instance, corpus) in {each.run_id for each in instance.get_runs()}  # the history goes on


def graph() -> Any:
    return dg.Definitions(assets=[corpus]).resolve_asset_graph()


def test_pictures_of_what_is_superseded_go_and_its_numbers_stay(instance: dg.DagsterInstance) -> None:
    for key in NIGHTS:
        run(instance, crawl, key)
    trim_history(instance, -1)
    events = instance.fetch_materializations(dg.AssetKey("crawl"), limit=10).records
    metadata = {e.partition_key: e.asset_materialization.metadata for e in events if e.asset_materialization}
    assert "plot" in metadata[NIGHTS[-1]]
    for key in NIGHTS[:-1]:
        assert {name: entry.value for name, entry in metadata[key].items()} == {"documents": 7, "store commit": "abc"}
    versions = [e.asset_materialization.tags for e in events if e.asset_materialization]
    assert sorted(tags["dagster/data_version"] for tags in versions if tags) == NIGHTS


def test_age_counts_from_the_end_of_a_run(instance: dg.DagsterInstance) -> None:
    old, young = run(instance, corpus), run(instance, corpus)
    end = sa.select(sa.func.max(RunsTable.c.end_time)).scalar_subquery()
    with instance.run_storage.connect() as connection:  # type: ignore[attr-defined]
        long_ago = (
            sa.func.datetime("now", "-40 days")
            if "Sqlite" in type(instance.run_storage).__name__
            else sa.text("now() - interval '40 days'")
        )
        connection.execute(
            sa.update(RunsTable)
            .where(RunsTable.c.run_id == old)
            .values(create_timestamp=long_ago, end_time=end - 40 * 86_400)
        )
    assert trim_history(instance, 41) == TrimmedHistory()
    assert trim_history(instance, 39).deleted_runs == 1
    assert [each.run_id for each in instance.get_runs()] == [young]


def test_a_night_of_a_real_graph_costs_a_tenth_afterwards(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text(DAGSTER_YAML)

    def size() -> int:
        return sum(path.stat().st_size for path in tmp_path.rglob("*.db*"))

    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        run(instance, crawl, "site@0")
        trim_history(instance, -1)
        before = size()
        for number in range(1, 11):
            run(instance, crawl, f"site@{number}")
        grown = size() - before
        done = trim_history(instance, -1)
        assert size() - before < grown / 10 + 50_000  # the newest keeps its picture
        assert done.freed_bytes > grown * 0.8


def test_settings_of_an_earlier_version_get_what_they_lack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", "")
    place = tmp_path / "dagster" / "dagster.yaml"
    place.parent.mkdir()
    for present, after in {
        DAGSTER_YAML.removesuffix(RETENTION_YAML): DAGSTER_YAML,
        DAGSTER_YAML: DAGSTER_YAML,
        "telemetry: {enabled: true}\n": "telemetry: {enabled: true}\n",  # a person's own
    }.items():
        place.write_text(present)
        assert Workplace(tmp_path).dagster_home == place.parent
        assert place.read_text() == after
    place.write_text(DAGSTER_YAML)
    with dg.DagsterInstance.from_config(str(place.parent)) as instance:
        days = instance.get_tick_retention_settings(dg._core.definitions.run_request.InstigatorType.SENSOR)
        assert {status.value: kept for status, kept in days.items()}["SKIPPED"] == 1
