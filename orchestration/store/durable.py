"""Writing files so that a crash, a kill or a full disk leaves the old state or the new, never a mix.

Every change is: write under a temporary name in the same filesystem, fsync, rename, fsync the
folder. Many files at once share one `syncfs` before and one after their renames instead (5,000
files: 0.3 s instead of 4 s). Locks are `flock`: the kernel frees them when their holder dies.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import sys
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pygit2

from assets.machine_faults import told_in_text
from orchestration.store.contract import StoreError, StoreUnavailableError

_REMEDIES = {
    errno.ENOSPC: "the disk is full: free space (`headwater gc`, or delete scratch folders), then run again",
    errno.EDQUOT: "the disk quota is used up: free space or raise the quota, then run again",
    errno.EROFS: "the filesystem is read-only: mount it writable (after a disk error, check the disk first)",
    errno.EACCES: "permission denied: the store must belong to the user that runs this program",
    errno.EPERM: "operation not permitted: the store must belong to the user that runs this program",
    errno.EIO: "the disk reports input/output errors: check the hardware, then run `headwater verify`",
    errno.EMFILE: "too many open files: raise the limit (`ulimit -n`)",
    errno.EFBIG: "a file grew over the size limit: check `ulimit -f` and the filesystem",
}


@contextmanager
def typed_errors(action: str) -> Iterator[None]:
    """Turn errors of the disk and of libgit2 into StoreUnavailableError with cause and remedy."""
    try:
        yield
    except StoreError:
        raise
    except (OSError, pygit2.GitError) as error:
        raise StoreUnavailableError(f"could not {action}: {error}. {_remedy(error)}.") from error


def _remedy(error: Exception) -> str:
    number = getattr(error, "errno", None)
    if number is None:  # libgit2 gives only the text of errno
        number = told_in_text(error, _REMEDIES)
    return "Nothing was changed on any branch; " + _REMEDIES.get(number or 0, "see the cause above")


def write_file(path: Path, chunks: Iterable[bytes], *, sync: bool = True, mode: int = 0o444) -> None:
    """Write a new file, read-only to all unless told otherwise. Fails if it exists; leaves nothing of what failed."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        for chunk in chunks:
            view = memoryview(chunk)
            while view:
                view = view[os.write(fd, view) :]
        if sync:
            os.fsync(fd)
    except BaseException:
        with suppress(OSError):
            os.unlink(path)
        raise
    finally:
        os.close(fd)


def write_small_file(folder: Path, name: str, content: bytes, *, within: Path | None = None) -> None:
    """Create or replace one file in one step, durably; `within` as in make_folder."""
    make_folder(folder, within=within)
    temporary = folder / temporary_name()
    try:
        write_file(temporary, [content])
        os.rename(temporary, folder / name)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    sync_folders([folder])


def temporary_name() -> str:
    """A name no other process uses; `tmp_obj_` is the prefix Git itself clears away."""
    return f"tmp_obj_{uuid.uuid4().hex}"


_named: set[tuple[Path, int, int]] = set()
"""Folders (with device and inode) whose names this process has made durable."""


def make_folder(folder: Path, *, sync: bool = True, within: Path | None = None) -> None:
    """Create a folder and its parents; a new name is durable only when its parent was synced.

    Who finds a folder cannot know that its maker came as far as the sync, or that the sync went well. So what is
    found below `within` is synced too, once per process.
    """
    if folder.is_dir():
        if not sync or within is None or within not in folder.parents or _identity(folder) in _named:
            return
        make_folder(folder.parent, within=within)
    else:
        make_folder(folder.parent, sync=sync, within=within)
        with suppress(FileExistsError):
            os.mkdir(folder)
    if sync:
        sync_folders([folder.parent])
        _named.add(_identity(folder))


def _identity(folder: Path) -> tuple[Path, int, int]:
    stat = folder.stat()
    return folder, stat.st_dev, stat.st_ino


def sync_folders(folders: Iterable[Path]) -> None:
    """Make renames and unlinks in these folders durable."""
    for folder in sorted(set(folders)):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def sync_file(path: Path) -> None:
    """Make a file that another library wrote durable."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_tree(folder: Path) -> None:
    """Make a small tree that another library wrote durable, file by file."""
    for root, _, names in os.walk(folder):
        for name in names:
            sync_file(Path(root, name))
        sync_folders([Path(root)])


def sync_filesystem(folder: Path) -> None:
    """Make everything written so far in the filesystem of `folder` durable, in one call.

    It also waits for what other programs wrote there: worth it for many files, never for a few.
    """
    if not sys.platform.startswith("linux"):
        os.sync()
        return
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
    finally:
        os.close(fd)


@contextmanager
def locked(path: Path, *, shared: bool = False, timeout_s: float, what: str) -> Iterator[None]:
    """Hold a lock file, waiting for its holder at most `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    pause_s = 0.0005
    fd = _open_lock(path)
    try:
        while True:
            try:
                fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
                if _is_still_there(path, fd):
                    break
                os.close(fd)
                fd = _open_lock(path)
                continue
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StoreUnavailableError(
                        f"{what} is still held by another process after {timeout_s:.0f} s ({path}). "
                        "Nothing was changed; wait for that process or end it, then run again."
                    ) from None
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, 0.05)
        yield
    finally:
        os.close(fd)


def _open_lock(path: Path) -> int:
    """The lock file, with its folder if that was lost (a clean-up, a copy that left out what is empty)."""
    make_folder(path.parent, sync=False)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)


def _is_still_there(path: Path, fd: int) -> bool:
    """Whether the file we locked is the one that others will find: else it keeps nobody out."""
    try:
        return os.path.samestat(path.stat(), os.fstat(fd))
    except FileNotFoundError:
        return False
