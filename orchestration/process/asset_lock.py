"""One process at a time builds and merges a partition of an asset in this home: an advisory lock per pair."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from assets.errors import HeadwaterError


class AlreadyRunningError(HeadwaterError):
    """Another process is building the same partition of the same asset."""


@dataclass
class AssetLock:
    """A lock as its holder knows it: what was staged under it may be merged only while it is held."""

    held: bool = True


@contextmanager
def asset_lock(home: Path, asset: str, partition: str | None) -> Iterator[AssetLock]:
    """Hold the lock of one partition; the kernel frees it when its holder dies. Raises AlreadyRunningError."""
    path = home / "locks" / f"{asset}-{partition or '_'}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise AlreadyRunningError(
                f"{asset} {partition or ''} is being built by process {file.read().strip() or 'unknown'}. "
                "Wait for it, or end it; nothing of its work is lost."
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        lock = AssetLock()
        try:
            yield lock
        finally:
            lock.held = False
            fcntl.flock(file, fcntl.LOCK_UN)  # a child that was forked meanwhile may still have the file open
