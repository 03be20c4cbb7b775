"""The contract of the versioned store: what every backend must do, and the errors it may raise.

A store is a repository of named branches; a commit is an immutable tree of path -> object with
metadata; an object is bytes known by their SHA-256. Paths are POSIX, relative, without `..`.
`main` always exists (created with the store) and is moved only by `merge`, `commit` and `revert`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

from assets.errors import HeadwaterError

MAIN = "main"
PRIVATE = 0o700
"""Mode of a new home and a new local store: crawled texts and configured sources are for their owner only."""
REPAIR = "`headwater repair --from CLONE_OR_BACKUP`"
"""What mends a store whose index is damaged; without --from, what can be told from the store itself."""
TAKEDOWNS = "takedowns/"
"""Folder of main with a record of each takedown, `<sha256>.json`: what a clone has it from."""


class StoreError(HeadwaterError):
    """Base of all store errors. The message says what happened, to which paths, and what to do."""


class RefNotFoundError(StoreError):
    """A branch, tag or commit does not exist."""


class PathNotFoundError(StoreError):
    """A path does not exist at that ref."""


class InvalidPathError(StoreError):
    """A path is absolute, has `..`, an empty part, a NUL, or clashes with a folder."""


class LostRaceError(StoreError):
    """The branch moved since `expected_parent` was read: read again and retry. Nothing was written to the branch."""


class MergeConflictError(StoreError):
    """Both sides changed the same paths differently since their common ancestor."""

    def __init__(self, message: str, paths: list[str]) -> None:
        super().__init__(message)
        self.paths = paths


class CorruptObjectError(StoreError):
    """The bytes of an object do not have the SHA-256 they are stored under."""

    def __init__(self, message: str, sha256: str) -> None:
        super().__init__(message)
        self.sha256 = sha256


class DamagedIndexError(StoreError):
    """Refs or commits of the store cannot be read, so that what is still needed cannot be told."""


class PurgedObjectError(StoreError):
    """The object was physically deleted by a takedown, whose reason the message names."""


class StoreUnavailableError(StoreError):
    """Disk full, read-only, permission, or a server that does not answer. Nothing was half-written."""


@dataclass(frozen=True)
class ObjectInfo:
    """One file of one commit."""

    path: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class CommitInfo:
    """One commit, newest first in `log`."""

    id: str
    parents: tuple[str, ...]
    message: str
    metadata: Mapping[str, str]
    committed_at: str
    """ISO 8601, UTC."""


@dataclass(frozen=True)
class Change:
    """One path that differs between two commits."""

    path: str
    kind: Literal["added", "changed", "removed"]
    before: ObjectInfo | None
    after: ObjectInfo | None


@dataclass
class GarbageReport:
    """What `gc` kept and deleted."""

    kept_objects: int = 0
    deleted_objects: int = 0
    deleted_bytes: int = 0
    packed_objects: int = 0
    """Small files of the store's own index that became parts of a few large ones; nothing of it is deleted."""


@dataclass(frozen=True)
class Damage:
    """One thing that `verify` found missing or altered, with every path and commit that holds it.

    Of a content, `sha256` is its digest; of what else a store consists of, its id in Git or its file's name.
    A path that ends in `/` is a folder. A commit is held by the commits that came after it.
    """

    sha256: str
    problem: Literal["missing", "altered", "wrong_size"]
    paths: tuple[str, ...]
    commits: tuple[str, ...]
    kind: Literal["content", "blob", "tree", "commit", "tag", "ref", "config", "pack", "takedown"] = "content"


@dataclass
class VerifyReport:
    """Outcome of re-reading objects."""

    objects_checked: int = 0
    bytes_checked: int = 0
    purged_objects: int = 0
    damage: list[Damage] = field(default_factory=list)


