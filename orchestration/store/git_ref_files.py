"""One ref as Git keeps it: a file that is replaced under its `.lock`, durably.

Written by us and not by libgit2, which reports a failed sync of the folder after its rename as if nothing had
happened, or happens to succeed when it tries again: a disk reports an error once and then forgets it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from orchestration.store import durable
from orchestration.store.contract import StoreUnavailableError

STALE_LOCK_S = 10.0  # Git holds a ref's .lock for milliseconds; older than this, its holder was killed


def write_ref(git_dir: Path, full_name: str, content: str, check: Callable[[], None], deadline: float) -> None:
    """Replace the file of a ref; `check` runs under its lock and may refuse by raising.

    Raises StoreUnavailableError if the ref has changed but the disk did not confirm it.
    """
    path = git_dir / full_name
    durable.make_folder(path.parent, sync=False)
    lock = path.with_name(path.name + ".lock")
    _take(lock, content, deadline)
    try:
        check()
        _remove_empty_folders(path)
        os.rename(lock, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(lock)
        raise
    confirm(git_dir, full_name)


def confirm(git_dir: Path, full_name: str) -> None:
    """Sync the folders that name a ref, which has changed. Raises StoreUnavailableError if the disk does not."""
    folders = [folder for folder in (git_dir / full_name).parents if git_dir in folder.parents and folder.is_dir()]
    try:
        durable.sync_folders(folders)
    except OSError as error:
        raise StoreUnavailableError(
            f"{full_name}: changed, but the disk did not confirm it ({error}), so that a power loss may undo it. "
            "Check the disk, then read the store again before going on."
        ) from error


def _take(lock: Path, content: str, deadline: float) -> None:
    """Create the lock file with the new content in it, waiting for its holder."""
    watch = LockWatch()
    while True:
        try:
            return durable.write_file(lock, [f"{content}\n".encode()], mode=0o644)
        except FileExistsError as error:
            watch.wait([lock], error, deadline)
        except FileNotFoundError:  # Git removes folders without refs
            durable.make_folder(lock.parent, sync=False)


def _remove_empty_folders(path: Path) -> None:
    """Where refs below a name were deleted, their folders may still stand in the place of the file."""
    if path.is_dir():
        for root, _, _ in os.walk(path, topdown=False):
            os.rmdir(root)


class LockWatch:
    """Waits for lock files of Git, and removes those whose holder must be dead."""

    def __init__(self) -> None:
        self._seen: dict[tuple[Path, int, int], float] = {}

    def wait(self, locks: list[Path], error: Exception, deadline: float) -> None:
        """Once a little. Age is what the clock says, or how long we looked: a lock may be dated in the future."""
        if time.monotonic() > deadline:
            names = ", ".join(map(str, locks)) or "a lock of the refs"
            raise StoreUnavailableError(f"{names} is held by a Git process; end it, then run again") from error
        for path in locks:
            with suppress(FileNotFoundError):
                stat = path.stat()
                first = self._seen.setdefault((path, stat.st_ino, stat.st_mtime_ns), time.monotonic())
                if max(time.time() - stat.st_mtime, time.monotonic() - first) > STALE_LOCK_S:
                    os.unlink(path)
        time.sleep(0.02)
