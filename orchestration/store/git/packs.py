"""Packs of the Git store: whether one is whole, and what can be saved of one that is not."""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pygit2

from orchestration.store import durable
from orchestration.store.contract import Damage
from orchestration.store.git.loose import OBJECT_KINDS
from orchestration.store.git.objects import write_pack
from orchestration.store.git.opening import TRAILER, is_whole, open_repository


def pack_damage(objects: Path) -> list[Damage]:
    """Packs whose bytes, or whose index's, do not have the checksum they end in."""
    found = []
    for pack in sorted((objects / "pack").glob("*.pack")):
        index = pack.with_suffix(".idx")
        if not index.exists():
            continue  # a pack is seen only with its index; Git leaves such ones after a kill
        if not (is_whole(pack) and is_whole(index) and _belong_together(pack, index)):
            found.append(Damage(f"objects/pack/{pack.name}", "altered", (), (), "pack"))
    return found


def _belong_together(pack: Path, index: Path) -> bool:
    return index.read_bytes()[-2 * TRAILER : -TRAILER] == pack.read_bytes()[-TRAILER:]


def indexed_ids(index: Path) -> list[str]:
    """Object ids that a pack's index names; empty where it cannot be read."""
    data = index.read_bytes()
    if data[:8] != b"\xfftOc\0\0\0\x02" or len(data) < 8 + 1024:
        return []
    count = struct.unpack(">I", data[8 + 1020 : 8 + 1024])[0]
    start = 8 + 1024
    if len(data) < start + 20 * count:
        return []
    return [data[at : at + 20].hex() for at in range(start, start + 20 * count, 20)]


def scan_pack(pack: Path) -> Iterator[tuple[str, str, bytes]]:
    """Id, kind and data of whole objects, one after the other from the front, up to the first that is damaged.

    For a pack without a usable index. Objects that Git keeps as a difference to another one are passed over.
    """
    data = pack.read_bytes()
    at, count = 12, struct.unpack(">I", data[8:12])[0] if data[:4] == b"PACK" and len(data) >= 12 else 0
    for _ in range(count):
        if at >= len(data):
            return
        kind = (data[at] >> 4) & 7
        while data[at] & 0x80:
            at += 1
        at += 1
        if kind == 7:
            at += 20
        elif kind == 6:
            while data[at] & 0x80:
                at += 1
            at += 1
        unpacker = zlib.decompressobj()
        try:
            content = unpacker.decompress(data[at:])
        except zlib.error:
            return
        at = len(data) - len(unpacker.unused_data)
        if name := OBJECT_KINDS.get(kind):
            yield object_id(name, content), name, content


def salvage_packs(objects: Path, aside: Path) -> list[str]:
    """Put what can be read of damaged packs into new ones, and the damaged ones aside; what was done, a line each."""
    done = []
    damaged = [objects.parent / damage.sha256 for damage in pack_damage(objects)]
    for pack in sorted(damaged, key=lambda pack: is_whole(pack.with_suffix(".idx"))):  # see open_repository
        saved = {oid: (kind, data) for oid, kind, data in scan_pack(pack)}
        ids = indexed_ids(pack.with_suffix(".idx"))
        if is_whole(pack.with_suffix(".idx")):
            repository = open_repository(objects.parent)
            for oid in ids:
                with suppress(pygit2.GitError, KeyError, ValueError, OSError):
                    number, data = repository.odb.read(oid)
                    saved[oid] = (OBJECT_KINDS[int(number)], data)
            del repository
        durable.make_folder(aside)
        for path in pack.parent.glob(f"{pack.stem}.*"):
            os.rename(path, aside / path.name)
        durable.sync_folders([pack.parent, aside])
        if saved:
            write_pack(objects / "pack", saved)
        of = f" of {len(ids)}" if ids else ""
        done.append(
            f"objects/pack/{pack.name}: {len(saved)}{of} objects saved; the damaged pack is in headwater/set-aside"
        )
    return done


def object_id(kind: str, data: bytes) -> str:
    """The id Git gives an object."""
    return hashlib.sha1(b"%b %d\0" % (kind.encode(), len(data)) + data).hexdigest()
