"""The executor of the curation stages, as the profile says: processes of this machine, Ray, or Slurm."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assets.build import Progress
from orchestration.config import Profile

if TYPE_CHECKING:
    from assets.build import PipelineExecutor


@dataclass(frozen=True)
class CurationExecutor:
    """Made for every build, of whatever stage: loads the libraries of the chosen place only when it runs."""

    profile: Profile

    def run(self, pipeline: list[Any], tasks: int, logging_dir: Path, progress: Progress) -> None:
        """Run the tasks of a pipeline at the place of the profile."""
        self._place().run(pipeline, tasks, logging_dir, progress)

    def _place(self) -> PipelineExecutor:
        profile = self.profile
        if profile.executor == "ray":
            from assets.executors.ray import RayCluster

            return RayCluster(profile.ray, profile.stalled_after_s)
        if profile.executor == "slurm":
            from assets.executors.slurm import SlurmCluster

            assert profile.slurm is not None  # the model has checked it
            return SlurmCluster(profile.slurm)
        from assets.executors.local import LocalProcesses

        return LocalProcesses(profile.workers, profile.stalled_after_s)
