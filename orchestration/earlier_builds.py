"""What a build may start from: its own earlier version, and what other partitions of its asset have computed."""

from __future__ import annotations

from assets.build import Base, Segment
from orchestration.catalog import Catalog, segment
from orchestration.identity import Identity
from orchestration.stages import Stage
from orchestration.store.contract import VersionedStore


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
    """Other partitions that the same code made, the newest first. Not part of a build's identity: they save work alone."""
    manifests = [catalog.get(stage.name, key) for key in catalog.partitions(stage.name) if key != partition]
    alike = [
        found
        for found in manifests
        if found and all(found["identity"][name] == getattr(wanted, name) for name in ("code", "libraries"))
    ]
    alike.sort(key=lambda found: str(found["created_at"]), reverse=True)
    return [segment(store, catalog.commit, found, verified=True) for found in alike]
