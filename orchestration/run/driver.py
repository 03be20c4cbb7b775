"""`headwater run`: decides what is stale or missing and runs Dagster jobs for exactly that, in one process."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from assets.errors import HeadwaterError
from orchestration.config import ConfigError
from orchestration.graph.unfinished import TRIES, failures, registered, unfinished_crawls
from orchestration.identity.catalog import Catalog, read_catalog
from orchestration.identity.key_order import Kind, check_order
from orchestration.identity.partitions import PartitionError, check_stamp, new_key, newest_keys, split_key
from orchestration.identity.readiness import ready
from orchestration.identity.search_tags import search_tags
from orchestration.identity.status import CRAWL, PLANNER, Item, Status, published_crawls, walk, whole_crawls
from orchestration.process.asset_lock import AlreadyRunningError
from orchestration.process.dagster_peek import no_run_is_under_way
from orchestration.process.reaper import CUT_SHORT_TAG, HOST_TAG, PID_TAG, reap_dead_runs
from orchestration.process.workplace import Workplace
from orchestration.publish.evidence import ACCEPT_YIELD_TAG
from orchestration.publish.publisher import ALLOW_STALE_TAG, FORCE_TAG
from orchestration.run.failures import Failure, told
from orchestration.run.in_process import RunResult, run_in_process
from orchestration.stages import BY_NAME, JOBS, STAGES, Job, follows_data

BINDING_STAGES = tuple(stage.name for stage in STAGES if stage.partition == "run" and stage.once)
"""What a run is for ever bound to: if one is stale, the recipe changed, and a new run is due."""


class RunFailedError(HeadwaterError):
    """A Dagster run failed; the message is the asset's own error."""


@dataclass(frozen=True)
class Options:
    """What the user asked for."""

    recipe: str
    recrawl: tuple[str, ...] = ()
    """Sources to crawl again although they have a crawl."""
    train: bool = True
    new_run: bool = False
    allow_stale: bool = False
    rebuild: tuple[str, ...] = ()
    """Assets to build again although they are fresh."""
    accept_yield: tuple[str, ...] = ()
    """Sources whose yields may jump this time."""
    abandon: tuple[str, ...] = ()
    """Partitions that were started and never published, to forget first."""
    at: str | None = None
    """Time stamp of new partitions, for reproducible builds; now if not given."""


@dataclass(frozen=True)
class Step:
    """One Dagster run: a job, a partition, the assets of it that are due, and why."""

    job: Job
    partition: str | None
    assets: tuple[str, ...]
    causes: dict[str, tuple[str, ...]] = field(default_factory=dict)


