"""Loose objects of a Git repository, read by Python's zlib in libgit2's place.

libgit2 1.9.7 never returns from a loose object that ends too early, as a power cut or a full disk may leave one, and
holds Python's lock meanwhile (its issue 7342); a header with a wrong size makes it write outside its buffer (7177).
Its own reader stays behind this one, for what only asks whether an object is there.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import pygit2

OBJECT_KINDS = {1: "commit", 2: "tree", 3: "blob", 4: "tag"}
"""Git's numbers of its kinds of objects, in packs and in libgit2."""
KIND_NUMBERS = {kind: number for number, kind in OBJECT_KINDS.items()}
_ID_CHARACTERS = 40


class LooseObjects(pygit2.OdbBackend):
    """The loose objects of one folder. Damage is a GitError, what the machine could not read an OSError."""

    def __init__(self, objects: Path) -> None:
        super().__init__()
        self._objects = objects

    def _read(self, oid: str) -> tuple[int, bytes]:
        try:
            packed = (self._objects / oid[:2] / oid[2:]).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise KeyError(oid) from None
        stream = zlib.decompressobj()
        try:
            content = stream.decompress(packed)
        except zlib.error as error:
            raise pygit2.GitError(f"loose object {oid} cannot be unpacked: {error}") from None
        if not stream.eof:
            raise pygit2.GitError(f"loose object {oid} ends too early, after {len(packed)} bytes")
        head, _, data = content.partition(b"\0")
        kind, _, size = head.partition(b" ")
        number = KIND_NUMBERS.get(kind.decode("latin-1"))
        if number is None or size != b"%d" % len(data):
            raise pygit2.GitError(f"loose object {oid} says {head[:40]!r} of itself and has {len(data)} bytes")
        return number, data

    def read_cb(self, oid: pygit2.Oid) -> tuple[int, bytes]:
        """Kind and data. Raises KeyError where there is no such loose object."""
        return self._read(str(oid))

    def read_prefix_cb(self, oid: str | pygit2.Oid) -> tuple[int, bytes, pygit2.Oid]:
        """The same by the beginning of an id, which also is how libgit2 asks for a whole one."""
        name = self._whole(str(oid))
        return *self._read(name), pygit2.Oid(hex=name)

    def read_header_cb(self, oid: pygit2.Oid) -> tuple[int, int]:
        """Kind and size."""
        kind, data = self._read(str(oid))
        return kind, len(data)

    def exists_cb(self, oid: pygit2.Oid) -> bool:
        """Whether there is a file, in whatever state."""
        name = str(oid)
        return (self._objects / name[:2] / name[2:]).is_file()

    def exists_prefix_cb(self, oid: str | pygit2.Oid) -> pygit2.Oid:
        """The whole id. Raises KeyError or ValueError where none or several begin so."""
        return pygit2.Oid(hex=self._whole(str(oid)))

    def refresh_cb(self) -> None:
        """Nothing is remembered."""

    def __iter__(self) -> Iterator[pygit2.Oid]:
        return iter(())  # libgit2 lists the same folder by itself

    def _whole(self, begin: str) -> str:
        if len(begin) == _ID_CHARACTERS:
            return begin
        folder = self._objects / begin[:2]
        names = sorted(path.name for path in folder.glob(f"{begin[2:]}*")) if folder.is_dir() else []
        if len(names) > 1:
            raise ValueError(f"{begin} is the beginning of {len(names)} ids")
        if not names:
            raise KeyError(begin)
        return begin[:2] + names[0]
