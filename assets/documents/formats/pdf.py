"""PDF to text by PDFium (BSD/Apache), and what its lines need: running heads out, paragraphs whole.

pypdf was compared on two manuals (53 pages): 8 and 12 times the CPU time, and words stay cut at line ends.
"""

from __future__ import annotations

import re
from collections import Counter

from assets.documents.formats.unreadable import UnreadableError

MIN_PAGES_FOR_RUNNING_HEADS = 4  # fewer pages repeat a line by accident
RUNNING_HEAD_SHARE = 0.5  # of the pages, at their first or last line; digits count as equal
_PASSWORD = 4  # FPDF_ERR_PASSWORD
_NUMBERS = re.compile(r"\d+|\b[ivxlc]+\b")  # prefaces count pages in Roman numerals
_LEADER = re.compile(r"(?:\. ?){6,}")  # the dots of a table of contents, which is no text
_HAN = r"\u3400-\u9fff\uf900-\ufaff\u3000-\u303f\uff00-\uffef"
_HAN_END = re.compile(rf"[{_HAN}]$")
_HAN_START = re.compile(rf"^[{_HAN}]")
_PARAGRAPH_END = re.compile(r"[.!?:;。！？：；…”\"』」)]$")
_LIST_START = re.compile(r"^(?:[•·▪◦*–—-]|\(?\d{1,3}[.)、]|[（(][一二三四五六七八九十]+[)）])\s*")


def pdf_text(payload: bytes) -> tuple[str, str]:
    """(title, text) of a PDF. Raises UnreadableError: encrypted_document, broken_document or no_text_layer."""
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(payload)
    except pypdfium2.PdfiumError as error:
        if getattr(error, "err_code", None) == _PASSWORD:
            raise UnreadableError("encrypted_document", "the PDF asks for a password") from None
        raise UnreadableError("broken_document", f"PDFium: {error}") from None
    try:
        title = str(document.get_metadata_dict().get("Title", ""))
        pages = []
        for number in range(len(document)):
            page = document[number]
            text_page = page.get_textpage()
            pages.append(text_page.get_text_range())
            text_page.close()
            page.close()
    except pypdfium2.PdfiumError as error:
        raise UnreadableError("broken_document", f"PDFium, page {len(pages) + 1}: {error}") from None
    finally:
        document.close()
    if not any(page.strip() for page in pages):
        raise UnreadableError("no_text_layer", f"{len(pages)} pages without any text: a scan, or outlines")
    lines = [_page_lines(page) for page in pages]
    return title, "\n".join(paragraphs([line for page in without_running_heads(lines) for line in page]))


def _page_lines(text: str) -> list[str]:
    """Lines of a page; PDFium marks a hyphen that only breaks a word as U+0002 or U+FFFE."""
    joined = re.sub(r"[\x02\ufffe]\s*", "", text.replace("\r\n", "\n").replace("\r", "\n"))
    return [line.rstrip() for line in joined.split("\n") if not _LEADER.search(line)]


def without_running_heads(pages: list[list[str]]) -> list[list[str]]:
    """Pages without the first and last lines that most pages repeat, page numbers among them."""
    if len(pages) < MIN_PAGES_FOR_RUNNING_HEADS:
        return pages
    counts: Counter[tuple[int, str]] = Counter()
    for page in pages:
        filled = [line for line in page if line.strip()]
        if filled:
            counts.update({(0, _shape(filled[0])), (-1, _shape(filled[-1]))})
    repeated = {key for key, count in counts.items() if count >= RUNNING_HEAD_SHARE * len(pages)}
    kept = []
    for page in pages:
        filled = [number for number, line in enumerate(page) if line.strip()]
        gone = {filled[end] for end in (0, -1) if filled and (end, _shape(page[filled[end]])) in repeated}
        kept.append([line for number, line in enumerate(page) if number not in gone])
    return kept


def _shape(line: str) -> str:
    return _NUMBERS.sub("0", " ".join(line.split()))


def paragraphs(lines: list[str]) -> list[str]:
    """Lines joined where a paragraph was only broken to fit the page."""
    width = sorted(len(line) for line in lines)[int(len(lines) * 0.9)] if lines else 0
    out: list[str] = []
    last = ""  # the line of the page that was put in last
    for line in map(str.strip, lines):
        if out and _continues(last, line, width):
            out[-1] += line if _HAN_END.search(last) or _HAN_START.search(line) else f" {line}"
        else:
            out.append(line)
        last = line
    return out


def _continues(last: str, line: str, width: int) -> bool:
    """Whether `line` goes on with the sentence of `last`: that one was full, and did not end a sentence."""
    if not last or not line or _LIST_START.match(line):
        return False
    full = len(last) >= 0.7 * width
    return full and not _PARAGRAPH_END.search(last)
