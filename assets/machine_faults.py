"""Which errors are this machine's own: they say nothing about a page, a record or a file of somebody else.

A clause that turns an exception into a drop reason calls `raise_machine_fault` first, so that a bad disk or a full
one ends the stage, which then can be run again, and never becomes a verdict that is published.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator

MACHINE_ERRNOS = frozenset(
    {
        errno.EIO,
        errno.ENOMEM,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.EMFILE,
        errno.ENFILE,
        errno.EFBIG,
    }
)
"""What a disk, the memory and the limits of this machine answer. Not EACCES or ENOENT, which a wrong path gives, and
nothing that a connection gives: a server that refuses, resets or is silent is the world's."""

_IN_TEXT = re.compile(r"\[errno (\d+)\]", re.IGNORECASE)  # pyarrow and fsspec wrap the system's error in text


def machine_fault(error: BaseException | None) -> OSError | MemoryError | None:
    """The machine's error behind an exception: itself, what it was raised from, or what was being handled."""
    for link in _chain(error):
        if isinstance(link, MemoryError):
            return link
        if isinstance(link, OSError):
            number = link.errno
            if number is None and (said := _IN_TEXT.search(str(link))):
                number = int(said[1])
            if number in MACHINE_ERRNOS:
                return link if link.errno == number else OSError(number, str(link))
    return None


def told_in_text(error: BaseException, numbers: Iterable[int]) -> int | None:
    """The first of these errnos whose words an error's message has: what libraries in C leave of the system's error."""
    return next((number for number in numbers if os.strerror(number) in str(error)), None)


def raise_machine_fault(error: BaseException) -> None:
    """Raise the machine's error behind an exception, if there is one; else return."""
    fault = machine_fault(error)
    if fault is not None:
        raise fault


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, its causes and contexts, also those that `from None` hides from a reader."""
    waiting, seen = [error], set()
    while waiting:
        link = waiting.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        waiting += [link.__context__, link.__cause__]
