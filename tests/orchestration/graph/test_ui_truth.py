"""What a person reads and types in the UI: one code location, strict options, keys that are keys, checks per partition."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus

from assets.errors import HeadwaterError
from orchestration.config import REPOSITORY, ConfigError
from orchestration.graph.code_location import LOCATION, MODULE, carry_over_instigators, job_origin
from orchestration.graph.column_docs import column_comments
from orchestration.graph.definitions import PARTITIONS, build_jobs, defs
from orchestration.graph.freshness import build_freshness_checks
from orchestration.graph.ui.home_instance import open_home_instance
from orchestration.process.reaper import HOST_TAG, PID_TAG, reap_dead_runs
from orchestration.process.workplace import open_workplace
from orchestration.stages import JOBS, STAGES
from tests.histories.building import write_config

NAME = "__repository__"


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """The UI's instance of a home with one source, `pages`."""
    write_config(tmp_path / "config", tmp_path / "sites", {}, {"pages": "text"}, workers=1)
    monkeypatch.delenv("HEADWATER_STORE", raising=False)
    monkeypatch.setenv("HEADWATER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HEADWATER_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home/dagster"))
    with open_home_instance(open_workplace().dagster_home) as found:
        yield found


def launch(instance: Any, job: str, **wanted: Any) -> None:
    """What the web server calls to launch a run, as far as it is looked at."""
    instance.create_run(job_name=job, asset_selection=None, **wanted)


def turned(location: str, name: str, status: InstigatorStatus) -> InstigatorState:
    origin = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(location), NAME).get_instigator_origin(name)
    return InstigatorState(origin, InstigatorType.SENSOR, status)


def test_what_was_turned_on_under_another_name_of_the_location_stays_on(instance: dg.DagsterInstance) -> None:
    instance.add_instigator_state(turned("clone", "build_what_is_stale", InstigatorStatus.RUNNING))
    instance.add_instigator_state(turned("clone", "index_new_runs", InstigatorStatus.RUNNING))
    instance.add_instigator_state(turned(LOCATION, "index_new_runs", InstigatorStatus.STOPPED))
    assert carry_over_instigators(instance) == ["build_what_is_stale"]
    assert carry_over_instigators(instance) == []
    found = {state.instigator_name: state for state in instance.all_instigator_state()}
    assert {state.origin.location_name for state in found.values()} == {LOCATION}
    assert found["build_what_is_stale"].status == InstigatorStatus.RUNNING
    assert found["index_new_runs"].status == InstigatorStatus.STOPPED, "what was chosen since is newer"


def test_the_daemon_of_the_containers_uses_the_same_name() -> None:
    (loaded,) = yaml.safe_load((REPOSITORY / "deploy/workspace.yaml").read_text("utf-8"))["load_from"]
    assert loaded == {"python_module": {"module_name": MODULE, "location_name": LOCATION}}
    services = yaml.safe_load((REPOSITORY / "deploy/compose.yaml").read_text("utf-8"))["services"]
    assert services["daemon"]["command"] == "dagster-daemon run -w deploy/workspace.yaml"


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("foo", "does not have the form name@YYYYMMDDTHHMMSSZ"),
        ("pages@20269901T000000Z", "is not a time"),
        ("pages@29990101T000000Z", "more than a day ahead of the clock"),
        ("page@20260101T000000Z", "source(s) page are not in sources.toml; known: pages"),
    ],
)
def test_a_partition_that_is_none_is_refused_when_typed_and_when_launched(
    instance: dg.DagsterInstance, key: str, told: str
) -> None:
    with pytest.raises(HeadwaterError) as typed:
        instance.add_dynamic_partitions("crawl", [key])
    assert told in str(typed.value)
    assert instance.get_dynamic_partitions("crawl") == []
    with pytest.raises(HeadwaterError) as launched:
        launch(instance, "crawl_job", tags={"dagster/partition": key})
    assert told in str(launched.value)
    assert instance.get_runs() == []


def test_a_key_of_a_known_source_is_added(instance: dg.DagsterInstance) -> None:
    instance.add_dynamic_partitions("crawl", ["pages@20260101T000000Z"])
    assert instance.get_dynamic_partitions("crawl") == ["pages@20260101T000000Z"]


def options(**config: Any) -> dict[str, Any]:
    return {"resources": {"options": {"config": config}}}


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize(
    "typed", [options(alow_stale=True), options(allow_stale="yes"), options(accept_yield="pages"), {"opps": {}}]
)
def test_a_typo_in_the_launchpad_is_refused(job: str, typed: dict[str, Any]) -> None:
    with pytest.raises(dg.DagsterInvalidConfigError):
        dg.validate_run_config(defs.resolve_job_def(job), typed)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_an_asset_takes_no_configuration_of_its_own(stage: Any) -> None:
    job = defs.resolve_job_def(next(job for job, names in JOBS.items() if stage.name in names))
    assert dg.validate_run_config(job, options(allow_stale=True, accept_yield=["pages"], rebuild=True, reason="why"))
    with pytest.raises(dg.DagsterInvalidConfigError):
        dg.validate_run_config(job, {"ops": {stage.name: {"config": {"limit": 3}}}})


def test_an_unknown_source_in_accept_yield_is_refused_before_the_run(instance: dg.DagsterInstance) -> None:
    with pytest.raises(ConfigError, match=r"source\(s\) pagse are not in sources.toml; known: pages"):
        launch(instance, "curate_job", run_config=options(accept_yield=["pagse"]))
    assert instance.get_runs() == []


def test_checks_are_judged_per_partition() -> None:
    for stage in STAGES:
        (asset,) = [a for a in defs.assets or [] if isinstance(a, dg.AssetsDefinition) and a.key.path == [stage.name]]
        wanted = PARTITIONS[stage.partition] if stage.partition else None
        assert {spec.partitions_def for spec in asset.check_specs} == {wanted}, stage.name


def test_freshness_is_looked_at_by_the_clock_and_never_by_a_crawl() -> None:
    checks = build_freshness_checks()
    definitions = dg.Definitions(
        assets=defs.assets, asset_checks=checks, jobs=list(build_jobs(checks).values()), resources=defs.resources
    )
    assert {node.name for node in definitions.resolve_job_def("crawl_job").nodes} == set(JOBS["crawl_job"])


def test_every_column_of_every_table_has_a_description() -> None:
    empty = [
        f"{table}.{name}" for table, columns in column_comments().items() for name, text in columns.items() if not text
    ]
    assert empty == []


def test_a_run_of_a_dead_process_is_reaped_but_not_one_that_the_ui_executes_again(instance: dg.DagsterInstance) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    tags = {PID_TAG: str(gone.pid), HOST_TAG: os.uname().nodename}
    job = defs.resolve_job_def("curate_job")
    dead, again = (
        instance.create_run_for_job(
            job, status=dg.DagsterRunStatus.STARTED, tags=tags | more, remote_job_origin=job_origin(job.name)
        )
        for more in ({}, {"dagster/parent_run_id": "the first"})
    )
    assert reap_dead_runs(instance) == [dead.run_id]
    run = instance.get_run_by_id(again.run_id)
    assert run is not None
    assert run.status == dg.DagsterRunStatus.STARTED
