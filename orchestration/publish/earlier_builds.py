"""What a build may start from: its own earlier version, and what other partitions of its asset have computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from assets.build import Base, BuildError, Segment
from orchestration.identity.catalog import Catalog, segment
from orchestration.identity.fingerprint import Identity
from orchestration.stages import Stage
from orchestration.store.contract import StoreError, VersionedStore


def base_of(accepted: Segment | None, wanted: Identity) -> Base | None:
    """The accepted version, if everything but its inputs is as it would be now."""
    if accepted is None:
        return None
    then = accepted.manifest["identity"]
    same = all(then[name] == getattr(wanted, name) for name in ("config", "code", "libraries", "recipes"))
    return Base(accepted, then["inputs"]) if same else None


def others_of(
    store: VersionedStore, stage: Stage, partition: str | None, catalog: Catalog, wanted: Identity
) -> list[Segment]:
    """Other partitions that the same code made, the newest first. Not part of a build's identity: they save work alone.

    A file of theirs that cannot be read raises BuildError, which the build may pass over.
    """
    manifests = [catalog.get(stage.name, key) for key in catalog.partitions(stage.name) if key != partition]
    alike = [
        found
        for found in manifests
        if found and all(found["identity"][name] == getattr(wanted, name) for name in ("code", "libraries"))
    ]
    alike.sort(key=lambda found: str(found["created_at"]), reverse=True)
    return [_offered(segment(store, catalog.commit, found, verified=True)) for found in alike]


def _offered(found: Segment) -> Segment:
    found.files = _OfferedFiles(found.files)
    return found


class _OfferedFiles(Mapping[str, Path]):
    """Files that a build can do without: one that is damaged or taken down is no reason for it to fail."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files

    def __getitem__(self, name: str) -> Path:
        try:
            return self._files[name]
        except StoreError as error:
            raise BuildError(str(error)) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)
