"""When something that failed is asked for again by itself: after longer and longer waits, a few times.

Dagster's own `run_retries` (dagster.yaml) starts a run again whose process died. What failed with an error of its own
is asked for again here, by the sensors; a verdict (a blocking check, a mistake in the configuration) is not, for it
would be the same again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dagster import DagsterInstance

BACK_OFF = (timedelta(minutes=5), timedelta(minutes=30), timedelta(hours=2))
"""Wait before the second, third and fourth try; then a person, or a change of what is read, is needed."""

ASKED_TAG = "headwater/asked"
"""On runs of sensors and schedules: the staleness, or the partition, that was asked for."""

VERDICT_TAG = "headwater/verdict"
"""On failed runs: the kind of error that another try cannot mend."""

VERDICTS = frozenset({"BlockedError", "ConfigError", "PublishedOnceError", "KeyOrderError"})


@dataclass(frozen=True)
class Tries:
    """How the runs that were asked for the same ended."""

    count: int
    failed: int
    last_end: datetime | None
    verdict: str | None

    def refusal(self) -> str | None:
        """Why it is not asked for now; None if it is due."""
        if self.verdict:
            return f"failed with {self.verdict}: another try would fail too"
        if self.count == 0 or self.last_end is None:
            return None
        if self.count > len(BACK_OFF):
            return f"tried {self.count} times, is asked for again when something changes, or by `headwater run`"
        due = self.last_end + BACK_OFF[self.count - 1]
        if now() < due:
            return f"tried {self.count} times, waits until {due:%H:%M:%S} UTC"
        return None


def now() -> datetime:
    """The present moment."""
    return datetime.now(UTC)


def tries(instance: DagsterInstance, tags: Mapping[str, str]) -> Tries:
    """The finished runs that carry these tags."""
    from dagster import DagsterRunStatus, RunsFilter
    from dagster._core.storage.dagster_run import FINISHED_STATUSES

    records = instance.get_run_records(RunsFilter(tags=dict(tags), statuses=list(FINISHED_STATUSES)))
    failed = [each.dagster_run for each in records if each.dagster_run.status == DagsterRunStatus.FAILURE]
    ends = [each.end_time or each.update_timestamp.replace(tzinfo=UTC).timestamp() for each in records]
    last = datetime.fromtimestamp(max(ends), UTC) if ends else None
    verdict = next((run.tags[VERDICT_TAG] for run in failed if VERDICT_TAG in run.tags), None)
    return Tries(len(records), len(failed), last, verdict)
