"""Garbage collection and verification of a lakeFS store.

lakeFS's own garbage collection never touches our objects: they lie outside its namespace, as imported data
does. So this is the only thing that deletes them, and its rules are those of the contract: what a branch head,
a tag, a `keep` ref or a young commit reaches stays.
"""

from __future__ import annotations

import hashlib
import math
import random
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from orchestration.store.contract import CommitInfo, Damage, GarbageReport, ObjectInfo, VerifyReport
from orchestration.store.lakefs import s3_objects
from orchestration.store.lakefs.api import LakefsApi
from orchestration.store.lakefs.history import without_transit
from orchestration.store.lakefs.names import TRANSIT
from orchestration.store.lakefs.s3_objects import Problem, S3Objects
from orchestration.store.lakefs.trees import LakefsTrees

DAY_S = 86_400.0
EMPTY = hashlib.sha256(b"").hexdigest()


def _reached(trees: LakefsTrees, commits: Iterable[CommitInfo], roots: Iterable[str]) -> Iterator[ObjectInfo]:
    """Files of some roots, then of each commit what its child has not: the cost follows the changes.

    `commits` are newest first; each but the roots must be a parent of one that came before it.
    """
    covered = set()
    for root in sorted(set(roots)):
        covered.add(root)
        yield from trees.list(root)
    for commit in commits:
        if commit.id not in covered:
            covered.add(commit.id)
            yield from trees.list(commit.id)
        for parent in commit.parents:
            if parent not in covered:
                covered.add(parent)
                yield from trees.not_in(commit.id, parent)


def collect_garbage(
    api: LakefsApi, trees: LakefsTrees, objects: S3Objects, keep: list[str], keep_days: float, dry_run: bool
) -> GarbageReport:
    """Delete contents that no kept commit needs. Commits wait until it is over."""
    objects.begin_sweep()
    try:
        tips = {*api.branches().values(), *api.tags().values(), *keep}  # work branches too: a commit is under way
        needed = _needed(api, trees, objects, tips, keep_days)
        taken_down = objects.purged()
        report = GarbageReport()
        for sha256, stored in objects.stored():
            if sha256 == EMPTY and sha256 not in needed:
                continue  # what the head files point at; no file of a commit
            purged = sha256 in taken_down
            if not purged and (sha256 in needed or stored.age_s < s3_objects.GRACE_S):
                report.kept_objects += 1
                continue
            report.deleted_objects += 1
            report.deleted_bytes += stored.size_bytes
            if not dry_run:
                objects.purge(sha256, "") if purged else objects.collect(sha256)
        if not dry_run:
            _clear_away(api, objects, keep_days)
        return report
    finally:
        objects.end_sweep()


def _needed(api: LakefsApi, trees: LakefsTrees, objects: S3Objects, tips: set[str], keep_days: float) -> set[str]:
    """Digests that the tips or a young commit hold, deleted branches included."""
    since = time.time() - keep_days * DAY_S
    deleted = [head for head, mark in objects.bucket.list("heads").items() if mark.age_s < keep_days * DAY_S]
    young: dict[str, CommitInfo] = {}
    for head in sorted({*tips, *deleted}):
        if head in young:
            continue  # with all that came before it
        for commit in without_transit(api.log(head)):
            if datetime.fromisoformat(commit.committed_at).timestamp() >= since:
                young.setdefault(commit.id, commit)
    kept = [CommitInfo(c.id, tuple(p for p in c.parents if p in young), "", {}, "") for c in young.values()]
    return {info.sha256 for info in _reached(trees, kept, tips)}


def _clear_away(api: LakefsApi, objects: S3Objects, keep_days: float) -> None:
    """What killed processes and deleted branches left: work branches, old marks, cached copies nobody used."""
    now = time.time()
    for name in api.branches():
        started, _, _ = name.removeprefix(TRANSIT).partition("-")
        if name.startswith(TRANSIT) and started.isdigit() and abs(now - int(started)) > s3_objects.GRACE_S:
            api.delete_branch(name)
    for head, mark in objects.bucket.list("heads").items():
        if mark.age_s > keep_days * DAY_S:
            objects.bucket.delete(f"heads/{head}")
    for path in _files(objects.cache):
        with suppress(FileNotFoundError):
            if now - path.stat().st_mtime > max(keep_days * DAY_S, s3_objects.GRACE_S):
                path.unlink()


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else iter(())


def verify(
    api: LakefsApi,
    trees: LakefsTrees,
    objects: S3Objects,
    heads: list[str],
    wanted: str | None,
    fraction: float,
    seed: int,
) -> VerifyReport:
    """Re-hash contents of the tree of `wanted`, or of all commits that lead to `heads`."""
    commits = _history(api, heads if wanted is None else [wanted, *heads])
    live = {info.sha256: info for head in (heads if wanted is None else [wanted]) for info in trees.list(head)}
    infos = dict(live)
    if wanted is None:
        infos |= {info.sha256: info for info in _reached(trees, commits, heads)}
    report = VerifyReport()
    taken_down = objects.purged()
    candidates = []
    for sha256 in sorted(infos):
        if sha256 in taken_down:
            report.purged_objects += 1
        elif sha256 in live or not objects.is_collected(sha256):
            candidates.append(infos[sha256])
    if fraction < 1.0:
        candidates = random.Random(seed).sample(candidates, math.ceil(max(fraction, 0.0) * len(candidates)))
    candidates.sort(key=lambda info: info.sha256)
    found: list[Problem | None] = objects.together(
        lambda info: objects.problem(info.sha256, info.size_bytes), candidates
    )
    report.objects_checked = len(candidates)
    report.bytes_checked = sum(info.size_bytes for info in candidates)
    problems: dict[str, Problem] = {}
    for info, problem in zip(candidates, found, strict=True):
        if problem:
            problems[info.sha256] = problem
    holders = _holders(trees, commits, set(problems))
    for sha256, problem in sorted(problems.items()):
        if objects.tombstone(sha256) is None:  # it may have been purged while we read
            places, held_by = holders[sha256]
            report.damage.append(Damage(sha256, problem, tuple(sorted(places)), tuple(held_by)))
    report.damage += [Damage(name, "altered", (), (), "takedown") for name in objects.damaged_records()]
    return report


def _history(api: LakefsApi, tips: Iterable[str]) -> list[CommitInfo]:
    """All commits that lead to some tips, each once; those of one tip newest first."""
    found: dict[str, CommitInfo] = {}
    for tip in tips:
        if tip not in found:  # else with all that came before it
            for commit in without_transit(api.log(tip)):
                found.setdefault(commit.id, commit)
    return list(found.values())


def _holders(trees: LakefsTrees, commits: list[CommitInfo], sha256s: set[str]) -> dict[str, tuple[set[str], list[str]]]:
    """Digest -> (paths, commits) that hold it. Reads every tree, but only where damage was found."""
    holders: dict[str, tuple[set[str], list[str]]] = defaultdict(lambda: (set(), []))
    for commit in commits if sha256s else ():
        held = [info for info in trees.list(commit.id) if info.sha256 in sha256s]
        for info in held:
            holders[info.sha256][0].add(info.path)
        for sha256 in sorted({info.sha256 for info in held}):
            holders[sha256][1].append(commit.id)
    return holders
