"""Git objects of the store: pointer blobs, trees and commits, read through libgit2, written here.

    version https://git-lfs.github.com/spec/v1
    oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393
    size 12345

New objects are written by our own code, not by libgit2: its `git_commit_create` (1.9.7) answers with
an id and no error although the write failed on a full disk. Small commits write loose objects; a
commit of more than 64 objects writes one pack (a file and an fsync instead of thousands).
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import pygit2

from assets.machine_faults import MACHINE_ERRNOS, told_in_text
from orchestration.store import durable
from orchestration.store.contract import REPAIR, CommitInfo, CorruptObjectError, StoreError
from orchestration.store.git.loose import KIND_NUMBERS

TREE, BLOB = 0o40000, 0o100644
Entry = tuple[int, str]  # mode, object id
Entries = Mapping[str, Entry]

ATTRIBUTES = ".gitattributes"
ATTRIBUTES_TEXT = b"* filter=lfs diff=lfs merge=lfs -text\n.gitattributes -filter -diff -merge text\n"

LOOSE_LIMIT = 64  # objects; above it one pack is faster and costs one inode
_POINTER_HEAD = "version https://git-lfs.github.com/spec/v1\noid sha256:"
_METADATA_MARK = "\n\nHeadwater-Metadata: "
_WALK_ORDER = pygit2.enums.SortMode.TOPOLOGICAL | pygit2.enums.SortMode.TIME
AUTHOR = "headwater <headwater@localhost>"


@dataclass(frozen=True)
class Pointer:
    """What a pointer blob says: digest and size of the content."""

    sha256: str
    size_bytes: int

    def blob(self) -> bytes:
        """The pointer file. An empty file is its own pointer: that is Git LFS's rule."""
        if self.size_bytes == 0:
            return b""
        return f"{_POINTER_HEAD}{self.sha256}\nsize {self.size_bytes}\n".encode()


EMPTY = Pointer(hashlib.sha256(b"").hexdigest(), 0)


def parse_pointer(data: bytes) -> Pointer | None:
    """The pointer in a blob, or None if the blob is not one."""
    if not data:
        return EMPTY
    text = data[:1024].decode("utf-8", "replace")
    sha256, separator, size = text.removeprefix(_POINTER_HEAD).rstrip("\n").partition("\nsize ")
    if not text.startswith(_POINTER_HEAD) or not separator or len(sha256) != 64 or not size.isdigit():
        return None
    return Pointer(sha256, int(size))


def encode_tree(entries: Entries) -> bytes:
    """A Git tree object; Git sorts a folder as if its name ended in `/`."""
    rows = []
    for name, (mode, oid) in entries.items():
        raw = name.encode("utf-8", "surrogateescape")
        rows.append((raw + b"/" if mode == TREE else raw, b"%o %b\0" % (mode, raw) + bytes.fromhex(oid)))
    return b"".join(row for _, row in sorted(rows))


def decode_tree(data: bytes) -> dict[str, Entry]:
    """Name -> (mode, id), in Git's order."""
    entries: dict[str, Entry] = {}
    at = 0
    while at < len(data):
        end = data.index(b"\0", at)
        mode, _, name = data[at:end].partition(b" ")
        entries[name.decode("utf-8", "surrogateescape")] = (int(mode, 8), data[end + 1 : end + 21].hex())
        at = end + 21
    return entries


def encode_message(message: str, metadata: Mapping[str, str]) -> str:
    """Commit message with the metadata as one JSON trailer: readable in `git log`, parsed exactly."""
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise StoreError(f"metadata must be strings, found {key!r}: {value!r}; encode it (JSON) before")
    text = message + _METADATA_MARK + json.dumps(dict(metadata), ensure_ascii=False, sort_keys=True) + "\n"
    try:
        text.encode()
    except UnicodeEncodeError:
        raise StoreError(f"commit message {message[:80]!r} or its metadata is not valid Unicode") from None
    if "\0" in text:
        raise StoreError(f"commit message {message[:80]!r} has a NUL character, which Git cannot keep")
    return text


def decode_message(text: str) -> tuple[str, dict[str, str]]:
    """Message and metadata of a commit. A commit made by plain Git has no metadata."""
    message, mark, block = text.rpartition(_METADATA_MARK)
    if mark:
        with suppress(ValueError):
            return message, json.loads(block)
    return text.rstrip("\n"), {}


