"""Contents by SHA-256 in an S3 bucket, beside the data of lakeFS, which refers to them by address.

    <area>/sha256/ab/cd/<sha256>     the content; uploaded once, however many paths and commits hold it
    <area>/purged/<sha256>.json      takedown: reason and time
    <area>/collected/<sha256>        deleted by gc
    <area>/heads/<commit>            head of a deleted branch, so that gc can keep what is young
    <area>/sweep.json                a gc is under way: commits wait for it

S3 has no locks. What keeps a commit and a gc or a takedown apart is order: the writer makes its objects
young (or present) and then looks for a sweep or a tombstone; the other side writes the sweep or tombstone
and then looks at the objects. S3 answers in order, so at least one of the two sees the other.
"""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from orchestration.store import durable
from orchestration.store.contract import (
    CorruptObjectError,
    ObjectInfo,
    PurgedObjectError,
    StoreError,
    StoreUnavailableError,
)
from orchestration.store.lakefs.retrying import TransientError, persist
from orchestration.store.lakefs.s3_bucket import S3Bucket, Stored, UnreadableMarkError, translated
from orchestration.store.lakefs.settings import Patience

GRACE_S = 3600.0  # an object this young may belong to a commit that is under way
PART_BYTES = 50 << 20  # of a multipart upload; smaller than twice this, one request
COPY_LIMIT_BYTES = 5 << 30  # S3 copies no more in one request: larger objects stay as old as they are
CHUNK_BYTES = 1 << 20
PARALLEL_REQUESTS = 8
SWEEP_TIMEOUT_S = 3600.0
CORRUPT_READS = 3  # a connection may lie; the same wrong bytes three times are what is stored
T = TypeVar("T")
Problem = Literal["missing", "altered", "wrong_size"]


@dataclass(frozen=True)
class Digest:
    """What identifies a content here (SHA-256) and what S3 calls it (ETag)."""

    sha256: str
    size_bytes: int
    etag: str


