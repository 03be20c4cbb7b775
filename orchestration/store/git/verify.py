"""Verification of the Git store: refs, configuration, every Git object that they lead to, and the contents.

Damage never ends the walk: what cannot be read is noted and passed over, and everything is told at the end.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pygit2

from orchestration.store.contract import CorruptObjectError, Damage, VerifyReport
from orchestration.store.git.create import LAYOUT
from orchestration.store.git.lfs_objects import LfsObjects
from orchestration.store.git.objects import ATTRIBUTES, GitObjects, Pointer
from orchestration.store.git.packs import pack_damage
from orchestration.store.git.ref_files import RefFiles, read_head, read_refs
from orchestration.store.git.trees import is_tree


@dataclass(frozen=True)
class Commit:
    """What the walk needs of a commit."""

    id: str
    tree: str
    parents: tuple[str, ...]
    at: int


@dataclass
class Index:
    """What refs lead to, as far as it can be read."""

    commits: dict[str, Commit] = field(default_factory=dict)
    pointers: dict[str, Pointer] = field(default_factory=dict)
    """Of every pointer blob, by its id."""
    bad: dict[str, str] = field(default_factory=dict)
    """Ids that cannot be read -> the kind they should be of."""
    named_by: dict[str, set[str]] = field(default_factory=dict)
    """Commits and tags that cannot be read -> refs and commits that lead to them."""


def walk_index(git: GitObjects, tips: dict[str, str]) -> Index:
    """Read every Git object that some tips (name -> commit or tag) lead to, each once."""
    index = Index()
    todo = sorted((oid, name) for name, oid in tips.items())
    seen: set[str] = set()
    while todo:
        oid, namer = todo.pop()
        commit = index.commits.get(oid) or _read_commit(git, oid, index)
        if isinstance(commit, str):
            todo.append((commit, namer))  # what a tag object names
        elif commit is None:
            index.named_by.setdefault(oid, set()).add(namer)
        elif oid not in seen:
            seen.add(oid)
            todo += [(parent, oid) for parent in commit.parents]
            _walk_tree(git, commit.tree, index, seen)
    return index


def _read_commit(git: GitObjects, oid: str, index: Index) -> Commit | str | None:
    """A commit, the target of a tag object, or None where neither can be read."""
    if oid in index.bad:
        return None
    try:
        found = git.repository[oid]
        if isinstance(found, pygit2.Tag):
            return str(found.target)
        if isinstance(found, pygit2.Commit):
            parents = tuple(map(str, found.parent_ids))
            index.commits[oid] = Commit(oid, str(found.tree_id), parents, found.commit_time)
            return index.commits[oid]
    except (pygit2.GitError, KeyError, ValueError, OSError):
        pass
    index.bad[oid] = "commit"
    return None


def _walk_tree(git: GitObjects, root: str, index: Index, seen: set[str]) -> None:
    stack = [(root, True)]
    while stack:
        oid, at_root = stack.pop()
        if oid in seen:
            continue
        seen.add(oid)
        try:
            entries = git.tree(oid)
        except (CorruptObjectError, ValueError):
            index.bad[oid] = "tree"
            continue
        for name, entry in entries.items():
            if is_tree(entry):
                stack.append((entry[1], False))
            elif entry[1] not in seen:
                seen.add(entry[1])
                try:
                    if at_root and name == ATTRIBUTES:
                        git.repository.odb.read(entry[1])
                    else:
                        index.pointers[entry[1]] = git.pointer(entry[1])
                except (CorruptObjectError, pygit2.GitError, KeyError, ValueError, OSError):
                    index.bad[entry[1]] = "blob"


def verify(
    git: GitObjects, lfs: LfsObjects, tip: str | None = None, fraction: float = 1.0, seed: int = 0
) -> VerifyReport:
    """Everything, or what the tree of one commit holds; `fraction` of the contents."""
    git_dir = Path(git.repository.path)
    refs = read_refs(git_dir)
    report = VerifyReport(damage=structure_damage(git, lfs, refs))
    tips = {name: oid for name, oid in refs.ids.items() if name.startswith(("refs/heads/", "refs/tags/"))}
    index = walk_index(git, tips if tip is None else {**tips, tip: tip})
    live = _pointers_of(git, index, tips.values() if tip is None else [tip])
    wanted = {p.sha256: p for p in (live if tip is not None else index.pointers).values()}
    problems = _check_contents(lfs, wanted, {p.sha256 for p in live.values()}, report, fraction, seed)
    only = _ids_under(git, {index.commits[tip].tree}) | {tip} if tip in index.commits else None
    bad = {oid: kind for oid, kind in index.bad.items() if only is None or oid in only}
    holders = _holders(git, index, {*problems, *bad})
    for oid, kind in sorted(bad.items()):
        paths, commits = holders.get(oid, (set(), set()))
        named_by = index.named_by.get(oid, set())
        commits |= named_by & index.commits.keys()
        paths |= {name for name in named_by if name.startswith("refs/")}
        problem = "altered" if oid in git.repository.odb else "missing"
        report.damage.append(Damage(oid, problem, tuple(sorted(paths)), _newest_first(index, commits), kind))  # type: ignore[arg-type]
    for sha256, problem in sorted(problems.items()):
        paths, commits = holders.get(sha256, (set(), set()))
        report.damage.append(Damage(sha256, problem, tuple(sorted(paths)), _newest_first(index, commits)))  # type: ignore[arg-type]
    return report


def verify_folder(folder: Path) -> VerifyReport:
    """What is wrong with a store that cannot even be opened: its objects were not looked at."""
    folders = [name for name in ("objects", "refs", "lfs") if not (folder / name).is_dir()]
    head = read_head(folder)
    lost = [Damage(f"{name}/", "missing", (), (), "ref" if name == "refs" else "pack") for name in folders]
    found = [*([head] if head else []), *config_damage(folder), *lost, *pack_damage(folder / "objects")]
    return VerifyReport(damage=found + read_refs(folder).damage)


def structure_damage(git: GitObjects, lfs: LfsObjects, refs: RefFiles) -> list[Damage]:
    """What is wrong beside objects: HEAD, the configuration, refs, packs, records of takedowns."""
    git_dir = Path(git.repository.path)
    head, packs = read_head(git_dir), pack_damage(git_dir / "objects")
    found = [*([head] if head else []), *config_damage(git_dir), *refs.damage, *packs]
    if "refs/heads/main" not in refs.ids and all(each.sha256 != "refs/heads/main" for each in refs.damage):
        found.append(Damage("refs/heads/main", "missing", (), (), "ref"))
    return found + [Damage(name, problem, (), (), "takedown") for name, problem in lfs.damaged_records()]


def config_damage(git_dir: Path) -> list[Damage]:
    """A configuration that does not say what a store's must: Git would then delete what only lineage names."""
    path = git_dir / "config"
    if not path.exists():
        return [Damage("config", "missing", (), (), "config")]
    try:
        config = pygit2.Config(str(path))
        whole = list(config.get_multivar("headwater.layout")) == [LAYOUT] and config.get_bool("core.bare")
    except (pygit2.GitError, KeyError, ValueError, OSError):
        whole = False
    return [] if whole else [Damage("config", "altered", (), (), "config")]


