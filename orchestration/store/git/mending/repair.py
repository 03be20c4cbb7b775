"""Mends a Git store: from what it still holds, and from a clone or backup.

In order, for each step needs the one before: the files that make it a repository, packs, refs, Git objects, contents,
records of takedowns. What was done is told line by line; what could not be mended stays as it is and is told, too.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from orchestration.store import durable
from orchestration.store.contract import Damage, StoreError
from orchestration.store.git.create import configure
from orchestration.store.git.lfs_objects import CHUNK_BYTES, LfsObjects, Pointer
from orchestration.store.git.mending.copies import Copy, read_object
from orchestration.store.git.mending.refs import restore_refs
from orchestration.store.git.objects import GitObjects, write_loose
from orchestration.store.git.opening import open_repository
from orchestration.store.git.packs import salvage_packs
from orchestration.store.git.ref_files import read_head, read_refs
from orchestration.store.git.verify import config_damage, verify, walk_index

LOCK_TIMEOUT_S = 600.0
FOLDERS = ("objects/pack", "refs/heads", "refs/tags", "headwater")


@dataclass
class RepairReport:
    """What a repair did, a line each, and the damage that it could not mend."""

    done: list[str] = field(default_factory=list)
    left: list[Damage] = field(default_factory=list)


def repair(folder: Path, source: Path | None, side_mark: str) -> RepairReport:
    """Mend the store in `folder`. Commits with `side_mark` in their metadata never stood on `main` by themselves.

    Raises StoreError where there is nothing to mend or to mend from.
    """
    if not folder.is_dir() or not any(folder.iterdir()):
        raise StoreError(f"there is no store at {folder} to mend; copy a backup there")
    copy = Copy(source) if source else None
    if copy and copy.git_dir.resolve() == folder.resolve():
        raise StoreError(f"{source} is the store itself; give a clone or a backup of it")
    report = RepairReport()
    lock = folder / "headwater" / "sweep.lock"
    with durable.typed_errors("repair the store"):
        _restore_frame(folder, report)
        with durable.locked(lock, timeout_s=LOCK_TIMEOUT_S, what="a commit, gc or purge"):
            report.done += salvage_packs(folder / "objects", folder / "headwater" / "set-aside")
            report.done += restore_refs(folder, copy, side_mark)
            _restore_objects(folder, copy, report)
            _set_aside_loose(folder, copy, report)
            lfs = LfsObjects(folder / "lfs")
            _restore_takedowns(lfs, copy, report)
            lost = _restore_contents(folder, lfs, copy, report)
            whole = verify(GitObjects(open_repository(folder)), lfs, fraction=0.0)
    report.left = whole.damage + lost
    return report


def _restore_frame(folder: Path, report: RepairReport) -> None:
    """Folders, HEAD and configuration: what Git needs to see a repository at all."""
    lfs = LfsObjects(folder / "lfs")
    for path in (*(folder / name for name in FOLDERS), *lfs.folders()):
        if not path.is_dir():
            durable.make_folder(path)
            report.done.append(f"{path.relative_to(folder)}/: made again")
    if read_head(folder):
        durable.write_small_file(folder, "HEAD", b"ref: refs/heads/main\n")
        report.done.append("HEAD: written again")
    if config_damage(folder):
        configure(folder)
        report.done.append("config: written again, with the settings that a new store has")


def _restore_objects(folder: Path, copy: Copy | None, report: RepairReport) -> None:
    """Round by round, for an object that comes back may name others that are lost."""
    restored: dict[str, str] = {}
    while copy:
        index = walk_index(GitObjects(open_repository(folder)), read_refs(folder).ids)
        found = {oid: whole for oid in index.bad if oid not in restored and (whole := copy.read(oid))}
        if not found:
            break
        for oid, (kind, data) in found.items():
            write_loose(folder / "objects", oid, kind, data)
            restored[oid] = kind
    report.done += [f"{kind} {oid}: taken from the copy" for oid, kind in sorted(restored.items())]


def _set_aside_loose(folder: Path, copy: Copy | None, report: RepairReport) -> None:
    """Damaged objects that no ref leads to (of deleted branches): gc cannot tell what they held."""
    repository = open_repository(folder)
    needed = walk_index(GitObjects(repository), read_refs(folder).ids).bad
    for path in sorted((folder / "objects").glob("[0-9a-f][0-9a-f]/*")):
        oid = path.parent.name + path.name
        if len(oid) != 40 or read_object(repository, oid):
            continue
        if copy and (whole := copy.read(oid)):
            write_loose(folder / "objects", oid, *whole)
            report.done.append(f"{whole[0]} {oid}: taken from the copy (no ref leads to it)")
        elif oid not in needed:
            aside = folder / "headwater" / "set-aside"
            durable.make_folder(aside)
            os.rename(path, aside / oid)
            durable.sync_folders([path.parent, aside])
            report.done.append(f"Git object {oid}: damaged and needed by no ref; set aside in headwater/set-aside")


def _restore_takedowns(lfs: LfsObjects, copy: Copy | None, report: RepairReport) -> None:
    damaged = [Path(name).stem for name, problem in lfs.damaged_records() if problem == "altered"]
    for sha256 in damaged:
        known = lfs.restore_record(sha256, copy.lfs if copy else None)
        how = "taken from the copy" if known else "written again; its reason and time are lost, the ban stays"
        report.done.append(f"takedown of {sha256}: {how}")
    for sha256 in sorted(copy.lfs.takedowns().keys() - lfs.takedowns().keys()) if copy else ():
        lfs.restore_record(sha256, copy.lfs if copy else None)
        lfs.purge(sha256, "")
        report.done.append(f"takedown of {sha256}: it was lost; taken from the copy, and its bytes deleted again")


def _restore_contents(folder: Path, lfs: LfsObjects, copy: Copy | None, report: RepairReport) -> list[Damage]:
    """Hash every content; take what is damaged from the copy. Returns what stays damaged, as verify tells it."""
    git = GitObjects(open_repository(folder))
    if copy:
        wanted = {p.sha256: p for p in walk_index(git, read_refs(folder).ids).pointers.values()}
        for sha256, pointer in sorted(wanted.items()):
            problem = None if lfs.is_purged(sha256) else lfs.problem(pointer)
            if problem and not (problem == "missing" and lfs.is_collected(sha256)) and (path := copy.content(pointer)):
                _take_content(lfs, pointer, path)
                report.done.append(f"content {sha256}: was {problem}, taken from the copy")
    return [each for each in verify(git, lfs).damage if each.kind == "content"]


def _take_content(lfs: LfsObjects, pointer: Pointer, path: Path) -> None:
    """A copy of the file, not a link: what befalls the backup later must not befall the store."""
    target = lfs.path(pointer.sha256)
    temporary = lfs.folder / "tmp" / durable.temporary_name()
    with path.open("rb") as source:
        durable.write_file(temporary, iter(lambda: source.read(CHUNK_BYTES), b""))
    durable.make_folder(target.parent, within=lfs.objects)
    os.rename(temporary, target)
    durable.sync_folders([target.parent])
