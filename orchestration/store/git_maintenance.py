"""Garbage collection and verification of the Git store: one pass over the history each."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterable, Iterator
from functools import cache

import pygit2

from orchestration.store.contract import CorruptObjectError, Damage, GarbageReport, VerifyReport
from orchestration.store.git_objects import ATTRIBUTES, GitObjects, Pointer
from orchestration.store.git_trees import is_tree
from orchestration.store.lfs_objects import LfsObjects, written_at

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
    """Delete contents that no kept commit needs. The caller keeps every writer out meanwhile."""
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
        kind, _ = git.repository.odb.read_header(oid)
        if kind == pygit2.enums.ObjectType.COMMIT and git.commit(str(oid)).commit_time >= moment:
            yield str(oid)


def verify(
    git: GitObjects, lfs: LfsObjects, heads: list[str], wanted: str | None, fraction: float, seed: int
) -> VerifyReport:
    """Re-hash contents of the tree of `wanted`, or of all commits that lead to `heads`."""
    history = _history(git, heads if wanted is None else [wanted, *heads])
    live = {p.sha256: p for p in _pointers(git, map(git.root, heads if wanted is None else [wanted]), set())}
    pointers = dict(live)
    if wanted is None:
        pointers.update((p.sha256, p) for p in _pointers(git, map(git.root, history), set()))
    report = VerifyReport()
    candidates = []
    for sha256 in sorted(pointers):
        if lfs.is_purged(sha256):
            report.purged_objects += 1
        elif sha256 in live or not lfs.is_collected(sha256):
            candidates.append(pointers[sha256])
    if fraction < 1.0:
        candidates = random.Random(seed).sample(candidates, math.ceil(max(fraction, 0.0) * len(candidates)))
    problems = {}
    for pointer in sorted(candidates, key=lambda p: p.sha256):
        problem = lfs.problem(pointer)
        report.objects_checked += 1
        report.bytes_checked += pointer.size_bytes
        if problem and not lfs.is_purged(pointer.sha256):  # it may have been purged while we read
            problems[pointer.sha256] = problem
    holders = _holders(git, history, set(problems))
    for sha256, problem in sorted(problems.items()):
        paths, commits = holders.get(sha256, (set(), []))
        report.damage.append(Damage(sha256, problem, tuple(sorted(paths)), tuple(commits)))
    return report


def _history(git: GitObjects, tips: Iterable[str]) -> list[str]:
    """All commits that lead to some tips, newest first, each once."""
    walker = None
    for tip in tips:
        if walker is None:
            walker = git.repository.walk(tip, pygit2.enums.SortMode.TOPOLOGICAL | pygit2.enums.SortMode.TIME)
        else:
            walker.push(tip)
    return [str(commit.id) for commit in walker or ()]


def _holders(git: GitObjects, history: list[str], sha256s: set[str]) -> dict[str, tuple[set[str], list[str]]]:
    """Digest -> (paths, commits) that hold it; unchanged folders are looked into once for all commits."""
    if not sha256s:
        return {}

    @cache
    def inside(tree: str) -> tuple[tuple[str, str], ...]:
        found: list[tuple[str, str]] = []
        for name, entry in git.tree(tree).items():
            if is_tree(entry):
                found += [(f"{name}/{path}", sha256) for path, sha256 in inside(entry[1])]
            elif name != ATTRIBUTES:
                try:
                    sha256 = git.pointer(entry[1]).sha256
                except CorruptObjectError:
                    continue  # told by the first pass
                if sha256 in sha256s:
                    found.append((name, sha256))
        return tuple(found)

    holders: dict[str, tuple[set[str], list[str]]] = {}
    for commit in history:
        for path, sha256 in inside(git.root(commit)):
            paths, commits = holders.setdefault(sha256, (set(), []))
            paths.add(path)
            if not commits or commits[-1] != commit:
                commits.append(commit)
    return holders
