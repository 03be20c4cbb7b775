"""What a build hands on: staged data with the verdicts on it, and the rule of what of it may be merged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from assets.build import StageReport
from assets.errors import HeadwaterError
from orchestration.identity.catalog import prefix
from orchestration.identity.digest import MANIFEST
from orchestration.process.asset_lock import AssetLock
from orchestration.stages import Stage
from orchestration.store.contract import VersionedStore
from quality.asset_checks import NamedOutcome


class NotWhatWasCheckedError(HeadwaterError):
    """What is to be merged is not, or is no longer, what the checks looked at."""


@dataclass(frozen=True)
class Publication:
    """One partition of one asset on `main`."""

    manifest: Mapping[str, Any]
    report: StageReport
    checks: tuple[NamedOutcome, ...]
    commit: str
    already_done: bool


@dataclass(frozen=True)
class Staged:
    """Data on a build branch, checked but not yet merged."""

    stage: Stage
    partition: str | None
    branch: str
    commit: str
    """What was checked, and all that may be merged: the branch is only its name."""
    lock: AssetLock
    manifest: dict[str, Any]
    report: StageReport
    checks: tuple[NamedOutcome, ...]

    @property
    def label(self) -> str:
        """Asset and partition, for people."""
        return f"{self.stage.name}[{self.partition}]" if self.partition else self.stage.name

    @property
    def failed(self) -> list[NamedOutcome]:
        """Blocking checks that did not pass."""
        return [c for c in self.checks if c.blocking and not c.outcome.passed]


def manifest_path(stage: Stage, partition: str | None) -> str:
    """Where the manifest of a partition lies in the store."""
    return prefix(stage, partition) + MANIFEST


def encoded(manifest: Mapping[str, Any]) -> bytes:
    """A manifest as it is stored."""
    return json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False).encode()


def refuse_unchecked(store: VersionedStore, staged: Staged) -> None:
    """Raise NotWhatWasCheckedError unless the lock is held and branch and manifest are those that were checked.

    The lock keeps other processes of this home away; a shared store has other homes, too.
    """
    if not staged.lock.held:
        problem = "its lock was given back before it was merged"
    elif (head := store.branches().get(staged.branch)) != staged.commit:
        problem = f"branch {staged.branch} is at {head[:12] if head else 'no commit'}, not at {staged.commit[:12]}"
    elif store.read_bytes(staged.commit, manifest_path(staged.stage, staged.partition)) != encoded(staged.manifest):
        problem = f"the manifest in commit {staged.commit[:12]} is another one"
    else:
        return
    raise NotWhatWasCheckedError(
        f"{staged.label} is not merged, for it is not what was checked: {problem}. Nothing was published. Another "
        "process may be building the same partition; wait for it, then run again."
    )
