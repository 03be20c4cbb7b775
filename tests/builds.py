"""Builds and segments for tests of single stages: what the publisher would hand to a build function."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from assets.build import Base, Build, PipelineExecutor, Segment, StageReport
from orchestration.identity.digest import digest_folder


def segment_of(
    folder: Path, asset: str, partition: str | None = None, version: str = "v1", report: StageReport | None = None
) -> Segment:
    """A folder as a published segment. Its files get names without meaning, as in the store."""
    objects = folder.parent / f"{folder.name}.objects"
    objects.mkdir(exist_ok=True)
    files: dict[str, Path] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        files[name] = objects / hashlib.sha256(name.encode() + path.read_bytes()).hexdigest()
        if not files[name].exists():
            os.link(path, files[name])
    manifest = {"version": version, "report": (report or StageReport()).as_json(), "identity": {"inputs": {}}}
    return Segment(asset, partition, version, files, manifest)


def published(build: Build, report: StageReport) -> Segment:
    """What the publisher makes of a build: real data version, files kept from the version it extends."""
    base = report.extends.segment if report.extends else None
    names = report.extends.kept if report.extends else set()
    known = base.manifest["digests"] if base else {}
    kept = {name: known[name] for name in names if name in known}
    found = digest_folder(build.output, report.volatile_files, kept)
    own = segment_of(build.output, build.asset, build.partition, found.version, report)
    files = {name: base.files[name] for name in names} if base else {}
    inputs = {asset: {s.partition or "": s.version for s in segments} for asset, segments in build.inputs.items()}
    more = {
        "digests": found.files,
        "rows": found.rows,
        "extends": {"version": base.version, "updates": report.extends.updates} if base and report.extends else None,
        "identity": {"inputs": inputs},
    }
    return Segment(build.asset, build.partition, found.version, {**files, **own.files}, {**own.manifest, **more})


def make_build(
    folder: Path,
    asset: str,
    inputs: Iterable[Segment] = (),
    recipes: Mapping[str, Any] | None = None,
    partition: str | None = None,
    workers: int = 1,
    previous: Segment | None = None,
    extend: bool = False,
    executor: PipelineExecutor | None = None,
) -> Build:
    """A build of `asset` that writes to `folder/output`; with `extend` it may update `previous`."""
    by_asset: dict[str, list[Segment]] = {}
    for segment in inputs:
        by_asset.setdefault(segment.asset, []).append(segment)
    for name in ("output", "work"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return Build(
        asset=asset,
        partition=partition,
        output=folder / "output",
        scratch=folder / "work",
        inputs={name: sorted(found, key=lambda s: s.partition or "") for name, found in by_asset.items()},
        recipes=recipes or {},
        workers=workers,
        previous=previous,
        base=Base(previous, previous.manifest["identity"]["inputs"]) if previous and extend else None,
        executor=executor,
    )
