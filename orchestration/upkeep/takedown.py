"""Takedown: objects of the store are deleted under every commit, and with them the copies that the home holds.

A pack holds texts of many partitions, so all packs go; the next `headwater run` or `headwater compact` makes them
again of what is left. Killed in between, the same command ends it, and no reader takes a pack older than the takedown.
The record is on main before anything is deleted. Then the text is looked for everywhere else: what is found remains.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from orchestration.identity.digest import MANIFEST
from orchestration.identity.kept_manifests import forget
from orchestration.store.contract import MAIN, TAKEDOWNS, LostRaceError, StoreError, VersionedStore
from orchestration.upkeep.compaction import drop_packs
from orchestration.upkeep.takedown_search import Search, look_everywhere, sentences_of
from orchestration.upkeep.taken_down import record

ATTEMPTS = 20
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Takedown:
    """What was taken down, and what else holds the same text."""

    sha256s: tuple[str, ...]
    freed_bytes: int
    """In the store; 0 for objects that were not there, which are banned all the same."""
    search: Search
    deleted: bool = True
    """False where only the search was asked for."""


def take_down(
    store: VersionedStore,
    home: Path,
    objects: Sequence[str],
    reason: str,
    *,
    texts: Sequence[str] = (),
    places: Sequence[Path] = (),
    search_only: bool = False,
) -> Takedown:
    """Delete objects, each given by its SHA-256 or as REF:PATH, and every pack; then search for the text.

    `texts`: sentences to search for instead of those of the objects. `places`: folders to search besides the home.
    Raises StoreError for what is no object, and for a manifest, without which nothing of its partition can be read.
    """
    digests = tuple(sorted({_digest(store, each) for each in objects}))
    if not reason.strip():
        raise StoreError("a takedown needs a reason: it is what readers of the history will be told")
    held = _held(store, digests)
    named = [(MAIN, paths[0]) for paths in held.values() if paths]
    named += [(ref, path) for ref, colon, path in (each.partition(":") for each in objects) if colon]
    wanted, search = sentences_of(store, list(dict.fromkeys(named)), texts)
    freed = 0
    if not search_only:
        _record(store, held, reason.strip())
        freed = store.purge(digests, reason=reason)
        drop_packs(home)
        forget()
    look_everywhere(store, [home, *places], home, wanted, search)
    return Takedown(digests, freed, search, deleted=not search_only)


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


def _held(store: VersionedStore, digests: Sequence[str]) -> dict[str, list[str]]:
    """Digest -> its paths on main."""
    held: dict[str, list[str]] = {sha256: [] for sha256 in digests}
    for info in store.list(MAIN):
        if info.sha256 in held:
            held[info.sha256].append(info.path)
            if info.path.rpartition("/")[2] == MANIFEST:
                raise StoreError(
                    f"{info.path} is a manifest: without it no command can read the store. Nothing was taken down. "
                    "Build its partition again, which replaces it, or leave it out."
                )
    return held


def _record(store: VersionedStore, held: dict[str, list[str]], reason: str) -> None:
    """Commit what a clone has the takedown from; a record that is there stays as it is."""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    for _ in range(ATTEMPTS):
        there = {info.path for info in store.list(MAIN, TAKEDOWNS)}
        put = {f"{TAKEDOWNS}{sha256}.json": record(reason, at, paths) for sha256, paths in held.items()}
        put = {path: content for path, content in put.items() if path not in there}
        if not put:
            return
        try:
            store.commit(MAIN, put, message=f"Take down {len(put)} object(s): {reason}", metadata={"takedown": "true"})
            return
        except LostRaceError:
            continue
    raise StoreError(f"{MAIN} moved {ATTEMPTS} times while the takedown was recorded; nothing was deleted: try again")
