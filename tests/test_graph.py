"""The graph as it is: keys, edges, partitions, checks, jobs, schedules. A change shows as a diff in review.

`make snapshot` accepts the present graph.
"""

from __future__ import annotations

import importlib
from typing import Any

import dagster as dg
import pytest
from syrupy.assertion import SnapshotAssertion

from orchestration.config import recipe_models
from orchestration.graph.definitions import defs, group_label
from orchestration.publish.publisher import builder
from orchestration.stages import GROUPS, JOBS, STAGES
from quality.asset_checks import check_specs


@pytest.fixture(scope="module")
def graph() -> dg.AssetGraph:
    return defs.resolve_asset_graph()


def makes(job: str) -> list[str]:
    """The assets that Dagster makes in a run of the whole job, in graph order."""
    chosen = {key.path[-1] for key in defs.resolve_job_def(job).asset_layer.selected_asset_keys}
    return [stage.name for stage in STAGES if stage.name in chosen]


def test_the_graph_is_the_one_we_reviewed(graph: Any, snapshot: SnapshotAssertion) -> None:
    assert {
        "assets": {
            stage.name: {
                "group": graph.get(dg.AssetKey(stage.name)).group_name,
                "reads": sorted(f"{e.upstream} ({e.kind})" for e in stage.inputs),
                "partitions": stage.partition,
                "recipes": list(stage.recipes),
                "checks": [f"{c.name}{' (blocking)' if c.blocking else ''}" for c in check_specs(stage.name)],
            }
            for stage in STAGES
        },
        "jobs": {job.name: makes(job.name) for job in defs.jobs or []},
        "schedules": sorted(f"{s.name}: {s.cron_schedule}" for s in defs.schedules or []),
        "sensors": sorted(s.name for s in defs.sensors or []),
    } == snapshot


def test_every_asset_has_a_sentence_an_owner_kinds_a_builder_and_both_kinds_of_checks(graph: Any) -> None:
    for stage in STAGES:
        node = graph.get(dg.AssetKey(stage.name))
        assert len(stage.sentence) > 40, stage.name
        assert node.owners, stage.name
        assert node.kinds, stage.name
        assert callable(builder(stage)), stage.name
        blocking = {spec.blocking for spec in check_specs(stage.name)}
        assert blocking == {True, False}, f"{stage.name} needs a blocking and an informational check"
        names = [spec.name for spec in check_specs(stage.name)]
        assert len(names) == len(set(names)), stage.name


def test_groups_sort_in_stage_order_and_folders_carry_their_names() -> None:
    labels = [group_label(group) for group in GROUPS]
    assert labels == sorted(labels)
    assert [stage.group for stage in STAGES] == sorted((s.group for s in STAGES), key=GROUPS.index)
    for group in GROUPS:
        importlib.import_module(f"assets.{group}.defs")
        importlib.import_module(f"quality.{group}_checks")


def test_every_asset_is_made_by_exactly_one_job() -> None:
    assert {name: tuple(makes(name)) for name in JOBS} == JOBS
    assert sorted(name for assets in JOBS.values() for name in assets) == sorted(stage.name for stage in STAGES)


def test_every_recipe_table_has_a_model_that_forbids_unknown_keys() -> None:
    for table in {table for stage in STAGES for table in stage.recipes} - {"sources"}:
        assert recipe_models()[table].model_config.get("extra") == "forbid", table


def test_everything_that_starts_by_itself_is_off() -> None:
    for automation in [*(defs.schedules or []), *(defs.sensors or [])]:
        assert automation.default_status.value == "STOPPED"
