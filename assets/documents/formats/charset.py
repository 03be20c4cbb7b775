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

_DOUBLE_BYTE = {"gb18030", "big5hkscs", "cp932", "euc_jp", "cp949"}
_COMMON = frozenset(
    "的一是不了在人有我他这這个個们們中来來上大为為和国國地到以说說时時要就出会會可也你对對生能而子那得于於着著下自之年过過"
    "发發后後作里裡用道行所然家种種事成方多经經么麼去法学學如都同现現当當没沒动動面起看定天分还還进進好小部其些主样樣理心她"
    "本前开開但因只从從想实實日者意无無此又文字网網頁页料本，。、はのにをたがでてとしれさいるすあかなくりものという니다는이에의을가고"
)
"""Frequent characters of Chinese (both scripts), Japanese and Korean, and their punctuation."""

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
        text = _strict(payload, encoding)
        if text is not None:
            return _doubted(payload, text, encoding) if encoding in _DOUBLE_BYTE else Decoded(text, encoding, 0)
    if (text := _with_surrogates(payload)) is not None:
        replaced = text.count("\ufffd")
        return Decoded(text, "utf-8", replaced) if replaced <= max_replaced_share * len(text) else None
    guess = guess_encoding(payload)
    for encoding in [*declared, *([guess] if guess else [])]:
        decoded = _lenient(payload, encoding, max_replaced_share)
        if decoded is not None:
            return decoded
    return None


def _strict(payload: bytes, encoding: str) -> str | None:
    try:
        return payload.decode(encoding)
    except UnicodeDecodeError:
        return None


def _doubted(payload: bytes, text: str, encoding: str) -> Decoded:
    """Double-byte encodings give a meaning to almost any bytes, so a wrong declaration passes without an error. What
    the bytes look like wins when it, too, fits all of them and reads far more like text."""
    guess = guess_encoding(payload)
    if guess is None or guess == encoding:
        return Decoded(text, encoding, 0)
    other = _strict(payload, guess)
    if other is not None and _common_share(other) > max(0.05, 3 * _common_share(text)):
        return Decoded(other, guess, 0)
    return Decoded(text, encoding, 0)


def _common_share(text: str) -> float:
    """Share of frequent characters among the East Asian ones of the first 10,000 (0.15-0.5 in any real text)."""
    wide = [character for character in text[:10_000] if character >= "\u3040"]
    return sum(character in _COMMON for character in wide) / len(wide) if wide else 0.0


def _with_surrogates(payload: bytes) -> str | None:
    """UTF-8 with encoded surrogates (CESU-8, as some databases write it): pairs are joined, lone ones are replaced."""
    try:
        halves = payload.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return None
    return halves.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


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
        bytes(4).decode(normal)  # codecs such as rot13 or zlib do not give text
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
