"""The training program's ranks forked from one process that has imported everything: a campaign of many short runs.

Each rank is `training.main` as torchrun would start it, over gloo on localhost; only the ten seconds of imports are
spared. With `measure`, every tensor allocation is counted.

torch's profiler reports each allocation and release of the CPU allocator. Their running sum is what
`torch.cuda.max_memory_allocated` reports on a GPU: tensors, not the process. Steps after the first count,
because the optimiser's state does not exist before; all of them need the same, and a release by a thread of gloo's that
the profiler does not see only ever adds: the least of them is taken.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
from pathlib import Path
from typing import Any

from assets.build import BuildError
from tests.training.tiny import write_request
from training.machine import cpu_support

cpu_support.enable()

from training.machine.lean_imports import lean_imports  # noqa: E402

with lean_imports():
    from training import main as program
    from training.trainer import OrderedTrainer

STEP = "measured step"
TIMEOUT_S = 900


def train_forked(folder: Path, request: dict[str, Any], *, measure: bool = False) -> list[int]:
    """Run a request. With `measure`: peak bytes of each rank, else nothing. Raises BuildError with the first rank's error."""
    ranks = 1
    for degree in request.get("parallelism", {}).values():
        ranks *= degree
    path = write_request(folder, request)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [context.Process(target=_rank, args=(path, rank, ranks, port, measure)) for rank in range(ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(TIMEOUT_S)
    late = [process for process in processes if process.is_alive()]
    for process in late:
        process.kill()
    if late or any(process.exitcode for process in processes):
        error = folder / "error.json"
        why = json.loads(error.read_text("utf-8"))["message"] if error.is_file() else "no error was written"
        raise BuildError(f"ranks ended with {[process.exitcode for process in processes]}: {why}")
    if not measure:
        return []
    return [json.loads((folder / f"memory-{rank}.json").read_text("utf-8"))["peak_bytes"] for rank in range(ranks)]


def _rank(path: Path, rank: int, ranks: int, port: int, measure: bool) -> None:
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in places.items()} | {"MASTER_ADDR": "127.0.0.1"})
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    if measure:
        _count_allocations(path.parent / f"memory-{rank}.json")
    os._exit(program.main(["--request", str(path)]))


def _count_allocations(result: Path) -> None:
    from torch.profiler import ProfilerActivity, profile, record_function

    run, train_step = program.run, OrderedTrainer.train_step

    def marked_step(self: OrderedTrainer, *batches: Any) -> None:
        with record_function(STEP):
            train_step(self, *batches)

    def measured_run(*arguments: Any) -> None:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            run(*arguments)
        result.write_text(json.dumps({"peak_bytes": min(_peaks(profiler)[1:])}), "utf-8")

    OrderedTrainer.train_step = marked_step  # type: ignore[method-assign]
    program.run = measured_run


def _peaks(profiler: Any) -> list[int]:
    """Most bytes alive inside each step."""
    events = profiler.profiler.kineto_results.events()
    steps = sorted((e.start_ns(), e.start_ns() + e.duration_ns()) for e in events if e.name() == STEP)
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    live, peaks = 0, [0] * len(steps)
    for at, change in changes:
        live += change
        for number, (begin, end) in enumerate(steps):
            if begin <= at <= end:
                peaks[number] = max(peaks[number], live)
    return peaks
