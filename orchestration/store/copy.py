"""Copies a whole store into another one, of whatever kind: every commit, branch and tag, and the takedowns.

    open_store(".headwater/store.git")  ->  open_store("lakefs://headwater")

Commits are made again in order, with the same files, message and metadata. A backend gives each its own id, so
tags `copied/<old id>` keep the ids that were tagged (the pins of training runs) resolvable in the copy. What
is done is found again by reading the target: an interrupted copy continues, a second one brings what is new.
Contents that the source no longer has (taken down, or collected by gc) are left out of the old commits
that held them, and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orchestration.store.contract import (
    MAIN,
    CommitInfo,
    CorruptObjectError,
    ObjectInfo,
    PurgedObjectError,
    StoreError,
    VersionedStore,
)

ORIGIN = "copied-from"
"""Metadata key of a copied commit: the id it had where it came from."""
COPIED = "copied/"
WORK = "copying/"
Tell = Callable[[str], None]


@dataclass
class CopyReport:
    """What a copy did. `left_out`: files of old commits whose bytes the source no longer has."""

    commits: int = 0
    already_there: int = 0
    branches: int = 0
    tags: int = 0
    takedowns: int = 0
    files_compared: int = 0
    left_out: list[str] = field(default_factory=list)


def copy_store(source: VersionedStore, target: VersionedStore, tell: Tell = lambda line: None) -> CopyReport:
    """Copy everything, then compare every branch and tag file by file. Raises StoreError for any difference."""
    report = CopyReport()
    report.takedowns = _copy_takedowns(source, target)
    commits = _oldest_first(source)
    made = _already_copied(target, commits)
    main = _first_parents(source)
    report.already_there = sum(commit.id in made for commit in commits)
    for number, commit in enumerate(commits, 1):
        if commit.id in made:
            continue
        branch = MAIN if commit.id in main else WORK + commit.id
        made[commit.id] = _copy_commit(source, target, commit, made, branch, report)
        report.commits += 1
        tell(f"commit {number} of {len(commits)}: {commit.message.splitlines()[0] if commit.message else ''}")
    _copy_refs(source, target, made, report)
    for branch in target.branches():
        if branch.startswith(WORK):
            target.delete_branch(branch)
    _compare(source, target, made, report)
    return report


def _copy_takedowns(source: VersionedStore, target: VersionedStore) -> int:
    known = target.takedowns()
    missing = {sha256: reason for sha256, reason in source.takedowns().items() if sha256 not in known}
    for sha256, reason in sorted(missing.items()):
        target.purge([sha256], reason=reason)
    return len(missing)


def _first_parents(store: VersionedStore) -> set[str]:
    """The commits that `main` itself has stood at."""
    parents = {commit.id: commit.parents for commit in store.log(MAIN)}
    at, found = [store.resolve(MAIN)], set()
    while at:
        found.add(at[0])
        at = list(parents[at[0]][:1])
    return found


def _oldest_first(store: VersionedStore) -> list[CommitInfo]:
    """Every commit of all branches and tags, parents before children."""
    found: dict[str, CommitInfo] = {}
    for head in sorted({*store.branches().values(), *store.tags().values()}):
        if head not in found:
            for commit in store.log(head):
                found.setdefault(commit.id, commit)
    ordered: dict[str, CommitInfo] = {}
    stack = sorted(found, reverse=True)
    while stack:
        at = stack[-1]
        if at in ordered:
            stack.pop()
            continue
        waiting = [parent for parent in found[at].parents if parent not in ordered]
        if waiting:
            stack += waiting
        else:
            ordered[stack.pop()] = found[at]
    return list(ordered.values())


def _already_copied(target: VersionedStore, commits: list[CommitInfo]) -> dict[str, str]:
    """Id in the source -> id in the target. Raises StoreError if the target holds something else."""
    theirs = {commit.id: commit for commit in commits}
    made: dict[str, str] = {}
    foreign: list[CommitInfo] = []
    for commit in _oldest_first(target):
        origin = commit.metadata.get(ORIGIN)
        if origin in theirs:
            made[origin] = commit.id
        elif not commit.parents:
            made[next(each.id for each in commits if not each.parents)] = commit.id
        else:
            foreign.append(commit)
    if foreign:
        raise StoreError(
            f"the target holds {len(foreign)} commits that are not of the source (such as {foreign[0].id[:12]} "
            f"{foreign[0].message!r}); copy into a new store, or into one that was copied from here"
        )
    return made


def _copy_commit(
    source: VersionedStore,
    target: VersionedStore,
    commit: CommitInfo,
    made: Mapping[str, str],
    branch: str,
    report: CopyReport,
) -> str:
    """Make one commit again: on `main`, or on a branch of its own that keeps it until the real ones stand."""
    first = commit.parents[0]
    if branch != MAIN:
        if branch in target.branches():
            target.delete_branch(branch)  # an interrupted copy made the branch but not the commit
        target.create_branch(branch, made[first])
    metadata = {**commit.metadata, ORIGIN: commit.id}
    if len(commit.parents) > 1:
        return target.merge(made[commit.parents[1]], into=branch, message=commit.message, metadata=metadata)
    put: dict[str, Path | bytes | ObjectInfo] = {}
    removed = []
    for change in source.diff(first, commit.id):
        content = _content(source, commit.id, change.path, report) if change.after else None
        if content is None:
            removed.append(change.path)
        else:
            put[change.path] = content
    return target.commit(branch, put, removed, message=commit.message, metadata=metadata, expected_parent=made[first])


def _content(store: VersionedStore, commit: str, path: str, report: CopyReport) -> Path | None:
    try:
        return store.local_path(commit, path)
    except PurgedObjectError:
        report.left_out.append(f"{commit[:12]} {path}: taken down")
    except CorruptObjectError as error:
        if "collected by gc" not in str(error):
            raise
        report.left_out.append(f"{commit[:12]} {path}: collected by gc")
    return None


def _copy_refs(source: VersionedStore, target: VersionedStore, made: Mapping[str, str], report: CopyReport) -> None:
    heads, tags = target.branches(), target.tags()
    for name, commit in source.branches().items():
        if heads.get(name) == made[commit]:
            continue
        if name in heads:
            target.delete_branch(name)  # it stood elsewhere when the store was copied before
        target.create_branch(name, made[commit])
        report.branches += 1
    for name, commit in source.tags().items():
        if name not in tags:
            target.tag(name, made[commit])
            report.tags += 1
        if not name.startswith(COPIED) and COPIED + commit not in tags:
            target.tag(COPIED + commit, made[commit])


def _compare(source: VersionedStore, target: VersionedStore, made: Mapping[str, str], report: CopyReport) -> None:
    """Every file of every branch and tag has the same digest and size, and the target can read it."""
    for name, commit in {**source.tags(), **source.branches()}.items():
        old = {info.path: info for info in source.list(commit)}
        new = {info.path: info for info in target.list(made[commit])}
        gone = [path for path in old.keys() - new.keys() if _is_gone(source, commit, path)]
        report.files_compared += len(new)
        wrong = sorted(p for p in old.keys() | new.keys() if old.get(p) != new.get(p) and p not in gone)
        if wrong:
            raise StoreError(f"{name}: {len(wrong)} files differ after copying, such as {wrong[0]}; copy again")
    if damage := target.verify().damage:
        raise StoreError(f"{len(damage)} copied objects cannot be read back, such as {damage[0].paths[:1]}")


def _is_gone(store: VersionedStore, commit: str, path: str) -> bool:
    return _content(store, commit, path, CopyReport()) is None
