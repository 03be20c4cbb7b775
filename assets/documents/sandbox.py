"""A page that ended or held up its sandbox is tried again alone: what the machine did does not happen twice.

alone(task, (payload, content_type), cpu_s=30) -> the task's result
or raises Spent (its limit of CPU time), Died or Hung: the page's own doing.
"""

from __future__ import annotations

import math
import os
import resource
import signal
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from assets.child_process import end_with_parent

Result = TypeVar("Result")

TRIES = 2
"""A page that ends a process of its own twice did it; once, somebody's kill or a machine short of memory may have."""
MEMORY_BYTES = 2 << 30
"""Address space for one page on top of the process's own: a page of 10 MB takes 0.6 GB at most (bad_input.json)."""
WALL_FACTOR = 4
"""Wall time for each second of CPU time allowed: a machine that stands still for half a minute is no verdict."""


class Spent(Exception):
    """The page used up its CPU time."""


class Died(Exception):
    """The page ended its process, each time."""


class Hung(Exception):
    """The page waited forever without using CPU time, each time."""


def alone(task: Callable[..., Result], arguments: tuple[Any, ...], cpu_s: float) -> Result:
    """The result of a task in a new process under limits. Raises Spent, Died or Hung; OSError where none can start."""
    problem: Exception = Died()
    for _ in range(TRIES):
        try:
            return _once(task, arguments, cpu_s)
        except (Died, Hung) as error:
            problem = error
    raise problem


def _once(task: Callable[..., Result], arguments: tuple[Any, ...], cpu_s: float) -> Result:
    context = get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_limited, args=(theirs, task, arguments, cpu_s), daemon=True)
    with ours:
        process.start()
        theirs.close()  # or the end of the process would not end the pipe
        try:
            if not ours.poll(WALL_FACTOR * cpu_s):
                raise Hung(f"no result in {WALL_FACTOR * cpu_s:g} s")
            return ours.recv()
        except (EOFError, ConnectionResetError):
            process.join()
            if process.exitcode == -signal.SIGXCPU:
                raise Spent(f"no result in {cpu_s:g} s of CPU time") from None
            raise Died(f"the parser's process died ({_ending(process.exitcode)})") from None
        finally:
            process.kill()
            process.join()


def _limited(results: Connection, task: Callable[..., Any], arguments: tuple[Any, ...], cpu_s: float) -> None:
    """The child: nobody waits for more than the limits say, and it ends with its parent."""
    end_with_parent()
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = math.ceil(used.ru_utime + used.ru_stime + cpu_s)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000\n")  # if memory is short all the same, this process goes first
    with open("/proc/self/statm") as pages:
        own = int(pages.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (own + MEMORY_BYTES, own + MEMORY_BYTES))
    results.send(task(*arguments))


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"
