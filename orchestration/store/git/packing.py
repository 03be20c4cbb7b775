"""Loose Git objects into packs. A small commit leaves some ten files of a few hundred bytes, each a block of the disk.

Git's own gc is off, because it would prune commits that only lineage rows name: here nothing is ever left out.
"""

from __future__ import annotations

import hashlib
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from orchestration.store.git.loose import KIND_NUMBERS
from orchestration.store.git.objects import GitObjects, write_pack

PACK_FROM = 64
"""Fewer loose objects stay: a pack of its own per gc would cost readers more than the files do."""
PACK_BYTES = 64 * 2**20  # of contents in one pack; it is written from memory


def pack_loose(git: GitObjects, *, dry_run: bool = False) -> int:
    """Move whole loose objects into packs; returns how many. The caller keeps every writer out meanwhile.

    A damaged one stays where it is: `verify` names it, and a pack would only hide which file is at fault.
    """
    loose = list(loose_objects(git.folder))
    if len(loose) < PACK_FROM:
        return 0
    count, size = 0, 0
    chosen: dict[str, tuple[str, bytes]] = {}
    paths: list[Path] = []
    for oid, path in loose:
        found = _whole(oid, path)
        if found is None:
            continue
        count += 1
        if dry_run:
            continue
        chosen[oid] = found
        paths.append(path)
        size += len(found[1])
        if size >= PACK_BYTES:
            _replace(git.folder, chosen, paths)
            chosen, paths, size = {}, [], 0
    if chosen:
        _replace(git.folder, chosen, paths)
    return count


def loose_objects(folder: Path) -> Iterator[tuple[str, Path]]:
    """(id, file) of every loose object, sorted."""
    for group in sorted(os.listdir(folder)):
        if re.fullmatch("[0-9a-f]{2}", group):
            for name in sorted(os.listdir(folder / group)):
                if re.fullmatch("[0-9a-f]{38}", name):
                    yield group + name, folder / group / name


def _whole(oid: str, path: Path) -> tuple[str, bytes] | None:
    """Kind and content, or None where the file does not hold what its name says."""
    try:
        raw = zlib.decompress(path.read_bytes())
    except (OSError, zlib.error):
        return None
    head, separator, data = raw.partition(b"\0")
    kind = head.split(b" ")[0].decode("latin-1")
    if not separator or kind not in KIND_NUMBERS or hashlib.sha1(raw).hexdigest() != oid:
        return None
    return kind, data


def _replace(folder: Path, objects: dict[str, tuple[str, bytes]], paths: list[Path]) -> None:
    write_pack(folder / "pack", objects)  # durable before the first file goes
    for path in paths:
        path.unlink()
    for group in {path.parent for path in paths}:
        with suppress(OSError):  # not empty
            group.rmdir()
