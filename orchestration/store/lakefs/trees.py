"""Reading the trees of lakeFS commits: entries, differences, three-way merge, with caches of what never changes.

Requests follow the paths concerned, not the size of the commit: few paths are asked for one by one, many
of one folder by listing the folder.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from orchestration.store.contract import Change, CommitInfo, ObjectInfo, StoreError
from orchestration.store.lakefs import history
from orchestration.store.lakefs.api import LakefsApi
from orchestration.store.lakefs.s3_objects import S3Objects

FEW_PATHS = 8  # of one folder; for more, the folder is listed
FULL_ID = 64
CACHED_COMMITS = 4096
KNOWN_ENTRIES = 65_536  # about 30 MB


class LakefsTrees:
    """Trees of one repository."""

    def __init__(self, api: LakefsApi, objects: S3Objects) -> None:
        self._api = api
        self._objects = objects
        self._commits = lru_cache(CACHED_COMMITS)(self._read_commit)
        self._empty: str | None = None
        self._known: dict[tuple[str, str], ObjectInfo] = {}

    def empty(self) -> str:
        """Digest of the empty content, stored when first asked for: the head file points at it."""
        if self._empty is None:
            self._empty = self._objects.put({history.HEAD_FILE: b""})[history.HEAD_FILE].sha256
        return self._empty

    # --- commits

    def _read_commit(self, commit: str) -> Any:
        found = self._api.commit_of(commit)
        if found is None:
            raise KeyError(commit)
        return found

    def commit(self, ref: str) -> str | None:
        """Full id of a commit id or a unique prefix of one, or None."""
        try:
            found = self._commits(ref.lower()) if len(ref) == FULL_ID else self._read_commit(ref.lower())
        except KeyError:
            return None
        return str(found.id)

    def parents(self, commit: str) -> tuple[str, ...]:
        """Parents of a commit, without the steps it was made in."""
        return history.parents_of(self._commits(commit))

    def touches(self, commit: CommitInfo, place: str) -> bool:
        """Whether a commit differs from its first parent at a path or below it."""
        if not commit.parents:
            return False
        found = self._api.diff(commit.parents[0], commit.id, place)
        return any(change.path == place or change.path.startswith(place + "/") for change in found)

    # --- entries

    def _info(self, entry: Any) -> ObjectInfo:
        if entry.physical_address != self._objects.address(entry.checksum):
            raise StoreError(
                f"{entry.path} was not written by Headwater (it lies at {entry.physical_address}), so its SHA-256 is not "
                "known. Remove it from the branch, or write it through Headwater."
            )
        return ObjectInfo(str(entry.path), str(entry.checksum), int(entry.size_bytes))

    def list(self, commit: str, prefix: str = "") -> Iterator[ObjectInfo]:
        """Files under a prefix, sorted by path."""
        for entry in self._api.objects(commit, prefix):
            if entry.path != history.HEAD_FILE:
                yield self._remembered(commit, self._info(entry))

    def _remembered(self, commit: str, info: ObjectInfo) -> ObjectInfo:
        """Whoever lists a folder reads its files next: their entries need not be asked for again."""
        if len(self._known) >= KNOWN_ENTRIES:
            self._known.clear()
        self._known[commit, info.path] = info
        return info

    def stat(self, commit: str, path: str) -> ObjectInfo | None:
        """One file of a commit (by its full id, so that it never changes), or None."""
        if known := self._known.get((commit, path)):
            return known
        entry = self._api.stat(commit, path)
        return None if entry is None else self._remembered(commit, self._info(entry))

    def files(self, commit: str, names: Iterable[str]) -> dict[str, ObjectInfo]:
        """The files that exist at some paths."""
        wanted = set(names)
        listed, single = _by_folder(wanted)
        found = {info.path: info for folder in listed for info in self.list(commit, folder) if info.path in wanted}
        for info in self._objects.together(lambda name: self.stat(commit, name), single):
            if info:
                found[info.path] = info
        return found

    def region(self, commit: str, names: Iterable[str], removals: Iterable[str] = ()) -> dict[str, ObjectInfo]:
        """What exists at some paths, above them (a file in place of a folder) and below them; and what is removed.

        A removal that ends in `/` takes in all that is below it.
        """
        names, removals = list(names), list(removals)
        listed, single = _by_folder(names)
        found = self.files(commit, [*single, *(path for path in removals if not path.endswith("/"))])
        missing = [name for name in single if name not in found]  # what exists has no file above it and none below
        parts = [path.split("/") for path in [*missing, *(folder + "." for folder in listed)]]
        above = {"/".join(each[:n]) for each in parts for n in range(1, len(each))}
        found |= self.files(commit, above)
        folders = {*listed, *(path for path in removals if path.endswith("/")), *(name + "/" for name in missing)}
        for listing in self._objects.together(lambda folder: list(self.list(commit, folder)), sorted(folders)):
            found |= {info.path: info for info in listing}
        return found

    def clashes(self, files: Iterable[str]) -> list[str]:
        """Files that are also folders, each followed by what would be in that folder."""
        files = set(files)
        folders: dict[str, list[str]] = defaultdict(list)
        for path in files:
            parts = path.split("/")
            for n in range(1, len(parts)):
                folders["/".join(parts[:n])].append(path)
        return [path for both in sorted(files & folders.keys()) for path in (both, *sorted(folders[both]))]

    # --- differences

    def changes(self, before: str, after: str, prefix: str = "") -> list[Change]:
        """Paths that differ between two commits, with both sides, sorted."""
        kinds = self._kinds(before, after, prefix)
        old = self.files(before, [path for path, kind in kinds.items() if kind != "added"])
        new = self.files(after, [path for path, kind in kinds.items() if kind != "removed"])
        return [Change(path, kinds[path], old.get(path), new.get(path)) for path in sorted(kinds)]  # type: ignore[arg-type]

    def not_in(self, newer: str, older: str) -> list[ObjectInfo]:
        """Files of the older commit that the newer one has not, or has changed."""
        kinds = self._kinds(newer, older)
        return list(self.files(older, [path for path, kind in kinds.items() if kind != "removed"]).values())

    def _kinds(self, before: str, after: str, prefix: str = "") -> dict[str, str]:
        if before == after:
            return {}
        found = self._api.diff(before, after, prefix)
        return {str(c.path): str(c.type) for c in found if c.path != history.HEAD_FILE}

    def three_way(self, base: str, ours: str, theirs: str) -> tuple[dict[str, ObjectInfo | None], list[str]]:
        """What their side brings to ours (None: removed), and the paths in conflict, sorted."""
        our_kinds, their_kinds = self._kinds(base, ours), self._kinds(base, theirs)
        theirs_now = self.files(theirs, [path for path, kind in their_kinds.items() if kind != "removed"])
        common = our_kinds.keys() & their_kinds.keys()
        ours_now = self.files(ours, common)
        conflicts = {path for path in common if ours_now.get(path) != theirs_now.get(path)}
        edits = {path: theirs_now.get(path) for path in sorted(their_kinds.keys() - common)}
        added = [path for path, info in edits.items() if info]
        region = self.region(ours, added) if added else {}
        removed = {path for path, info in edits.items() if info is None}
        # a file that one side needs as a folder is a conflict of all that would be in it
        conflicts.update(self.clashes({*(region.keys() - removed), *added}))
        return edits, sorted(conflicts)


def _by_folder(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Folders (with `/`) that hold many of the paths, and the other paths."""
    by_folder: dict[str, list[str]] = defaultdict(list)
    for name in names:
        by_folder[name.rpartition("/")[0]].append(name)
    listed = [folder + "/" for folder, members in by_folder.items() if folder and len(members) > FEW_PATHS]
    return sorted(listed), sorted(name for f, members in by_folder.items() if f + "/" not in listed for name in members)
