"""Runs a datatrove pipeline as tasks of a Ray cluster.

RayPipelineExecutor is kept for its settings; its loop is not: it starts an actor (an interpreter) and a
placement group per task, waits forever when a process of its inner pool is killed, trips over its own
time limit (KeyError in task_done), and returns as if all was well when tasks failed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datatrove.executor.base import PipelineExecutor
from datatrove.executor.ray import RayPipelineExecutor

from assets.build import BuildError, Progress
from assets.executors.local import SILENT, STALLED_AFTER_S, killed, stalled, task_error, worker_pool
from assets.executors.placement import RayOptions

_OBJECT_STORE_BYTES = 200 << 20  # tasks pass file names, never documents


class _RayTasks(RayPipelineExecutor):
    """Logs go straight to the shared folder, not through a folder in /tmp that all users of a machine share."""

    _run_for_rank = PipelineExecutor._run_for_rank


@dataclass(frozen=True)
class RayCluster:
    """Tasks on the Ray cluster of the profile."""

    options: RayOptions
    stalled_after_s: float = STALLED_AFTER_S

    def run(self, pipeline: list[Any], tasks: int, logging_dir: Path, progress: Progress) -> None:
        """Run the tasks without a completion marker in `logging_dir`."""
        ray = _connected(self.options.address, self.options.workers)
        with _quiet():
            executor = _RayTasks(pipeline, tasks=tasks, workers=self.options.workers, logging_dir=str(logging_dir))
        waiting = executor.get_incomplete_ranks()[::-1]
        done = tasks - len(waiting)
        progress.update(done, tasks)
        if not waiting:
            return
        task = ray.remote(_run_rank).options(
            num_cpus=self.options.cpus_per_task,
            memory=int(self.options.memory_gb_per_task * 2**30),
            max_retries=self.options.retries,
            retry_exceptions=[WorkerKilledError],
        )
        shared = ray.put(executor)
        pending: dict[Any, int] = {}
        try:
            while waiting or pending:
                while waiting and len(pending) < self.options.workers:
                    rank = waiting.pop()
                    pending[task.remote(shared, rank)] = rank
                ended, _ = ray.wait(list(pending), num_returns=1, timeout=self.stalled_after_s)
                if not ended:
                    raise stalled(self.stalled_after_s, done, tasks)
                self._result(ray, ended[0], pending.pop(ended[0]), done, tasks, logging_dir)
                done += 1
                progress.update(done, tasks)
        finally:
            for reference in pending:
                ray.cancel(reference, force=True)

    def _result(self, ray: Any, reference: Any, rank: int, done: int, tasks: int, logging_dir: Path) -> None:
        try:
            ray.get(reference)
        except ray.exceptions.RayError as error:
            cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else None
            if cause is not None and not isinstance(cause, WorkerKilledError):
                raise task_error(cause, rank, tasks, logging_dir) from error
            tried = f"task {rank} was tried {self.options.retries + 1} times"
            raise killed(
                "a Ray worker", done, tasks, f"{tried}: raise memory_gb_per_task, so that fewer share a node"
            ) from error


class WorkerKilledError(Exception):
    """The process of a task went without a word: worth another try, as when Ray's own worker went."""


def _run_rank(executor: _RayTasks, rank: int) -> None:
    """One task, in a process of its own: the sandboxes that it forks must not inherit Ray's threads."""
    try:
        with worker_pool(1) as pool:
            pool.submit(executor._run_for_rank, rank, SILENT).result()
    except BrokenProcessPool:
        raise WorkerKilledError from None


def _connected(address: str | None, workers: int) -> Any:
    """The ray module, connected. Without an address, to a cluster on this machine that ends with this process."""
    try:
        import ray
    except ModuleNotFoundError:
        raise BuildError(
            "the profile says executor = 'ray', which is not installed: pip install 'headwater[ray]'"
        ) from None
    if not ray.is_initialized():
        here = {"num_cpus": workers, "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
        try:
            ray.init(
                address=address or "local",
                log_to_driver=False,
                logging_level=logging.WARNING,
                **({} if address else here),
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise BuildError(f"no connection to the Ray cluster {address or 'on this machine'}: {error}") from error
    return ray


@contextmanager
def _quiet() -> Iterator[None]:
    """datatrove warns of a local logging folder, whatever is mounted there."""
    from loguru import logger

    logger.disable("datatrove")
    try:
        yield
    finally:
        logger.enable("datatrove")
