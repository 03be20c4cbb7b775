"""Word documents to title and text, by mammoth."""

from __future__ import annotations

import re
from io import BytesIO

from assets.documents.formats.html import first_heading
from assets.documents.formats.main_content import main_content
from assets.documents.formats.unreadable import UnreadableError
from assets.machine_faults import raise_machine_fault

MAX_UNPACKED_DOCX_BYTES = 200_000_000  # a DOCX holds its text once; a bomb holds it a million times
_OLE_MAGIC = b"\xd0\xcf\x11\xe0"  # an encrypted DOCX is an OLE file around the ZIP
_CELL_PARAGRAPH = re.compile(r"<(t[dh])([^>]*)><p>((?:(?!<p>).)*?)</p></\1>", re.DOTALL)


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
