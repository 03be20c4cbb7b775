"""What is published: the manifests on a ref of the store, and the segments they describe."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import orjson

from assets.build import Segment
from assets.errors import HeadwaterError
from assets.packs import PackedRows
from orchestration.identity.digest import MANIFEST
from orchestration.identity.kept_manifests import KEPT_BEHIND, keep, read_kept
from orchestration.identity.partitions import split_key
from orchestration.stages import BY_NAME, STAGES, Stage
from orchestration.store.contract import (
    MAIN,
    REPAIR,
    CorruptObjectError,
    ObjectInfo,
    PurgedObjectError,
    RefNotFoundError,
    VersionedStore,
)

MANIFEST_FORMAT = 1
NOT_PACKED: Mapping[str, PackedRows] = {}


class CatalogError(HeadwaterError):
    """The store holds something this version of Headwater cannot read."""


def prefix(stage: Stage, partition: str | None) -> str:
    """Folder of one partition of one asset inside a commit."""
    return f"{stage.group}/{stage.name}/{partition}/" if partition else f"{stage.group}/{stage.name}/"


@dataclass
class Catalog:
    """All manifests at one commit: (asset, partition) -> manifest."""

    commit: str
    manifests: dict[tuple[str, str | None], dict[str, Any]] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    """Partitions that were taken out by `without`."""

    def without(self, partitions: Sequence[str]) -> Catalog:
        """The same as if these partitions had not been published."""
        gone = set(partitions)
        kept = {key: manifest for key, manifest in self.manifests.items() if key[1] not in gone}
        return Catalog(self.commit, kept, tuple(partitions))

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


Manifests = dict[tuple[str, str | None], dict[str, Any]]

KEPT_CATALOGS = 4
_recent: WeakKeyDictionary[VersionedStore, dict[str, Manifests]] = WeakKeyDictionary()
"""Of each store that this process opened: the manifests at the last few commits, oldest first. Never changed."""
_manifest_cache: dict[str, dict[str, Any]] = {}
_FOLDERS = tuple(f"{stage.group}/{stage.name}/" for stage in STAGES)


def read_catalog(store: VersionedStore, ref: str = MAIN) -> Catalog:
    """Every manifest at a ref. What this process has read before costs only what changed since: a build of one
    crawl must not look at the thousand before it."""
    commit = store.resolve(ref)
    known = _recent.setdefault(store, {})
    manifests = known.pop(commit, None)
    if manifests is None:
        manifests = _updated(store, known, commit) if known else _first(store, commit)
    known[commit] = manifests
    while len(known) > KEPT_CATALOGS:
        del known[next(iter(known))]
    return Catalog(commit, dict(manifests))


def _first(store: VersionedStore, commit: str) -> Manifests:
    """For a process that has read none: from those that an earlier one kept, which are written anew when many differ."""
    before, kept = read_kept()
    _manifest_cache.update(kept)
    at_kept = {_key(manifest): manifest for manifest in kept.values()}
    if commit == before:
        return at_kept
    usable = bool(kept) and _holds(store, before)
    found = _updated(store, {before: at_kept}, commit) if usable else _all_manifests(store, commit)
    here = {sha256: manifest for sha256, manifest in _manifest_cache.items() if found.get(_key(manifest)) is manifest}
    if len(here.keys() - kept.keys() if usable else here) >= KEPT_BEHIND:
        keep(commit, here)
    return found


def _holds(store: VersionedStore, commit: str) -> bool:
    try:
        return store.resolve(commit) == commit
    except RefNotFoundError:  # collected in the meantime, or of another store
        return False


def _key(manifest: Mapping[str, Any]) -> tuple[str, str | None]:
    return manifest["asset"], manifest["partition"]


def _all_manifests(store: VersionedStore, commit: str) -> Manifests:
    infos = [info for folder in _FOLDERS for info in store.list(commit, folder, f"/{MANIFEST}")]
    found: Manifests = {}
    for info in infos:
        _add(found, store, commit, info)
    return found


def _updated(store: VersionedStore, known: Mapping[str, Manifests], commit: str) -> Manifests:
    """The newest catalog that is known, with what differs at `commit`."""
    before, manifests = list(known.items())[-1]
    try:
        changes = store.diff(before, commit)
    except (RefNotFoundError, CorruptObjectError):  # collected in the meantime, or damaged: only the present matters
        return _all_manifests(store, commit)
    found = dict(manifests)
    changes = [c for c in changes if c.path.endswith(f"/{MANIFEST}") and c.path.startswith(_FOLDERS)]
    for change in changes:
        if change.before:
            found.pop(_key(_manifest_cache[change.before.sha256]), None)
    for change in changes:
        if change.after:
            _add(found, store, commit, change.after)
    return found


def _add(found: Manifests, store: VersionedStore, commit: str, info: ObjectInfo) -> None:
    """Manifests are immutable: each object is parsed once per process."""
    if info.sha256 not in _manifest_cache:
        _manifest_cache[info.sha256] = _parse(store.read_bytes(commit, info.path), info.path)
    manifest = _manifest_cache[info.sha256]
    found[_key(manifest)] = manifest


def _parse(content: bytes, path: str) -> dict[str, Any]:
    manifest = orjson.loads(content)
    if manifest.get("format") != MANIFEST_FORMAT:
        raise CatalogError(
            f"{path}: manifest format {manifest.get('format')!r}, this Headwater reads {MANIFEST_FORMAT}. "
            "Use the version that wrote it, or rebuild with a new HEADWATER_HOME."
        )
    return manifest


class _Files(Mapping[str, Any]):
    """Logical name -> local path, located only when asked for (a remote store then fetches one file)."""

    __slots__ = ("_commit", "_manifest", "_store", "_verified")

    def __init__(self, store: VersionedStore, commit: str, manifest: Mapping[str, Any], verified: bool) -> None:
        self._store, self._commit, self._manifest, self._verified = store, commit, manifest, verified

    def __getitem__(self, name: str) -> Any:
        if name not in self._manifest["files"]:
            raise KeyError(name)
        place = prefix(BY_NAME[self._manifest["asset"]], self._manifest["partition"]) + name
        asset, partition = self._manifest["asset"], self._manifest["partition"]
        try:
            path = self._store.local_path(self._commit, place)
        except PurgedObjectError as error:
            raise PurgedObjectError(f"{error} {way_out(asset, partition)}") from None
        except CorruptObjectError as error:
            if not self._verified:
                raise
            raise CorruptObjectError(f"{error} {mend_damaged([asset])}", error.sha256) from None
        if self._verified:
            _verify_once(path, self._store.stat(self._commit, place))
        return path

    def __iter__(self):
        return iter(sorted(self._manifest["files"]))

    def __len__(self) -> int:
        return len(self._manifest["files"])


_verified_objects: set[tuple[str, Path]] = set()


def _verify_once(path: Path, info: ObjectInfo) -> None:
    """Hash an object before its first use in this process: a flipped bit can be valid Parquet with another text."""
    if (info.sha256, path) in _verified_objects:
        return
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != info.sha256:
            raise CorruptObjectError(
                f"{info.path}: the bytes of object {info.sha256} have another SHA-256: altered on disk after they were "
                f"published. Nothing was built from them. {mend_damaged([_asset_of(info.path)])} `headwater verify` looks for more.",
                info.sha256,
            )
    _verified_objects.add((info.sha256, path))


def _asset_of(path: str) -> str:
    return path.split("/")[1]


def partition_of(path: str) -> str:
    """Asset and partition that a path of the store belongs to, for people; empty for what is above them."""
    _, *rest = path.split("/")
    if len(rest) < 2 or rest[0] not in BY_NAME:
        return ""
    asset, partition = rest[0], rest[1]
    return f"{asset}[{partition}]" if BY_NAME[asset].partition else asset


def mend_damaged(assets: Iterable[str]) -> str:
    """How damaged files of these assets come back."""
    names = sorted(set(assets) & set(BY_NAME))
    made = " ".join(f"--rebuild {name}" for name in names if not BY_NAME[name].once)
    copied = f"{REPAIR} takes the object from a clone or a backup of the store"
    kept = ", ".join(name for name in names if BY_NAME[name].once)
    if not made:
        return f"{kept or 'This'} is never made again: {copied}."
    return f"Make it again: `headwater run {made}`; for an older version{f' and {kept}' if kept else ''}, {copied}."


def way_out(asset: str, partition: str | None) -> str:
    """What to do so that nothing needs a file of this partition that was taken down."""
    if asset not in BY_NAME:
        return "docs/store.md (Takedown) says what leads out."
    kind = BY_NAME[asset].partition
    if kind == "crawl" and partition:
        source = split_key(partition)[0]
        return (
            f"`headwater run --recrawl {source}` leads out: it crawls {source} anew, from nothing, and its earlier crawls "
            "leave main. First see to it that the source does not serve the page any more, or exclude it in sources.toml."
        )
    if kind == "run":
        return "`headwater run --new-run` leads out: a new run, which reads what is left."
    return (
        f"`headwater run --rebuild {asset}` leads out, once what it is made from does not hold the text any more "
        "(`headwater run --recrawl SOURCE`)."
    )


def segment(
    store: VersionedStore,
    commit: str,
    manifest: Mapping[str, Any],
    *,
    verified: bool = False,
    packed: Mapping[str, PackedRows] = NOT_PACKED,
) -> Segment:
    """The readable segment that a manifest at `commit` describes; `verified` hashes each file before its first use."""
    return Segment(
        asset=manifest["asset"],
        partition=manifest["partition"],
        version=manifest["version"],
        files=_Files(store, commit, manifest, verified),
        manifest=manifest,
        packed=packed,
    )
