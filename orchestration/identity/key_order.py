"""Which new partitions a source or recipe may have. Their time stamps order them, whatever clock made the stamps.

A crawl is what changed since the one before, and the newest run of a recipe is the one that is worked on: a stamp from
the future would hide every true one after it, and one from the past would change what is built already.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import UTC, datetime, timedelta
from typing import Literal

from orchestration.identity.partitions import FORM, PartitionError, is_key, split_key

Kind = Literal["crawl", "run"]
AHEAD = timedelta(days=1)
"""Clocks of two machines, and time zones that were mistaken for UTC, differ by less."""


class KeyOrderError(PartitionError):
    """A new partition is not one of now, or not after those that are published."""

    def __init__(self, message: str, *, of_a_clock: bool) -> None:
        super().__init__(message)
        self.of_a_clock = of_a_clock
        """A stamp is ahead of the clock: time alone mends nothing."""


def now() -> datetime:
    """The clock."""
    return datetime.now(UTC)


def is_ahead(key: str) -> bool:
    """Whether a partition is stamped more than a day after now."""
    return split_key(key)[1] > f"{now() + AHEAD:{FORM}}"


def believable(keys: Iterable[str]) -> list[str]:
    """Those that name a moment that has been: in the UI anything can be typed."""
    return [key for key in keys if is_key(key) and not is_ahead(key)]


def check_order(kind: Kind, key: str, published: Collection[str]) -> None:
    """Raises KeyOrderError unless `key` is published, or may be published after those that are."""
    if key in published:
        return
    name, stamp = split_key(key)
    clock = f"the clock, which says {now():{FORM}}"
    if is_ahead(key):
        raise KeyOrderError(
            f"partition {key} is more than a day ahead of {clock}: a {kind} from the future would hide every later one "
            f"of {name}. Give --at a time that has been, or set the clock (timedatectl set-ntp true).",
            of_a_clock=True,
        )
    later = sorted(each for each in published if split_key(each)[0] == name and split_key(each)[1] > stamp)
    if not later:
        return
    if ahead := [each for each in later if is_ahead(each)]:
        options = " ".join(f"--abandon {each}" for each in ahead)
        raise KeyOrderError(
            f"partition {key} is before {later[-1]}, which is published and more than a day ahead of {clock}. If the "
            f"clock is right, `headwater run {options}` takes back what was stamped by a wrong one; else set it "
            "(timedatectl set-ntp true).",
            of_a_clock=True,
        )
    raise KeyOrderError(
        f"partition {key} is before {later[-1]}, the newest published {kind} of {name}: each is published after those "
        "before it, for what was built from them would no longer be true. Without --at the clock names a new one.",
        of_a_clock=False,
    )
