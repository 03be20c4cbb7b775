"""Takedown: objects of the store are deleted under every commit, and with them the copies that the home holds.

A pack holds texts of many partitions, so all packs go; the next `headwater run` or `headwater compact` makes them
again of what is left. Killed in between, the same command ends it, and no reader takes a pack older than the takedown.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestration.compaction import drop_packs
from orchestration.store.contract import StoreError, VersionedStore

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Takedown:
    """What was taken down."""

    sha256s: tuple[str, ...]
    freed_bytes: int
    """In the store; 0 for objects that were not there, which are banned all the same."""


def take_down(store: VersionedStore, home: Path, objects: Sequence[str], reason: str) -> Takedown:
    """Delete objects, each given by its SHA-256 or as REF:PATH, and every pack. Raises StoreError for what is neither."""
    digests = tuple(sorted({_digest(store, each) for each in objects}))
    freed = store.purge(digests, reason=reason)
    drop_packs(home)
    return Takedown(digests, freed)


def _digest(store: VersionedStore, named: str) -> str:
    if _SHA256.fullmatch(named):
        return named
    ref, colon, path = named.partition(":")
    if not colon or not ref or not path:
        raise StoreError(
            f"{named!r} is no object: give its SHA-256 (64 hexadecimal digits) or REF:PATH, "
            "for instance main:documents/extracted_documents/site@20260101T000000Z/documents-00000.parquet"
        )
    return store.stat(ref, path).sha256
