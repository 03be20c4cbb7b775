"""The machine's faults: found anywhere in a chain of causes, told with the place and what to do; all else is left alone."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestration.process.machine_errors import machine_trouble


def os_error(number: int, place: Path | None = None) -> OSError:
    return OSError(number, os.strerror(number), *([str(place)] if place else []))


def raised_from(cause: BaseException) -> Exception:
    """As SQLAlchemy and Dagster wrap what they caught: twice."""
    try:
        try:
            raise cause
        except BaseException as error:
            raise ValueError("while writing an event") from error
    except ValueError as inner:
        try:
            raise RuntimeError("while executing the step")
        except RuntimeError as outer:
            outer.__context__ = inner
            return outer


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "Free space there"),
        (errno.EDQUOT, "quota is used up"),
        (errno.EROFS, "Mount it writable"),
        (errno.EACCES, "Give this user the right"),
        (errno.EPERM, "Give this user the right"),
        (errno.EIO, "check the hardware"),
        (errno.EMFILE, "ulimit -n"),
        (errno.EFBIG, "ulimit -f"),
        (errno.ENOMEM, "lower `workers`"),
    ],
)
@pytest.mark.parametrize("wrapped", [lambda error: error, raised_from])
def test_each_fault_has_its_remedy_however_deep(
    number: int, remedy: str, wrapped: Callable[[Exception], Exception], tmp_path: Path
) -> None:
    said = machine_trouble(wrapped(os_error(number, tmp_path / "file")), tmp_path)
    assert said is not None
    assert remedy in said
    assert os.strerror(number) in said
    assert str(tmp_path / "file") in said
    assert "\n" not in said


def test_a_full_disk_without_a_name_is_the_fullest_a_build_writes_to(tmp_path: Path) -> None:
    said = machine_trouble(os_error(errno.ENOSPC), tmp_path)
    assert said is not None
    assert said.startswith("the disk of ")
    assert "headwater gc" in said


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("database or disk is full", "Free space there"),
        ("attempt to write a readonly database", "Mount it writable"),
        ("database is locked", "held by another process"),
        ("database disk image is malformed", "move that folder away"),
        ("file is not a database", "move that folder away"),
        ("unable to open database file", "Give this user the right"),
    ],
)
def test_dagsters_database_is_named(text: str, remedy: str, tmp_path: Path) -> None:
    said = machine_trouble(raised_from(sqlite3.OperationalError(text)), tmp_path)
    assert said is not None
    assert f"Dagster's database in {tmp_path / 'dagster'}" in said
    assert text in said
    assert remedy in said


def test_a_fault_that_a_library_only_quotes_is_recognised(tmp_path: Path) -> None:
    quoted = RuntimeError(f"Traceback ...\nI/O error: {os.strerror(errno.ENOSPC)} (os error 28)\nin save()")
    said = machine_trouble(quoted, tmp_path)
    assert said is not None
    assert "No space left on device (os error 28)" in said
    assert "Traceback" not in said


def test_members_of_groups_and_memory_count(tmp_path: Path) -> None:
    group = ExceptionGroup("two workers", [ValueError("x"), MemoryError()])
    said = machine_trouble(group, tmp_path)
    assert said is not None
    assert "lower `workers`" in said


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no such rule"),
        KeyError("doc_id"),
        os_error(errno.ENOENT, Path("/nowhere")),
        ConnectionRefusedError(errno.ECONNREFUSED, "refused"),
        sqlite3.IntegrityError("UNIQUE constraint failed: runs.run_id"),
        raised_from(TypeError("a bug")),
    ],
)
def test_what_is_no_fault_of_the_machine_stays_what_it_is(error: Exception, tmp_path: Path) -> None:
    assert machine_trouble(error, tmp_path) is None


def test_a_chain_that_bites_its_tail_ends(tmp_path: Path) -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert machine_trouble(first, tmp_path) is None
