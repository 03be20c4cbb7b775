"""Dagster's history is kept for a while: a run writes 0.5 MB of events, more than the data of a small crawl.

Two thirds of it is the run's own log, which says most things twice; the rest is in the index of all runs: what the UI shows
of assets and checks. After `keep_days` a run that holds the newest state of nothing is deleted. Of the others, which the
UI needs to know what is materialised, the log goes, and with it the pictures and tables of what a newer one of the
same asset shows: they are in the report.json of the store's commit.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from orchestration.process.workplace import Workplace

KEEP_DAYS = 30.0
_LARGE_ENTRY = 1_000  # characters: counts, addresses and digests are shorter, pictures and samples are not
_LARGE_EVENT = 8_000
_BATCH = 400  # values of one SQL statement
_MATERIALIZED, _OBSERVED = "ASSET_MATERIALIZATION", "ASSET_OBSERVATION"


@dataclass
class TrimmedHistory:
    """What left Dagster's history."""

    deleted_runs: int = 0
    shortened_runs: int = 0
    """Their logs are gone; what they materialised is still known."""
    freed_bytes: int = 0


def trim_history(instance: DagsterInstance, keep_days: float = KEEP_DAYS, *, dry_run: bool = False) -> TrimmedHistory:
    """Delete or shorten finished runs that ended more than `keep_days` ago. Runs under way are not touched."""
    done = TrimmedHistory()
    newest = _holders_of_newest(instance)
    old = _old_runs(instance, time.time() - keep_days * 86_400)
    deleted = [run for run in old if run not in newest]
    with_log = _with_log(instance)
    shortened = [run for run in old if run in newest and run in with_log]
    done.deleted_runs, done.shortened_runs = len(deleted), len(shortened)
    if dry_run or not (deleted or shortened):
        return done
    before = _size(instance)
    for run in deleted:
        instance.delete_run(run)
    _forget_checks(instance, deleted)
    for run in (*deleted, *shortened):
        instance.compute_log_manager.delete_logs(prefix=[run])
        _delete_log_files(instance, run)
    _shorten(instance, shortened)
    _vacuum(instance)
    done.freed_bytes = max(before - _size(instance), 0)
    return done


def trim_home(workplace: Workplace, keep_days: float = KEEP_DAYS, *, dry_run: bool = False) -> TrimmedHistory:
    """The same of a home's Dagster, if something ran there."""
    if not workplace.has_dagster:
        return TrimmedHistory()
    from dagster import DagsterInstance

    _ = workplace.dagster_home  # sets DAGSTER_HOME
    with DagsterInstance.get() as instance:
        return trim_history(instance, keep_days, dry_run=dry_run)


def _old_runs(instance: DagsterInstance, ended_before: float) -> list[str]:
    from dagster import RunsFilter
    from dagster._core.storage.dagster_run import FINISHED_STATUSES

    created = datetime.fromtimestamp(ended_before, UTC)
    records = instance.get_run_records(RunsFilter(statuses=list(FINISHED_STATUSES), created_before=created))
    return [record.dagster_run.run_id for record in records if (record.end_time or 0) < ended_before]


def _holders_of_newest(instance: DagsterInstance) -> set[str]:
    """Runs with the newest materialisation of an asset's partition, or the newest verdict of a check."""
    from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
    from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable, SqlEventLogStorageTable
    from sqlalchemy import func, select

    events, checks = SqlEventLogStorageTable.c, AssetCheckExecutionsTable.c
    made = events.dagster_event_type.in_((_MATERIALIZED, _OBSERVED))
    kind, of_check = (
        (events.dagster_event_type, events.asset_key, events.partition),
        (checks.asset_key, checks.check_name),
    )
    newest = select(func.max(events.id)).where(made).group_by(*kind)
    told = checks.execution_status != AssetCheckExecutionRecordStatus.PLANNED.value
    verdicts = select(func.max(checks.id)).where(told).group_by(*of_check, checks.partition)
    with _index(instance) as connection:
        runs = [*connection.execute(select(events.run_id).where(events.id.in_(newest)))]
        runs += [*connection.execute(select(checks.run_id).where(checks.id.in_(verdicts)))]
    return {run for (run,) in runs}


