"""All manifests at a commit that an earlier process read, by SHA-256, in one file of the home: a thousand nights have
7,500 of them, and listing, opening and hashing each costs every command a second; what differs at a later commit is
found by comparing the two. Neither manifests nor commits ever change, so what is kept is never wrong; the file is a cache that may be deleted at any time, and a store whose objects are damaged is what `verify` is for."""

from __future__ import annotations

import contextlib
import gc
import hashlib
from typing import Any

import orjson

from orchestration.config import home_folder

FILE = "manifests.json"
KEPT_BEHIND = 100
"""Manifests that may be read one by one before the file is written again: it is as large as all of them."""

Manifests = dict[str, dict[str, Any]]


def read_kept() -> tuple[str, Manifests]:
    """The commit, and SHA-256 -> manifest; nothing where nothing is kept, or what is kept is not what was written."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        digest, _, content = (home_folder() / "scratch" / FILE).read_bytes().partition(b"\n")
        if hashlib.sha256(content).hexdigest().encode() == digest:
            kept = _read(content)
            return kept["commit"], kept["manifests"]
    return "", {}


def _read(content: bytes) -> dict[str, Any]:
    """A million small objects that stay as long as the process: the garbage collector need not look at them, neither
    while they are made nor ever after (a quarter of what a command costs)."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        return orjson.loads(content)
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


def keep(commit: str, manifests: Manifests) -> None:
    """Write all manifests at a commit for later processes. A home is not made for this."""
    home = home_folder()
    if home.is_dir():
        from orchestration.store.durable import write_small_file  # pygit2, for those who write alone

        content = orjson.dumps({"commit": commit, "manifests": manifests})
        with contextlib.suppress(OSError):
            write_small_file(home / "scratch", FILE, hashlib.sha256(content).hexdigest().encode() + b"\n" + content)


def forget() -> None:
    """Delete what is kept: a manifest has samples of what was dropped, which a takedown may be about."""
    with contextlib.suppress(FileNotFoundError):
        (home_folder() / "scratch" / FILE).unlink()
