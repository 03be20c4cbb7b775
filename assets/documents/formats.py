"""Payloads that are no page: PDF, DOCX, mail, Markdown and wikitext to title and text, through libraries.

Each runs in extraction's sandbox; what a library cannot read becomes an UnreadableError with a drop reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from io import BytesIO
from typing import Literal

from assets.documents.charset import decode
from assets.documents.main_content import main_content
from assets.machine_faults import raise_machine_fault

Declared = Literal["auto", "html", "text", "code"]
Format = Literal["html", "text", "code", "markdown", "pdf", "docx", "email", "wikitext"]

DOCX_TYPE = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
BINARY: dict[str, Format] = {"application/pdf": "pdf", DOCX_TYPE: "docx", "message/rfc822": "email"}
"""Content types with one reading, whatever the source declares."""

TEXTUAL: dict[str, Format] = {"text/markdown": "markdown", "text/x-wiki": "wikitext", "text/plain": "text"}
"""Content types that a source with format = "auto" is read by; other text/x-... is code."""

MAX_UNPACKED_DOCX_BYTES = 200_000_000  # a DOCX holds its text once; a bomb holds it a million times
_OLE_MAGIC = b"\xd0\xcf\x11\xe0"  # an encrypted DOCX is an OLE file around the ZIP
_CELL_PARAGRAPH = re.compile(r"<(t[dh])([^>]*)><p>((?:(?!<p>).)*?)</p></\1>", re.DOTALL)
_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?)\n(?:---|\.\.\.)[ \t]*\n", re.DOTALL)
_FRONT_TITLE = re.compile(r"^title:\s*[\"']?(.+?)[\"']?\s*$", re.MULTILINE)


class UnreadableError(Exception):
    """A payload that its format's library cannot read; `reason` is the drop reason."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


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
        from assets.documents.pdf import pdf_text

        return pdf_text(payload)
    if kind == "docx":
        return docx_text(payload)
    from assets.documents.mail import mail_text

    return mail_text(payload, max_replaced_share)


def docx_text(payload: bytes) -> tuple[str, str]:
    """Title (the first heading) and text of a Word document, by mammoth."""
    import zipfile

    import mammoth

    if payload.startswith(_OLE_MAGIC):
        raise UnreadableError("encrypted_document", "an OLE file: a DOCX with a password, or an old .doc")
    try:
        with zipfile.ZipFile(BytesIO(payload)) as archive:
            unpacked = sum(info.file_size for info in archive.infolist())
            if unpacked > MAX_UNPACKED_DOCX_BYTES:
                raise UnreadableError("archive_bomb", f"{len(payload)} bytes unpack to {unpacked}")
            for info in archive.infolist():
                if info.filename.endswith((".xml", ".rels")):
                    with archive.open(info) as part:
                        if b"<!DOCTYPE" in part.read(4096):
                            raise UnreadableError("broken_document", f"{info.filename} declares a DTD")
        html = mammoth.convert_to_html(
            BytesIO(payload), convert_image=mammoth.images.img_element(lambda image: {"src": ""})
        ).value
    except UnreadableError:
        raise
    except Exception as error:  # zipfile's, zlib's and mammoth's own, KeyError for a missing part
        raise_machine_fault(error)
        raise UnreadableError("broken_document", f"{type(error).__name__}: {error}"[:300]) from None
    html = _CELL_PARAGRAPH.sub(r"<\1\2>\3</\1>", html)  # a paragraph would break the row
    return first_heading(html), main_content(html, max_link_share=1.0).text


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
    from assets.documents.wikitext import plain_wikitext

    variant = re.search(r"variant=([\w-]+)", content_type or "")
    return "", plain_wikitext(text, variant[1] if variant else "")


MARKUP: dict[str, Callable[[str, str | None], tuple[str, str]]] = {
    "markdown": lambda text, _: markdown_text(text),
    "wikitext": wiki_text,
}
"""Readers of decoded text."""


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
