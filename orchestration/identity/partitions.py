"""The two kinds of partitions: crawls (`source@YYYYMMDDTHHMMSSZ`) and runs (`recipe@YYYYMMDDTHHMMSSZ`).

Both sort by name into chronological order within a source or recipe.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from assets.errors import HeadwaterError

_KEY = re.compile(r"(?P<name>[a-z0-9][a-z0-9-]*)@(?P<stamp>\d{8}T\d{6}Z)")
FORM = "%Y%m%dT%H%M%SZ"


class PartitionError(HeadwaterError):
    """A partition key is malformed."""


def new_key(name: str, at: str | None = None) -> str:
    """Key of a new crawl of source `name` or a new run of recipe `name`; `at` fixes the time stamp."""
    stamp = at or datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    check_stamp(stamp)
    key = f"{name}@{stamp}"
    split_key(key)
    return key


def check_stamp(stamp: str) -> None:
    """Raises PartitionError unless it is a real moment written as YYYYMMDDTHHMMSSZ."""
    try:
        if datetime.strptime(stamp, FORM).strftime(FORM) == stamp:
            return
    except ValueError:
        pass
    raise PartitionError(f"{stamp!r} is not a time written as YYYYMMDDTHHMMSSZ (UTC), for instance 20260131T235900Z")


def is_key(key: str) -> bool:
    """Whether a partition names a crawl or a run, at a real moment."""
    try:
        check_stamp(split_key(key)[1])
    except PartitionError:
        return False
    return True


def split_key(key: str) -> tuple[str, str]:
    """(name, time stamp). Raises PartitionError naming the form."""
    match = _KEY.fullmatch(key)
    if not match:
        raise PartitionError(f"partition {key!r} does not have the form name@YYYYMMDDTHHMMSSZ")
    return match["name"], match["stamp"]


def previous_key(key: str, keys: Sequence[str]) -> str | None:
    """The newest key of the same name that is older than `key`; `keys` are sorted, so it stands right before it."""
    at = bisect_left(keys, key)
    before = keys[at - 1] if at else ""
    return before if before.startswith(f"{split_key(key)[0]}@") else None


def newest_keys(keys: Iterable[str]) -> dict[str, str]:
    """Name -> its newest key."""
    newest: dict[str, str] = {}
    for key in sorted(keys, key=lambda k: split_key(k)[1]):
        newest[split_key(key)[0]] = key
    return newest
