"""Builds and segments for tests of single stages: what the publisher would hand to a build function."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from assets.build import Build, Segment, StageReport


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


def make_build(
    folder: Path,
    asset: str,
    inputs: Iterable[Segment] = (),
    recipes: Mapping[str, Any] | None = None,
    partition: str | None = None,
    workers: int = 1,
    previous: Segment | None = None,
) -> Build:
    """A build of `asset` that writes to `folder/output`."""
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
    )
