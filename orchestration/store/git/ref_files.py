"""One ref as Git keeps it: a file that is replaced under its `.lock`, durably.

Written by us and not by libgit2, which reports a failed sync of the folder after its rename as if nothing had
happened, or happens to succeed when it tries again: a disk reports an error once and then forgets it.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from orchestration.store import durable
from orchestration.store.contract import Damage, StoreUnavailableError

STALE_LOCK_S = 10.0  # Git holds a ref's .lock for milliseconds; older than this, its holder was killed


_ID = re.compile(r"[0-9a-f]{40}")
_SYMBOLIC = re.compile(r"ref: refs/\S.*")


@dataclass
class RefFiles:
    """Every ref as its file says: full name -> object id, and what cannot be read."""

    ids: dict[str, str] = field(default_factory=dict)
    damage: list[Damage] = field(default_factory=list)


def read_refs(git_dir: Path) -> RefFiles:
    """All refs, read by ourselves: Git and libgit2 pass over a ref whose file is empty as if it were not there."""
    found = RefFiles()
    packed = git_dir / "packed-refs"
    if packed.exists():
        lines = packed.read_text("utf-8", "replace").splitlines()
        if not lines:
            found.damage.append(_damaged("packed-refs"))
        for line in lines:
            oid, _, name = line.partition(" ")
            if _ID.fullmatch(oid) and name.startswith("refs/"):
                found.ids[name] = oid
            elif not line.startswith(("#", "^")):
                found.damage.append(_damaged("packed-refs"))
    for path in _ref_files(git_dir):
        name = path.relative_to(git_dir).as_posix()
        with suppress(FileNotFoundError):  # deleted meanwhile
            content = path.read_bytes().decode("utf-8", "replace").strip()
            if _ID.fullmatch(content):
                found.ids[name] = content
            elif not _SYMBOLIC.fullmatch(content):
                found.damage.append(_damaged(name))
    found.damage = list(dict.fromkeys(found.damage))
    return found


def _ref_files(git_dir: Path) -> Iterator[Path]:
    for root, _, names in sorted(os.walk(git_dir / "refs")):
        yield from (Path(root, name) for name in sorted(names) if not name.endswith(".lock"))


def _damaged(name: str) -> Damage:
    return Damage(name, "altered", (), (), "ref")


def read_head(git_dir: Path) -> Damage | None:
    """What is wrong with HEAD, which says that this is a repository and which branch a clone checks out."""
    try:
        content = (git_dir / "HEAD").read_bytes().decode("utf-8", "replace").strip()
    except FileNotFoundError:
        return Damage("HEAD", "missing", (), (), "ref")
    return None if _SYMBOLIC.fullmatch(content) or _ID.fullmatch(content) else _damaged("HEAD")


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
