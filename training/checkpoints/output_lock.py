"""One run writes into an output folder at a time."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from training.checkpoints.files import beside
from training.contract.errors import OutputInUseError

PATIENCE_S = 10.0
"""The processes of a run whose launcher was killed may need a moment to end."""


@contextlib.contextmanager
def held_by(output: Path, run: str) -> Iterator[None]:
    """Hold the lock beside `output`; the kernel lets go of it with the process, however that ends.

    Raises OutputInUseError that names the holder's run, process and machine.
    """
    path = beside(output, "lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            for attempt in Retrying(
                retry=retry_if_exception_type(BlockingIOError),
                stop=stop_after_delay(PATIENCE_S),
                wait=wait_fixed(0.2),
                reraise=True,
            ):
                with attempt:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise OutputInUseError(
                f"the output folder {output} is in use by {_described(file.read())}. Two runs in one folder would mix their "
                "checkpoints: wait for that one, end it, or give this run a folder of its own"
            ) from None
        file.truncate(0)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        file.write(json.dumps({"run": run, "pid": os.getpid(), "host": socket.gethostname(), "since": now}))
        file.flush()
        yield


def _described(content: str) -> str:
    try:
        holder = json.loads(content)
    except ValueError:
        return "a process that has just begun"
    return f"run {holder['run']}, process {holder['pid']} on {holder['host']}, since {holder['since']}"
