"""Where the tasks of a curation stage run: tables of a profile, never part of a data set's identity.

Ray and Slurm need one file system that all machines see under the same paths: it holds HEADWATER_HOME
(inputs are read from its store, parts and markers are written to its scratch folder) and this installation.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

ExecutorName = Literal["local", "ray", "slurm"]


class RayOptions(BaseModel):
    """[ray]: a cluster that runs, or one on this machine that lives as long as the command."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    workers: int = Field(2, ge=1, description="tasks at a time")
    address: str | None = Field(
        None, description="'auto' or host:port of a running cluster; none, or an empty text: start one here"
    )
    cpus_per_task: float = Field(1.0, gt=0)
    memory_gb_per_task: float = Field(2.0, gt=0, description="reserved, not enforced, by Ray")
    retries: int = Field(2, ge=0, description="of a task whose worker or node died; an error of the task is final")


class SlurmOptions(BaseModel):
    """[slurm]: job arrays on a cluster whose sbatch, squeue, scontrol and scancel this machine has."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    workers: int = Field(2, ge=1, description="jobs at a time")
    partition: str = Field(min_length=1)
    time: str = Field("04:00:00", description="limit of one job; a job over it fails the stage")
    tasks_per_job: int = Field(16, ge=1, description="tasks that one job runs in turn: starting a job costs seconds")
    cpus_per_task: int = Field(1, ge=1)
    memory_gb_per_cpu: int = Field(2, ge=1)
    max_array_size: int = Field(1001, ge=1, description="the cluster's MaxArraySize")
    qos: str | None = None
    environment: str | None = Field(
        None, description="shell command that makes this installation usable in a job; none: its absolute paths"
    )
    sbatch: dict[str, str] = Field(default_factory=dict, description="further options of sbatch, by long name")
    poll_s: float = Field(5.0, gt=0, description="seconds between two looks at the queue")
