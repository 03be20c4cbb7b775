"""Asks for what a new crawl, a new run or a changed recipe made stale. Our staleness walk decides; a sensor triggers.

Red means red: a sensor asks only for what can be built now, waits while a run is under way that would change it, and
a run that finds its input changed all the same ends early and green (orchestration/graph/definitions.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from orchestration.graph.in_progress import PARTITION_TAG, Running, making, publishing_crawl, unfinished_runs
from orchestration.graph.retries import ASKED_TAG, tries
from orchestration.graph.unfinished import unfinished_crawls
from orchestration.identity.catalog import Catalog, read_catalog
from orchestration.identity.fingerprint import digest_of
from orchestration.identity.key_order import believable
from orchestration.identity.partitions import split_key
from orchestration.identity.readiness import ready
from orchestration.identity.search_tags import search_tags
from orchestration.identity.status import Item, Status, walk
from orchestration.process.reaper import reap_dead_runs
from orchestration.process.terminal import listed
from orchestration.process.workplace import open_workplace
from orchestration.stages import BY_NAME, JOBS, Job

INTERVAL_S = 60
CRAWLS_AT_ONCE = 4
"""At most so many crawl partitions are built at a time: a changed recipe makes all of them stale."""


def build_sensors(jobs: dict[str, Any]) -> list[dg.SensorDefinition]:
    """One sensor for crawl partitions and global stages and one for the lineage, off until a person turns them on."""
    return [
        _sensor(
            "build_what_is_stale",
            [jobs["crawl_job"], jobs["curate_job"]],
            "Materialises what `headwater status` calls stale or missing of crawls and of the global stages, and tries "
            "failed crawls again.",
            lambda view: [*view.crawls(), *view.globals("curate_job")],
        ),
        _sensor(
            "index_new_runs",
            [jobs["audit_job"]],
            "Materialises the lineage index and its audit when `headwater status` calls them stale or missing.",
            lambda view: view.globals("audit_job"),
        ),
    ]


def _sensor(name: str, jobs: list[Any], description: str, asked: Any) -> dg.SensorDefinition:
    @dg.sensor(
        name=name,
        jobs=jobs,
        minimum_interval_seconds=INTERVAL_S,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description=description,
    )
    def sensor(context: dg.SensorEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        view = View.now(context.instance)
        requests = asked(view)
        yield from requests
        if not requests:
            yield dg.SkipReason("; ".join(view.reasons) or "everything is fresh")

    return sensor


@dataclass
class View:
    """What is published, what runs, and why something is not asked for."""

    instance: dg.DagsterInstance
    catalog: Catalog
    status: Status
    running: list[Running]
    reasons: list[str] = field(default_factory=list)
    _asked_crawls: list[str] = field(default_factory=list)

    @classmethod
    def now(cls, instance: dg.DagsterInstance) -> View:
        """As things stand; runs of dead processes are no reason to wait."""
        reap_dead_runs(instance)
        workplace = open_workplace()
        running = unfinished_runs(instance)  # before the catalog: what ends in between is published in it
        catalog = read_catalog(workplace.store)
        return cls(instance, catalog, walk(catalog, workplace.config), running)

    def crawls(self) -> list[dg.RunRequest]:
        """Crawl partitions that are stale or unfinished, oldest first, each by itself."""
        room = CRAWLS_AT_ONCE - sum(bool(run.assets & set(JOBS["crawl_job"])) for run in self.running)
        found = []
        for key, items in [*self._needing_crawls().items(), *self._failed_crawls().items()]:
            if len(found) >= room:
                self.reasons.append(f"{CRAWLS_AT_ONCE} crawl partitions are being built")
                break
            run = next((run for run in self.running if run.partition == key), None)
            if run:
                self.reasons.append(f"{run.label} is under way")
                continue
            if request := self._request("crawl_job", key, items):
                self.instance.add_dynamic_partitions("crawl", [key])  # Dagster's home may be newer than the store
                found.append(request)
                self._asked_crawls.append(key)
        return found

    def globals(self, job: Job) -> list[dg.RunRequest]:
        """The assets without partitions, in one run, unless a run is under way that makes or changes them."""
        items = [item for item in self.status.needing() if item.asset in JOBS[job]]
        if not self.status.of("raw_crawl") or not items:
            return []
        before = making(self.running, {*JOBS["curate_job"], *JOBS[job]}) or publishing_crawl(self.running, self.catalog)
        if before:
            self.reasons.append(f"{before.label} is under way: {items[0].label} waits for its end")
            return []
        if self._asked_crawls:
            self.reasons.append(f"{items[0].label} waits for crawls that were asked for")
            return []
        request = self._request(job, None, items)
        return [request] if request else []

    def _request(self, job: str, key: str | None, items: Sequence[Item]) -> dg.RunRequest | None:
        """A run of those items that can be built now; after failures, when their wait is over."""
        able, waiting = ready(items, self.status, self.catalog)
        self.reasons += [f"{label} waits for {listed(lacking, 3)}" for label, lacking in waiting.items()]
        if not able:
            return None
        failed_crawl = able[0].asset == "raw_crawl"
        asked = key if failed_crawl and key else digest_of([[i.label, i.causes, i.version] for i in able])
        before = tries(self.instance, {PARTITION_TAG: asked} if failed_crawl else {ASKED_TAG: asked})
        if refusal := before.refusal():
            self.reasons.append(f"{able[0].label} {refusal}")
            return None
        return dg.RunRequest(
            run_key=f"{asked}:{before.count}",
            job_name=job,
            partition_key=key,
            asset_selection=[dg.AssetKey(item.asset) for item in able],
            tags={
                ASKED_TAG: asked,
                **search_tags("crawl", key, "; ".join(f"{i.asset}: {i.causes[0]}" for i in able)),
            },
        )

    def _needing_crawls(self) -> dict[str, list[Item]]:
        """Published crawl -> what of it is stale or missing, oldest crawl first."""
        found: dict[str, list[Item]] = {}
        for item in self.status.needing():
            if item.partition and BY_NAME[item.asset].partition == "crawl":
                found.setdefault(item.partition, []).append(item)
        return dict(sorted(found.items(), key=lambda each: split_key(each[0])[1]))

    def _started(self) -> list[str]:
        return believable(self.instance.get_dynamic_partitions("crawl"))

    def _failed_crawls(self) -> dict[str, list[Item]]:
        """Crawl that was tried and published nothing -> everything of it."""
        found = {}
        for key in unfinished_crawls(self._started(), self.catalog).values():
            if tries(self.instance, {PARTITION_TAG: key}).failed:
                causes = ("the crawl failed before",)
                found[key] = [Item(name, key, "missing", causes) for name in JOBS["crawl_job"]]
        return found
