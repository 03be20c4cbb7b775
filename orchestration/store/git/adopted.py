"""Takedowns that are recorded on main, in `takedowns/<sha256>.json`: a clone has main, but not `lfs/purged`."""

from __future__ import annotations

import json

from orchestration.store.contract import TAKEDOWNS, StoreError
from orchestration.store.git import trees
from orchestration.store.git.lfs_objects import LfsObjects
from orchestration.store.git.objects import GitObjects, Pointer
from orchestration.store.paths import is_sha256

UNREAD = "recorded on main, in takedowns/; the record itself was not fetched"
"""Reason of a takedown whose record is only a pointer here (a clone without git-lfs)."""


def missing(git: GitObjects, lfs: LfsObjects, commit: str | None) -> dict[str, str]:
    """SHA-256 -> reason of what a commit says was taken down and this store does not know of.

    What cannot be read of it is left to `verify`.
    """
    try:
        entry = trees.find(git, git.root(commit), [TAKEDOWNS.rstrip("/")]) if commit else None
        records = git.tree(entry[1]) if entry is not None and trees.is_tree(entry) else {}
        named = {name.removesuffix(".json"): found for name, found in records.items()}
        unknown = {name: git.pointer(found[1]) for name, found in named.items() if not lfs.is_purged(name)}
    except (StoreError, ValueError, KeyError):
        return {}
    return {name: _reason(lfs, pointer) for name, pointer in sorted(unknown.items()) if is_sha256(name)}


def _reason(lfs: LfsObjects, record: Pointer) -> str:
    try:
        return str(json.loads(lfs.read(record, "a record of a takedown"))["reason"])
    except (StoreError, ValueError, KeyError, TypeError):
        return UNREAD
