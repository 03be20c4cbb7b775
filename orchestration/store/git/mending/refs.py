"""Gives lost and damaged refs of a Git store back: from a copy, or from the commits that the store still holds."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pygit2

from orchestration.store import durable
from orchestration.store.contract import MAIN
from orchestration.store.git.mending.copies import Copy
from orchestration.store.git.objects import decode_message
from orchestration.store.git.opening import open_repository
from orchestration.store.git.ref_files import RefFiles, read_refs, write_ref
from orchestration.store.git.refs import BRANCHES, LOCK_TIMEOUT_S, TAGS


@dataclass(frozen=True)
class _Seen:
    """A commit of the store, whether a ref leads to it or not."""

    id: str
    parents: tuple[str, ...]
    side: str
    """The branch it was staged on, where its metadata says so."""
    at: int


def restore_refs(folder: Path, copy: Copy | None, side_mark: str) -> list[str]:
    """Write every ref that cannot be read, that leads nowhere, or that is lost; what was done, a line each."""
    done = _unpack(folder)
    repository = open_repository(folder)
    refs = read_refs(folder)
    commits = {commit.id: commit for commit in _commits(repository, side_mark)}
    tags = _tag_objects(repository)
    for name in sorted(_broken(folder, repository, refs, copy, tags)):
        if name == BRANCHES + MAIN:
            target, why = _newest_main(commits, copy)
        elif name.startswith(TAGS):
            target, why = _of_tag(name, copy, tags)
        else:
            target, why = _of_branch(name, copy, commits)
        if target is not None:
            write_ref(folder, name, target, lambda: None, time.monotonic() + LOCK_TIMEOUT_S)
        elif name != BRANCHES + MAIN:
            _remove(folder, name)
        lost = f"led to {refs.ids[name][:12]}, which is lost; " if name in refs.ids else ""
        done.append(f"{name}: {lost}{why}")
    return done


def _unpack(folder: Path) -> list[str]:
    """Make loose refs of what a damaged packed-refs still says."""
    refs = read_refs(folder)
    if all(damage.sha256 != "packed-refs" for damage in refs.damage):
        return []
    for name, oid in refs.ids.items():
        if not (folder / name).exists():
            write_ref(folder, name, oid, lambda: None, time.monotonic() + LOCK_TIMEOUT_S)
    os.unlink(folder / "packed-refs")
    durable.sync_folders([folder])
    return ["packed-refs: damaged; every ref that could be read in it has a file of its own now"]


def _broken(
    folder: Path, repository: pygit2.Repository, refs: RefFiles, copy: Copy | None, tags: dict[str, str]
) -> set[str]:
    """Names of refs to be written: unreadable, leading nowhere, or lost (a lost branch may just be deleted)."""
    found = {damage.sha256 for damage in refs.damage if damage.sha256.startswith("refs/")}
    found |= {
        name
        for name, oid in refs.ids.items()
        if name.startswith((BRANCHES, TAGS)) and not _has(repository, oid) and not (copy and copy.read(oid))
    }
    there = refs.ids.keys()
    if BRANCHES + MAIN not in there | found:  # then other branches are more likely lost with it than deleted
        found |= {BRANCHES + MAIN, *(name for name in (copy.refs if copy else ()) if name.startswith(BRANCHES))} - there
    found |= {name for name in tags if name not in there}
    return found | {name for name in (copy.refs if copy else ()) if name.startswith(TAGS) and name not in there}


def _has(repository: pygit2.Repository, oid: str) -> bool:
    try:
        return repository[oid] is not None
    except (pygit2.GitError, KeyError, ValueError, OSError):
        return False


def _objects(repository: pygit2.Repository) -> Iterator[pygit2.Object]:
    for oid in repository.odb:
        try:
            kind, _ = repository.odb.read_header(oid)
            if int(kind) in (1, 4):
                yield repository[oid]
        except (pygit2.GitError, KeyError, ValueError, OSError):
            continue


def _commits(repository: pygit2.Repository, side_mark: str) -> Iterator[_Seen]:
    for found in _objects(repository):
        if isinstance(found, pygit2.Commit):
            _, metadata = decode_message(found.raw_message.decode("utf-8", "replace"))
            side = str(metadata.get(side_mark, ""))
            yield _Seen(str(found.id), tuple(map(str, found.parent_ids)), side, found.commit_time)


def _tag_objects(repository: pygit2.Repository) -> dict[str, str]:
    """Full name -> id of the tag objects that the store holds: they know their names."""
    found = (each for each in _objects(repository) if isinstance(each, pygit2.Tag))
    return {f"{TAGS}{tag.name}": str(tag.id) for tag in found if tag.name}


def _of_tag(name: str, copy: Copy | None, tags: dict[str, str]) -> tuple[str | None, str]:
    if copy and name in copy.refs and copy.read(copy.refs[name]):
        return copy.refs[name], "taken from the copy"
    if name in tags:
        return tags[name], "written again, as its tag object says"
    return None, "nothing says what it named; removed"


def _of_branch(name: str, copy: Copy | None, commits: dict[str, _Seen]) -> tuple[str | None, str]:
    branch = name.removeprefix(BRANCHES)
    staged = [commit for commit in commits.values() if commit.side == branch]
    if staged:
        newest = max(staged, key=lambda commit: (commit.at, commit.id))
        return newest.id, f"written again at {newest.id[:12]}, the newest commit that was staged on it"
    if copy and (oid := copy.branch(branch)):
        return oid, "taken from the copy"
    return None, "no commit was staged on it; removed, a build makes it anew"


def _newest_main(commits: dict[str, _Seen], copy: Copy | None) -> tuple[str | None, str]:
    """The end of the longest line of first parents: main only ever moves forward along them."""
    known = copy.branch(MAIN) if copy else None
    starts = [known] if known else [commit.id for commit in commits.values() if not commit.parents]
    if not starts:
        return None, "no commit of it was found; nothing was written"
    children: dict[str, list[_Seen]] = {}
    for commit in commits.values():
        if commit.parents and not commit.side:
            children.setdefault(commit.parents[0], []).append(commit)
    layer, steps = list(starts), 0
    while following := _after(layer, children):
        layer, steps = following, steps + 1
    newest = max(layer, key=lambda oid: (commits[oid].at if oid in commits else 0, oid))
    if known and not steps:
        return newest, f"taken from the copy, at {newest[:12]}"
    origin = f"where the copy has it, at {known[:12]}" if known else "the first commit of the store"
    return newest, f"written again at {newest[:12]}, {steps} commits after {origin}"


def _after(layer: Iterable[str], children: dict[str, list[_Seen]]) -> list[str]:
    return [child.id for oid in layer for child in children.get(oid, ())]


def _remove(folder: Path, name: str) -> None:
    path = folder / name
    if path.is_file():
        os.unlink(path)
        durable.sync_folders([path.parent])
