"""Where the training program runs, and how often it is started again: table [training] of a profile.

Never part of a run's identity: the same request gives the same losses wherever it runs. Slurm and Kubernetes need
one file system that all nodes see under the same paths; it holds HEADWATER_HOME.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SlurmTraining(_Table):
    """[training.slurm]: one job, one torchrun per node."""

    partition: str = Field(min_length=1)
    time: str = Field("24:00:00", description="limit of the job; it is put back into the queue shortly before")
    nodes: int = Field(1, ge=1, description="the ranks of the request are spread evenly over them")
    cpus_per_node: int = Field(1, ge=1)
    memory_gb_per_node: int = Field(4, ge=1)
    gpus_per_node: int = Field(0, ge=0)
    port: int = Field(29500, gt=1024, lt=65536, description="where the ranks meet, on the first node")
    signal_before_limit_s: int = Field(120, ge=1, description="how long before the limit the job puts itself back")
    environment: str | None = Field(
        None, description="shell command that makes this installation usable in a job; none: its absolute paths"
    )
    sbatch: dict[str, str] = Field(default_factory=dict, description="further options of sbatch, by long name")
    poll_s: float = Field(5.0, gt=0, description="seconds between two looks at the queue")


class KubernetesTraining(_Table):
    """[training.kubernetes]: a PyTorchJob of the Kubeflow training operator, one pod per node."""

    image: str = Field(min_length=1, description="that deploy/Dockerfile builds, with the GPU wheels of torch")
    namespace: str = Field("default", min_length=1)
    nodes: int = Field(1, ge=1, description="pods; the ranks of the request are spread evenly over them")
    volume_claim: str = Field(min_length=1, description="PersistentVolumeClaim that holds HEADWATER_HOME")
    mount_path: str = Field(pattern="^/", description="where it is mounted, here and in the pods")
    cpus_per_node: int = Field(1, ge=1)
    memory_gb_per_node: int = Field(4, ge=1)
    gpus_per_node: int = Field(0, ge=0)
    poll_s: float = Field(10.0, gt=0, description="seconds between two looks at the job")


class TrainingPlace(_Table):
    """[training]."""

    launcher: Literal["local", "slurm", "kubernetes"] = "local"
    restarts: int = Field(
        3,
        ge=0,
        description="in a row without a new checkpoint, of a run that lost a worker; an error of its own is final",
    )
    restart_wait_s: float = Field(1.0, ge=0, description="pause before a restart")
    take_over: bool = Field(
        True,
        description="go on from what an earlier run trained of the same stable phase; false: train every step, for instance to "
        "see that it comes out the same",
    )
    boards: tuple[Literal["tensorboard", "wandb"], ...] = Field(
        (), description="mirrors of the metrics, in HEADWATER_HOME/boards; wandb is offline unless WANDB_API_KEY is set"
    )
    slurm: SlurmTraining | None = None
    kubernetes: KubernetesTraining | None = None

    @model_validator(mode="after")
    def _described(self) -> Self:
        if self.launcher != "local" and getattr(self, self.launcher) is None:
            raise ValueError(f"launcher = {self.launcher!r} needs a table [training.{self.launcher}]")
        return self
