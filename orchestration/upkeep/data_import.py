"""`headwater import`: a source of sources.toml, or files that become one, crawled into raw_crawl and crawl_delta."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from assets.sources.bulk.dataset import LAYOUTS
from assets.sources.config import SourceConfig
from assets.sources.streams.decompression import plain_name
from orchestration.config import ConfigError, read_sources_toml, tags, validate

_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
_COMMENT = "added by `headwater import`"


def kind_of(spec: str) -> dict[str, Any]:
    """The kind, and its own keys, that a path, URL or glob asks for. Raises ConfigError when it cannot be told."""
    path = spec.partition("?")[0].rstrip("/")
    name = plain_name(PurePosixPath(path).name).lower()
    folder = Path(spec).expanduser()
    if name.endswith((".warc", ".wet", ".wat")):
        return {"kind": "warc"}
    if name.endswith(".xml"):
        return {"kind": "wikipedia"}
    if any((folder / marker).exists() for marker in ("dataset_info.json", "dataset_dict.json")):
        return {"kind": "dataset", "layout": "huggingface"}
    if folder.is_dir() and any(folder.glob("data/*.parquet")):
        return {"kind": "dataset", "layout": "huggingface"}
    suffix = PurePosixPath(name).suffix
    if suffix in LAYOUTS and suffix not in (".txt", ".json"):
        return {"kind": "dataset"}
    if folder.is_dir() or suffix in (".zip", ".tar", ".tgz", ".mbox", ".eml", ".pdf", ".docx", ".md", ".html"):
        return {"kind": "documents"}
    if suffix in LAYOUTS:
        return {"kind": "dataset"}
    raise ConfigError(
        f"{spec!r} is no source of sources.toml, and its name does not say what it holds: pass --kind "
        f"({', '.join(tags(SourceConfig))})"
    )


def new_source(
    specs: list[str], name: str, keys: Mapping[str, Any], settings: Mapping[str, Any], config: Path
) -> dict[str, Any]:
    """The validated table of files that become a source. Raises ConfigError naming the key and the rule."""
    path = config / "sources.toml"
    if not _NAME.fullmatch(name):
        raise ConfigError(f"--name {name!r}: lower-case letters, digits and hyphens only")
    if name in read_sources_toml(path):
        raise ConfigError(f"{path} has a source {name!r} already: `headwater import {name}` reads it again")
    for spec in specs:
        if not _is_text(spec):
            raise ConfigError(
                f"{os.fsencode(spec)!r}: this name is not UTF-8, and sources.toml cannot hold it: rename it, or name the "
                "folder above it"
            )
    table = {**kind_of(specs[0]), **{key: value for key, value in keys.items() if value}}
    if "paths" not in settings and table["kind"] != "common_crawl":
        table["paths"] = [_absolute(spec) for spec in specs]
    table |= settings
    validate(SourceConfig, table, Path(f"{path} with what was given"), name)
    return table


def _is_text(spec: str) -> bool:
    try:
        spec.encode()
    except UnicodeEncodeError:
        return False
    return True


def _absolute(spec: str) -> str:
    """A local path that means the same from any working folder."""
    return spec if "://" in spec else str(Path(spec).expanduser().absolute())


def append_source(name: str, table: Mapping[str, Any], config: Path) -> None:
    """Put a table at the end of sources.toml; what people wrote there stays as it is."""
    import tomlkit

    path = config / "sources.toml"
    document = tomlkit.document()
    document.add(tomlkit.comment(_COMMENT))
    document.add(name, tomlkit.item(dict(table)))
    text = path.read_text(encoding="utf-8")
    unfinished = path.with_name("sources.toml.unfinished")
    unfinished.write_text(f"{text.rstrip()}\n\n{tomlkit.dumps(document)}", encoding="utf-8")
    unfinished.replace(path)
