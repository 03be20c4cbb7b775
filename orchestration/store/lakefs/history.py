"""What Headwater's commits look like in lakeFS, and the history without the steps they were made in.

A commit or merge on branch B that stood at P is made so, because lakeFS cannot be told "only if B is still at P":

    1. a work branch at P; changes and the head file (a new value each time) staged there; commit W
    2. the server merges the work branch into B: commit M with parents P and W

The head file is the compare-and-swap: whoever moved B meanwhile changed it too, so the server finds a
conflict and nothing happens. M carries message, metadata and a key that no other commit has; W and
whatever else is on the work branch is marked as transit and left out of `log`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from orchestration.store.contract import CommitInfo, StoreError

HEAD_FILE = "_headwater/head"
RESERVED = "_headwater"
OURS, LAKEFS = "headwater:", ".lakefs."
KEY, PARENTS, STEP = f"{OURS}key", f"{OURS}parents", f"{OURS}transit"
MESSAGE = f"{OURS}message"


def published(message: str, metadata: Mapping[str, str], key: str, parents: list[str]) -> tuple[str, dict[str, str]]:
    """Message and metadata of a commit M. lakeFS refuses an empty message, so there the exact one is metadata."""
    for name in metadata:
        if name.startswith((OURS, LAKEFS)):
            raise StoreError(f"metadata key {name!r}: keys that begin with {OURS} or {LAKEFS} are taken")
    extra = {} if message.strip() else {MESSAGE: message}
    return message if message.strip() else "(no message)", {**metadata, **extra, KEY: key, PARENTS: ",".join(parents)}


def transit(key: str) -> dict[str, str]:
    """Metadata of the commits on a work branch."""
    return {KEY: key, STEP: "1"}


def metadata_of(commit: Any) -> dict[str, str]:
    """All metadata of a commit as lakeFS has it."""
    return {str(k): str(v) for k, v in (commit.metadata if "metadata" in commit else {}).items()}


def is_transit(commit: Any) -> bool:
    """Whether a commit is a step of making another one."""
    return STEP in metadata_of(commit)


def parents_of(commit: Any) -> tuple[str, ...]:
    """Parents without transit commits."""
    told = metadata_of(commit).get(PARENTS)
    return tuple(told.split(",")) if told else tuple(str(parent) for parent in commit.parents)


def info(commit: Any) -> CommitInfo:
    """A commit as the contract tells it."""
    metadata = metadata_of(commit)
    return CommitInfo(
        id=str(commit.id),
        parents=parents_of(commit),
        message=metadata.get(MESSAGE, str(commit.message)),
        metadata={k: v for k, v in metadata.items() if not k.startswith((OURS, LAKEFS))},
        committed_at=datetime.fromtimestamp(commit.creation_date, UTC).isoformat(),
    )


def without_transit(commits: Iterator[Any]) -> Iterator[CommitInfo]:
    """The history a reader wants to see."""
    return (info(commit) for commit in commits if not is_transit(commit))


def three_way(
    base: Mapping[str, str], ours: Mapping[str, str], theirs: Mapping[str, str]
) -> tuple[dict[str, str | None], list[str]]:
    """What their side brings to ours, by path (None: removed), and the paths both changed differently.

    Each mapping is path -> digest of the paths that differ anywhere; a path that is missing does not exist.
    """
    brought: dict[str, str | None] = {}
    conflicts = []
    for path in sorted(base.keys() | ours.keys() | theirs.keys()):
        b, o, t = base.get(path), ours.get(path), theirs.get(path)
        if t in (b, o):
            continue
        if o == b:
            brought[path] = t
        else:
            conflicts.append(path)
    return brought, conflicts
