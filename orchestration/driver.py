"""`headwater run`: decides what is stale or missing and runs Dagster jobs for exactly that, in one process."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from orchestration.asset_lock import AlreadyRunningError
from orchestration.catalog import Catalog, read_catalog
from orchestration.config import ConfigError
from orchestration.evidence import ACCEPT_YIELD_TAG
from orchestration.partitions import check_stamp, is_key, new_key, newest_keys, split_key
from orchestration.publish import ALLOW_STALE_TAG, FORCE_TAG
from orchestration.reaper import PID_TAG, reap_dead_runs
from orchestration.stages import BY_NAME, STAGES, Stage
from orchestration.status import PLANNER, Item, Status, walk
from orchestration.workplace import Workplace

BINDING_STAGES = tuple(stage.name for stage in STAGES if stage.partition == "run" and stage.once)
"""What a run is for ever bound to: if one is stale, the recipe changed, and a new run is due."""


class RunFailedError(Exception):
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
    at: str | None = None
    """Time stamp of new partitions, for reproducible builds; now if not given."""


@dataclass(frozen=True)
class Step:
    """One Dagster run: a job, a partition, the assets of it that are due, and why."""

    job: str
    partition: str | None
    assets: tuple[str, ...]
    causes: dict[str, tuple[str, ...]] = field(default_factory=dict)


class Driver:
    """Plans and executes one `headwater run`."""

    def __init__(self, workplace: Workplace, options: Options) -> None:
        self.workplace, self.options = workplace, options
        self._built: set[tuple[str, str | None]] = set()
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
        """The steps in order, each decided when the ones before it are done (call again after a crash)."""
        for key in self.due_crawls():
            yield self._step("crawl_job", key, self._items("crawl", key))
        for key in read_catalog(self.workplace.store).partitions("raw_crawl"):
            yield self._step("crawl_job", key, self._items("crawl", key))
        yield self._step("curate_job", None, self._items(None, None, lineage=False))
        if self.options.train:
            key = self.due_run()
            yield self._step("pretrain_job", key, self._items("run", key))
        yield self._step("audit_job", None, self._items(None, None, lineage=True))

    def due_crawls(self) -> list[str]:
        """New crawl partitions: of sources without any crawl, of those asked for, and interrupted ones."""
        published = self._catalog().partitions("raw_crawl")
        started = [k for k in self._registered("crawl") if k not in published]
        have = {split_key(key)[0] for key in published}
        due = []
        for source in self.workplace.config.sources:
            interrupted = [key for key in started if split_key(key)[0] == source]
            if source in have and source not in self.options.recrawl and not interrupted:
                continue
            due.append(max(interrupted) if interrupted else new_key(source, self.options.at))
        return due

    def due_run(self) -> str:
        """The run to work on: the newest of the recipe, or a new one when its recipe changed."""
        catalog = self._catalog()
        known = sorted(set(catalog.partitions(PLANNER)) | set(self._registered("run")))
        newest = newest_keys(known).get(self.options.recipe)
        if newest is None or (self.options.new_run and catalog.get("release_card", newest)):
            return new_key(self.options.recipe, self.options.at)
        status = walk(catalog, self.workplace.config, [newest])
        stale = [status.items[name, newest] for name in BINDING_STAGES if (name, newest) in status.items]
        if any(item.state in ("stale", "history") for item in stale):
            return new_key(self.options.recipe, self.options.at)
        return newest

    def preview(self) -> list[Step]:
        """What `run` would do as things stand now; what later steps find changed is included as missing."""
        catalog = self._catalog()
        status = walk(catalog, self.workplace.config)
        due = set(self.due_crawls())
        steps = [_whole_job("crawl_job", key, "a new crawl") for key in sorted(due)]
        for key in catalog.partitions("raw_crawl"):
            steps.append(self._step("crawl_job", key, self._items("crawl", key, status=status)))
        upstream_changes = any(step.assets for step in steps)
        curate = self._step("curate_job", None, self._items(None, None, lineage=False, status=status))
        if upstream_changes:
            names = [s.name for s in STAGES if s.partition is None and s.group != "lineage"]
            frozen = {"tokenizer_sample", "tokenizer", "tokenizer_report"}
            due_now = set(curate.assets) | {n for n in names if n not in frozen}
            causes = {name: curate.causes.get(name, ("what is upstream changes",)) for name in names if name in due_now}
            curate = Step("curate_job", None, tuple(n for n in names if n in due_now), causes)
        steps.append(curate)
        if self.options.train:
            run = self.due_run()
            fresh_run = run not in catalog.partitions(PLANNER)
            steps.append(
                _whole_job("pretrain_job", run, "a new run")
                if fresh_run
                else self._step("pretrain_job", run, self._items("run", run, status=status))
            )
        lineage = self._step("audit_job", None, self._items(None, None, lineage=True, status=status))
        if not lineage.assets and any(step.assets for step in steps):
            lineage = _whole_job("audit_job", None, "what is upstream changes")
        return [step for step in [*steps, lineage] if step.assets]

    # --- executing

    def execute(self, step: Step) -> None:
        """Run one step as a Dagster run. Raises RunFailedError with the failing asset's own message."""
        import dagster as dg

        from orchestration.definitions import defs

        instance = self.workplace.instance
        if step.partition:
            kind = "crawl" if step.job == "crawl_job" else "run"
            instance.add_dynamic_partitions(kind, [step.partition])
        tags = {PID_TAG: str(os.getpid())}
        if self.options.allow_stale:
            tags[ALLOW_STALE_TAG] = "true"
        if set(step.assets) & set(self.options.rebuild):
            tags[FORCE_TAG] = "true"
        if self.options.accept_yield:
            tags[ACCEPT_YIELD_TAG] = ",".join(self.options.accept_yield)
        result = defs.resolve_job_def(step.job).execute_in_process(
            instance=instance,
            partition_key=step.partition,
            asset_selection=[dg.AssetKey(name) for name in step.assets],
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            tags=tags,
            raise_on_error=False,
        )
        self._built |= {(name, step.partition) for name in step.assets}
        if _interrupted(result):
            raise KeyboardInterrupt
        if not result.success:
            raise RunFailedError(_failure_message(result, step))

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
            reap_dead_runs(self.workplace.instance)
            yield

    # --- looking

    def _catalog(self) -> Catalog:
        return read_catalog(self.workplace.store)

    def _registered(self, kind: str) -> list[str]:
        """Partitions that were started, here or in the UI, where anything can be typed: what is no key is left out."""
        return [key for key in self.workplace.instance.get_dynamic_partitions(kind) if is_key(key)]

    def _items(
        self, partition_kind: str | None, key: str | None, *, lineage: bool | None = None, status: Status | None = None
    ) -> list[Item]:
        status = status or walk(
            self._catalog(), self.workplace.config, [key] if partition_kind == "run" and key else []
        )
        found = []
        for stage in STAGES:
            if stage.partition != partition_kind or (lineage is not None and (stage.group == "lineage") != lineage):
                continue
            item = status.items.get((stage.name, key))
            if item is None:
                item = Item(stage.name, key, "missing", ("never built",))
            asked = stage.name in self.options.rebuild and (stage.name, key) not in self._built
            if item.state in ("stale", "missing") or asked:
                found.append(item)
        return found

    def _step(self, job: str, partition: str | None, items: Sequence[Item]) -> Step:
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


def _whole_job(job: str, partition: str | None, cause: str) -> Step:
    kind = {"crawl_job": "crawl", "pretrain_job": "run"}.get(job)

    def belongs(stage: Stage) -> bool:
        return stage.partition == kind and (job != "audit_job" or stage.group == "lineage")

    names = tuple(stage.name for stage in STAGES if belongs(stage))
    return Step(job, partition, names, dict.fromkeys(names, (cause,)))


def _interrupted(result: Any) -> bool:
    """Whether Ctrl+C or SIGTERM ended the run: Dagster takes the signal and only records it."""
    import dagster as dg
    from dagster._core.events import JobFailureData, RunFailureReason

    data = [e.event_specific_data for e in result.all_events if e.event_type == dg.DagsterEventType.RUN_FAILURE]
    reasons = [each.failure_reason for each in data if isinstance(each, JobFailureData)]
    return RunFailureReason.UNEXPECTED_TERMINATION in reasons


def _failure_message(result: Any, step: Step) -> str:
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
