"""Re-crawls by the clock and retrains when enough changed: declared, and off until a person turns them on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dagster as dg

from orchestration.config import ConfigError, load_config
from orchestration.graph.in_progress import Running, making, of_source, unfinished_runs
from orchestration.graph.retries import ASKED_TAG
from orchestration.identity.catalog import read_catalog
from orchestration.identity.key_order import KeyOrderError, believable, check_order
from orchestration.identity.partitions import new_key, newest_keys, split_key
from orchestration.identity.search_tags import search_tags
from orchestration.identity.status import CRAWL, PLANNER, walk
from orchestration.process.reaper import reap_dead_runs
from orchestration.process.workplace import open_workplace
from orchestration.stages import JOBS

RETRAIN_SHARE = 0.05
"""Retrain when this share of the corpus changed since the newest run was planned: a policy, not a law;
below a few percent the change is lost in the noise of the data order."""
RETRAIN_CRON = "0 4-23 * * 0"
"""Each hour of a Sunday, for one run: a build that is under way at four must not cost a week."""


def build_schedules(jobs: dict[str, Any]) -> list[dg.ScheduleDefinition]:
    """One re-crawl schedule per source, one retrain schedule per recipe."""
    try:
        config = load_config()
    except ConfigError:
        return []  # the error is told where a person can act on it: doctor, run, and every materialisation
    schedules = [_recrawl(jobs, name, table) for name, table in sorted(config.sources.items()) if table.get("schedule")]
    return schedules + [_retrain(jobs, recipe) for recipe in sorted(config.runs)]


def schedule_name(source: str) -> str:
    """What Dagster calls the schedule of a source."""
    return f"recrawl_{source.replace('-', '_')}"


def _recrawl(jobs: dict[str, Any], source: str, table: dict[str, Any]) -> dg.ScheduleDefinition:
    @dg.schedule(
        name=schedule_name(source),
        job=jobs["crawl_job"],
        cron_schedule=table["schedule"],
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description=f"Crawls {source} again: a new partition, whose delta is all that downstream pays for.",
    )
    def recrawl(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        if before := of_source(_running(context.instance), source):
            yield dg.SkipReason(f"{before.label} is under way: {source} is not crawled twice at a time")
            return
        stamp = context.scheduled_execution_time.strftime("%Y%m%dT%H%M%SZ")
        key = new_key(source, stamp)
        try:
            check_order("crawl", key, read_catalog(open_workplace().store).partitions(CRAWL))
        except KeyOrderError as error:
            if error.of_a_clock:
                raise  # no later night would be crawled either: red
            yield dg.SkipReason(str(error))
            return
        context.instance.add_dynamic_partitions("crawl", [key])
        yield dg.RunRequest(
            run_key=key, partition_key=key, tags={ASKED_TAG: key, **search_tags("crawl", key, "its schedule")}
        )

    return recrawl


def _retrain(jobs: dict[str, Any], recipe: str) -> dg.ScheduleDefinition:
    @dg.schedule(
        name=f"retrain_{recipe.replace('-', '_')}",
        job=jobs["pretrain_job"],
        cron_schedule=RETRAIN_CRON,
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description=f"Starts a new run of {recipe} when at least {RETRAIN_SHARE:.0%} of the corpus changed since the last.",
    )
    def retrain(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        running = _running(context.instance)
        before = of_source(running, recipe) or making(running, JOBS["curate_job"])
        if before:
            yield dg.SkipReason(f"{before.label} is under way: the run waits for its end")
            return
        stamp = context.scheduled_execution_time.strftime("%Y%m%dT%H%M%SZ")
        started = believable(context.instance.get_dynamic_partitions("run"))
        newest = newest_keys(started).get(recipe)
        if newest and split_key(newest)[1][:8] == stamp[:8]:
            yield dg.SkipReason(f"{newest} was started today")
            return
        share, reason = changed_share(recipe)
        if share < RETRAIN_SHARE:
            yield dg.SkipReason(reason)
            return
        key = new_key(recipe, stamp)
        check_order("run", key, read_catalog(open_workplace().store).partitions(PLANNER))
        context.instance.add_dynamic_partitions("run", [key])
        yield dg.RunRequest(run_key=key, partition_key=key, tags={ASKED_TAG: key, **search_tags("run", key, reason)})

    return retrain


def _running(instance: dg.DagsterInstance) -> list[Running]:
    """What is under way; runs of dead processes are not."""
    reap_dead_runs(instance)
    return unfinished_runs(instance)


def changed_share(recipe: str) -> tuple[float, str]:
    """(share of corpus documents that differ from those the newest run was planned on, in words).

    0 while anything the run would read is stale: a retrain waits for the build.
    """
    workplace = open_workplace()
    catalog = read_catalog(workplace.store)
    status = walk(catalog, workplace.config)
    stale = [name for name in ("corpus", "token_shards", "tokenizer") if status.items[name, None].state != "fresh"]
    if stale:
        return 0.0, f"{', '.join(stale)} not fresh yet: the run waits for the build"
    newest = newest_keys(catalog.partitions(PLANNER)).get(recipe)
    if newest is None:
        return 1.0, f"recipe {recipe} was never run"
    manifest = catalog.get(PLANNER, newest)
    assert manifest is not None
    before = _corpus_documents(manifest["pin"])
    now = _corpus_documents(catalog.commit)
    share = len(before ^ now) / max(len(before | now), 1)
    return share, f"{share:.1%} of the corpus changed since {newest} (threshold {RETRAIN_SHARE:.0%})"


def _corpus_documents(commit: str) -> set[str]:
    from orchestration.identity.catalog import segment

    workplace = open_workplace()
    manifest = read_catalog(workplace.store, commit).get("corpus", None)
    if manifest is None:
        return set()
    table = segment(workplace.store, commit, manifest).table("documents", ["doc_id"])
    return set(table.column("doc_id").to_pylist())
