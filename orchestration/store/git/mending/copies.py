"""Another copy of a store, to mend one from: a clone (with git-lfs), a mirror, or a backup of the folder itself.

Nothing in it is trusted: a copy may be damaged, too. Only bytes with the right digest are taken.
"""

from __future__ import annotations

from pathlib import Path

import pygit2

from orchestration.store.contract import StoreError
from orchestration.store.git.lfs_objects import LfsObjects
from orchestration.store.git.loose import OBJECT_KINDS
from orchestration.store.git.objects import Pointer
from orchestration.store.git.opening import open_repository
from orchestration.store.git.packs import object_id
from orchestration.store.git.ref_files import read_refs


def read_object(repository: pygit2.Repository, oid: str) -> tuple[str, bytes] | None:
    """Kind and data of a Git object whose bytes have that id; None where there is none."""
    try:
        number, data = repository.odb.read(oid)
    except (pygit2.GitError, KeyError, ValueError, OSError):
        return None
    kind = OBJECT_KINDS.get(int(number), "")
    return (kind, data) if object_id(kind, data) == oid else None


class Copy:
    """A clone or backup, opened for reading."""

    def __init__(self, place: Path) -> None:
        """Raises StoreError if there is no Git repository."""
        try:
            found = pygit2.discover_repository(str(place)) if place.is_dir() else None
            opened = open_repository(found) if found else None
        except (pygit2.GitError, KeyError) as error:
            raise StoreError(f"{place} cannot be read as a clone or backup of a store: {error}") from error
        if opened is None:
            raise StoreError(f"{place} is no clone or backup of a store: give a folder that is a Git repository")
        self.repository = opened
        self.git_dir = Path(opened.path)
        self.lfs = LfsObjects(self.git_dir / "lfs")
        self.refs = read_refs(self.git_dir).ids

    def read(self, oid: str) -> tuple[str, bytes] | None:
        """A Git object, if it is whole here."""
        return read_object(self.repository, oid)

    def branch(self, name: str) -> str | None:
        """Where the copied store's branch stood: in a clone under refs/remotes, in a backup or mirror under its name."""
        remote = [
            oid for ref, oid in self.refs.items() if ref.startswith("refs/remotes/") and _remote_name(ref) == name
        ]
        return remote[0] if remote else self.refs.get(f"refs/heads/{name}")

    def content(self, pointer: Pointer) -> Path | None:
        """The file of a content, if it is whole here."""
        return self.lfs.path(pointer.sha256) if self.lfs.problem(pointer) is None else None


def _remote_name(ref: str) -> str:
    return ref.removeprefix("refs/remotes/").partition("/")[2]
