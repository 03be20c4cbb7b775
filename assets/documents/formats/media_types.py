"""Payloads that are no page: PDF, DOCX, mail, Markdown and wikitext to title and text, through libraries.

Each runs in extraction's sandbox; what a library cannot read becomes an UnreadableError with a drop reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

from assets.documents.formats.html import first_heading
from assets.documents.formats.main_content import main_content

Declared = Literal["auto", "html", "text", "code"]
Format = Literal["html", "text", "code", "markdown", "pdf", "docx", "email", "wikitext"]

DOCX_TYPE = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
BINARY: dict[str, Format] = {"application/pdf": "pdf", DOCX_TYPE: "docx", "message/rfc822": "email"}
"""Content types with one reading, whatever the source declares."""

TEXTUAL: dict[str, Format] = {"text/markdown": "markdown", "text/x-wiki": "wikitext", "text/plain": "text"}
"""Content types that a source with format = "auto" is read by; other text/x-... is code."""

_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?)\n(?:---|\.\.\.)[ \t]*\n", re.DOTALL)
_FRONT_TITLE = re.compile(r"^title:\s*[\"']?(.+?)[\"']?\s*$", re.MULTILINE)


def format_of(content_type: str | None, declared: Declared) -> Format:
    """How to read a payload: binary formats by their type; else as declared, or by type when that is left to us."""
    media = (content_type or "").partition(";")[0].strip().lower()
    if media in BINARY:
        return BINARY[media]
    if declared == "html" and media == "text/plain":
        return "text"  # a plain-text page of an HTML site
    if declared != "auto":
        return declared
    if "html" in media:
        return "html"
    return TEXTUAL.get(media, "code" if media.startswith("text/x-") else "text")


def read_binary(kind: Format, payload: bytes, max_replaced_share: float) -> tuple[str, str]:
    """(title, text) of a PDF, a DOCX or a mail. Raises UnreadableError."""
    if kind == "pdf":
        from assets.documents.formats.pdf import pdf_text

        return pdf_text(payload)
    if kind == "docx":
        from assets.documents.formats.docx import docx_text

        return docx_text(payload)
    from assets.documents.formats.mail import mail_text

    return mail_text(payload, max_replaced_share)


def markdown_text(text: str) -> tuple[str, str]:
    """Title (front matter, or the first heading) and text of Markdown, by markdown-it."""
    from markdown_it import MarkdownIt

    title = ""
    if found := _FRONT_MATTER.match(text):
        named = _FRONT_TITLE.search(found[1])
        title = named[1] if named else ""
        text = text[found.end() :]
    html = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text)
    return title or first_heading(html), main_content(html, max_link_share=1.0).text


def wiki_text(text: str, content_type: str | None) -> tuple[str, str]:
    """No title (the dump has it) and the text of wikitext."""
    from assets.documents.formats.wikitext import plain_wikitext

    variant = re.search(r"variant=([\w-]+)", content_type or "")
    return "", plain_wikitext(text, variant[1] if variant else "")


MARKUP: dict[str, Callable[[str, str | None], tuple[str, str]]] = {
    "markdown": lambda text, _: markdown_text(text),
    "wikitext": wiki_text,
}
"""Readers of decoded text."""
