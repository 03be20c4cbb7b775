"""The training program as one Slurm job: one torchrun per node, whose ranks meet on the first node.

Slurm puts the job back into its queue when a node dies (`--requeue`), and the job puts itself back shortly
before its time limit; it then resumes from the last whole checkpoint. Any other lost worker ends the job, and
the launcher sends it again.
"""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from assets.build import BuildError
from orchestration.launch import program
from orchestration.launch.queued_job import QueuedJob, ranks_per_node, run_tool
from orchestration.training_place import SlurmTraining
from training.contract.request import TrainRequest

UNREACHABLE_S = 600.0
"""A controller that restarts is back by then."""
_ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"}
_WAITING = {"CONFIGURING", "PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "SUSPENDED"}
_HINTS = {
    "TIMEOUT": "raise [training.slurm] time in the profile",
    "OUT_OF_MEMORY": "raise [training.slurm] memory_gb_per_node in the profile, or lower local_batch_size",
    "CANCELLED": "somebody cancelled it, or its node was taken down",
}


class _QueueSilentError(Exception):
    pass


def sbatch_script(
    options: SlurmTraining,
    request_path: Path,
    request: TrainRequest,
    workdir: Path,
    environment: Mapping[str, str],
) -> str:
    """The job script. Raises BuildError when the ranks do not spread evenly over the nodes."""
    ranks = ranks_per_node(request, options.nodes, "slurm")
    directives = {
        "job-name": f"headwater-{request.run}",
        "partition": options.partition,
        "time": options.time,
        "nodes": options.nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": options.cpus_per_node,
        "mem": f"{options.memory_gb_per_node}G",
        **({"gres": f"gpu:{options.gpus_per_node}"} if options.gpus_per_node else {}),
        "signal": f"B:USR1@{options.signal_before_limit_s}",
        "open-mode": "append",
        "output": workdir / "slurm.log",
        **options.sbatch,
    }
    exports = program.rank_environment(request) | dict(environment)
    command = ["-m", program.PROGRAM, "--request", str(request_path)]
    return "\n".join(
        [
            "#!/bin/bash",
            *(f"#SBATCH --{name}={value}" for name, value in directives.items()),
            "#SBATCH --requeue",
            options.environment or _this_installation(),
            *(f"export {name}={shlex.quote(value)}" for name, value in exports.items()),
            "unset HEADWATER_LAUNCHER_PID",  # of another machine
            "trap 'scontrol requeue \"$SLURM_JOB_ID\"' USR1  # the time limit is near",
            'first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
            'srun --kill-on-bad-exit=1 python -m torch.distributed.run --nnodes "$SLURM_NNODES" '
            f'--nproc-per-node {ranks} --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d '
            f'--rdzv-endpoint "$first:{options.port}" {shlex.join(command)} &',
            "wait $!",
            "",
        ]
    )


def _this_installation() -> str:
    """The same interpreter and the same modules, by absolute path."""
    programs, modules = shlex.quote(str(Path(sys.executable).parent)), shlex.quote(program.module_path())
    return f"export PATH={programs}:$PATH PYTHONPATH={modules}"


class SlurmJob(QueuedJob):
    """A job in the queue or running."""

    def __init__(self, identity: str, log_path: Path, poll_s: float) -> None:
        super().__init__(log_path, poll_s)
        self.identity = identity

    def look(self) -> bool | None:
        """By its state in the queue. Raises BuildError for an end that the program itself did not choose."""
        state = _state(self.identity)
        self.waiting = state in _WAITING
        if state not in _ENDED:
            return None
        if hint := _HINTS.get(state):
            raise BuildError(f"Slurm job {self.identity} is {state}: {hint}. Log: {self.log_path}")
        return state == "COMPLETED"


@contextlib.contextmanager
def slurm_job(
    options: SlurmTraining,
    request_path: Path,
    request: TrainRequest,
    workdir: Path,
    environment: Mapping[str, str],
) -> Iterator[SlurmJob]:
    """The job submitted; cancelled when the block ends, if it has not ended by then.

    A job that an earlier launcher sent and could not cancel (it was killed) is cancelled first.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    known = workdir / "slurm_job"
    if known.is_file():
        run_tool("slurm", "scancel", known.read_text("utf-8"))
    log_path = workdir / "slurm.log"
    log_path.unlink(missing_ok=True)
    script = workdir / "train.sbatch"
    script.write_text(sbatch_script(options, request_path, request, workdir, environment), "utf-8")
    sent = run_tool("slurm", "sbatch", "--parsable", str(script))
    if sent.returncode:
        raise BuildError(
            f"sbatch refused the job: {sent.stderr.strip()}. Check [training.slurm] in the profile and {script}"
        )
    job = SlurmJob(sent.stdout.strip().partition(";")[0], log_path, options.poll_s)
    known.write_text(job.identity, "utf-8")
    try:
        yield job
    finally:
        run_tool("slurm", "scancel", job.identity)
        known.unlink(missing_ok=True)


def _state(identity: str) -> str:
    """State of a job; COMPLETED or FAILED by its record when it has left the queue. Waits for a controller that is away."""
    for attempt in Retrying(
        retry=retry_if_exception_type(_QueueSilentError),
        stop=stop_after_delay(UNREACHABLE_S),
        wait=wait_fixed(5),
        reraise=True,
    ):
        with attempt:
            found = run_tool("slurm", "squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={identity}")
            if found.returncode == 0 and found.stdout.strip():
                return found.stdout.split()[0]
            if found.returncode and "Invalid job id" not in found.stderr:
                raise _QueueSilentError(found.stderr.strip())
    return "FAILED"  # older than MinJobAge, so it was not seen to complete: what it left says more