def damaged(what: str, how: str, name: str, error: Exception) -> CorruptObjectError | OSError:
    """What to raise for something that libgit2 cannot read: it is damaged, or this machine could not read it now,
    which libgit2 tells in its message only."""
    number = told_in_text(error, MACHINE_ERRNOS)
    if number is not None:
        return OSError(number, f"{what} could not be read ({error}), which does not say that it is damaged")
    remedy = f"`headwater verify` finds all damage; {REPAIR} mends it."
    return CorruptObjectError(f"{what} {how} ({error}). {remedy}", name)


class GitObjects:
    """Reads trees, pointers and commits, with small caches: all of them are immutable."""

    def __init__(self, repository: pygit2.Repository) -> None:
        self.repository = repository
        self.folder = Path(repository.path) / "objects"
        self.tree = lru_cache(maxsize=32)(self._tree)  # a tree of 5,000 entries is about 1 MB here
        self.pointer = lru_cache(maxsize=65_536)(self._pointer)

    def _read(self, oid: str) -> bytes:
        try:
            return self.repository.odb.read(oid)[1]
        except (pygit2.GitError, KeyError, ValueError, OSError) as error:
            raise damaged(f"Git object {oid} of {self.repository.path}", "is missing or damaged", oid, error) from error

    def _tree(self, oid: str) -> dict[str, Entry]:
        return decode_tree(self._read(oid))

    def _pointer(self, oid: str) -> Pointer:
        pointer = parse_pointer(self._read(oid))
        if pointer is None:
            raise CorruptObjectError(
                f"blob {oid} is not a Git LFS pointer: someone committed a plain file with Git. "
                "Commit it again through the store, or with git-lfs installed.",
                oid,
            )
        return pointer

    def commit(self, commit_id: str) -> pygit2.Commit:
        """The commit itself."""
        try:
            found = self.repository[commit_id]
        except (pygit2.GitError, KeyError, ValueError, OSError) as error:
            raise damaged(
                f"commit {commit_id} of {self.repository.path}", "is missing or damaged", commit_id, error
            ) from error
        if not isinstance(found, pygit2.Commit):
            raise CorruptObjectError(f"{commit_id} is not a commit but a {type(found).__name__.lower()}", commit_id)
        return found

    def commit_named(self, prefix: str) -> str | None:
        """Id of the one commit whose id begins so. Raises CorruptObjectError for one that cannot be read."""
        try:
            found = self.repository[prefix]
        except (KeyError, ValueError):  # none, or several
            return None
        except (pygit2.GitError, OSError) as error:
            raise damaged(f"{prefix} of {self.repository.path}", "is damaged", prefix, error) from error
        return str(found.id) if isinstance(found, pygit2.Commit) else None

    def root(self, commit_id: str) -> str:
        """Id of a commit's tree."""
        return str(self.commit(commit_id).tree_id)

    def history(self, tip: str) -> Iterator[pygit2.Commit]:
        """A commit and its ancestors, newest first. Raises CorruptObjectError at one that cannot be read."""
        walker = self.repository.walk(tip, _WALK_ORDER)
        while True:
            try:
                commit = next(walker, None)
            except (pygit2.GitError, KeyError, ValueError, OSError) as error:
                raise damaged(
                    f"the history of {tip} in {self.repository.path}", "cannot be followed", tip, error
                ) from error
            if commit is None:
                return
            yield commit

    def common_ancestor(self, ours: str, theirs: str) -> str | None:
        """The commit that two histories have in common; None where they have none. Raises CorruptObjectError."""
        try:
            base = self.repository.merge_base(ours, theirs)
        except (pygit2.GitError, KeyError, ValueError, OSError) as error:
            what = f"the history of {ours} or {theirs} in {self.repository.path}"
            raise damaged(what, "cannot be followed", theirs, error) from error
        return str(base) if base else None

    def info(self, commit: pygit2.Commit) -> CommitInfo:
        """A commit as the contract shows it."""
        message, metadata = decode_message(commit.raw_message.decode("utf-8", "replace"))
        return CommitInfo(
            id=str(commit.id),
            parents=tuple(str(p) for p in commit.parent_ids),
            message=message,
            metadata=metadata,
            committed_at=datetime.fromtimestamp(commit.commit_time, UTC).isoformat(),
        )