def _with_log(instance: DagsterInstance) -> set[str]:
    """Runs of which more is kept than what they materialised."""
    from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
    from sqlalchemy import select

    events = SqlEventLogStorageTable.c
    with _index(instance) as connection:
        return {run for (run,) in connection.execute(select(events.run_id).where(_is_log(events)).distinct())}


def _is_log(events: Any) -> Any:
    kind = events.dagster_event_type
    return kind.not_in((_MATERIALIZED, _OBSERVED)) | kind.is_(None)  # a line of the log has no type


def _forget_checks(instance: DagsterInstance, runs: Sequence[str]) -> None:
    """Verdicts of deleted runs, which Dagster leaves behind."""
    from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable as Checks
    from sqlalchemy import delete

    for batch in _batches(runs):
        with _index(instance) as connection:
            connection.execute(delete(Checks).where(Checks.c.run_id.in_(batch)))


def _shorten(instance: DagsterInstance, runs: Sequence[str]) -> None:
    """Leave what these runs materialised and observed; of what is not an asset's newest, without its large metadata."""
    from dagster._core.storage.event_log.schema import SqlEventLogStorageTable as Events
    from sqlalchemy import delete, func, select, update

    row = Events.c
    newest = select(func.max(row.id)).where(row.dagster_event_type == _MATERIALIZED).group_by(row.asset_key)
    for batch in _batches(runs):
        mine = row.run_id.in_(batch)
        large = mine & (row.dagster_event_type == _MATERIALIZED) & (func.length(row.event) > _LARGE_EVENT)
        with _index(instance) as connection:
            connection.execute(delete(Events).where(mine & _is_log(row)))
            found = [*connection.execute(select(row.id, row.event).where(large & row.id.not_in(newest)))]
            for number, event in found:
                connection.execute(update(Events).where(row.id == number).values(event=without_large_metadata(event)))


def without_large_metadata(event: str) -> str:
    """A serialised materialisation without pictures, samples and schemas; as it was when Dagster could not read the rest."""
    from dagster._core.events.log import EventLogEntry
    from dagster._serdes import deserialize_value

    try:
        content: dict[str, Any] = json.loads(event)
        made = content["dagster_event"]["event_specific_data"]["materialization"]
        made["metadata_entries"] = [e for e in made["metadata_entries"] if len(json.dumps(e)) <= _LARGE_ENTRY]
        shorter = json.dumps(content)
        deserialize_value(shorter, EventLogEntry)
    except Exception:  # another Dagster may write another form: its history is then only larger
        return event
    return shorter


def _batches(runs: Iterable[str]) -> Iterator[list[str]]:
    left = iter(runs)
    while batch := list(islice(left, _BATCH)):
        yield batch


def _index(instance: DagsterInstance) -> Any:
    return instance.event_log_storage.index_connection()  # type: ignore[attr-defined]  # of every SQL storage


def _sqlite(instance: DagsterInstance) -> Any:
    """The event storage where it is SQLite, which has a file per run; else None."""
    from dagster._core.storage.event_log import SqliteEventLogStorage

    storage = instance.event_log_storage
    return storage if isinstance(storage, SqliteEventLogStorage) else None


def _delete_log_files(instance: DagsterInstance, run: str) -> None:
    storage = _sqlite(instance)
    if storage is None:
        return
    for end in ("", "-wal", "-shm"):
        Path(storage.path_for_shard(run) + end).unlink(missing_ok=True)
    storage._initialized_dbs.discard(run)  # else a look at the run in this process finds a file without tables


def _size(instance: DagsterInstance) -> int:
    storage = _sqlite(instance)
    if storage is None:
        return 0
    return sum(path.stat().st_size for path in Path(storage.path_for_shard("index")).parent.glob("*.db*"))


def _vacuum(instance: DagsterInstance) -> None:
    """Give the freed pages of the index back to the disk; a process that is reading now only puts that off."""
    storage = _sqlite(instance)
    if storage is None:
        return
    with (
        suppress(sqlite3.OperationalError),
        closing(sqlite3.connect(storage.path_for_shard("index"), timeout=5, isolation_level=None)) as connection,
    ):
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
