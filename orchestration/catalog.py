"""What is published: the manifests on a ref of the store, and the segments they describe."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from assets.build import Segment
from orchestration.digest import MANIFEST
from orchestration.stages import BY_NAME, STAGES, Stage
from orchestration.store.contract import MAIN, VersionedStore

MANIFEST_FORMAT = 1


class CatalogError(Exception):
    """The store holds something this version of Headwater cannot read."""


def prefix(stage: Stage, partition: str | None) -> str:
    """Folder of one partition of one asset inside a commit."""
    return f"{stage.group}/{stage.name}/{partition}/" if partition else f"{stage.group}/{stage.name}/"


@dataclass
class Catalog:
    """All manifests at one commit: (asset, partition) -> manifest."""

    commit: str
    manifests: dict[tuple[str, str | None], dict[str, Any]] = field(default_factory=dict)

    def get(self, asset: str, partition: str | None) -> dict[str, Any] | None:
        """The manifest, or None when that was never published."""
        return self.manifests.get((asset, partition))

    def partitions(self, asset: str) -> list[str]:
        """Published partitions of a partitioned asset, sorted."""
        return sorted(p for a, p in self.manifests if a == asset and p is not None)

    def keys(self, asset: str) -> list[str | None]:
        """Published partitions of any asset: [None] for an unpartitioned one."""
        if BY_NAME[asset].partition:
            return list(self.partitions(asset))
        return [None] if (asset, None) in self.manifests else []


_manifest_cache: dict[str, dict[str, Any]] = {}


def read_catalog(store: VersionedStore, ref: str = MAIN) -> Catalog:
    """Read every manifest at a ref; manifests are immutable, so each object is parsed once per process."""
    catalog = Catalog(store.resolve(ref))
    for stage in STAGES:
        for info in store.list(catalog.commit, f"{stage.group}/{stage.name}/"):
            if info.path.rsplit("/", 1)[-1] != MANIFEST:
                continue
            if info.sha256 not in _manifest_cache:
                _manifest_cache[info.sha256] = _parse(store.read_bytes(catalog.commit, info.path), info.path)
            manifest = _manifest_cache[info.sha256]
            catalog.manifests[manifest["asset"], manifest["partition"]] = manifest
    return catalog


def _parse(content: bytes, path: str) -> dict[str, Any]:
    manifest = json.loads(content)
    if manifest.get("format") != MANIFEST_FORMAT:
        raise CatalogError(
            f"{path}: manifest format {manifest.get('format')!r}, this Headwater reads {MANIFEST_FORMAT}. "
            "Use the version that wrote it, or rebuild with a new HEADWATER_HOME."
        )
    return manifest


class _Files(Mapping[str, Any]):
    """Logical name -> local path, located only when asked for (a remote store then fetches one file)."""

    def __init__(self, store: VersionedStore, commit: str, folder: str, names: Sequence[str]) -> None:
        self._store, self._commit, self._folder, self._names = store, commit, folder, frozenset(names)

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        return self._store.local_path(self._commit, self._folder + name)

    def __iter__(self):
        return iter(sorted(self._names))

    def __len__(self) -> int:
        return len(self._names)


def segment(store: VersionedStore, commit: str, manifest: Mapping[str, Any]) -> Segment:
    """The readable segment that a manifest at `commit` describes."""
    stage = BY_NAME[manifest["asset"]]
    folder = prefix(stage, manifest["partition"])
    return Segment(
        asset=stage.name,
        partition=manifest["partition"],
        version=manifest["version"],
        files=_Files(store, commit, folder, list(manifest["files"])),
        manifest=manifest,
    )