class NewObjects:
    """The objects of one commit under way, readable at once; `write` makes them all durable."""

    def __init__(self, stored: GitObjects) -> None:
        self._stored = stored
        self._new: dict[str, tuple[str, bytes]] = {}

    def add(self, kind: str, data: bytes) -> str:
        """Id of an object that `write` will store."""
        oid = hashlib.sha1(b"%b %d\0" % (kind.encode(), len(data)) + data).hexdigest()
        self._new[oid] = (kind, data)
        return oid

    def add_tree(self, entries: Entries) -> str:
        """Id of a tree."""
        return self.add("tree", encode_tree(entries))

    def tree(self, oid: str) -> Entries:
        """A tree, new or stored."""
        if oid in self._new:
            return decode_tree(self._new[oid][1])
        return self._stored.tree(oid)

    def add_commit(self, tree: str, parents: list[str], text: str, now: int) -> str:
        """Id of a commit."""
        head = "".join([f"tree {tree}\n", *(f"parent {p}\n" for p in parents)])
        who = f"author {AUTHOR} {now} +0000\ncommitter {AUTHOR} {now} +0000\n"
        return self.add("commit", f"{head}{who}\n{text}".encode())

    def write(self) -> None:
        """Store all of them durably. They mean nothing until a ref leads to them."""
        folder = self._stored.folder
        if len(self._new) > LOOSE_LIMIT:
            write_pack(folder / "pack", self._new)
            return
        for oid, (kind, data) in self._new.items():
            write_loose(folder, oid, kind, data)


def write_loose(objects: Path, oid: str, kind: str, data: bytes) -> None:
    """Store one object, also over one that is there: it may be damaged, or its writer not have come to its syncs."""
    content = b"%b %d\0" % (kind.encode(), len(data)) + data
    durable.write_small_file(objects / oid[:2], oid[2:], zlib.compress(content, 1), within=objects)


def write_pack(folder: Path, objects: Mapping[str, tuple[str, bytes]]) -> None:
    """One pack with its index (version 2), visible only when both are complete."""
    durable.make_folder(folder, within=folder.parent)
    body = bytearray(b"PACK" + struct.pack(">II", 2, len(objects)))
    rows = []
    for oid, (kind, data) in objects.items():
        packed = _pack_header(KIND_NUMBERS[kind], len(data)) + zlib.compress(data, 1)
        rows.append((bytes.fromhex(oid), zlib.crc32(packed), len(body)))
        body += packed
    if len(body) >= 2**31:
        raise StoreError(f"one commit of {len(objects)} files makes an index of {len(body)} bytes: split the commit")
    body += hashlib.sha1(body).digest()
    rows.sort()
    name = "pack-" + hashlib.sha1(b"".join(row[0] for row in rows)).hexdigest()
    files = {".pack": bytes(body), ".idx": _pack_index(rows, bytes(body[-20:]))}
    temporary = {suffix: folder / durable.temporary_name() for suffix in files}
    try:
        for suffix, content in files.items():  # .idx last: readers look for it first
            durable.write_file(temporary[suffix], [content])
        for suffix in files:
            os.rename(temporary[suffix], folder / (name + suffix))
    except BaseException:
        for path in temporary.values():
            with suppress(OSError):
                os.unlink(path)
        raise
    durable.sync_folders([folder])


def _pack_header(kind: int, size: int) -> bytes:
    first, size = (kind << 4) | (size & 15), size >> 4
    out = bytearray()
    while size:
        out.append(first | 0x80)
        first, size = size & 0x7F, size >> 7
    out.append(first)
    return bytes(out)


def _pack_index(rows: list[tuple[bytes, int, int]], pack_digest: bytes) -> bytes:
    counts = [0] * 256
    for oid, _, _ in rows:
        counts[oid[0]] += 1
    total, fanout = 0, []
    for count in counts:
        total += count
        fanout.append(total)
    index = b"\xfftOc" + struct.pack(">I256I", 2, *fanout)
    index += b"".join(row[0] for row in rows)
    index += struct.pack(f">{len(rows)}I", *(row[1] for row in rows))
    index += struct.pack(f">{len(rows)}I", *(row[2] for row in rows))
    index += pack_digest
    return index + hashlib.sha1(index).digest()