class S3Objects:
    """The objects of one store, under `s3://bucket/prefix`."""

    def __init__(self, area: str, cache: Path, patience: Patience) -> None:
        self.bucket = S3Bucket(area, patience)
        self.cache = cache
        self._hashed: dict[str, tuple[int, int]] = {}

    def address(self, sha256: str) -> str:
        """What lakeFS stores as the physical address of a content."""
        return self.bucket.address(place(sha256))

    def together(self, function: Callable[[Any], T], items: list[Any]) -> list[T]:
        """`function` of each item, several at a time, in order; the first error ends it."""
        if len(items) < 2:
            return [function(item) for item in items]
        with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
            return list(pool.map(function, items))

    # --- writing

    def put(self, contents: Mapping[str, Path | bytes]) -> dict[str, Digest]:
        """Store the content of each path, uploading only what is not there; when this returns, all is stored.

        Raises PurgedObjectError for bytes that were taken down; none of them stays.
        """
        names = sorted(contents)
        digests = dict(zip(names, (digest(name, contents[name]) for name in names), strict=True))
        once = {digests[name].sha256: name for name in reversed(names)}

        def store(sha256: str) -> None:
            name = once[sha256]
            if digests[name].size_bytes > CHUNK_BYTES:
                self.refuse_purged(sha256, name)  # not to upload for nothing; what counts is the look afterwards
            self._store_one(name, contents[name], digests[name])
            self._withdraw_if_purged(sha256, name)

        self.together(store, sorted(once))
        if self._await_sweep():
            self.together(store, sorted(once))  # the sweep may have met them before they were made young
        return digests

    def _store_one(self, name: str, content: Path | bytes, wanted: Digest) -> None:
        stored = self.bucket.head(place(wanted.sha256))
        if stored and self._is_intact(stored, wanted):
            self._make_young(wanted, stored)
            return

        def upload(_: int) -> None:
            try:
                told = {"sha256": wanted.sha256}
                etag = self.bucket.send(place(wanted.sha256), content, told, part_bytes(wanted.size_bytes))
            except Exception as error:
                raise translated(error, f"upload {name}") from error
            if etag == wanted.etag or self._is_intact(self.bucket.head(place(wanted.sha256)), wanted):
                return
            if problem := self.problem(wanted.sha256, wanted.size_bytes):
                _refuse_if_changed(name, content, wanted)
                raise TransientError(f"{name} arrived {problem}")

        persist(upload, self.bucket.patience, f"upload {name}")
        self.bucket.delete(f"collected/{wanted.sha256}")

    def _is_intact(self, stored: Stored | None, wanted: Digest) -> bool:
        """By size and ETag. Where a bucket's encryption makes other ETags, `problem` reads the bytes instead."""
        return stored is not None and (stored.size_bytes, stored.etag) == (wanted.size_bytes, wanted.etag)

    def _make_young(self, wanted: Digest, stored: Stored) -> None:
        """Tell a gc that the object is wanted again, by copying it onto itself within S3."""
        if stored.age_s < GRACE_S / 2 or stored.size_bytes > COPY_LIMIT_BYTES:
            return
        self.bucket.renew(place(wanted.sha256), {"sha256": wanted.sha256})

    def keep(self, infos: Iterable[ObjectInfo]) -> None:
        """Make sure of contents that are stored already: raises what reading one would raise, and keeps gc away."""
        wanted = list(infos)
        self.together(lambda info: self._require(info.sha256, info.size_bytes, info.path), wanted)
        if wanted and self._await_sweep():
            self.together(lambda info: self._require(info.sha256, info.size_bytes, info.path), wanted)

    def _require(self, sha256: str, size_bytes: int, name: str) -> None:
        self.refuse_purged(sha256, name)
        stored = self.bucket.head(place(sha256))
        if stored is None:
            raise CorruptObjectError(self._explain_missing(sha256, name), sha256)
        if stored.size_bytes != size_bytes:
            raise CorruptObjectError(_wrong_size(name, sha256, stored.size_bytes, size_bytes), sha256)
        self._make_young(Digest(sha256, size_bytes, stored.etag), stored)

    # --- reading

    def read(self, sha256: str, size_bytes: int, name: str) -> bytes:
        """Whole content from the server, its hash verified. The local cache is not asked."""
        for _ in range(CORRUPT_READS):
            try:
                data = self.bucket.read(place(sha256))
            except FileNotFoundError:
                raise self._missing(sha256, name) from None
            if hashlib.sha256(data).hexdigest() == sha256:
                return data
        raise self._corrupt(sha256, size_bytes, name)

    def fetch(self, sha256: str, size_bytes: int, name: str) -> Path:
        """A verified read-only copy in the local cache, downloaded if it is not there."""
        final = self.cache / sha256[:2] / sha256
        with durable.typed_errors(f"keep a copy of {name}"):
            if self._is_whole(final, sha256, size_bytes):
                self.refuse_purged(sha256, name)  # a takedown elsewhere does not reach this folder
                return final
            durable.make_folder(final.parent)
        for _ in range(CORRUPT_READS):
            temporary = final.parent / durable.temporary_name()
            try:
                self.bucket.download(place(sha256), temporary)
                if sha256_of(temporary) == sha256:
                    os.chmod(temporary, 0o444)
                    os.rename(temporary, final)
                    return final
            except FileNotFoundError:
                raise self._missing(sha256, name) from None
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(temporary)
        raise self._corrupt(sha256, size_bytes, name)

    def _is_whole(self, path: Path, sha256: str, size_bytes: int) -> bool:
        """Whether a cached copy has the right bytes; hashed once, and again when the file was touched since."""
        try:
            now = path.stat()
            if self._hashed.get(sha256) != (now.st_ino, now.st_mtime_ns):
                if now.st_size != size_bytes or sha256_of(path) != sha256:
                    return False
                os.utime(path)  # gc deletes what was not used for long
                now = path.stat()
                self._hashed[sha256] = (now.st_ino, now.st_mtime_ns)
        except FileNotFoundError:
            return False
        return True

    def _missing(self, sha256: str, name: str) -> StoreError:
        """Why an object is not there: a takedown, gc, or damage."""
        try:
            self.refuse_purged(sha256, name)
        except PurgedObjectError as error:
            return error
        return CorruptObjectError(self._explain_missing(sha256, name), sha256)

    def _corrupt(self, sha256: str, size_bytes: int, name: str) -> CorruptObjectError:
        stored = self.bucket.head(place(sha256))
        if stored and stored.size_bytes != size_bytes:
            return CorruptObjectError(_wrong_size(name, sha256, stored.size_bytes, size_bytes), sha256)
        return CorruptObjectError(
            f"{name}: the bytes of object {sha256} have another SHA-256: altered in the bucket. "
            "Build the asset again, which replaces it, or copy it from another store.",
            sha256,
        )

    def _explain_missing(self, sha256: str, name: str) -> str:
        if self.is_collected(sha256):
            return (
                f"{name}: object {sha256} was collected by gc, because no branch, tag or kept commit needed it; "
                "build the asset again from its inputs to have it back"
            )
        return f"{name}: object {sha256} is missing. Build the asset again, or copy the object from another store."

    def problem(self, sha256: str, size_bytes: int) -> Problem | None:
        """What is wrong with a content, after reading all of it from the server."""
        for _ in range(CORRUPT_READS):
            try:
                size, found = self.bucket.size_and_digest(place(sha256), size_bytes)
            except FileNotFoundError:
                return "missing"
            if found == sha256:
                return None
        return "altered" if size == size_bytes else "wrong_size"

    # --- deleting on purpose

    def tombstone(self, sha256: str) -> dict[str, str] | None:
        """Reason and time of a takedown, or None; empty where its record is damaged: the object stays taken down."""
        try:
            return self.bucket.read_mark(f"purged/{sha256}.json")
        except StoreUnavailableError as error:
            if isinstance(error.__cause__, UnreadableMarkError):
                return {}
            raise

    def damaged_records(self) -> list[str]:
        """Records of takedowns that say neither reason nor time."""
        return [f"purged/{each}.json" for each in sorted(self.purged()) if not _whole(self.tombstone(each))]

    def is_collected(self, sha256: str) -> bool:
        """Whether gc deleted this content (and nobody stored it again)."""
        return self.bucket.read_mark(f"collected/{sha256}") is not None

    def purged(self) -> set[str]:
        """Digests of everything that was taken down."""
        return {name.removesuffix(".json") for name in self.bucket.list("purged")}

    def takedowns(self) -> dict[str, str]:
        """SHA-256 -> reason of everything that was taken down."""
        return {sha256: (self.tombstone(sha256) or {}).get("reason", "") for sha256 in sorted(self.purged())}

    def refuse_purged(self, sha256: str, name: str) -> None:
        """Raise PurgedObjectError, naming the reason, if the content was taken down."""
        tombstone = self.tombstone(sha256)
        if tombstone is not None:
            at, reason = tombstone.get("at", "an unknown time"), tombstone.get("reason", "its record was damaged")
            raise PurgedObjectError(
                f"{name}: object {sha256} was taken down at {at}: {reason}. "
                "Its bytes are deleted and may not be stored again."
            )

    def _withdraw_if_purged(self, sha256: str, name: str) -> None:
        try:
            self.refuse_purged(sha256, name)
        except PurgedObjectError:
            self.delete(sha256)
            raise

    def purge(self, sha256: str, reason: str) -> int:
        """Delete a content for good; the tombstone comes first. Returns the bytes freed."""
        if not _whole(self.tombstone(sha256)):
            at = datetime.now(UTC).isoformat(timespec="seconds")
            self.bucket.write_mark(f"purged/{sha256}.json", {"reason": reason, "at": at})
        stored = self.bucket.head(place(sha256))
        self.delete(sha256)
        return stored.size_bytes if stored else 0

    def collect(self, sha256: str) -> None:
        """Delete a content nothing needs, remembering that it was no loss."""
        self.bucket.write_mark(f"collected/{sha256}", {})
        self.delete(sha256)

    def delete(self, sha256: str) -> None:
        """Delete the bytes, here and in the cache."""
        self.bucket.delete(place(sha256))
        with suppress(FileNotFoundError):
            os.unlink(self.cache / sha256[:2] / sha256)

    def stored(self) -> Iterator[tuple[str, Stored]]:
        """Every content of the area, sorted by digest, whether a commit holds it or not."""
        found = {name.rpartition("/")[2]: stored for name, stored in self.bucket.list("sha256").items()}
        yield from sorted(found.items())

    # --- one gc at a time, and no commit meanwhile

    def begin_sweep(self) -> None:
        """Announce a gc. Raises StoreUnavailableError if another one is under way."""
        running = self.bucket.read_mark("sweep.json")
        if running and abs(_seconds_since(running["since"])) > SWEEP_TIMEOUT_S:
            self.bucket.delete("sweep.json")  # its gc was killed
        mine = {"since": datetime.now(UTC).isoformat(timespec="seconds"), "by": uuid.uuid4().hex}
        with suppress(FileExistsError):
            self.bucket.write_mark("sweep.json", mine, IfNoneMatch="*")
        if self.bucket.read_mark("sweep.json") != mine:
            raise StoreUnavailableError("another gc of this store is under way; nothing was changed, run again later")

    def end_sweep(self) -> None:
        """The gc is over."""
        self.bucket.delete("sweep.json")

    def _await_sweep(self) -> bool:
        """Wait for a gc under way; whether there was one. One dated more than an hour off was killed and counts as over."""
        found = False
        while sweep := self.bucket.read_mark("sweep.json"):
            found = True
            if abs(_seconds_since(sweep["since"])) > SWEEP_TIMEOUT_S:
                break
            time.sleep(1.0)
        return found