class Driver:
    """Plans and executes one `headwater run`."""

    def __init__(self, workplace: Workplace, options: Options) -> None:
        self.workplace, self.options = workplace, options
        self.failures: list[Failure] = []
        self.waiting: dict[str, list[str]] = {}
        """What was not built because something that it reads is not fresh, and that."""
        self.held_back: list[str] = []
        """Unfinished crawls that failed too often to be tried again unasked."""
        self._built: set[tuple[str, str | None]] = set()
        self._failed: set[tuple[str, str | None]] = set()
        self._seen: tuple[Catalog, Status] | None = None
        if options.recipe not in workplace.config.runs:
            known = ", ".join(sorted(workplace.config.runs)) or "none"
            raise ConfigError(f"recipe {options.recipe!r} is not in config/recipes/; known: {known}")
        if options.at is not None:
            check_stamp(options.at)
        named = {*options.recrawl, *options.accept_yield}
        unknown = sorted(named - set(workplace.config.sources))
        if unknown:
            known = ", ".join(sorted(workplace.config.sources))
            raise ConfigError(f"source(s) {', '.join(unknown)} are not in sources.toml; known: {known}")
        _check_rebuild(options.rebuild)

    # --- planning

    def steps(self) -> Iterator[Step]:
        """The steps in order, each decided when the ones before it are done (call again after a crash).

        What failed is not tried again, and what reads it waits; everything else goes on.
        """
        for key in self.due_crawls():
            yield self._step("crawl_job", key, self._due("crawl_job", key))
        catalog = self._look()[0]
        if self.failures and not whole_crawls(catalog, published_crawls(catalog)):
            return  # there is nothing that the rest could be made from
        yield from self._rounds()
        if self.options.train:
            key = self.due_run()
            yield self._step("pretrain_job", key, self._due("pretrain_job", key))
        yield self._step("audit_job", None, self._due("audit_job", None))

    def _rounds(self) -> Iterator[Step]:
        """Crawls and global stages in turn, until nothing is due: either may read what the other made."""
        before = -1
        while before < len(self._built):
            before = len(self._built)
            for key in published_crawls(self._look()[0]):
                yield self._step("crawl_job", key, self._due("crawl_job", key))
            yield self._step("curate_job", None, self._due("curate_job", None))

    def due_crawls(self) -> list[str]:
        """Crawl partitions to publish: of sources without any crawl, of those asked for, and unfinished ones.

        An unfinished one of a source that has a crawl is tried once more after it failed, then only when asked.
        """
        catalog, workplace = self._look()[0], self.workplace
        have = {split_key(key)[0] for key in catalog.partitions(CRAWL)}
        unfinished = unfinished_crawls(registered(workplace, "crawl"), catalog)
        due, self.held_back = [], []
        for source in workplace.config.sources:
            key = unfinished.get(source)
            if source not in have or source in self.options.recrawl:
                due.append(key or new_key(source, self.options.at))
            elif key and failures(workplace.instance, key) < TRIES:
                due.append(key)
            elif key:
                self.held_back.append(key)
        return due

    def due_run(self) -> str:
        """The run to work on: the newest of the recipe, or a new one when its recipe changed."""
        catalog, _ = self._look()
        known = sorted(set(catalog.partitions(PLANNER)) | set(registered(self.workplace, "run")))
        newest = newest_keys(known).get(self.options.recipe)
        if newest is None or (self.options.new_run and catalog.get("release_card", newest)):
            return new_key(self.options.recipe, self.options.at)
        status = self._status_of(newest)
        stale = [status.items[name, newest] for name in BINDING_STAGES if (name, newest) in status.items]
        if any(item.state in ("stale", "history") for item in stale):
            return new_key(self.options.recipe, self.options.at)
        return newest

    def preview(self) -> list[Step]:
        """What `run` would do as things stand now; what later steps find changed is included as missing."""
        catalog, status = self._look()
        steps = [_whole_job("crawl_job", key, "a new crawl") for key in sorted(self.due_crawls())]
        for key in published_crawls(catalog):
            steps.append(self._step("crawl_job", key, self._items("crawl_job", key, status)))
        upstream_changes = any(step.assets for step in steps)
        curate = self._step("curate_job", None, self._items("curate_job", None, status))
        if upstream_changes:
            names = JOBS["curate_job"]
            due_now = set(curate.assets) | {n for n in names if follows_data(BY_NAME[n])}
            causes = {name: curate.causes.get(name, ("what is upstream changes",)) for name in names if name in due_now}
            curate = Step("curate_job", None, tuple(n for n in names if n in due_now), causes)
        steps.append(curate)
        if self.options.train:
            run = self.due_run()
            fresh_run = run not in catalog.partitions(PLANNER)
            steps.append(
                _whole_job("pretrain_job", run, "a new run")
                if fresh_run
                else self._step("pretrain_job", run, self._items("pretrain_job", run, status))
            )
        lineage = self._step("audit_job", None, self._items("audit_job", None, status))
        if not lineage.assets and any(step.assets for step in steps):
            lineage = _whole_job("audit_job", None, "what is upstream changes")
        return [step for step in [*steps, lineage] if step.assets]

    # --- executing

    def attempt(self, step: Step) -> bool:
        """Run one step; a failure is kept for `raise_failures`, so that the steps that do not need it go on."""
        try:
            self.execute(step)
        except (RunFailedError, PartitionError) as error:
            self.failures.append(Failure(step.job, step.partition, str(error)))
            self._failed |= {(name, step.partition) for name in step.assets}
            if step.partition:  # what else of it waits is told with it
                self.waiting = {k: v for k, v in self.waiting.items() if not k.endswith(f"[{step.partition}]")}
            return False
        return True

    def raise_failures(self) -> None:
        """Raises RunFailedError that tells everything that failed or waits, if anything did."""
        if self.failures or self.waiting:
            raise RunFailedError(told(self.failures, self.waiting, read_catalog(self.workplace.store)))

    def execute(self, step: Step) -> None:
        """Run one step as a Dagster run. Raises RunFailedError with the failing asset's own message, KeyOrderError."""
        instance = self.workplace.instance
        if step.partition:
            kind: Kind = "crawl" if step.job == "crawl_job" else "run"
            published = read_catalog(self.workplace.store).partitions(CRAWL if kind == "crawl" else PLANNER)
            check_order(kind, step.partition, published)  # a partition that may not be is not even begun
            instance.add_dynamic_partitions(kind, [step.partition])
        result = run_in_process(instance, step.job, step.partition, step.assets, self._tags(step))
        self._built |= {(name, step.partition) for name in step.assets}
        self._seen = None
        if _interrupted(result):
            instance.add_run_tags(result.run_id, {CUT_SHORT_TAG: "true"})
            raise KeyboardInterrupt
        if not result.success:
            raise RunFailedError(_failure_message(result, step))

    def _tags(self, step: Step) -> dict[str, str]:
        """Of the run of a step: whose process it is, what was asked for, and what a person can search for."""
        tags = {PID_TAG: str(os.getpid()), HOST_TAG: socket.gethostname(), "dagster/max_retries": "0"}
        reason = "; ".join(f"{asset}: {causes[0]}" for asset, causes in step.causes.items() if causes)
        tags |= search_tags(BY_NAME[step.assets[0]].partition, step.partition, reason)
        if self.options.allow_stale:
            tags[ALLOW_STALE_TAG] = "true"
        if set(step.assets) & set(self.options.rebuild):
            tags[FORCE_TAG] = "true"
        if self.options.accept_yield:
            tags[ACCEPT_YIELD_TAG] = ",".join(self.options.accept_yield)
        return tags

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Only one `headwater run` per home; then mark runs of dead processes as failed."""
        path = self.workplace.home / "locks" / "run.lock"
        self.workplace.make(path.parent)
        with path.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise AlreadyRunningError(
                    f"another `headwater run` works on {self.workplace.home}. Wait for it or end it; "
                    "set HEADWATER_HOME to work on another store."
                ) from None
            if not no_run_is_under_way(self.workplace):
                reap_dead_runs(self.workplace.instance)
            yield

    # --- looking

    def _look(self) -> tuple[Catalog, Status]:
        """What is published and its state: walked once, and again only after a step ran."""
        if self._seen is None:
            catalog = read_catalog(self.workplace.store)
            self._seen = catalog, walk(catalog, self.workplace.config)
        return self._seen

    def _status_of(self, run: str | None) -> Status:
        """The state of everything, with that of a run that may have published nothing yet."""
        catalog, status = self._look()
        if run is None or (PLANNER, run) in status.items:
            return status
        return walk(catalog, self.workplace.config, [run])

    def _items(self, job: Job, key: str | None, status: Status) -> list[Item]:
        """What is stale, missing or asked for of one partition, or of the assets without partitions."""
        found = []
        for name in JOBS[job]:
            item = status.items.get((name, key))
            if item is None:
                item = Item(name, key, "missing", ("never built",))
            asked = name in self.options.rebuild and (name, key) not in self._built
            if item.state in ("stale", "missing") or asked:
                found.append(item)
        return found

    def _due(self, job: Job, key: str | None) -> list[Item]:
        """Those of `_items` that can be built now: nothing that they read failed, or waits itself. Nothing is built twice."""
        status = self._status_of(key if job == "pretrain_job" else None)
        items = [
            item
            for item in self._items(job, key, status)
            if (item.asset, key) not in self._failed and (item.asset, key) not in self._built
        ]
        if self.options.allow_stale or not items:
            return items
        able, waiting = ready(items, status, self._look()[0])
        self.waiting = {label: why for label, why in self.waiting.items() if label not in {i.label for i in items}}
        self.waiting |= waiting
        return able

    def _step(self, job: Job, partition: str | None, items: Sequence[Item]) -> Step:
        return Step(job, partition, tuple(i.asset for i in items), {i.asset: i.causes for i in items})


def _check_rebuild(names: Sequence[str]) -> None:
    """Raises ConfigError for what is no asset, or is published once and for ever."""
    unknown = sorted(set(names) - set(BY_NAME))
    if unknown:
        raise ConfigError(f"no asset {', '.join(unknown)}; known: {', '.join(BY_NAME)}")
    once = sorted(name for name in names if BY_NAME[name].once)
    if once:
        raise ConfigError(
            f"{', '.join(once)}: published once and for ever, never built again. "
            "--recrawl SOURCE makes a new crawl, --new-run a new training run."
        )


def _whole_job(job: Job, partition: str | None, cause: str) -> Step:
    return Step(job, partition, JOBS[job], dict.fromkeys(JOBS[job], (cause,)))


def _interrupted(result: RunResult) -> bool:
    """Whether Ctrl+C or SIGTERM ended the run: Dagster takes the signal and only records it."""
    import dagster as dg
    from dagster._core.events import JobFailureData, RunFailureReason

    data = [e.event_specific_data for e in result.all_events if e.event_type == dg.DagsterEventType.RUN_FAILURE]
    reasons = [each.failure_reason for each in data if isinstance(each, JobFailureData)]
    return RunFailureReason.UNEXPECTED_TERMINATION in reasons


def _failure_message(result: RunResult, step: Step) -> str:
    """The first step failure, without Dagster's frames: our own errors carry cause and remedy."""
    import dagster as dg

    for event in result.all_events:
        if event.event_type == dg.DagsterEventType.STEP_FAILURE:
            data = event.step_failure_data
            if data.user_failure_data and data.user_failure_data.description:
                return f"{event.step_key}: {data.user_failure_data.description}"
            error = data.error.cause or data.error
            return f"{event.step_key}: {error.to_string().strip()}"
    return f"{step.job} {step.partition or ''} failed; `headwater ui` shows its log (run {result.run_id})."
