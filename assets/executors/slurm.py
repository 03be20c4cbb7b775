"""Runs a datatrove pipeline as a Slurm job array and waits for its end.

SlurmPipelineExecutor submits and returns. What is added: waiting (its own `depends` looks every two
minutes), the reason when a job failed, and an end of all jobs when the stage ends early.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datatrove.executor.slurm import SlurmPipelineExecutor

from assets.build import BuildError, Progress
from assets.executors.local import log_tail
from assets.executors.placement import SlurmOptions

FAILED_STATES = {"BOOT_FAIL", "CANCELLED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"}
_ENDED_STATES = {*FAILED_STATES, "COMPLETED"}
_UNREACHABLE_S = 600.0  # a controller that restarts is back by then
_LATE_FILES_S = 60.0  # attribute caches of NFS: markers of another machine show up within this time


class _JobIds:
    """Takes the id from what sbatch prints; an array over the limit becomes several jobs."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    def __call__(self, output: str) -> str:
        self.ids.append(output.split()[-1])
        return self.ids[-1]


class _SlurmTasks(SlurmPipelineExecutor):
    def launch_merge_stats(self) -> None:
        """Nothing: a second job that nobody reads, and that waits forever when the first one failed."""


@dataclass(frozen=True)
class SlurmCluster:
    """Job arrays on the cluster of the profile."""

    options: SlurmOptions

    def run(self, pipeline: list[Any], tasks: int, logging_dir: Path, progress: Progress) -> None:
        """Run the tasks without a completion marker in `logging_dir`, which every node must see."""
        ids = _JobIds()
        name = f"headwater-{hashlib.sha256(str(logging_dir).encode()).hexdigest()[:12]}"
        executor = self._executor(pipeline, tasks, logging_dir, name, ids)
        waiting = executor.get_incomplete_ranks()
        progress.update(tasks - len(waiting), tasks)
        if not waiting:
            return
        _command("scancel", "--name", name)  # jobs of a command that was killed
        try:
            _submit(executor)
            self._wait(executor, ids.ids, tasks, progress, waiting, logging_dir)
        finally:
            if ids.ids:
                _command("scancel", *ids.ids)

    def _executor(
        self, pipeline: list[Any], tasks: int, logging_dir: Path, name: str, ids: _JobIds
    ) -> SlurmPipelineExecutor:
        options = self.options
        return _SlurmTasks(
            pipeline,
            tasks=tasks,
            time=options.time,
            partition=options.partition,
            workers=options.workers,
            cpus_per_task=options.cpus_per_task,
            mem_per_cpu_gb=options.memory_gb_per_cpu,
            tasks_per_job=options.tasks_per_job,
            max_array_size=options.max_array_size,
            qos=options.qos or "",
            job_name=name,
            env_command=f"{options.environment or _this_installation()} && export OMP_NUM_THREADS=1",
            sbatch_args=dict(options.sbatch),
            job_id_retriever=ids,
            logging_dir=str(logging_dir),
            slurm_logs_folder=str(logging_dir / "slurm_logs"),
        )

    def _wait(
        self,
        executor: SlurmPipelineExecutor,
        ids: list[str],
        tasks: int,
        progress: Progress,
        ranks: list[int],
        logging_dir: Path,
    ) -> None:
        """Until every task has its marker. Raises BuildError when a job failed, or all ended and a marker is missing."""
        ended_at: float | None = None
        while missing := executor.get_incomplete_ranks():
            progress.update(tasks - len(missing), tasks, "on Slurm")
            states = _states(ids)
            failed = sorted((job, state) for job, state in states.items() if state in FAILED_STATES)
            if failed:
                raise self._failure(*failed[0], tasks, missing, ranks, logging_dir)
            if any(state not in _ENDED_STATES for state in states.values()):
                ended_at = None
            elif ended_at is None:
                ended_at = time.monotonic()
            elif time.monotonic() - ended_at > _LATE_FILES_S:
                raise self._failure(ids[-1], "ended", tasks, missing, ranks, logging_dir)
            time.sleep(self.options.poll_s)
        progress.update(tasks, tasks)

    def _failure(
        self, job: str, state: str, tasks: int, missing: list[int], ranks: list[int], logging_dir: Path
    ) -> BuildError:
        """What a job that failed left behind."""
        array, _, index = job.partition("_")
        if not index.isdigit():
            index = str(ranks.index(missing[0]) // self.options.tasks_per_job % self.options.max_array_size)
        log = log_tail(logging_dir / "slurm_logs" / f"{array}_{index}.out")
        hint = {
            "TIMEOUT": "; raise [slurm] time in the profile",
            "OUT_OF_MEMORY": "; raise [slurm] memory_gb_per_cpu in the profile",
            "ended": "; nodes must see HEADWATER_HOME and this installation under the same paths",
        }.get(state, "")
        return BuildError(f"Slurm job {job} is {state} with {len(missing)} of {tasks} tasks not done{hint}; {log}")


def _this_installation() -> str:
    """The same interpreter and the same modules, by absolute path."""
    path = shlex.quote(str(Path(sys.executable).parent))
    modules = shlex.quote(
        os.pathsep.join(dict.fromkeys(map(os.path.abspath, filter(None, sys.path[:1] + _python_path()))))
    )
    return f"export PATH={path}:$PATH PYTHONPATH={modules}"


def _python_path() -> list[str]:
    import assets

    return [str(Path(str(assets.__file__)).parent.parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]


def _submit(executor: SlurmPipelineExecutor) -> None:
    from loguru import logger

    logger.disable("datatrove")
    try:
        executor.launch_job()
    except FileNotFoundError as error:
        raise BuildError(f"the profile says executor = 'slurm', but this machine has no {error.filename}") from None
    except subprocess.CalledProcessError as error:
        raise BuildError(
            f"sbatch refused the job (exit {error.returncode}); its reason is above. Check [slurm]"
        ) from None
    finally:
        logger.enable("datatrove")


def _command(*arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(arguments, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise BuildError(f"the profile says executor = 'slurm', but this machine has no {arguments[0]}") from None


def _states(ids: list[str]) -> dict[str, str]:
    """Job (array elements apart) -> state, of those that Slurm still knows. Waits for a controller that is away."""
    deadline = time.monotonic() + _UNREACHABLE_S
    while True:
        found = _command("squeue", "--noheader", "--states=all", "--format=%i|%T", f"--jobs={','.join(ids)}")
        if found.returncode == 0:
            return dict(line.strip().split("|") for line in found.stdout.splitlines() if line.strip())
        if "Invalid job id" in found.stderr:
            return {}
        if time.monotonic() > deadline:
            raise BuildError(f"squeue has not answered for {_UNREACHABLE_S:g} s: {found.stderr.strip()}")
        time.sleep(5)