class VersionedStore(Protocol):
    """Every method that names a ref takes a branch, tag or commit id (full, or unique prefix of 8 or more)."""

    def resolve(self, ref: str) -> str:
        """Full commit id; `REF~N` is the N-th ancestor along first parents. Raises RefNotFoundError."""
        ...

    def branches(self) -> dict[str, str]:
        """Branch name -> commit id."""
        ...

    def create_branch(self, name: str, source: str = MAIN) -> str:
        """Create a branch at `source`; an existing branch of that name is an error (StoreError)."""
        ...

    def delete_branch(self, name: str) -> None:
        """Remove a branch name (never `main`); its commits stay until `gc`."""
        ...

    def commit(
        self,
        branch: str,
        put: Mapping[str, Path | bytes | ObjectInfo],
        remove: Iterable[str] = (),
        *,
        message: str,
        metadata: Mapping[str, str] | None = None,
        expected_parent: str | None = None,
    ) -> str:
        """Apply removals (a path, or a folder ending in `/`), then puts, as one atomic commit.

        Files given by Path are taken by hard link where possible, else copied; the caller must not
        change them afterwards. An ObjectInfo puts an object that some commit holds already (its `path` does
        not matter): nothing is read or copied. Raises LostRaceError if the branch is not at `expected_parent` (when
        given) or moves meanwhile.
        """
        ...

    def merge(
        self,
        branch: str,
        into: str = MAIN,
        *,
        message: str,
        metadata: Mapping[str, str] | None = None,
        expected_head: str | None = None,
    ) -> str:
        """Three-way merge by path; retried on a lost race. Raises MergeConflictError and changes nothing.

        With `expected_head` that commit and no other is merged: LostRaceError if `branch` is gone or elsewhere.
        """
        ...

    def revert(self, commit: str, branch: str = MAIN, *, message: str) -> str:
        """A new commit that undoes one commit. Raises MergeConflictError if later commits touched its paths."""
        ...

    def list(self, ref: str, prefix: str = "", suffix: str = "") -> Iterator[ObjectInfo]:
        """Files under a prefix (plain string prefix, usually ending in `/`), sorted by path; with `suffix`, those whose
        path ends so, and nothing is read of the others."""
        ...

    def stat(self, ref: str, path: str) -> ObjectInfo:
        """One file. Raises PathNotFoundError."""
        ...

    def open(self, ref: str, path: str) -> BinaryIO:
        """Read a file. Raises PathNotFoundError, PurgedObjectError, CorruptObjectError (missing or wrong size)."""
        ...

    def read_bytes(self, ref: str, path: str) -> bytes:
        """Whole content, its SHA-256 verified."""
        ...

    def local_path(self, ref: str, path: str) -> Path:
        """A local read-only file with the content (the object itself, or a verified cached copy)."""
        ...

    def log(self, ref: str = MAIN, path: str | None = None, limit: int | None = None) -> Iterator[CommitInfo]:
        """History of a ref, newest first; with `path`, only commits that changed something under it."""
        ...

    def diff(self, before: str, after: str, prefix: str = "") -> list[Change]:
        """Paths that differ, sorted."""
        ...

    def tag(self, name: str, ref: str, message: str = "") -> None:
        """Name a commit for good; re-tagging with another commit is an error."""
        ...

    def tags(self) -> dict[str, str]:
        """Tag name -> commit id."""
        ...

    def gc(self, keep: Iterable[str] = (), *, keep_days: float = 14.0, dry_run: bool = False) -> GarbageReport:
        """Delete objects that no branch head, tag, `keep` ref or commit younger than `keep_days` reaches.

        History stays; reading a collected object raises CorruptObjectError that says it was collected.
        Objects written in the last hour are kept: a commit may be under way. Raises DamagedIndexError, and deletes
        nothing, while a ref cannot be read.
        """
        ...

    def verify(self, ref: str | None = None, fraction: float = 1.0, seed: int = 0) -> VerifyReport:
        """Re-hash the objects of a ref (default: of all branches and tags), or a random share of them.

        What leads to them (refs, commits, trees) is read in any case. All damage is told; none ends the walk.
        """
        ...

    def takedowns(self) -> dict[str, str]:
        """SHA-256 -> reason of every object that was purged."""
        ...

    def purge(self, sha256s: Iterable[str], *, reason: str) -> int:
        """Takedown: delete the bytes under every commit that holds them; the history stays. Returns bytes freed."""
        ...
