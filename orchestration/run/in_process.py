"""One Dagster run in this process, known to the UI as a run of its job: Dagster's own `execute_in_process` is of none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestration.graph.code_location import job_origin

if TYPE_CHECKING:
    from dagster import DagsterInstance

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
"""Run configuration: what a person sees is our own progress, Dagster's log is in its database."""


@dataclass(frozen=True)
class RunResult:
    """What became of the run."""

    run_id: str
    success: bool
    all_events: list[Any]


def run_in_process(
    instance: DagsterInstance, job: str, partition: str | None, assets: Sequence[str], tags: Mapping[str, str]
) -> RunResult:
    """Materialise some assets of a job; what fails is in the events, nothing is raised for it."""
    import dagster as dg
    from dagster._core.definitions.job_base import InMemoryJob
    from dagster._core.execution.api import execute_run_iterator

    from orchestration.graph.definitions import defs

    whole = defs.resolve_job_def(job)
    keys = frozenset(dg.AssetKey(name) for name in assets)
    key_tags = whole.get_tags_for_partition_key(partition, keys) if partition else {}
    run = instance.create_run_for_job(
        whole.get_subset(asset_selection=keys),
        run_config=QUIET,
        tags={**whole.run_tags, **key_tags, **tags},
        asset_selection=keys,
        remote_job_origin=job_origin(job),
    )
    events = list(execute_run_iterator(InMemoryJob(whole), run, instance))
    success = any(event.event_type == dg.DagsterEventType.RUN_SUCCESS for event in events)
    return RunResult(run.run_id, success, events)
