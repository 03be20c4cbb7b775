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

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from assets.build import Progress, Segment
from assets.packs import PackedRows
from orchestration.catalog import Catalog, segment
from orchestration.digest import file_sha256
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
class Entry:
    """One partition in a pack."""

    partition: str
    publication: str
    first: int
    count: int


@dataclass(frozen=True)
class Pack:
    """One pack and what it holds."""

    path: Path
    sha256: str
    takedowns: int
    """Of the store when the pack was made."""
    entries: tuple[Entry, ...]

    @property
    def rows(self) -> int:
        """Rows of all partitions."""
        return sum(entry.count for entry in self.entries)


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


def compact(store: VersionedStore, catalog: Catalog, home: Path, progress: Progress) -> list[Packed]:
    """Pack every small partition that is published and not packed yet; drop what is no longer published."""
    done, takedowns = [], len(store.takedowns())
    for asset, table in PACKED_TABLES.items():
        folder = packs_folder(home) / asset
        published = {key: catalog.manifests[asset, key] for key in catalog.partitions(asset)}
        current = {key: publication(manifest) for key, manifest in published.items()}
        packs = list(read_packs(folder, table))
        usable = [
            pack
            for pack in packs
            if pack.takedowns == takedowns and all(current.get(e.partition) == e.publication for e in pack.entries)
        ]
        known = {entry.partition for pack in usable for entry in pack.entries}
        new = [
            key
            for key, manifest in published.items()
            if key not in known and manifest["bytes"] <= SMALL_BYTES and table in manifest["rows"]
        ]
        for pack in packs:
            if pack not in usable:
                _delete(pack)
        if len(new) >= LEAST_PARTITIONS:
            merged = _chosen(usable, sum(published[key]["rows"][table] for key in new))
            keys = sorted([*new, *(entry.partition for pack in merged for entry in pack.entries)])
            segments = [segment(store, catalog.commit, published[key], verified=True) for key in keys]
            _write(folder, table, segments, takedowns, progress)
            for pack in merged:
                _delete(pack)
        found = list(read_packs(folder, table))
        partitions = sum(len(pack.entries) for pack in found)
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
    entries: list[dict[str, Any]] = []
    rows_per_group = _rows_per_group(segments)
    pending: list[pa.Table] = []
    first = held = 0
    schema = segments[-1].table(table).schema
    with pq.ParquetWriter(unfinished, schema, compression="zstd") as writer:
        for number, each in enumerate(segments):
            rows = each.table(table)
            if rows.schema != schema:
                continue  # an older layout of the table: it is read where it lies
            place = {"partition": each.partition, "publication": publication(each.manifest)}
            entries.append(place | {"first": first, "count": len(rows)})
            first, held = first + len(rows), held + len(rows)
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
    description.write_text(json.dumps({"sha256": digest, "takedowns": takedowns, "entries": entries}), encoding="utf-8")
    description.replace(path.with_suffix(".json"))


def _rows_per_group(segments: list[Segment]) -> int:
    rows = sum(sum(each.manifest["rows"].values()) for each in segments)
    size = sum(each.manifest["bytes"] for each in segments)
    return max(1, min(_GROUP_ROWS, rows * _GROUP_BYTES // max(1, 4 * size)))  # compressed by about four


def read_packs(folder: Path, table: str) -> Iterator[Pack]:
    """Packs of a table, by name."""
    for path in sorted(folder.glob(f"{table}-*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        entries = tuple(Entry(**entry) for entry in found["entries"])
        yield Pack(path.with_suffix(".parquet"), found["sha256"], found["takedowns"], entries)


def with_packs(segments: Iterable[Segment], home: Path, store: VersionedStore) -> list[Segment]:
    """The same segments; those whose very publication is in a whole pack read it there."""
    segments = list(segments)
    places: dict[str, dict[str, tuple[str, PackedRows]]] = {}
    takedowns: int | None = None  # asked for only where there is a pack: it may be a request to a server
    for asset in {each.asset for each in segments} & PACKED_TABLES.keys():
        for pack in read_packs(packs_folder(home) / asset, PACKED_TABLES[asset]):
            takedowns = len(store.takedowns()) if takedowns is None else takedowns
            if pack.takedowns != takedowns or not _is_whole(pack):
                _delete(pack)
                continue
            for entry in pack.entries:
                rows = PackedRows(pack.path, entry.first, entry.count)
                places.setdefault(asset, {})[entry.partition] = (entry.publication, rows)
    return [_placed(each, places.get(each.asset, {}).get(each.partition or "")) for each in segments]


def _placed(each: Segment, place: tuple[str, PackedRows] | None) -> Segment:
    if place is None or place[0] != publication(each.manifest):
        return each
    return replace(each, packed={PACKED_TABLES[each.asset]: place[1]})


_whole: set[tuple[Path, str]] = set()


def _is_whole(pack: Pack) -> bool:
    """Hashed once per process. A damaged pack is deleted, and the partitions themselves are read instead."""
    if (pack.path, pack.sha256) not in _whole:
        if not pack.path.is_file() or file_sha256(pack.path) != pack.sha256:
            return False
        _whole.add((pack.path, pack.sha256))
    return True


def _delete(pack: Pack) -> None:
    pack.path.with_suffix(".json").unlink(missing_ok=True)
    pack.path.unlink(missing_ok=True)


def drop_packs(home: Path) -> None:
    """Delete every pack: after a takedown, or to have the space."""
    shutil.rmtree(packs_folder(home), ignore_errors=True)