def digest(name: str, content: Path | bytes) -> Digest:
    """SHA-256, size and expected ETag of a content. Raises StoreError for what is not a file or bytes."""
    if isinstance(content, (bytes, bytearray, memoryview)):
        data = bytes(content)
        return Digest(hashlib.sha256(data).hexdigest(), len(data), _md5(data).hexdigest())
    if not isinstance(content, Path):
        raise StoreError(f"{name}: content must be a Path or bytes, found {type(content).__name__}")
    if not content.is_file():
        raise StoreError(f"{name}: {content} does not exist or is not a regular file; nothing was committed")
    size = content.stat().st_size
    multipart = size >= 2 * part_bytes(size)  # s3fs decides by the same rule
    part = part_bytes(size) if multipart else size + 1
    whole, parts, left = hashlib.sha256(), [_md5()], part
    with content.open("rb") as file:
        while chunk := file.read(min(CHUNK_BYTES, left)):
            whole.update(chunk)
            parts[-1].update(chunk)
            left -= len(chunk)
            if left == 0:
                parts.append(_md5())
                left = part
    if multipart and left == part:
        parts.pop()
    of_parts = _md5(b"".join(each.digest() for each in parts))
    return Digest(
        whole.hexdigest(), size, f"{of_parts.hexdigest()}-{len(parts)}" if multipart else parts[0].hexdigest()
    )


def place(sha256: str) -> str:
    """Where a content lies in the area."""
    return f"sha256/{sha256[:2]}/{sha256[2:4]}/{sha256}"


def part_bytes(size_bytes: int) -> int:
    """Size of the parts of an upload: S3 allows 10,000 of them."""
    return max(PART_BYTES, -(-size_bytes // 10_000))


def _md5(data: bytes = b"") -> Any:
    return hashlib.md5(data, usedforsecurity=False)


def _refuse_if_changed(name: str, content: Path | bytes, wanted: Digest) -> None:
    if isinstance(content, Path) and digest(name, content) != wanted:
        raise StoreError(f"{name}: {content} changed while it was being committed; commit it when its writer is done")


def sha256_of(path: Path) -> str:
    """Digest of a local file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seconds_since(moment: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()


def _wrong_size(name: str, sha256: str, found: int, wanted: int) -> str:
    return (
        f"{name}: object {sha256} has {found} bytes instead of {wanted}: truncated or altered. "
        "Build the asset again, which replaces it, or copy it from another store."
    )


def _whole(tombstone: Mapping[str, str] | None) -> bool:
    return bool(tombstone and tombstone.get("reason") and tombstone.get("at"))
