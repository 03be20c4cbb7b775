"""Takedowns that are recorded on main, in `takedowns/<sha256>.json`: a clone has main, but not `lfs/purged`."""

from __future__ import annotations

import json

from orchestration.store import git_trees
from orchestration.store.contract import TAKEDOWNS, StoreError
from orchestration.store.git_objects import GitObjects, Pointer
from orchestration.store.lfs_objects import LfsObjects
from orchestration.store.paths import is_sha256

UNREAD = "recorded on main, in takedowns/; the record itself was not fetched"
"""Reason of a takedown whose record is only a pointer here (a clone without git-lfs)."""


def recorded(git: GitObjects, commit: str | None) -> dict[str, Pointer]:
    """SHA-256 -> its record, at a commit. What cannot be read is left to `verify`."""
    try:
        entry = git_trees.find(git, git.root(commit), [TAKEDOWNS.rstrip("/")]) if commit else None
        if entry is None or not git_trees.is_tree(entry):
            return {}
        names = {name.removesuffix(".json"): found for name, found in git.tree(entry[1]).items()}
        return {name: git.pointer(found[1]) for name, found in names.items() if is_sha256(name)}
    except (StoreError, ValueError, KeyError):
        return {}


def reason(lfs: LfsObjects, record: Pointer) -> str:
    """Why it was taken down, as the record says."""
    try:
        return str(json.loads(lfs.read(record, "a record of a takedown"))["reason"])
    except (StoreError, ValueError, KeyError, TypeError):
        return UNREAD
