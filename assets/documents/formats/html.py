"""HTML inside other formats: a mail's part, and what a library made of a Word document or of Markdown."""

from __future__ import annotations

from assets.documents.formats.charset import decode
from assets.documents.formats.main_content import main_content
from assets.documents.formats.unreadable import UnreadableError


def first_heading(html: str) -> str:
    """Text of the first <h1>, or empty."""
    from resiliparse.parse.html import HTMLTree

    body = HTMLTree.parse(html).body
    heading = body.query_selector("h1") if body else None
    return " ".join((heading.text or "").split()) if heading else ""


def decoded_html(payload: bytes, content_type: str | None, max_replaced_share: float) -> str:
    """Text of an HTML part. Raises UnreadableError when no encoding fits."""
    decoded = decode(payload, content_type, max_replaced_share=max_replaced_share)
    if decoded is None:
        raise UnreadableError("undecodable", "no encoding fits the bytes")
    return main_content(decoded.text, max_link_share=1.0).text
