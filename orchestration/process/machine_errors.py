"""The machine's faults told in one message: a full disk, a folder that cannot be written, a limit, no memory.

Libraries wrap such an error in their own (Dagster's database in SQLAlchemy's, the training program's
in text), so the whole chain of causes is read. What is no fault of the machine stays what it is.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

from assets.machine_faults import told_in_text

AGAIN = "then run the same command again: it continues from what is published"
_FREE = "Free space there (`headwater gc` deletes what no version needs) or set HEADWATER_HOME to a larger disk"
_REMEDIES = {
    errno.ENOSPC: f"{_FREE}, {AGAIN}.",
    errno.EDQUOT: f"The disk quota is used up. {_FREE}, {AGAIN}.",
    errno.EROFS: "Mount it writable (after a disk error check the disk first), or set HEADWATER_HOME to another folder.",
    errno.EACCES: "Give this user the right to it, or set HEADWATER_HOME to a folder of your own.",
    errno.EPERM: "Give this user the right to it, or set HEADWATER_HOME to a folder of your own.",
    errno.EIO: "The disk reports errors: check the hardware, then run `headwater verify`.",
    errno.EMFILE: f"Raise the limit (ulimit -n 4096), {AGAIN}.",
    errno.ENFILE: f"Too many files are open on this machine: end other programs, {AGAIN}.",
    errno.EFBIG: f"Raise the limit (ulimit -f unlimited), {AGAIN}.",
    errno.ENOMEM: f"End other programs or lower `workers` in config/profiles/, {AGAIN}.",
}
_TOLD_IN_TEXT = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
"""What is recognised in the message of an error that is no OSError, as safetensors and pyarrow raise."""

_SQLITE = {"disk is full": errno.ENOSPC, "readonly database": errno.EROFS}
_SQLITE_UNSURE = ("disk I/O error", "unable to open database file")
"""What SQLite says for a full disk too, when it cannot write its journal."""

_NEARLY_FULL_BYTES = 2**20


def machine_trouble(error: BaseException, home: Path) -> str | None:
    """One message with cause and remedy when the machine is to blame for an error, else None."""
    for link in _chain(error):
        if isinstance(link, sqlite3.Error) and (said := _about_database(link, home)):
            return said
        number, place = _number(link, home)
        if number is None:
            continue
        disk = f"the disk of {_fullest(place, home)} is full: " if number == errno.ENOSPC else ""
        return f"{disk}{_line(link)}. {_REMEDIES[number]}"
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, what it was raised from or during, and the members of groups."""
    waiting, seen = [error], set()
    while waiting:
        link = waiting.pop(0)
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        waiting += [next_ for next_ in (link.__cause__, link.__context__) if next_ is not None]
        if isinstance(link, BaseExceptionGroup):
            waiting += link.exceptions


def _number(link: BaseException, home: Path) -> tuple[int | None, Path]:
    """(errno that the table knows, the place it speaks of)."""
    if isinstance(link, MemoryError):
        return errno.ENOMEM, home
    if isinstance(link, OSError) and link.errno in _REMEDIES:
        return link.errno, Path(os.fsdecode(link.filename)) if isinstance(link.filename, str | bytes) else home
    return told_in_text(link, _TOLD_IN_TEXT), home


def _about_database(link: sqlite3.Error, home: Path) -> str | None:
    """Dagster's history and event log are SQLite files in the home folder."""
    text, database = str(link), f"Dagster's database in {home / 'dagster'}"
    number = next((n for said, n in _SQLITE.items() if said in text), None)
    if any(said in text for said in _SQLITE_UNSURE):
        full = shutil.disk_usage(_existing(home)).free < _NEARLY_FULL_BYTES
        number = errno.ENOSPC if full else errno.EACCES
    if number is not None:
        disk = f"the disk of {home} is full: " if number == errno.ENOSPC else ""
        return f"{disk}{database} cannot be written ({text}). {_REMEDIES[number]}"
    if "locked" in text:
        return f"{database} is held by another process ({text}). Wait for it or end it, {AGAIN}."
    if "malformed" in text or "not a database" in text:
        return (
            f"{database} is damaged ({text}). It holds only logs and the history of runs: move that folder away, "
            f"{AGAIN}. The data is in the store; `headwater verify` checks it."
        )
    return None


def _fullest(place: Path, home: Path) -> Path:
    """The place itself when an error names one; else the fullest of the disks that a build writes to."""
    if place != home:
        return place
    return min((home, Path(tempfile.gettempdir())), key=lambda folder: shutil.disk_usage(_existing(folder)).free)


def _existing(folder: Path) -> Path:
    return next(each for each in (folder, *folder.parents) if each.exists())


def _line(error: BaseException) -> str:
    """The line of an error that says it, without a traceback that its text may carry."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    said = next((line for line in lines if any(os.strerror(n) in line for n in _REMEDIES)), lines[0])
    return said.rstrip(".")
