"""Which commit a merge takes: the same rule for every backend."""

from __future__ import annotations

from orchestration.store.contract import LostRaceError, RefNotFoundError, VersionedStore


def head_to_merge(store: VersionedStore, branch: str, expected: str | None) -> str:
    """The commit that `branch` names. Raises LostRaceError if it is not the expected one (when there is one)."""
    if expected is None:
        return store.resolve(branch)
    wanted = store.resolve(expected)
    try:
        head = store.resolve(branch)
    except RefNotFoundError as error:
        raise LostRaceError(f"branch {branch!r} was deleted meanwhile; nothing was merged") from error
    if head != wanted:
        raise LostRaceError(
            f"branch {branch!r} is at {head[:12]}, not at {wanted[:12]}, which was to be merged; nothing was merged"
        )
    return wanted