def _pointers_of(git: GitObjects, index: Index, tips: Iterable[str]) -> dict[str, Pointer]:
    """Pointers that the trees of some commits (or of what tags name) hold."""
    roots = set()
    for tip in set(tips):
        oid: str | None = tip
        while oid is not None and oid not in index.commits:
            target = _read_commit(git, oid, index)
            oid = target if isinstance(target, str) else None
        if oid is not None:
            roots.add(index.commits[oid].tree)
    return {each: index.pointers[each] for each in _ids_under(git, roots) if each in index.pointers}


def _ids_under(git: GitObjects, roots: set[str]) -> set[str]:
    """Ids of some trees and of all trees and blobs below them."""
    found, stack = set(roots), sorted(roots)
    while stack:
        try:
            entries = git.tree(stack.pop())
        except (CorruptObjectError, ValueError):
            continue
        for entry in entries.values():
            if is_tree(entry) and entry[1] not in found:
                stack.append(entry[1])
            found.add(entry[1])
    return found


def _check_contents(
    lfs: LfsObjects, wanted: dict[str, Pointer], live: set[str], report: VerifyReport, fraction: float, seed: int
) -> dict[str, str]:
    """Re-hash contents; digest -> what is wrong with it. Counts go to the report."""
    candidates = []
    for sha256 in sorted(wanted):
        if lfs.is_purged(sha256):
            report.purged_objects += 1
        elif sha256 in live or not lfs.is_collected(sha256):
            candidates.append(wanted[sha256])
    if fraction < 1.0:
        candidates = random.Random(seed).sample(candidates, math.ceil(max(fraction, 0.0) * len(candidates)))
    problems: dict[str, str] = {}
    for pointer in sorted(candidates, key=lambda p: p.sha256):
        problem = lfs.problem(pointer)
        report.objects_checked += 1
        report.bytes_checked += pointer.size_bytes
        if problem and not lfs.is_purged(pointer.sha256):  # it may have been purged while we read
            problems[pointer.sha256] = problem
    return problems


def _holders(git: GitObjects, index: Index, wanted: set[str]) -> dict[str, tuple[set[str], set[str]]]:
    """Digest or id -> (paths, commits) that hold it; unchanged folders are looked into once for all commits."""
    holders: dict[str, tuple[set[str], set[str]]] = {}
    if not wanted:
        return holders
    inside: dict[str, tuple[tuple[str, str], ...]] = {}

    def look(tree: str) -> tuple[tuple[str, str], ...]:
        if tree not in inside:
            inside[tree] = tuple(_found_in(tree))
        return inside[tree]

    def _found_in(tree: str) -> Iterable[tuple[str, str]]:
        if tree in wanted:
            yield "", tree
        try:
            entries = git.tree(tree)
        except (CorruptObjectError, ValueError):
            return
        for name, entry in entries.items():
            if is_tree(entry):
                yield from ((f"{name}/{path}", each) for path, each in look(entry[1]))
            elif entry[1] in wanted:
                yield name, entry[1]
            elif entry[1] in index.pointers and index.pointers[entry[1]].sha256 in wanted:
                yield name, index.pointers[entry[1]].sha256

    for commit in index.commits.values():
        for path, each in look(commit.tree):
            paths, commits = holders.setdefault(each, (set(), set()))
            paths.add(path or "/")
            commits.add(commit.id)
    return holders


def _newest_first(index: Index, commits: set[str]) -> tuple[str, ...]:
    return tuple(sorted(commits, key=lambda each: (-index.commits[each].at, each)))
