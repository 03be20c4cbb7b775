"""Files of this machine as captures: WARC `resource` records under URLs that name no machine path."""

from __future__ import annotations

import hashlib
import importlib.metadata
import mimetypes
import os
import sysconfig
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from assets.build import BuildError, Progress
from assets.schemas import CAPTURES, document_id
from assets.sources.config import FilesSource
from assets.sources.variables import Variables
from assets.sources.warc import WarcFolder
from assets.tables import write_table


def capture_files(
    source: FilesSource, name: str, crawl: str, output: Path, progress: Progress, variables: Variables
) -> dict[str, Any]:
    """Store the files of a source in path order; returns numbers of the execution."""
    root = resolve_root(variables.reveal(source.root), name)
    paths = list_files(root, source)
    rows: list[dict[str, Any]] = []
    stored = 0
    info = {"software": "Headwater", "format": "WARC File Format 1.1", "isPartOf": crawl}
    with WarcFolder(output, info) as warc:
        for number, relative in enumerate(paths):
            url = f"file:///{name}/{quote(os.fsencode(relative.as_posix()))}"
            content_type = mimetypes.guess_type(relative.name)[0] or "text/plain"
            row: dict[str, Any] = dict.fromkeys(CAPTURES.names)
            row |= {"url": url, "requested_url": url, "source": name, "crawl": crawl}
            row |= {"licence": source.licence, "domain": source.domain}
            row |= {"fetched_at": datetime.now(UTC), "content_type": content_type}
            payload = _read(root / relative, source.max_bytes_per_file)
            row["drop_reason"] = _reason(payload, number, stored, source)
            if row["drop_reason"] is None:
                assert payload is not None
                place = warc.write_resource(url, content_type, payload, row["fetched_at"])
                sha256 = hashlib.sha256(payload).hexdigest()
                row |= {"content_length": len(payload), "content_sha256": sha256}
                row |= {"doc_id": document_id(name, url, sha256), "warc_file": place.file}
                row |= {"warc_offset": place.offset, "warc_length": place.length}
                stored += len(payload)
            rows.append(row)
            if number % 100 == 0:
                progress.update(number, len(paths), url)
    write_table(output, "captures", sorted(rows, key=lambda row: row["url"]), CAPTURES)
    limits = Counter(row["drop_reason"] for row in rows)
    limit = next((reason for reason in ("page_limit", "byte_limit") if limits[reason]), None)
    return {"requests": len(paths), "retries": 0, "limit": limit, "rsl_licences": 0}


def _read(path: Path, max_bytes: int) -> bytes | None:
    """The content, or None when the file is too large."""
    return None if path.stat().st_size > max_bytes else path.read_bytes()


def _reason(payload: bytes | None, number: int, stored: int, source: FilesSource) -> str | None:
    if number >= source.max_files:
        return "page_limit"
    if payload is None:
        return "too_large"
    if not payload:
        return "empty_body"
    if stored + len(payload) > source.max_bytes:
        return "byte_limit"
    return None


def resolve_root(root: str, name: str) -> Path:
    """The folder behind `package:NAME`, `stdlib:` or a path. Raises BuildError when there is none."""
    if root == "stdlib:":
        return Path(sysconfig.get_paths()["stdlib"])
    if root.startswith("package:"):
        package = root.removeprefix("package:")
        try:
            distribution = importlib.metadata.distribution(package)
        except importlib.metadata.PackageNotFoundError:
            raise BuildError(f"source {name!r}: root {root!r}: no distribution {package!r} is installed") from None
        top = (distribution.read_text("top_level.txt") or package.replace("-", "_")).split()[0]
        folder = Path(str(distribution.locate_file(top)))
    else:
        folder = Path(root).expanduser()
    if not folder.is_dir():
        raise BuildError(f"source {name!r}: root {root!r} is not a folder on this machine")
    return folder


def list_files(root: Path, source: FilesSource) -> list[PurePosixPath]:
    """Regular files below root that a glob names, by path; links that leave root are not followed."""
    real_root = root.resolve()
    excluded = {path for glob in source.exclude for path in root.glob(glob)}
    found = {
        PurePosixPath(path.relative_to(root).as_posix())
        for glob in source.include
        for path in root.glob(glob)
        if path not in excluded and path.is_file() and path.resolve().is_relative_to(real_root)
    }
    return sorted(found, key=str)
