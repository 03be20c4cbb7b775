"""Compaction: the tables of many small crawls copied into packs, which the stages read instead.

    $HEADWATER_HOME/packs/<asset>/<table>-<digest>.parquet   rows of many partitions, in order of partition
    $HEADWATER_HOME/packs/<asset>/<table>-<digest>.json      which partition, which publication of it, which rows

Partitions stay as they are in the store, and so do their digests: packs are a cache. They belong to
publications, not to names (a partition that was published again is not found in them), are hashed before
their first use like everything that is read for a build, and may be deleted at any time. After a takedown
none that was made before it is read again: a pack must not keep a text that the store gave up. Whoever
purges deletes them at once with `drop_packs`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from assets.build import Progress, Segment
from assets.packs import PackedRows
from orchestration.identity.catalog import NOT_PACKED, Catalog, segment
from orchestration.identity.digest import file_sha256
from orchestration.store.contract import VersionedStore

PACKED_TABLES = {
    "crawl_delta": "delta",
    "extracted_documents": "documents",
    "filtered_documents": "decisions",
    "document_signatures": "signatures",
}
"""Asset -> its table that grows by a partition each crawl."""

SMALL_BYTES = 8_000_000
"""Larger partitions gain nothing: opening a file costs half a millisecond."""
LEAST_PARTITIONS = 16
"""Fewer are not worth a file."""
MERGE_WHEN = 2
"""A pack is merged with what is new when that is at least half as large: at most log2(rows) packs stay."""
_GROUP_ROWS, _GROUP_BYTES = 8192, 32_000_000


@dataclass(frozen=True)
class Pack:
    """One pack and what it holds."""

    path: Path
    sha256: str
    takedowns: int
    """Of the store when the pack was made."""
    publications: dict[str, str]
    """Partition -> which publication of it, in the order of the rows."""
    counts: list[int]
    """Rows of each."""

    @property
    def rows(self) -> int:
        """Rows of all partitions."""
        return sum(self.counts)

    @cached_property
    def is_whole(self) -> bool:
        """Hashed once per process. A damaged pack is deleted, and the partitions themselves are read instead."""
        known = (self.path, self.sha256)
        if known not in _whole:
            if not self.path.is_file() or file_sha256(self.path) != self.sha256:
                _delete(self.path)
                return False
            _whole.add(known)
        return True


_whole: set[tuple[Path, str]] = set()
_DESCRIPTION = {"sha256", "takedowns", "publications", "counts"}


@dataclass(frozen=True)
class Packed:
    """What a compaction did to one asset."""

    asset: str
    partitions: int
    packs: int
    rows: int


def packs_folder(home: Path) -> Path:
    """Where packs lie."""
    return home / "packs"


def publication(manifest: Mapping[str, Any]) -> str:
    """What tells one publication of a partition from the next, even of the same content."""
    return f"{manifest['version']} {manifest.get('fingerprint', '')} {manifest.get('created_at', '')}"


def compact(
    store: VersionedStore,
    catalog: Catalog,
    home: Path,
    progress: Progress,
    without: Collection[tuple[str, str | None]] = (),
) -> list[Packed]:
    """Pack every small partition that is published and not packed yet; drop what is no longer published.

    `without`: partitions that cannot be read (taken down) and are no reason to fail.
    """
    done, takedowns = [], len(store.takedowns())
    for asset, table in PACKED_TABLES.items():
        folder = packs_folder(home) / asset
        published = {key: catalog.manifests[asset, key] for key in catalog.partitions(asset)}
        current = {key: publication(manifest) for key, manifest in published.items()}
        packs = list(read_packs(folder, table))
        usable = [
            pack for pack in packs if pack.takedowns == takedowns and pack.publications.items() <= current.items()
        ]
        known = {partition for pack in usable for partition in pack.publications}
        new = [
            key
            for key, manifest in published.items()
            if key not in known
            and (asset, key) not in without
            and manifest["bytes"] <= SMALL_BYTES
            and table in manifest["rows"]
        ]
        for pack in packs:
            if pack not in usable:
                _delete(pack.path)
        if len(new) >= LEAST_PARTITIONS:
            merged = _chosen(usable, sum(published[key]["rows"][table] for key in new))
            keys = sorted([*new, *(partition for pack in merged for partition in pack.publications)])
            segments = [segment(store, catalog.commit, published[key], verified=True) for key in keys]
            _write(folder, table, segments, takedowns, progress)
            for pack in merged:
                _delete(pack.path)
        found = list(read_packs(folder, table))
        partitions = sum(len(pack.publications) for pack in found)
        done.append(Packed(asset, partitions, len(found), sum(pack.rows for pack in found)))
    return done


def _chosen(packs: list[Pack], rows: int) -> list[Pack]:
    """Packs that are merged with so many new rows: the smallest first, while they are not much larger."""
    chosen = []
    for pack in sorted(packs, key=lambda pack: (pack.rows, pack.path.name)):
        if pack.rows > MERGE_WHEN * rows:
            break
        chosen.append(pack)
        rows += pack.rows
    return chosen


def _write(folder: Path, table: str, segments: list[Segment], takedowns: int, progress: Progress) -> None:
    """Write one pack; its description comes last, so that a pack without one is garbage of a killed command."""
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".{table}-{os.getpid()}.unfinished"
    publications: dict[str, str] = {}
    counts: list[int] = []
    rows_per_group = _rows_per_group(segments)
    pending: list[pa.Table] = []
    held = 0
    schema = segments[-1].table(table).schema
    with pq.ParquetWriter(unfinished, schema, compression="zstd") as writer:
        for number, each in enumerate(segments):
            rows = each.table(table)
            if rows.schema != schema:
                continue  # an older layout of the table: it is read where it lies
            publications[each.partition or ""] = publication(each.manifest)
            counts.append(len(rows))
            held += len(rows)
            pending.append(rows)
            if held >= rows_per_group:
                writer.write_table(pa.concat_tables(pending), row_group_size=max(1, held))
                pending, held = [], 0
            progress.update(number + 1, len(segments), f"{each.asset} packed")
        if held:
            writer.write_table(pa.concat_tables(pending), row_group_size=held)
    digest = file_sha256(unfinished)
    path = folder / f"{table}-{digest[:16]}.parquet"
    unfinished.replace(path)
    description = folder / f"{path.stem}.json.unfinished"
    content = {"sha256": digest, "takedowns": takedowns, "publications": publications, "counts": counts}
    description.write_bytes(orjson.dumps(content))
    description.replace(path.with_suffix(".json"))


def _rows_per_group(segments: list[Segment]) -> int:
    rows = sum(sum(each.manifest["rows"].values()) for each in segments)
    size = sum(each.manifest["bytes"] for each in segments)
    return max(1, min(_GROUP_ROWS, rows * _GROUP_BYTES // max(1, 4 * size)))  # compressed by about four


def read_packs(folder: Path, table: str) -> Iterator[Pack]:
    """Packs of a table, by name. One whose description is of another kind is deleted: it is a copy."""
    for path in sorted(folder.glob(f"{table}-*.json")):
        found = orjson.loads(path.read_bytes())
        if found.keys() == _DESCRIPTION:
            yield Pack(path.with_suffix(".parquet"), **found)
        else:
            _delete(path)


class Packs:
    """Where the rows of published partitions lie in the packs of a home; each asset's packs are looked up once."""

    def __init__(self, home: Path, store: VersionedStore) -> None:
        self._home, self._store = home, store
        self._places: dict[str, dict[str, tuple[str, Mapping[str, PackedRows]]]] = {}

    def of(self, manifest: Mapping[str, Any]) -> Mapping[str, PackedRows]:
        """Table -> rows of this very publication; empty where it is in no whole pack."""
        asset = manifest["asset"]
        if asset not in self._places:
            self._places[asset] = self._look(asset)
        place = self._places[asset].get(manifest["partition"])
        return place[1] if place is not None and place[0] == publication(manifest) else NOT_PACKED

    def _look(self, asset: str) -> dict[str, tuple[str, Mapping[str, PackedRows]]]:
        table = PACKED_TABLES.get(asset)
        if table is None:
            return {}
        found = {}
        packs = list(read_packs(packs_folder(self._home) / asset, table))
        takedowns = len(self._store.takedowns()) if packs else 0  # it may be a request to a server
        for pack in packs:
            if pack.takedowns != takedowns:
                _delete(pack.path)
                continue
            first = 0
            for (partition, published), count in zip(pack.publications.items(), pack.counts, strict=True):
                found[partition] = published, _Rows(pack, table, first, count)
                first += count
        return found


class _Rows(Mapping[str, PackedRows]):
    """The one table of a partition in a pack, which is hashed when a first reader asks; none if it is damaged."""

    __slots__ = ("_pack", "_rows", "_table")

    def __init__(self, pack: Pack, table: str, first: int, count: int) -> None:
        self._pack, self._table, self._rows = pack, table, PackedRows(pack.path, first, count)

    def __getitem__(self, table: str) -> PackedRows:
        if table != self._table or not self._pack.is_whole:
            raise KeyError(table)
        return self._rows

    def __iter__(self) -> Iterator[str]:
        return iter([self._table] if self._pack.is_whole else [])

    def __len__(self) -> int:
        return 1 if self._pack.is_whole else 0


def _delete(path: Path) -> None:
    path.with_suffix(".json").unlink(missing_ok=True)
    path.with_suffix(".parquet").unlink(missing_ok=True)


def drop_packs(home: Path) -> None:
    """Delete every pack: after a takedown, or to have the space."""
    shutil.rmtree(packs_folder(home), ignore_errors=True)
