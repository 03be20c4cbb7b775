"""The bytes of the store, in the layout of Git LFS, and the memory of what was deleted on purpose.

lfs/objects/ab/cd/abcd...   content, read-only, named by its SHA-256
lfs/tmp/                    files under way; litter older than an hour is swept by gc
lfs/purged/<sha256>.json    taken down for good: why and when
lfs/collected/ab/<sha256>   deleted by gc, so that "collected" is told from "lost"
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Literal

from orchestration.store import durable
from orchestration.store.contract import REPAIR, CorruptObjectError, ObjectInfo, PurgedObjectError, StoreError
from orchestration.store.git.objects import Pointer

BATCH_FILES = 64  # above it, one syncfs instead of an fsync per file
CHUNK_BYTES = 1 << 20
# link(2) is not possible here: another filesystem, no hard links, not our file, too many links
_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS)

_REMEDY = f"Build the asset again, which replaces it, or run {REPAIR}."
_UNKNOWN = {"at": "an unknown time", "reason": "its record was damaged"}
Problem = Literal["missing", "altered", "wrong_size"]


@dataclass(frozen=True)
class _Staged:
    temporary: Path
    pointer: Pointer


class LfsObjects:
    """Objects by SHA-256 under one `lfs` folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.objects = folder / "objects"
        self._temporary = folder / "tmp"
        self._purged = folder / "purged"
        self._collected = folder / "collected"

    def create(self) -> None:
        """Make the folders of an empty store."""
        for folder in self.folders():
            durable.make_folder(folder)

    def folders(self) -> tuple[Path, ...]:
        """The folders of an empty store."""
        return self.objects, self._temporary, self._purged, self._collected

    def path(self, sha256: str) -> Path:
        """Where an object lies, or would lie."""
        return self.objects / sha256[:2] / sha256[2:4] / sha256

    # --- writing

    def put(self, contents: Mapping[str, Path | bytes]) -> dict[str, Pointer]:
        """Store the content of each path; when this returns, all of it is durable.

        Raises PurgedObjectError for bytes that were taken down; no object appears then.
        """
        durable.make_folder(self._temporary)
        many = len(contents) > BATCH_FILES
        staged: dict[str, _Staged] = {}
        try:
            for name in sorted(contents):
                temporary = self._temporary / durable.temporary_name()
                staged[name] = _Staged(temporary, Pointer("", 0))
                staged[name] = _Staged(temporary, self._stage(name, contents[name], temporary, sync=not many))
            if many:
                durable.sync_filesystem(self._temporary)
            folders = {self._publish(each, sync=not many) for each in staged.values()}
            if many:
                durable.sync_filesystem(self.objects)
            else:
                durable.sync_folders(folders)
            for each in staged.values():  # a power loss must not take the object and leave what the mark forgave
                with suppress(FileNotFoundError):
                    os.unlink(self._collected_mark(each.pointer.sha256))
        finally:
            for each in staged.values():
                with suppress(OSError):
                    os.unlink(each.temporary)
        return {name: each.pointer for name, each in staged.items()}

    def again(self, info: ObjectInfo, name: str) -> Pointer:
        """The pointer of an object that is stored already, made young so that gc leaves it to the commit under way."""
        pointer = Pointer(info.sha256, info.size_bytes)
        os.utime(self.check(pointer, name))
        return pointer

    def _stage(self, name: str, content: Path | bytes, temporary: Path, *, sync: bool) -> Pointer:
        if isinstance(content, (bytes, bytearray, memoryview)):
            data = bytes(content)
            pointer = Pointer(hashlib.sha256(data).hexdigest(), len(data))
            self.refuse_purged(pointer.sha256, name)
            durable.write_file(temporary, [data], sync=sync)
            return pointer
        if not isinstance(content, Path):
            raise StoreError(f"{name}: content must be a Path or bytes, found {type(content).__name__}")
        if not content.is_file():
            raise StoreError(f"{name}: {content} does not exist or is not a regular file; nothing was committed")
        if not _link(content, temporary):
            with content.open("rb") as source:
                durable.write_file(temporary, iter(lambda: source.read(CHUNK_BYTES), b""), sync=False)
        pointer = _hash_settled(name, content, temporary, sync=sync)
        self.refuse_purged(pointer.sha256, name)
        return pointer

    def _publish(self, staged: _Staged, *, sync: bool) -> Path:
        """Rename into place, also over what is there: that may be damaged, ours was hashed just now."""
        final = self.path(staged.pointer.sha256)
        durable.make_folder(final.parent, sync=sync, within=self.objects)
        os.rename(staged.temporary, final)
        os.utime(final)  # young, so that gc leaves it to the commit under way: a linked file has its source's time
        return final.parent

    # --- reading

    def open(self, pointer: Pointer, name: str) -> BinaryIO:
        """Read an object. Raises PurgedObjectError, or CorruptObjectError if it is missing or of the wrong size."""
        return self.check(pointer, name).open("rb")

    def check(self, pointer: Pointer, name: str) -> Path:
        """Path of an object that exists with the right size; its hash is not read."""
        self.refuse_purged(pointer.sha256, name)
        path = self.path(pointer.sha256)
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise CorruptObjectError(self._explain_missing(pointer.sha256, name), pointer.sha256) from None
        if size != pointer.size_bytes:
            raise CorruptObjectError(
                f"{name}: object {pointer.sha256} has {size} bytes instead of {pointer.size_bytes}: "
                f"truncated or altered. {_REMEDY}",
                pointer.sha256,
            )
        return path

    def read(self, pointer: Pointer, name: str) -> bytes:
        """Whole content, its hash verified."""
        with self.open(pointer, name) as file:
            data = file.read()
        if hashlib.sha256(data).hexdigest() != pointer.sha256:
            raise CorruptObjectError(
                f"{name}: the bytes of object {pointer.sha256} have another SHA-256: altered on disk. {_REMEDY}",
                pointer.sha256,
            )
        return data

    def _explain_missing(self, sha256: str, name: str) -> str:
        if self.is_collected(sha256):
            return (
                f"{name}: object {sha256} was collected by gc, because no branch, tag or kept commit needed it; "
                "build the asset again from its inputs to have it back"
            )
        return f"{name}: object {sha256} is missing. {_REMEDY}"

    def problem(self, pointer: Pointer) -> Problem | None:
        """What is wrong with the stored bytes, after reading all of them."""
        try:
            with self.path(pointer.sha256).open("rb") as file:
                if os.fstat(file.fileno()).st_size != pointer.size_bytes:
                    return "wrong_size"
                same = hashlib.file_digest(file, "sha256").hexdigest() == pointer.sha256
        except FileNotFoundError:
            return "missing"
        return None if same else "altered"

    # --- deleting on purpose

    def is_purged(self, sha256: str) -> bool:
        """Whether a takedown deleted this object."""
        return (self._purged / f"{sha256}.json").exists()

    def is_collected(self, sha256: str) -> bool:
        """Whether gc deleted this object (and nobody stored it again)."""
        return self._collected_mark(sha256).exists()

    def refuse_purged(self, sha256: str, name: str) -> None:
        """Raise PurgedObjectError, naming the reason, if the object was taken down."""
        if not self.is_purged(sha256):
            return
        tombstone = self._tombstone(sha256) or _UNKNOWN
        raise PurgedObjectError(
            f"{name}: object {sha256} was taken down at {tombstone['at']}: {tombstone['reason']}. "
            "Its bytes are deleted and may not be stored again."
        )

    def _tombstone(self, sha256: str) -> dict[str, str] | None:
        """What a takedown wrote, or None if that cannot be read: the object stays taken down all the same."""
        try:
            tombstone = json.loads((self._purged / f"{sha256}.json").read_text("utf-8"))
            return {"at": str(tombstone["at"]), "reason": str(tombstone["reason"])}
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def damaged_records(self) -> Iterator[tuple[str, Literal["missing", "altered"]]]:
        """Records of takedowns that are lost or cannot be read."""
        if not self._purged.is_dir():
            yield "lfs/purged/", "missing"
        for sha256 in self.takedowns():
            if self._tombstone(sha256) is None:
                yield f"lfs/purged/{sha256}.json", "altered"

    def restore_record(self, sha256: str, other: LfsObjects | None) -> bool:
        """Write a takedown's record again, as another copy of the store has it; whether that one has it."""
        found = other._tombstone(sha256) if other else None
        text = json.dumps(found or _UNKNOWN, ensure_ascii=False, sort_keys=True) + "\n"
        durable.write_small_file(self._purged, f"{sha256}.json", text.encode())
        return found is not None

    def takedowns(self) -> dict[str, str]:
        """SHA-256 -> reason of everything that was taken down."""
        marks = [self._purged / name for name in _sorted_names(self._purged) if name.endswith(".json")]
        return {mark.stem: (self._tombstone(mark.stem) or _UNKNOWN)["reason"] for mark in marks}

    def purge(self, sha256: str, reason: str) -> int:
        """Delete the bytes for good; the tombstone comes first, so that a crash cannot lose it."""
        mark = self._purged / f"{sha256}.json"
        if self._tombstone(sha256) is None:
            tombstone = {"reason": reason, "at": datetime.now(UTC).isoformat(timespec="seconds")}
            content = (json.dumps(tombstone, ensure_ascii=False, sort_keys=True) + "\n").encode()
        else:
            content = mark.read_bytes()  # written again: an earlier attempt may have failed at its sync
        durable.write_small_file(self._purged, mark.name, content)
        return self._delete(sha256)

    def collect(self, sha256: str) -> int:
        """Delete an object nothing needs, remembering that it was no loss."""
        mark = self._collected_mark(sha256)
        durable.write_small_file(mark.parent, mark.name, b"", within=self._collected)
        return self._delete(sha256)

    def _delete(self, sha256: str) -> int:
        path = self.path(sha256)
        size = 0
        with suppress(FileNotFoundError):
            size = path.stat().st_size
            os.unlink(path)
        if path.parent.is_dir():  # also when it was gone: an earlier attempt may have failed at its sync
            durable.sync_folders([path.parent])
        return size

    def _collected_mark(self, sha256: str) -> Path:
        return self._collected / sha256[:2] / sha256

    def stored(self) -> Iterator[tuple[str, os.stat_result]]:
        """Every object that lies in the store, sorted by digest, whether anything refers to it or not."""
        for first in _sorted_names(self.objects):
            for second in _sorted_names(self.objects / first):
                for name in _sorted_names(self.objects / first / second):
                    with suppress(FileNotFoundError):
                        yield name, self.path(name).stat()

    def sweep_litter(self, older_than_s: float) -> None:
        """Delete temporary files that a killed process left."""
        for name in _sorted_names(self._temporary):
            path = self._temporary / name
            with suppress(FileNotFoundError):
                if time.time() - written_at(path.stat()) > older_than_s:
                    os.unlink(path)


def written_at(stat: os.stat_result) -> float:
    """When an object came here: a hard link keeps the old mtime of its source, but not the ctime."""
    return max(stat.st_mtime, stat.st_ctime)


def _sorted_names(folder: Path) -> Iterable[str]:
    return sorted(os.listdir(folder)) if folder.is_dir() else ()


def _link(source: Path, temporary: Path) -> bool:
    """Take a file by hard link and make it read-only; False if the filesystem does not allow it."""
    try:
        os.link(os.path.realpath(source), temporary)  # link(2) would link the symlink itself
        os.chmod(temporary, 0o444)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        return False
    return True


def _hash_settled(name: str, source: Path, temporary: Path, *, sync: bool) -> Pointer:
    """Digest and size of a staged file; a file that someone is still writing is refused."""
    with temporary.open("rb") as file:
        before = os.fstat(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        after = os.fstat(file.fileno())
        if sync:
            os.fsync(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise StoreError(f"{name}: {source} changed while it was being committed; commit it when its writer is done")
    return Pointer(digest, after.st_size)
