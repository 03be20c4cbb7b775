"""Runs that are queued or under way, and what they make: what sensors and schedules wait for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestration.identity.catalog import Catalog
from orchestration.identity.partitions import is_key, split_key
from orchestration.identity.status import CRAWL, CRAWL_STAGES
from orchestration.stages import JOBS, STAGES

if TYPE_CHECKING:
    from dagster import DagsterInstance, DagsterRun

PARTITION_TAG = "dagster/partition"


@dataclass(frozen=True)
class Running:
    """One run that is not finished."""

    run_id: str
    assets: frozenset[str]
    partition: str | None

    @property
    def label(self) -> str:
        """For a reason to wait: `raw_crawl[site@...] and 4 more (run 1a2b3c4d)`."""
        first = next((stage.name for stage in STAGES if stage.name in self.assets), "nothing")
        more = f" and {len(self.assets) - 1} more" if len(self.assets) > 1 else ""
        return f"{first}{f'[{self.partition}]' if self.partition else ''}{more} (run {self.run_id[:8]})"


def unfinished_runs(instance: DagsterInstance) -> list[Running]:
    """Every run that is queued, starting, under way or being cancelled."""
    from dagster import RunsFilter
    from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

    runs = instance.get_runs(RunsFilter(statuses=list(NOT_FINISHED_STATUSES)))
    return [Running(run.run_id, _assets(run), run.tags.get(PARTITION_TAG)) for run in runs]


def of_source(running: Iterable[Running], source: str) -> Running | None:
    """A run that crawls the source, or makes a training run of that recipe."""
    for run in running:
        if run.partition and is_key(run.partition) and split_key(run.partition)[0] == source:
            return run
    return None


def making(running: Iterable[Running], assets: Iterable[str]) -> Running | None:
    """A run that makes one of these assets."""
    wanted = frozenset(assets)
    return next((run for run in running if run.assets & wanted), None)


def publishing_crawl(running: Iterable[Running], catalog: Catalog) -> Running | None:
    """A run whose crawl is fetched and that will soon change what the global stages read.

    One that still fetches is not waited for: a polite crawl takes hours.
    """
    crawls = (run for run in running if run.assets & set(CRAWL_STAGES))
    return next((run for run in crawls if run.partition and catalog.get(CRAWL, run.partition)), None)


def _assets(run: DagsterRun) -> frozenset[str]:
    if run.asset_selection:
        return frozenset(key.path[-1] for key in run.asset_selection)
    return frozenset(next((assets for job, assets in JOBS.items() if job == run.job_name), ()))
