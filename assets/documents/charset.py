"""Bytes to characters: what the sender declared, if the bytes agree; else UTF-8; else what the bytes look like.

Guessing is uchardet (inside resiliparse). charset-normalizer was tried and rejected: on one sentence
it took windows-1252 French for cp1257 and windows-1251 Russian for mac_cyrillic.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_HEADER_CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:-]+)", re.IGNORECASE)
_META_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
_XML_ENCODING = re.compile(rb"<\?xml[^>]{0,100}?encoding\s*=\s*[\"']([\w.:-]+)", re.IGNORECASE)
_CODE_ENCODING = re.compile(rb"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)", re.MULTILINE)  # PEP 263

_SUPERSETS = {
    "ascii": "utf-8",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "cp936": "gb18030",
    "big5": "big5hkscs",
    "iso8859-1": "cp1252",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
}
"""Declared name -> the superset that browsers decode it with (WHATWG Encoding): pages use its characters."""

DECLARATION_BYTES = 2048  # browsers look for a meta charset in the first 1024; longer heads exist
GUESS_BYTES = 65_536  # enough for any statistics; keeps a guess under a few ms


@dataclass(frozen=True)
class Decoded:
    """Text and the encoding it was decoded from. `replaced` counts bytes that had no meaning in it."""

    text: str
    encoding: str
    replaced: int


def looks_binary(payload: bytes) -> bool:
    """A NUL in the first 8 KiB, as git decides it; UTF-16 has NULs but also a byte order mark."""
    head = payload[:8192]
    return b"\0" in head and not head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))


def decode(payload: bytes, content_type: str | None, *, max_replaced_share: float) -> Decoded | None:
    """The text of a payload, or None when more than `max_replaced_share` of it is undecodable.

    A page with a few broken bytes is worth having; a page in the wrong encoding is not.
    """
    for bom, encoding in _BOMS:
        if payload.startswith(bom):
            return _lenient(payload[len(bom) :], encoding, max_replaced_share)
    declared = [*_declared(payload, content_type), "utf-8"]
    for encoding in declared:
        try:
            return Decoded(payload.decode(encoding), encoding, 0)
        except UnicodeDecodeError:
            continue
    guess = guess_encoding(payload)
    for encoding in [*declared, *([guess] if guess else [])]:
        decoded = _lenient(payload, encoding, max_replaced_share)
        if decoded is not None:
            return decoded
    return None


def _declared(payload: bytes, content_type: str | None) -> list[str]:
    names = [m.group(1) for m in [_HEADER_CHARSET.search(content_type or "")] if m]
    head = payload[:DECLARATION_BYTES]
    for pattern in (_META_CHARSET, _XML_ENCODING):
        names.extend(m.group(1).decode("ascii") for m in [pattern.search(head)] if m)
    first_lines = b"\n".join(head.split(b"\n", 2)[:2])
    names.extend(m.group(1).decode("ascii") for m in [_CODE_ENCODING.search(first_lines)] if m)
    known = [encoding for name in names if (encoding := _known(name))]
    return list(dict.fromkeys(known))


def _known(name: str) -> str | None:
    try:
        normal = codecs.lookup(name).name
    except (LookupError, ValueError):
        return None
    try:
        b"".decode(normal)  # codecs such as rot13 or zlib do not give text
    except (LookupError, UnicodeError):
        return None
    return _SUPERSETS.get(normal, normal)


def guess_encoding(payload: bytes) -> str | None:
    """What the bytes look like, as a Python codec; None when uchardet cannot tell."""
    from resiliparse.parse.encoding import detect_encoding

    name = detect_encoding(payload[:GUESS_BYTES], from_html_meta=False)
    return _known(name) if name else None


def _lenient(payload: bytes, encoding: str, max_replaced_share: float) -> Decoded | None:
    text = payload.decode(encoding, errors="replace")
    replaced = text.count("\ufffd")
    return Decoded(text, encoding, replaced) if replaced <= max_replaced_share * len(text) else None
