"""Branches and tags: read without locks, changed by compare-and-swap under a lock that dies with its holder.

libgit2 refuses to move a ref that is not where it was read ("old reference value does not match"), so
a plain `git push` beside us is safe too. Our own `flock` on top keeps Headwater processes from
colliding on Git's `.lock` files, and lets us tell a lock left by a killed process from a live one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pygit2

from orchestration.store import durable
from orchestration.store.contract import (
    CorruptObjectError,
    LostRaceError,
    RefNotFoundError,
    StoreError,
    StoreUnavailableError,
)
from orchestration.store.git_objects import AUTHOR, NewObjects
from orchestration.store.paths import check_name

BRANCHES, TAGS = "refs/heads/", "refs/tags/"
LOCK_TIMEOUT_S = 30.0  # a ref change takes about 5 ms
STALE_LOCK_S = 10.0  # Git holds a ref's .lock for milliseconds; older than this, its holder was killed


class GitRefs:
    """The refs of one repository."""

    def __init__(self, repository: pygit2.Repository, lock: Path) -> None:
        self._repository = repository
        self._lock = lock

    def get(self, full_name: str) -> str | None:
        """Commit id of a ref, or None if there is no such ref."""
        try:
            reference = self._repository.references[full_name]
        except (KeyError, ValueError):  # ValueError: not a valid name, so there is none
            return None
        try:
            return str(reference.peel(pygit2.Commit).id)
        except (pygit2.GitError, KeyError, ValueError, OSError) as error:
            raise CorruptObjectError(
                f"{full_name} leads to {reference.target}, which is missing or damaged ({error}). Run `git fsck --full` "
                f"in {self._repository.path}; restore it from a clone with `git fetch`.",
                str(reference.target),
            ) from error

    def all(self, kind: str) -> dict[str, str]:
        """Short name -> commit id of all branches (or tags), sorted."""
        found = {}
        for full_name in sorted(self._repository.listall_references()):
            # a ref may be deleted between the listing and the reading
            if full_name.startswith(kind) and (commit := self.get(full_name)):
                found[full_name.removeprefix(kind)] = commit
        return found

    def create(self, kind: str, name: str, commit: str) -> None:
        """A new branch or tag. Raises StoreError if the name is taken or not possible."""
        word = "branch" if kind == BRANCHES else "tag"
        check_name(name, word)
        if not pygit2.reference_is_valid_name(kind + name):
            raise StoreError(f"{name!r} cannot be the name of a {word}: Git forbids spaces, ~ ^ : ? * [ \\ and ..")

        def write() -> None:
            self._refuse_clash(kind, name, word)
            self._repository.references.create(kind + name, commit)

        self._change(kind + name, f"create the {word} {name}", write, commit)

    def _refuse_clash(self, kind: str, name: str, word: str) -> None:
        for other_kind, other_word in ((BRANCHES, "branch"), (TAGS, "tag")):
            if self.get(other_kind + name):
                raise StoreError(f"there is a {other_word} {name!r} already; choose another name for the {word}")
        for other in self.all(kind):
            if other.startswith(name + "/") or name.startswith(other + "/"):
                raise StoreError(f"{word} {name!r} is not possible beside {other!r}: one is the other's folder")

    def move(self, branch: str, expected: str, new: str) -> None:
        """Compare-and-swap. Raises LostRaceError if the branch is not at `expected`."""

        def write() -> None:
            reference = self._repository.references.get(BRANCHES + branch)
            if reference is None:
                raise RefNotFoundError(f"branch {branch!r} was deleted meanwhile; nothing was committed")
            at = str(reference.target)
            if at != expected:
                raise LostRaceError(
                    f"branch {branch!r} moved from {expected[:12]} to {at[:12]} meanwhile; read it again and retry"
                )
            reference.set_target(new)

        self._change(BRANCHES + branch, f"move the branch {branch}", write, new)

    def delete(self, branch: str) -> None:
        """Remove a branch name."""

        def write() -> None:
            reference = self._repository.references.get(BRANCHES + branch)
            if reference is None:
                raise RefNotFoundError(f"there is no branch {branch!r}")
            reference.delete()

        self._change(BRANCHES + branch, f"delete the branch {branch}", write, None)

    def _change(self, full_name: str, action: str, write: Callable[[], None], target: str | None) -> None:
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        with (
            durable.typed_errors(action),
            durable.locked(self._lock, timeout_s=LOCK_TIMEOUT_S, what="the lock of the refs"),
        ):
            while True:
                try:
                    return write()
                except (OSError, pygit2.GitError) as error:
                    if "old reference value does not match" in str(error):  # a Git process was faster
                        raise LostRaceError(f"{full_name} moved meanwhile; read it again and retry") from error
                    if self._is_done(full_name, target):
                        return self._confirm(full_name, action)
                    self._await_git_lock(full_name, error, deadline)

    def _is_done(self, full_name: str, target: str | None) -> bool:
        reference = self._repository.references.get(full_name)
        return (str(reference.target) if reference else None) == target

    def _confirm(self, full_name: str, action: str) -> None:
        """libgit2 failed after its rename, in the sync of the folder: the ref did change. Sync again, or say so."""
        try:
            durable.sync_folders([(Path(self._repository.path) / full_name).parent])
        except OSError as error:
            raise StoreUnavailableError(
                f"{action}: done, but the disk did not confirm it ({error}), so that a power loss may undo it. "
                "Check the disk, then read the store again before going on."
            ) from error

    def _await_git_lock(self, full_name: str, error: Exception, deadline: float) -> None:
        """Wait for Git's own lock file, or remove it when its holder must be dead; else re-raise."""
        git_dir = Path(self._repository.path)
        locks = [path for path in (git_dir / f"{full_name}.lock", git_dir / "packed-refs.lock") if path.exists()]
        if not locks and "failed to lock file" not in str(error):
            raise error
        if time.monotonic() > deadline:
            raise StoreUnavailableError(f"{locks} is held by a Git process; end it, then run again") from error
        for path in locks:
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > STALE_LOCK_S:
                    os.unlink(path)
        time.sleep(0.02)


def annotated_tag(objects: NewObjects, name: str, commit: str, message: str, now: int) -> str:
    """Id of a tag object that carries a message and a date."""
    text = f"object {commit}\ntype commit\ntag {name}\ntagger {AUTHOR} {now} +0000\n\n{message}\n"
    return objects.add("tag", text.encode())
