"""What takedowns deleted: by partition, with the reason and the way out, for every command that tells of the data.

The record of each takedown is a file of main, so that it goes wherever a clone or a copy of the store goes:

    takedowns/<sha256>.json    {"reason": ..., "at": ..., "paths": [where main held the object]}
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from orchestration.identity.catalog import partition_of, way_out
from orchestration.identity.status import Status
from orchestration.stages import BY_NAME
from orchestration.store.contract import MAIN, TAKEDOWNS, PathNotFoundError, StoreError, VersionedStore


@dataclass(frozen=True)
class TakenDown:
    """One file that is gone."""

    asset: str
    """Empty where no path is known."""
    partition: str | None
    path: str
    sha256: str
    reason: str
    on_main: bool
    """Whether main still names it: what needs it then fails."""
    way_out: str

    @property
    def label(self) -> str:
        """`asset` or `asset[partition]`, for messages."""
        return partition_of(self.path) or self.path or self.sha256


def taken_down(store: VersionedStore, ref: str = MAIN) -> list[TakenDown]:
    """Every file that was taken down, those that `ref` still names first. Asks for nothing where there was no takedown."""
    records = store.takedowns()
    if not records:
        return []
    paths: dict[str, list[str]] = {}
    for info in store.list(ref):
        if info.sha256 in records:
            paths.setdefault(info.sha256, []).append(info.path)
    found = [
        _taken_down(path, sha256, reason, on_main=sha256 in paths)
        for sha256, reason in records.items()
        for path in paths.get(sha256) or _recorded_paths(store, sha256) or [""]
    ]
    return sorted(found, key=lambda each: (not each.on_main, each.path, each.sha256))


def _taken_down(path: str, sha256: str, reason: str, *, on_main: bool) -> TakenDown:
    asset, partition = asset_and_partition(path)
    return TakenDown(asset, partition, path, sha256, reason, on_main, way_out(asset, partition) if on_main else "")


def asset_and_partition(path: str) -> tuple[str, str | None]:
    """Of a path of the store; ("", None) for what belongs to no asset."""
    _, *rest = path.split("/")
    if len(rest) < 2 or rest[0] not in BY_NAME:
        return "", None
    return rest[0], rest[1] if BY_NAME[rest[0]].partition else None


def record(reason: str, at: str, paths: Sequence[str]) -> bytes:
    """The record of one takedown, as main holds it."""
    content = {"reason": reason, "at": at, "paths": sorted(paths)}
    return (json.dumps(content, ensure_ascii=False, sort_keys=True) + "\n").encode()


def _recorded_paths(store: VersionedStore, sha256: str) -> list[str]:
    try:
        found = json.loads(store.read_bytes(MAIN, f"{TAKEDOWNS}{sha256}.json"))
        return [str(path) for path in found["paths"]]
    except (PathNotFoundError, ValueError, KeyError, TypeError):
        return []
    except StoreError:  # `verify` is for what is damaged
        return []


def by_partition(gone: Iterable[TakenDown]) -> dict[tuple[str, str | None], list[TakenDown]]:
    """What main still names, by asset and partition."""
    found: dict[tuple[str, str | None], list[TakenDown]] = {}
    for each in gone:
        if each.on_main and each.asset:
            found.setdefault((each.asset, each.partition), []).append(each)
    return found


def with_takedowns(status: Status, gone: Iterable[TakenDown]) -> Status:
    """The same status, in which a partition that lost a file is `taken_down`. What a newer run superseded stays
    history, with its cause: nothing has to be done about it."""
    items = dict(status.items)
    for key, files in by_partition(gone).items():
        if item := items.get(key):
            state = item.state if item.state == "history" else "taken_down"
            items[key] = replace(item, state=state, causes=(sentence(files), *item.causes))
    return replace(status, items=items)


def sentence(files: Sequence[TakenDown]) -> str:
    """What is gone of one partition, why, and the way out."""
    reasons = "; ".join(sorted({each.reason for each in files}))
    return f"{len(files)} file(s) taken down ({reasons}). {files[0].way_out}"


def audit_rows(gone: Iterable[TakenDown]) -> list[dict[str, Any]]:
    """As rows of the audit, one per partition: the published findings were made before the takedown."""
    return [
        {
            "rule": "taken_down",
            "run": key or "",
            "checked": len(files),
            "violations": 0,
            "example": f"{files[0].label}: {sentence(files)}",
        }
        for (_, key), files in by_partition(gone).items()
    ]


def as_json(gone: Iterable[TakenDown]) -> list[Mapping[str, Any]]:
    """For --json."""
    return [asdict(each) for each in gone]
