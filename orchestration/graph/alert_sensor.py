"""The sensor that tells: failed runs, blocked checks, missed nights, sources that do not answer."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from orchestration.config import ConfigError
from orchestration.graph.schedules import schedule_name
from orchestration.identity.catalog import Catalog, read_catalog
from orchestration.identity.key_order import believable
from orchestration.identity.partitions import split_key
from orchestration.process.workplace import open_workplace
from orchestration.upkeep.alert_channels import channels_of
from orchestration.upkeep.alerts import Alert, Crawls, DeliveryError, FailedRun, Told, load_alerts, of_crawls
from orchestration.upkeep.alerts import of_failed_runs as of_runs

if TYPE_CHECKING:
    from dagster import DagsterInstance

INTERVAL_S = 60
_OVERLAP_S = 600.0  # a run may be written down later than it ended; what was told is known by its id
_PARTITION_TAG, _WILL_RETRY_TAG = "dagster/partition", "dagster/will_retry"


def build_alert_sensors() -> list[dg.SensorDefinition]:
    """One sensor, turned on, when config/alerts.toml names a channel; else none."""
    try:
        if not load_alerts().on:
            return []
    except ConfigError:
        return []  # told by doctor
    return [_sensor()]


def _sensor() -> dg.SensorDefinition:
    @dg.sensor(
        name="alerts",
        minimum_interval_seconds=INTERVAL_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Tells of failed runs, blocked checks, missed nights and silent sources, as config/alerts.toml says.",
    )
    def alerts(context: dg.SensorEvaluationContext) -> Iterator[dg.SkipReason]:
        count = tell_what_is_new(context.instance)
        yield dg.SkipReason(f"{count} messages sent" if count else "nothing new to tell")

    return alerts


def tell_what_is_new(instance: DagsterInstance) -> int:
    """Gather, send, remember; returns how many messages went out. Raises dg.Failure where one could not be delivered."""
    from orchestration.upkeep.alerts import tell

    workplace, settings = open_workplace(), load_alerts()
    told, now = Told.read(workplace.home), time.time()
    found: list[Alert] = of_runs(failed_runs(instance, told.since - _OVERLAP_S))
    late = now - settings.missed_after_hours * 3_600
    on = schedules_on(instance)
    for crawls in crawls_of_sources(instance, workplace.config.sources, read_catalog(workplace.store), late, on):
        found += of_crawls(crawls, settings.unanswered_nights)
    try:
        count = tell(found, channels_of(settings), told)
    except DeliveryError as error:
        raise dg.Failure(f"alerts were not delivered and are tried again in a minute: {error}") from error
    told.since = now
    told.write()
    return count


def failed_runs(instance: DagsterInstance, since: float) -> list[FailedRun]:
    """Runs that failed after a moment and that Dagster does not start again itself; oldest first."""
    moment = datetime.fromtimestamp(since, UTC)
    wanted = dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], updated_after=moment)
    runs = [record.dagster_run for record in instance.get_run_records(wanted, ascending=True)]
    return [_failed(instance, run) for run in runs if run.tags.get(_WILL_RETRY_TAG) != "true"]


def _failed(instance: DagsterInstance, run: Any) -> FailedRun:
    """With the first step's own words, which name cause and remedy; else what Dagster says."""
    kinds = {dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE}
    error, message = "", "Dagster's UI shows its log."
    for entry in instance.all_logs(run.run_id, of_type=kinds):
        event = entry.dagster_event
        if event is None:
            continue
        message = event.message or message
        if event.event_type == dg.DagsterEventType.STEP_FAILURE:
            failure = event.step_failure_data
            own, cause = failure.user_failure_data, failure.error and (failure.error.cause or failure.error)
            message = cause.message.strip() if cause else message
            if own is not None:
                kind = own.metadata.get("error")
                error, message = str(kind.value) if kind else "", own.description or message
            break
    return FailedRun(run.run_id, run.job_name, run.tags.get(_PARTITION_TAG), error, message)


def crawls_of_sources(
    instance: DagsterInstance,
    sources: dict[str, dict[str, Any]],
    catalog: Catalog,
    late: float,
    since: Mapping[str, float],
) -> Iterator[Crawls]:
    """What is known of the crawls of each configured source; one that was due after `late` may still come.

    `since`: name of each schedule to hold a source to, and from when on.
    """
    tried: dict[str, list[str]] = defaultdict(list)
    published: dict[str, list[str]] = defaultdict(list)
    for keys, where in (
        (instance.get_dynamic_partitions("crawl"), tried),
        (catalog.partitions("raw_crawl"), published),
    ):
        for key in believable(keys):
            where[split_key(key)[0]].append(key)
    for name, table in sorted(sources.items()):
        due = _last_due(table.get("schedule"), since.get(schedule_name(name)), late)
        newest = max(published[name], default="")
        later = [key for key in tried[name] if key > newest]
        yield Crawls(name, tried[name], _with_failed_run(instance, later), published[name], due)


def _with_failed_run(instance: DagsterInstance, keys: list[str]) -> list[str]:
    if not keys:
        return []
    runs = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], tags={_PARTITION_TAG: keys}))
    return sorted({run.tags[_PARTITION_TAG] for run in runs})


def schedules_on(instance: DagsterInstance) -> dict[str, float]:
    """Name of each schedule that is turned on, and since when."""
    from dagster._core.definitions.run_request import InstigatorType
    from dagster._core.scheduler.instigation import InstigatorStatus, ScheduleInstigatorData

    on = {}
    for state in instance.all_instigator_state(instigator_type=InstigatorType.SCHEDULE):
        data = state.instigator_data
        if state.status == InstigatorStatus.RUNNING and isinstance(data, ScheduleInstigatorData):
            on[state.instigator_name] = data.start_timestamp or 0.0
    return on


def _last_due(cron: str | None, on_since: float | None, before: float) -> datetime | None:
    """The last moment of a schedule before another, in UTC, and since it was turned on."""
    from dagster._utils.schedules import reverse_cron_string_iterator

    if cron is None or on_since is None:
        return None
    last = next(reverse_cron_string_iterator(before, cron, "UTC"))
    return last if last.timestamp() > on_since else None
