"""Train one model as a request asks: `torchrun --nproc-per-node N -m training.main --request request.json`.

Reads order and tokens, writes `metrics.jsonl` and `checkpoints/` into the request's output folder,
and resumes from the last complete checkpoint found there. Under Dagster Pipes it also reports
progress. Beside the request it leaves `logs/` and, after an error, `error.json`; the exit status is then 1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from training.checkpoints.output_lock import held_by
from training.contract import outputs
from training.contract.errors import RequestError, StepTimeoutError, TrainingError
from training.contract.request import TrainRequest, load_request
from training.machine.process import die_with_parent

TIMED_OUT = "Timed out waiting"
"""What gloo says of a collective that another rank did not come to."""

Report = Callable[[dict[str, Any]], None]


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 trained to the last step, 1 stopped by an error that error.json describes."""
    die_with_parent()  # before the slow imports: the parent may end during them
    parser = argparse.ArgumentParser(prog="training.main", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--request", type=Path, required=True, help="request.json, as training/contract/request.py reads it"
    )
    path = parser.parse_args(arguments).request
    try:
        request = load_request(path)
        check_ranks(request)
        prepare(request, path.parent / outputs.LOGS)
        alone = held_by(request.output, request.run) if os.environ["RANK"] == "0" else contextlib.nullcontext()
        with alone, reporter() as report:
            run(request, report)
    except Exception as error:
        write_error(path.parent / outputs.ERROR, error)
        logging.getLogger().exception("training stopped")
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


def check_ranks(request: TrainRequest) -> None:
    """The layout must be the one that torchrun started."""
    started = os.environ.get("WORLD_SIZE")
    if started is None:
        raise RequestError("start this program with torchrun: WORLD_SIZE is not set")
    if int(started) != request.layout.ranks:
        raise RequestError(f"the request's layout needs {request.layout.ranks} ranks, torchrun started {started}")


def prepare(request: TrainRequest, logs: Path) -> None:
    """Folders, the log file of this rank, threads, deterministic kernels."""
    request.output.mkdir(parents=True, exist_ok=True)
    logs.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(logs / f"rank-{os.environ['RANK']}.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)  # torchtitan logs to the root logger
    logging.captureWarnings(True)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is not deterministic without it

    import torch

    torch.set_num_threads(request.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a debugging aid that costs time each step


@contextlib.contextmanager
def reporter() -> Iterator[Report]:
    """Where rank 0 sends the metrics of a step: to Dagster when it started us, else nowhere."""
    if os.environ["RANK"] != "0" or "DAGSTER_PIPES_CONTEXT" not in os.environ:
        yield lambda metrics: None
        return
    from dagster_pipes import open_dagster_pipes

    with open_dagster_pipes() as pipes:
        yield pipes.report_custom_message


def run(request: TrainRequest, report: Report) -> None:
    """Build the trainer and train."""
    from training.machine import cpu_support

    cpu_support.enable()
    cpu_support.settle_math_library()

    import torch.distributed as dist

    from training.machine.hardware import check_hardware
    from training.machine.lean_imports import lean_imports

    with lean_imports():
        from training.trainer import OrderedTrainer

    check_hardware(request)
    trainer: OrderedTrainer | None = None
    try:
        trainer = OrderedTrainer(request, report)
        trainer.train()
    except RuntimeError as error:
        if TIMED_OUT in str(error):
            step = trainer.step if trainer is not None else 0
            raise StepTimeoutError(
                f"rank {os.environ['RANK']} waited for another rank at step {step} until the timeout: that one hangs, is "
                f"stopped, or is slower than step_timeout_s ({request.step_timeout_s:g}) allows ({error}). The last checkpoint "
                "is whole: the run can go on from it"
            ) from error
        raise
    finally:
        if trainer is not None:
            trainer.close()
    dist.destroy_process_group()


def write_error(path: Path, error: Exception) -> None:
    """Leave the first error for the launcher: when one rank fails, the others only see a closed connection."""
    content = {
        "type": type(error).__name__,
        "expected": isinstance(error, TrainingError),
        "worth_a_restart": not isinstance(error, TrainingError) or error.worth_a_restart,
        "run_again": isinstance(error, TrainingError) and error.run_again,
        "message": str(error),
        "rank": int(os.environ.get("RANK", 0)),
        "traceback": traceback.format_exc()[-4000:],
    }
    with contextlib.suppress(FileExistsError), path.open("x", encoding="utf-8") as file:
        json.dump(content, file)


if __name__ == "__main__":
    # Not sys.exit: the interpreter's own shutdown of torch takes up to a second and has nothing left to save.
    status = main()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
