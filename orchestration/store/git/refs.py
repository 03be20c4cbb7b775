"""Branches and tags: read without locks, changed by compare-and-swap under a lock that dies with its holder.

A ref is compared and replaced under its `.lock` file, as Git itself does it, so a plain `git push` beside us
is safe too. Our own `flock` on top keeps Headwater processes from colliding on these files.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pygit2

from orchestration.store import durable
from orchestration.store.contract import LostRaceError, RefNotFoundError, StoreError
from orchestration.store.git.objects import AUTHOR, NewObjects, damaged
from orchestration.store.git.ref_files import LockWatch, confirm, read_refs, write_ref
from orchestration.store.paths import check_name

BRANCHES, TAGS = "refs/heads/", "refs/tags/"
LOCK_TIMEOUT_S = 30.0  # a ref change takes about 5 ms


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
        except pygit2.GitError as error:
            raise damaged(f"{full_name} of {self._repository.path}", "is damaged", full_name, error) from error
        try:
            return str(reference.peel(pygit2.Commit).id)
        except (pygit2.GitError, KeyError, ValueError, OSError) as error:
            what = f"{full_name} of {self._repository.path} leads to {reference.target}, which"
            cause = self._why_unreadable(str(reference.target)) or error
            raise damaged(what, "is missing or damaged", str(reference.target), cause) from error

    def _why_unreadable(self, oid: str) -> Exception | None:
        """Peeling a ref does not say what the disk said; reading its object does."""
        try:
            self._repository.odb.read(oid)
        except (pygit2.GitError, KeyError, ValueError, OSError) as error:
            return error
        return None

    def all(self, kind: str) -> dict[str, str]:
        """Short name -> commit id of all branches (or tags), sorted."""
        found = {}
        unreadable = {damage.sha256 for damage in read_refs(self._git_dir).damage}  # Git passes over them
        for full_name in sorted({*self._repository.listall_references(), *unreadable}):
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

        with self._locked(f"create the {word} {name}"):
            self._write(kind + name, commit, lambda: self._refuse_clash(kind, name, word))

    def _refuse_clash(self, kind: str, name: str, word: str) -> None:
        for other_kind, other_word in ((BRANCHES, "branch"), (TAGS, "tag")):
            if self.get(other_kind + name):
                raise StoreError(f"there is a {other_word} {name!r} already; choose another name for the {word}")
        for other in self.all(kind):
            if other.startswith(name + "/") or name.startswith(other + "/"):
                raise StoreError(f"{word} {name!r} is not possible beside {other!r}: one is the other's folder")

    def move(self, branch: str, expected: str, new: str) -> None:
        """Compare-and-swap. Raises LostRaceError if the branch is not at `expected`."""

        def check() -> None:
            reference = self._repository.references.get(BRANCHES + branch)
            if reference is None:
                raise RefNotFoundError(f"branch {branch!r} was deleted meanwhile; nothing was committed")
            at = str(reference.target)
            if at != expected:
                raise LostRaceError(
                    f"branch {branch!r} moved from {expected[:12]} to {at[:12]} meanwhile; read it again and retry"
                )

        with self._locked(f"move the branch {branch}"):
            self._write(BRANCHES + branch, new, check)

    def affirm(self, branch: str, commit: str) -> None:
        """Write a branch again as it is: whoever moved it may not have come to its syncs, or seen them fail."""
        self.move(branch, commit, commit)

    def delete(self, branch: str) -> None:
        """Remove a branch name."""
        full_name = BRANCHES + branch
        with self._locked(f"delete the branch {branch}"):
            if self._repository.references.get(full_name) is None:
                raise RefNotFoundError(f"there is no branch {branch!r}")
            self._delete(full_name)

    def _write(self, full_name: str, target: str, check: Callable[[], None]) -> None:
        write_ref(self._git_dir, full_name, target, check, time.monotonic() + LOCK_TIMEOUT_S)

    @property
    def _git_dir(self) -> Path:
        return Path(self._repository.path)

    @contextmanager
    def _locked(self, action: str) -> Iterator[None]:
        with (
            durable.typed_errors(action),
            durable.locked(self._lock, timeout_s=LOCK_TIMEOUT_S, what="the lock of the refs"),
        ):
            yield

    def _delete(self, full_name: str) -> None:
        """By libgit2, for the ref may lie in packed-refs, too."""
        deadline, watch = time.monotonic() + LOCK_TIMEOUT_S, LockWatch()
        while reference := self._repository.references.get(full_name):
            try:
                reference.delete()
            except (OSError, pygit2.GitError) as error:
                names = (f"{full_name}.lock", "packed-refs.lock")
                locks = [self._git_dir / name for name in names if (self._git_dir / name).exists()]
                if locks or "failed to lock file" in str(error):
                    watch.wait(locks, error, deadline)
                elif full_name in self._repository.references:
                    raise
        confirm(self._git_dir, full_name)


def annotated_tag(objects: NewObjects, name: str, commit: str, message: str, now: int) -> str:
    """Id of a tag object that carries a message and a date."""
    text = f"object {commit}\ntype commit\ntag {name}\ntagger {AUTHOR} {now} +0000\n\n{message}\n"
    return objects.add("tag", text.encode())
