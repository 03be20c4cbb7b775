"""Payload to text: one capture in, its main content or a reason out. Pure, so a worker process can run it.

    extract(b"<p>Hello", "text/html", "html", Extraction()) -> Extracted(text="Hello", ...)

The stage around it is in pipelines.py.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from assets.documents.formats.charset import decode, looks_binary
from assets.documents.formats.main_content import main_content
from assets.documents.formats.media_types import BINARY, MARKUP, Declared, Format, format_of, read_binary
from assets.documents.formats.unreadable import UnreadableError

REASONS = (
    "too_large",
    "not_text",
    "undecodable",
    "encrypted_document",
    "broken_document",
    "no_text_layer",
    "archive_bomb",
    "broken_message",
    "no_text_part",
    "extraction_timeout",
    "extraction_failed",
    "empty_extraction",
)
"""Drop reasons, about in the order in which they are decided."""

_TEXTUAL = re.compile(
    r"text/|application/(xhtml|xml|json|javascript|ecmascript|x-python|x-sh|x-httpd-php)|.*\+(xml|json)"
)
_UNREADABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x9f\u00ad\u200b\u2060\ufeff\ufff9-\ufffb]")


class Extraction(BaseModel):
    """[extraction]: how payloads become text."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_payload_bytes: int = Field(10_000_000, ge=1)
    """Larger payloads are dumps, not pages; also bounds the memory of a worker."""
    timeout_s: float = Field(30.0, gt=0)
    """Per document, CPU time: 10,000 times a usual page, so that only a parser gone quadratic meets it. A page that takes as long on the wall is tried again alone, where CPU time decides: a machine that is busy or stood still does not change the data."""
    max_replaced_share: float = Field(0.001, ge=0, le=1)
    """Undecodable characters a text may have: one broken byte in a page is forgiven, a wrong encoding is not (assumption)."""
    max_link_share: float = Field(0.6, ge=0, le=1)
    """Above this share of link text a page is an index, and the content is guessed (400 pages of Debian documentation: median 0.02, at most 0.40)."""
    captures_per_task: int = Field(128, ge=1)
    """Captures per datatrove task: unit of parallelism, of memory, and of what is redone after a kill."""


@dataclass(frozen=True)
class Extracted:
    """What extraction made of one capture. `detail` explains a drop to a person."""

    format: Format
    title: str = ""
    text: str = ""
    drop_reason: str | None = None
    detail: str = ""


def extract(payload: bytes, content_type: str | None, declared: Declared, recipe: Extraction) -> Extracted:
    """Title and text of one payload, or the reason why there is none. May raise or hang on hostile input."""
    kind = format_of(content_type, declared)
    if len(payload) > recipe.max_payload_bytes:
        return Extracted(kind, drop_reason="too_large", detail=f"{len(payload)} bytes > {recipe.max_payload_bytes}")
    try:
        if kind in BINARY.values():
            title, text = read_binary(kind, payload, recipe.max_replaced_share)
        else:
            title, text = _read_text(kind, payload, content_type, recipe)
    except UnreadableError as error:
        return Extracted(kind, drop_reason=error.reason, detail=str(error))
    title = clean(title)
    if kind != "code":
        text = clean(text).strip("\n")
    if not text.strip():
        return Extracted(kind, title, drop_reason="empty_extraction", detail="no text outside navigation")
    return Extracted(kind, title, text)


def _read_text(kind: Format, payload: bytes, content_type: str | None, recipe: Extraction) -> tuple[str, str]:
    if not _is_textual(content_type) or looks_binary(payload):
        raise UnreadableError("not_text", f"content type {content_type}")
    decoded = decode(payload, content_type, max_replaced_share=recipe.max_replaced_share)
    if decoded is None:
        raise UnreadableError("undecodable", "no encoding fits the bytes")
    text = decoded.text.replace("\r\n", "\n").replace("\r", "\n")
    if kind in MARKUP:
        return MARKUP[kind](text, content_type)
    if kind == "html":
        page = main_content(text, max_link_share=recipe.max_link_share)
        return page.title, page.text
    return "", text


def clean(text: str) -> str:
    """NFC, without control and invisible characters. Mojibake is left alone: ftfy costs as much as the whole
    extraction (3 MB/s), and its only hits in 254 handbook pages were the page that explains mojibake."""
    return _UNREADABLE.sub("", unicodedata.normalize("NFC", text))


def _is_textual(content_type: str | None) -> bool:
    return not content_type or bool(_TEXTUAL.match(content_type.strip().lower()))
