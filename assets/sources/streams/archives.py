"""Members of ZIP and tar archives, one at a time, none of them trusted: nothing is ever written to disk."""

from __future__ import annotations

import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO

from assets.machine_faults import raise_machine_fault
from assets.sources.streams.decompression import InputError

BOMB_BYTES = 1 << 20  # unpacked; smaller members may be as repetitive as they like


@dataclass(frozen=True)
class ArchiveMember:
    """A file of an archive: its content, or the drop reason and why in words."""

    name: str
    content: bytes | None = None
    reason: str | None = None
    detail: str = ""


def zip_members(stream: BinaryIO, max_bytes: int, max_ratio: float) -> Iterator[ArchiveMember]:
    """Files of a ZIP archive in its own order. Raises InputError for what is no whole archive."""
    try:
        archive = zipfile.ZipFile(stream)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise_machine_fault(error)
        raise InputError("input_damaged", f"not a whole ZIP archive: {error}"[:300]) from None
    with archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            if problem := _zip_problem(info, max_bytes, max_ratio):
                yield ArchiveMember(info.filename, None, *problem)
                continue
            try:
                with archive.open(info) as member:
                    content = member.read(max_bytes + 1)
            except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError) as error:
                raise_machine_fault(error)
                yield ArchiveMember(info.filename, None, "damaged_member", f"{type(error).__name__}: {error}"[:300])
                continue
            yield _sized(info.filename, content, max_bytes)


def _zip_problem(info: zipfile.ZipInfo, max_bytes: int, max_ratio: float) -> tuple[str, str] | None:
    if unsafe := unsafe_path(info.filename):
        return "unsafe_path", unsafe
    mode = info.external_attr >> 16
    if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return "link_in_archive", "a link or a device, not a file"
    if info.flag_bits & 1:
        return "encrypted_document", "the member asks for a password"
    if info.file_size > BOMB_BYTES and info.file_size > max_ratio * max(1, info.compress_size):
        return "archive_bomb", f"{info.compress_size} bytes unpack to {info.file_size}: more than {max_ratio:g} times"
    if info.file_size > max_bytes:
        return "too_large", f"{info.file_size} bytes"
    return None


def tar_members(stream: BinaryIO, max_bytes: int) -> Iterator[ArchiveMember]:
    """Files of a tar archive as it streams by (`stream` is unpacked already, and stops a bomb)."""
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for info in archive:
                archive.members = []  # type: ignore[assignment] - tarfile keeps every header it has met
                if info.isdir():
                    continue
                if unsafe := unsafe_path(info.name):
                    yield ArchiveMember(info.name, None, "unsafe_path", unsafe)
                elif not info.isreg():
                    yield ArchiveMember(info.name, None, "link_in_archive", "a link or a device, not a file")
                elif info.size > max_bytes:
                    yield ArchiveMember(info.name, None, "too_large", f"{info.size} bytes")
                else:
                    member = archive.extractfile(info)
                    yield _sized(info.name, member.read(max_bytes + 1) if member else b"", max_bytes)
    except tarfile.TarError as error:
        raise_machine_fault(error)
        reason = "input_truncated" if "end of" in str(error) else "input_damaged"
        raise InputError(reason, f"tar: {error}"[:300]) from None


def _sized(name: str, content: bytes, max_bytes: int) -> ArchiveMember:
    if len(content) > max_bytes:
        return ArchiveMember(name, None, "too_large", f"more than {max_bytes} bytes, whatever its header says")
    return ArchiveMember(name, content)


def unsafe_path(name: str) -> str:
    """What is wrong with a member's path; empty for one that stays inside the archive."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or (len(name) > 1 and name[1] == ":"):
        return f"{name[:100]!r} is absolute"
    if ".." in path.parts:
        return f"{name[:100]!r} climbs out of the archive"
    if any(ord(character) < 32 for character in name):
        return f"{name[:100]!r} has control characters"
    return ""
