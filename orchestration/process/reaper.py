"""Marks runs whose process is gone as failed: a killed process leaves its Dagster run STARTED."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dagster import DagsterInstance

PID_TAG, HOST_TAG = "headwater/pid", "headwater/host"
_PARENT_TAG = "dagster/parent_run_id"
CUT_SHORT_TAG = "headwater/cut_short"
"""On runs that were killed or interrupted: Dagster calls them failed, but nothing that they did was wrong."""


def reap_dead_runs(instance: DagsterInstance) -> list[str]:
    """Fail unfinished runs that carry the process id of a process that no longer exists here. Returns their ids."""
    from dagster import DagsterRunStatus, RunsFilter

    unfinished = instance.get_runs(
        RunsFilter(statuses=[DagsterRunStatus.STARTED, DagsterRunStatus.STARTING, DagsterRunStatus.CANCELING])
    )
    reaped = []
    for run in unfinished:
        # A run that the UI executes again has the tags of the first, and a process of its own.
        pid = None if _PARENT_TAG in run.tags else run.tags.get(PID_TAG)
        elsewhere = run.tags.get(HOST_TAG, socket.gethostname()) != socket.gethostname()
        if pid and not elsewhere and pid != str(os.getpid()) and not _is_headwater(int(pid)):
            instance.report_run_failed(
                run, f"its process {pid} was killed; the next run continues from what it published"
            )
            instance.add_run_tags(run.run_id, {CUT_SHORT_TAG: "true"})
            reaped.append(run.run_id)
    return reaped


def _is_headwater(pid: int) -> bool:
    """True if that process exists and is ours (a process id may have been given to something else)."""
    import psutil

    try:
        command = " ".join(psutil.Process(pid).cmdline())
        return "headwater" in command or "orchestration.cli" in command
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
