"""What this machine did wrong ends a stage; it never becomes a verdict on a page, a record or a file."""

from __future__ import annotations

import ast
import errno
import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from assets.machine_faults import MACHINE_ERRNOS, machine_fault, raise_machine_fault
from assets.sources.streams.archives import tar_members, zip_members
from assets.sources.streams.decompression import InputError, unpacked
from orchestration.process.machine_errors import machine_trouble

ASSETS = Path(__file__).resolve().parents[2] / "assets"
BROAD = {"OSError", "IOError", "Exception", "BaseException"}
NO_VERDICT = {
    "child_process.py:peak_rss_bytes": "a number for a report",
    "sources/bulk/dataset_rows.py:read_time": "turns a number in memory into a date",
    "sources/web/spider.py:start": "kept, and raised by the process that waits for the crawl",
    "sources/streams/warc_members.py:reading_record": "reads bytes in memory; lets MemoryError through",
    "executors/local.py:_result": "names the task and raises",
    "sources/variables.py:hidden": "raises what it caught, or its like without a secret",
    "sources/variables.py:_without_values": "a log record that cannot be formatted is logging's to tell",
    "documents/blocks.py:_guarded": "asks machine_fault itself",
}
"""Clauses that catch broadly and need not ask, with the reason."""


def disk_error() -> OSError:
    return OSError(errno.EIO, "Input/output error")


def test_a_fault_is_found_behind_what_wraps_it() -> None:
    try:
        try:
            raise disk_error()
        except OSError:
            raise ValueError("not a whole archive") from None
    except ValueError as error:
        hidden = error
    fault = machine_fault(hidden)
    assert isinstance(fault, OSError)
    assert fault.errno == errno.EIO
    with pytest.raises(OSError, match="Input/output error"):
        raise_machine_fault(hidden)


def test_a_fault_is_read_from_pyarrows_text() -> None:
    wrapped = OSError("Error reading bytes from file. Detail: [errno 12] Cannot allocate memory")
    fault = machine_fault(wrapped)
    assert isinstance(fault, OSError)
    assert fault.errno == errno.ENOMEM


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(errno.ECONNREFUSED, "refused"),
        ConnectionResetError(errno.ECONNRESET, "reset"),
        TimeoutError(errno.ETIMEDOUT, "timed out"),
        FileNotFoundError(errno.ENOENT, "no such file"),
        OSError("Parquet magic bytes not found in footer"),
        ValueError("[errno 5] in the text of a page"),
    ],
)
def test_the_worlds_errors_are_not_the_machines(error: Exception) -> None:
    assert machine_fault(error) is None


def test_every_fault_has_a_remedy_for_a_person(tmp_path: Path) -> None:
    for number in MACHINE_ERRNOS:
        assert machine_trouble(OSError(number, "it said"), tmp_path)
    assert machine_trouble(MemoryError(), tmp_path)


def handlers() -> Iterator[tuple[str, ast.ExceptHandler]]:
    for path in sorted(ASSETS.rglob("*.py")):
        for function in ast.walk(ast.parse(path.read_text())):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for node in ast.walk(function):
                if isinstance(node, ast.ExceptHandler) and node.type is not None and _is_broad(node.type):
                    yield f"{path.relative_to(ASSETS)}:{function.name}", node


def _is_broad(kind: ast.expr) -> bool:
    if isinstance(kind, ast.Tuple):
        return any(map(_is_broad, kind.elts))
    if isinstance(kind, ast.Attribute):
        return kind.attr == "_errors"  # decompression.py: a tuple with OSError in it
    return isinstance(kind, ast.Call) or (isinstance(kind, ast.Name) and kind.id in BROAD)


def test_every_clause_that_catches_broadly_asks_whose_fault_it_was() -> None:
    silent, met = [], set()
    for place, handler in handlers():
        first = handler.body[0]
        asks = isinstance(first, ast.Expr) and ast.unparse(first).startswith("raise_machine_fault(")
        reraises = isinstance(first, ast.Raise) and first.exc is None
        if place in NO_VERDICT:
            met.add(place)
        elif not asks and not reraises:
            silent.append(f"{place} line {handler.lineno}")
    assert not silent
    assert met == set(NO_VERDICT)


class Failing(io.BytesIO):
    """A file on a disk that stops answering after some bytes."""

    def __init__(self, content: bytes, good: int) -> None:
        super().__init__(content)
        self.good = good

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() >= self.good:
            raise disk_error()
        wanted = self.good - self.tell()
        return super().read(wanted if size is None or size < 0 else min(size, wanted))

    def readinto(self, buffer: Any, /) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def a_zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a.txt", b"first " * 5000)
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "read"),
    [
        (a_zip(), lambda stream: list(zip_members(stream, 10**6, 100))),
        (b"a.txt".ljust(257, b"\0") + b"ustar" + b"\0" * 3000, lambda stream: list(tar_members(stream, 10**6))),
        (b"\x1f\x8b\x08" + b"\0" * 3000, lambda stream: unpacked(stream).read()),
    ],
    ids=["zip", "tar", "gzip"],
)
def test_a_disk_error_in_the_middle_is_not_a_damaged_file(content: bytes, read: Callable[[BinaryIO], Any]) -> None:
    with pytest.raises(OSError, match="Input/output error"):
        read(Failing(content, 100))
    with pytest.raises(InputError):  # the harmless twin: a file that really ends there
        read(io.BytesIO(content[:100]))
