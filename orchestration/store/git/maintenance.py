"""Garbage collection of the Git store: one pass over what is kept. It deletes nothing while it cannot tell."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pygit2

from orchestration.store.contract import REPAIR, DamagedIndexError, GarbageReport
from orchestration.store.git.lfs_objects import LfsObjects, written_at
from orchestration.store.git.objects import ATTRIBUTES, GitObjects, Pointer
from orchestration.store.git.ref_files import read_refs
from orchestration.store.git.trees import is_tree

GRACE_S = 3600.0  # an object this young may belong to a commit that is under way
DAY_S = 86_400.0


def _pointers(git: GitObjects, roots: Iterable[str], seen: set[str]) -> Iterator[Pointer]:
    """Pointers of all files of some trees; each distinct tree and blob is visited once."""
    stack = [(root, True) for root in roots]
    while stack:
        oid, at_root = stack.pop()
        if oid in seen:
            continue
        seen.add(oid)
        for name, entry in git.tree(oid).items():
            if is_tree(entry):
                stack.append((entry[1], False))
            elif entry[1] not in seen and not (at_root and name == ATTRIBUTES):
                seen.add(entry[1])
                yield git.pointer(entry[1])


def collect_garbage(
    git: GitObjects, lfs: LfsObjects, kept_commits: Iterable[str], keep_days: float, dry_run: bool
) -> GarbageReport:
    """Delete contents that no kept commit needs. The caller keeps every writer out meanwhile.

    Raises DamagedIndexError while a ref cannot be read, CorruptObjectError for a commit or tree that cannot.
    """
    now = time.time()
    commits = {*kept_commits, *_commits_since(git, now - keep_days * DAY_S)}
    seen: set[str] = set()
    needed = {pointer.sha256 for pointer in _pointers(git, (git.root(commit) for commit in commits), seen)}
    report = GarbageReport()
    for sha256, stat in lfs.stored():
        # a purged object still here means that the purge was interrupted after its tombstone
        purged = lfs.is_purged(sha256)
        if not purged and (sha256 in needed or now - written_at(stat) < GRACE_S):
            report.kept_objects += 1
            continue
        report.deleted_objects += 1
        report.deleted_bytes += stat.st_size
        if not dry_run:
            lfs.purge(sha256, "") if purged else lfs.collect(sha256)
    if not dry_run:
        lfs.sweep_litter(GRACE_S)
    return report


def _commits_since(git: GitObjects, moment: float) -> Iterator[str]:
    """Commits younger than a moment, also those whose branch was deleted (lineage may name them)."""
    for oid in git.repository.odb:
        try:
            kind, _ = git.repository.odb.read_header(oid)
        except (pygit2.GitError, KeyError) as error:
            raise DamagedIndexError(
                f"Git object {oid} of {git.repository.path} cannot be read ({error}), and may be a commit whose contents "
                f"are still needed: nothing was deleted. Run {REPAIR} first."
            ) from error
        if kind == pygit2.enums.ObjectType.COMMIT and git.commit(str(oid)).commit_time >= moment:
            yield str(oid)


def refuse_unreadable_refs(git: GitObjects) -> None:
    """Raise DamagedIndexError while a ref cannot be read: what it held would be deleted as if nothing needed it."""
    damaged = [damage.sha256 for damage in read_refs(Path(git.repository.path)).damage]
    if damaged:
        raise DamagedIndexError(
            f"{', '.join(damaged[:5])} of {git.repository.path} cannot be read ({len(damaged)} damaged), so that what is "
            f"still needed cannot be told: nothing was deleted. Run `headwater verify`, then {REPAIR}."
        )
