"""What each column means, read from the comments in assets/schemas.py: for the UI and the data contract."""

from __future__ import annotations

import ast
import tokenize
from functools import cache

from orchestration.config import REPOSITORY

EVERYWHERE = {
    "doc_id": "the document: 128 bits of SHA-256 of source, URL and content",
    "url": "canonical URL of the page",
    "source": "name of the source in sources.toml",
    "crawl": "crawl partition, source@YYYYMMDDTHHMMSSZ",
    "fetched_at": "when the payload was fetched",
    "licence": "SPDX name or terms that the source declares",
    "content_sha256": "of the payload",
    "domain": "documentation | code | news | ..., declared by the source",
    "format": "html | text | code | markdown | pdf | docx | email | wikitext",
    "title": "of the page or file; empty when it has none",
    "language": "zh | en | fr | ... | code",
    "script": "Hans | Hant | Latn | ...; null where it does not apply",
    "quality": "0..1, higher is better",
    "characters": "of the text",
    "utf8_bytes": "of the text",
    "drop_reason": "why it goes no further; null = it goes on",
    "cluster_id": "smallest doc_id of its cluster of duplicates",
    "channel": "zh | en | code | ...: the part of the mixture",
    "run": "training run, recipe@YYYYMMDDTHHMMSSZ",
    "step": "optimiser step, from 1",
    "tokens_seen": "tokens trained on up to and with this step",
    "sequences_seen": "sequences of the order read up to and with this step",
    "weights_sha256": "of the checkpoint's model.safetensors",
}
"""Columns that mean the same in every table that says nothing else of them."""


@cache
def column_comments() -> dict[str, dict[str, str]]:
    """Schema name -> column -> the comment beside it in assets/schemas.py, else what it means everywhere."""
    path = REPOSITORY / "assets/schemas.py"
    found: dict[str, dict[str, str]] = {}
    comments: dict[int, str] = {}
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.COMMENT:
                comments[token.start[0]] = token.string.lstrip("# ")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            columns = found.setdefault(node.targets[0].id, {})  # type: ignore[attr-defined]
            for argument in node.value.args:
                if isinstance(argument, ast.Dict):
                    for key, value in zip(argument.keys, argument.values, strict=True):
                        name = key.value  # type: ignore[union-attr]
                        own = comments.get(value.end_lineno or 0) or comments.get(key.lineno)  # type: ignore[union-attr]
                        columns[name] = own or EVERYWHERE.get(name, "")
    return found
