"""The embedded store: a bare Git repository whose files are Git LFS pointers.

    <repo>/objects, refs, HEAD, config   plain Git: `git log`, `git diff`, `git fsck` work on it
    <repo>/lfs/objects/ab/cd/<sha256>    contents, as git-lfs lays them out
    <repo>/lfs/purged, lfs/collected     what was deleted on purpose, see lfs_objects.py
    <repo>/headwater/*.lock              flock files of our own processes

So `git clone file://<repo>` with git-lfs reads everything with no Headwater code. Order of writing:
contents, then Git objects, each durable, then the branch by compare-and-swap: a crash at any point
leaves the old head or the new one, and at worst some unreferenced objects for `gc`.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import pygit2

from orchestration.store import durable, paths
from orchestration.store.contract import (
    MAIN,
    REPAIR,
    Change,
    CommitInfo,
    CorruptObjectError,
    GarbageReport,
    LostRaceError,
    MergeConflictError,
    ObjectInfo,
    PathNotFoundError,
    RefNotFoundError,
    StoreError,
    VerifyReport,
)
from orchestration.store.expected_head import head_to_merge
from orchestration.store.git import adopted, maintenance, trees
from orchestration.store.git import verify as git_verify
from orchestration.store.git.create import LAYOUT, create_store, looks_like_store
from orchestration.store.git.lfs_objects import LfsObjects
from orchestration.store.git.objects import (
    ATTRIBUTES,
    TREE,
    Entry,
    GitObjects,
    NewObjects,
    Pointer,
    encode_message,
)
from orchestration.store.git.opening import open_repository
from orchestration.store.git.packing import pack_loose
from orchestration.store.git.refs import BRANCHES, TAGS, GitRefs, annotated_tag

SWEEP_TIMEOUT_S = 3600.0  # a commit waits for a gc or purge under way, and they for commits
MERGE_ATTEMPTS = 100


class GitStore:
    """VersionedStore on a local folder. Safe for many processes on one machine."""

    def __init__(self, folder: Path) -> None:
        """Use `GitStore.at`, which checks the folder and can create it."""
        self.folder = folder
        self.repository = open_repository(folder)
        self.git = GitObjects(self.repository)
        self.lfs = LfsObjects(folder / "lfs")
        locks = folder / "headwater"
        self._refs = GitRefs(self.repository, locks / "refs.lock")
        self._sweep_lock = locks / "sweep.lock"

    @classmethod
    def at(cls, path: Path, create: bool = True, damaged: bool = False) -> GitStore:
        """Open the store at `path`; create it if it is missing (or an empty folder) and `create` is true.

        `damaged`: also one without a readable `main`, to see what is wrong with it.
        """
        pygit2.settings.enable_fsync_gitdir(True)  # for the refs; process-wide, as libgit2 has it
        folder = Path(os.path.abspath(path))
        with durable.typed_errors(f"open the store {folder}"):
            if not looks_like_store(folder):
                if not create:
                    raise StoreError(f"there is no store at {folder}; create one by running Headwater there")
                create_store(folder)
            store = cls._open(folder)
            layout = store.repository.config.get_multivar("headwater.layout")
            if any(version != LAYOUT for version in layout):
                raise StoreError(f"{folder} has store layout {list(layout)}, this program knows {LAYOUT}: upgrade it")
            if not damaged and store._refs.get(BRANCHES + MAIN) is None:
                raise StoreError(f"{folder} is a Git repository without a branch {MAIN!r}, not a Headwater store")
            if not damaged:
                store._adopt_takedowns()
            return store

    @classmethod
    def _open(cls, folder: Path) -> GitStore:
        try:
            return cls(folder)
        except pygit2.GitError as error:
            raise CorruptObjectError(
                f"{folder} is a store that cannot be opened ({error}): HEAD, the configuration or a folder of it is lost "
                f"or damaged. `headwater verify` finds all damage; {REPAIR} mends it.",
                str(folder),
            ) from error

    def _adopt_takedowns(self) -> None:
        """Take down here, too, what main says was taken down: a clone or a backup has its commits, not its lfs/purged."""
        if missing := adopted.missing(self.git, self.lfs, self._refs.get(BRANCHES + MAIN)):
            with durable.typed_errors("take over takedowns"), self._sweep_alone():
                for sha256, reason in missing.items():
                    self.lfs.purge(sha256, reason)

    # --- refs

    def resolve(self, ref: str) -> str:
        """Full commit id of a branch, a tag, or a commit id (or prefix); `REF~N` is its N-th first ancestor."""
        base, tilde, steps = ref.rpartition("~")
        if tilde and steps.isdigit():
            commit = self.resolve(base)
            for step in range(int(steps)):
                if not (parents := self.git.commit(commit).parent_ids):
                    raise RefNotFoundError(f"{ref!r}: the history of {base} is only {step} commits long")
                commit = str(parents[0])
            return commit
        for kind in (BRANCHES, TAGS):
            if commit := self._refs.get(kind + ref):
                return commit
        if paths.looks_like_commit_id(ref):
            if commit := self.git.commit_named(ref):
                return commit
            if commit := self._refs.get(f"{TAGS}copied/{ref}"):  # its id before the store was copied (copy.py)
                return commit
        raise RefNotFoundError(f"{ref!r} is no branch, tag or commit of {self.folder} (or an ambiguous prefix)")

    def branches(self) -> dict[str, str]:
        """Branch name -> commit id."""
        return self._refs.all(BRANCHES)

    def create_branch(self, name: str, source: str = MAIN) -> str:
        """Create a branch; returns the commit it stands at."""
        with durable.typed_errors(f"create the branch {name}"), self._sweep_shared():
            commit = self.resolve(source)
            self._refs.create(BRANCHES, name, commit)
            return commit

    def delete_branch(self, name: str) -> None:
        """Remove a branch name, never `main`."""
        if name == MAIN:
            raise StoreError(f"branch {MAIN!r} cannot be deleted")
        self._refs.delete(name)

    def tag(self, name: str, ref: str, message: str = "") -> None:
        """Name a commit for good; the same name for the same commit again is no error."""
        commit = self.resolve(ref)
        existing = self._refs.get(TAGS + name)
        if existing == commit:
            return
        if existing:
            raise StoreError(f"tag {name!r} already names commit {existing[:12]}; it cannot name {commit[:12]} too")
        paths.check_name(name, "tag")
        objects = NewObjects(self.git)
        tag = annotated_tag(objects, name, commit, message, int(time.time()))
        with durable.typed_errors(f"write the tag {name}"), self._sweep_shared():
            objects.write()
            self._refs.create(TAGS, name, tag)

    def tags(self) -> dict[str, str]:
        """Tag name -> commit id."""
        return self._refs.all(TAGS)

    # --- writing

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
        """One atomic commit; when it would change nothing, the branch stays and its head is returned.

        Removing a path that is not there is no error. Paths that put would make a file and a folder
        at once are refused (InvalidPathError).
        """
        text = encode_message(message, metadata or {})
        puts = {path: paths.check_path(path) for path in put}
        removals = [paths.check_removal(path) for path in remove]
        with durable.typed_errors(f"commit to {branch}"), self._sweep_shared():
            head = self._branch_head(branch)
            if expected_parent is not None and self.resolve(expected_parent) != head:
                raise LostRaceError(
                    f"branch {branch!r} is at {head[:12]}, not at {expected_parent[:12]}; read it again and retry"
                )
            pointers = self.lfs.put({path: new for path, new in put.items() if not isinstance(new, ObjectInfo)})
            known = {path: info for path, info in put.items() if isinstance(info, ObjectInfo)}
            pointers |= {path: self.lfs.again(info, path) for path, info in known.items()}
            objects = NewObjects(self.git)
            blobs = {parts: objects.add("blob", pointers[path].blob()) for path, parts in puts.items()}
            root = trees.edit(objects, self.git.root(head), trees.Edits(removals, blobs))
            return self._advance(branch, head, objects, root, [head], text)

    def _advance(
        self, branch: str, head: str, objects: NewObjects, root: str | None, parents: list[str], text: str
    ) -> str:
        """Write a commit and move the branch to it, unless it would be the same tree on the same parent."""
        tree = root or objects.add_tree({})
        if parents == [head] and tree == self.git.root(head):
            self._refs.affirm(branch, head)
            return head
        new = objects.add_commit(tree, parents, text, int(time.time()))
        objects.write()
        self._refs.move(branch, head, new)
        return new

    def merge(
        self,
        branch: str,
        into: str = MAIN,
        *,
        message: str,
        metadata: Mapping[str, str] | None = None,
        expected_head: str | None = None,
    ) -> str:
        """Merge `branch` (any ref) into `into`; always a commit of its own, unless there is nothing to merge."""
        text = encode_message(message, metadata or {})
        with durable.typed_errors(f"merge {branch} into {into}"), self._sweep_shared():
            for attempt in range(MERGE_ATTEMPTS):
                ours, theirs = self._branch_head(into), head_to_merge(self, branch, expected_head)
                base = self.git.common_ancestor(ours, theirs)
                if base is None:
                    raise StoreError(f"{branch!r} and {into!r} have no common ancestor; they cannot be merged")
                try:
                    if base == theirs:
                        self._refs.affirm(into, ours)
                        return ours
                    objects = NewObjects(self.git)
                    root = self._three_way(objects, base, ours, theirs, f"merge {branch!r} into {into!r}")
                    return self._advance(into, ours, objects, root, [ours, theirs], text)
                except LostRaceError:
                    time.sleep(random.uniform(0, 0.002 * min(attempt + 1, 25)))
        raise LostRaceError(f"{into!r} moved {MERGE_ATTEMPTS} times while {branch!r} was merged; try again later")

    def revert(self, commit: str, branch: str = MAIN, *, message: str) -> str:
        """Undo one commit (of a merge: what it brought to its first parent) by a new commit."""
        undone = self.resolve(commit)
        parents = self.git.commit(undone).parent_ids
        if not parents:
            raise StoreError(f"commit {undone[:12]} is the first of the store; there is nothing to go back to")
        text = encode_message(message, {"reverts": undone})
        with durable.typed_errors(f"revert {undone[:12]}"), self._sweep_shared():
            head = self._branch_head(branch)
            if self.git.common_ancestor(head, undone) != undone:
                raise StoreError(
                    f"commit {undone[:12]} is not in the history of {branch!r}; it cannot be reverted there"
                )
            objects = NewObjects(self.git)
            root = self._three_way(objects, undone, head, str(parents[0]), f"revert {undone[:12]} on {branch!r}")
            return self._advance(branch, head, objects, root, [head], text)

    def _three_way(self, objects: NewObjects, base: str, ours: str, theirs: str, action: str) -> str | None:
        """Root of the merged tree. Raises MergeConflictError, or the error of a content that is gone."""
        roots: list[Entry] = [(TREE, self.git.root(commit)) for commit in (base, ours, theirs)]
        conflicts: list[str] = []
        merged = trees.merge(objects, roots[0], roots[1], roots[2], conflicts)
        if conflicts:
            names = sorted(set(conflicts))
            shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
            raise MergeConflictError(f"cannot {action}: both sides changed {shown}. Nothing was changed.", names)
        root = merged[1] if merged else None
        for path, _, entry in trees.differences(objects, roots[1][1], root):
            if entry and path != ATTRIBUTES:
                self.lfs.check(self.git.pointer(entry[1]), path)  # a head must be readable
        return root

    # --- reading

    def list(self, ref: str, prefix: str = "", suffix: str = "") -> Iterator[ObjectInfo]:
        """Files under a prefix that end in a suffix, sorted by path."""
        for path, entry in trees.leaves(self.git, self.git.root(self.resolve(ref)), prefix):
            if path != ATTRIBUTES and path.endswith(suffix):
                yield self._info(path, entry)

    def stat(self, ref: str, path: str) -> ObjectInfo:
        """One file."""
        pointer = self._pointer(ref, path)
        return ObjectInfo(path, pointer.sha256, pointer.size_bytes)

    def open(self, ref: str, path: str) -> BinaryIO:
        """Read a file; its size is checked, its hash is not (see `read_bytes`)."""
        return self.lfs.open(self._pointer(ref, path), path)

    def read_bytes(self, ref: str, path: str) -> bytes:
        """Whole content, its SHA-256 verified."""
        return self.lfs.read(self._pointer(ref, path), path)

    def local_path(self, ref: str, path: str) -> Path:
        """The object itself: read-only, and named by its digest, not by `path`."""
        return self.lfs.check(self._pointer(ref, path), path)

    def log(self, ref: str = MAIN, path: str | None = None, limit: int | None = None) -> Iterator[CommitInfo]:
        """History, newest first; with `path`, commits that differ there from their first parent."""
        parts = tuple(path.strip("/").split("/")) if path else ()
        history = self.git.history(self.resolve(ref))
        commits = (commit for commit in history if not parts or self._touches(commit, parts))
        return (self.git.info(commit) for commit in islice(commits, limit))

    def _touches(self, commit: pygit2.Commit, parts: tuple[str, ...]) -> bool:
        here = trees.find(self.git, str(commit.tree_id), parts)
        parents = commit.parent_ids
        before = trees.find(self.git, self.git.root(str(parents[0])), parts) if parents else None
        return here != before

    def diff(self, before: str, after: str, prefix: str = "") -> list[Change]:
        """Paths that differ, sorted."""
        roots = [self.git.root(self.resolve(ref)) for ref in (before, after)]
        changes = []
        for path, old, new in trees.differences(self.git, roots[0], roots[1], prefix):
            if path == ATTRIBUTES:
                continue
            kind = "added" if old is None else "removed" if new is None else "changed"
            changes.append(
                Change(path, kind, self._info(path, old) if old else None, self._info(path, new) if new else None)
            )
        return sorted(changes, key=lambda change: change.path)

    # --- keeping

    def gc(self, keep: Iterable[str] = (), *, keep_days: float = 14.0, dry_run: bool = False) -> GarbageReport:
        """Delete contents nothing needs; the history itself stays."""
        with durable.typed_errors("collect garbage"), self._sweep_alone():
            maintenance.refuse_unreadable_refs(self.git)
            kept = [*self.branches().values(), *self.tags().values(), *(self.resolve(ref) for ref in keep)]
            report = maintenance.collect_garbage(self.git, self.lfs, kept, keep_days, dry_run)
            report.packed_objects = pack_loose(self.git, dry_run=dry_run)
            return report

    def verify(self, ref: str | None = None, fraction: float = 1.0, seed: int = 0) -> VerifyReport:
        """Refs, index and contents: of one ref's tree, or of the whole history of all branches and tags."""
        wanted = self.resolve(ref) if ref is not None else None
        git = GitObjects(open_repository(self.folder))  # which remembers nothing of what it has read
        return git_verify.verify(git, self.lfs, wanted, fraction, seed)

    def purge(self, sha256s: Iterable[str], *, reason: str) -> int:
        """Takedown. Digests that are not stored are banned all the same; returns bytes freed."""
        digests = sorted({paths.check_sha256(sha256) for sha256 in sha256s})
        if not reason.strip():
            raise StoreError("a takedown needs a reason: it is what readers of the history will be told")
        with durable.typed_errors("purge"), self._sweep_alone():
            return sum(self.lfs.purge(sha256, reason.strip()) for sha256 in digests)

    def takedowns(self) -> dict[str, str]:
        """SHA-256 -> reason of everything that was taken down."""
        return self.lfs.takedowns()

    # --- helpers

    def _sweep_shared(self) -> AbstractContextManager[None]:
        return durable.locked(self._sweep_lock, shared=True, timeout_s=SWEEP_TIMEOUT_S, what="a gc or purge")

    def _sweep_alone(self) -> AbstractContextManager[None]:
        return durable.locked(self._sweep_lock, timeout_s=SWEEP_TIMEOUT_S, what="a commit, gc or purge")

    def _branch_head(self, branch: str) -> str:
        head = self._refs.get(BRANCHES + branch)
        if head is None:
            raise RefNotFoundError(f"there is no branch {branch!r}; branches: {', '.join(list_names(self.branches()))}")
        return head

    def _pointer(self, ref: str, path: str) -> Pointer:
        commit = self.resolve(ref)
        entry = trees.find(self.git, self.git.root(commit), path.split("/"))
        if entry is None or trees.is_tree(entry) or path == ATTRIBUTES:
            what = "is a folder" if trees.is_tree(entry) else "does not exist"
            raise PathNotFoundError(f"{path!r} {what} at {ref} ({commit[:12]})")
        return self.git.pointer(entry[1])

    def _info(self, path: str, entry: Entry) -> ObjectInfo:
        try:
            pointer = self.git.pointer(entry[1])
        except CorruptObjectError as error:
            raise CorruptObjectError(f"{path}: {error}", error.sha256) from error
        return ObjectInfo(path, pointer.sha256, pointer.size_bytes)


def list_names(names: Iterable[str], limit: int = 10) -> list[str]:
    """The first few names, for an error message."""
    return [*islice(names, limit), "..."] if len(set(names)) > limit else sorted(names)
