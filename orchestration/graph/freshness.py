"""Whether each source with a schedule was crawled when it should have been: one check per source, looked at by the clock.

No `from __future__ import annotations` here: Dagster looks at the type of `context` itself.
"""

import time
from typing import Any

import dagster as dg

from orchestration.config import ConfigError, load_config
from orchestration.graph.alert_sensor import crawls_of_sources, schedules_on
from orchestration.graph.schedules import schedule_name
from orchestration.identity.catalog import read_catalog
from orchestration.identity.status import CRAWL
from orchestration.process.workplace import open_workplace
from orchestration.upkeep.alerts import Crawls, load_alerts, of_crawls

JOB, SCHEDULE, CRON = "freshness_job", "watch_freshness", "30 * * * *"


def build_freshness_checks() -> list[dg.AssetChecksDefinition]:
    """One per source with a schedule; none where the configuration is broken, which is told elsewhere."""
    try:
        sources = load_config().sources
    except ConfigError:
        return []
    return [_check(source, table["schedule"]) for source, table in sorted(sources.items()) if table.get("schedule")]


def build_freshness_job(checks: list[dg.AssetChecksDefinition]) -> list[Any]:
    """The job that looks at all of them; none without a check."""
    if not checks:
        return []
    return [
        dg.define_asset_job(
            JOB,
            selection=dg.AssetSelection.checks(*checks),
            executor_def=dg.in_process_executor,
            description="Looks whether each source with a schedule was crawled on time. Crawls nothing.",
        )
    ]


def build_freshness_schedules(jobs: list[Any]) -> list[dg.ScheduleDefinition]:
    """Every hour, off until a person turns it on."""
    return [
        dg.ScheduleDefinition(
            name=SCHEDULE,
            job=job,
            cron_schedule=CRON,
            default_status=dg.DefaultScheduleStatus.STOPPED,
            description="Looks every hour whether each source with a schedule was crawled on time.",
        )
        for job in jobs
    ]


def _check(source: str, cron: str) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=CRAWL,
        name=f"{source.replace('-', '_')}_was_crawled_on_time",
        description=f"{source} is crawled as its schedule ({cron}, UTC) says, by whoever starts it.",
    )
    def check(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        return verdict(context.instance, source)

    return check


def verdict(instance: dg.DagsterInstance, source: str) -> dg.AssetCheckResult:
    """A source is late by the rules of the alerts, but also while its schedule is off: the UI shows it to all."""
    workplace, settings = open_workplace(), load_alerts()
    table = {source: workplace.config.sources[source]}
    late = time.time() - settings.missed_after_hours * 3_600
    name = schedule_name(source)
    (crawls,) = crawls_of_sources(instance, table, read_catalog(workplace.store), late, {name: 0.0})
    told = [alert.text for alert in of_crawls(crawls, settings.unanswered_nights)]
    if told and name not in schedules_on(instance):
        told.append(f"The schedule {name} is off (Automation); `headwater run --recrawl {source}` crawls it now.")
    last = max(crawls.published, default="")
    return dg.AssetCheckResult(
        passed=not told,
        severity=dg.AssetCheckSeverity.WARN,
        description=" ".join(told) or f"The last crawl is {last}.",
        metadata=_metadata(crawls, last),
    )


def _metadata(crawls: Crawls, last: str) -> dict[str, Any]:
    found: dict[str, Any] = {"last published crawl": last or "none", "crawls that brought nothing": len(crawls.failed)}
    if crawls.due is not None:
        found["last due"] = f"{crawls.due:%Y-%m-%d %H:%M} UTC"
    return found
