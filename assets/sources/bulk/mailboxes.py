"""Mail as captures: messages of a mailbox, and the attachments of a message.

`mailbox.mbox` of the standard library wants a file on this disk and holds a message of any size; a mailbox is
lines, and a message begins after an empty one at a line `From SENDER DATE`, or at `From SENDER` before a mail header.
Any other line that begins with `From ` is text: not every program escapes those.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import parsedate_to_datetime
from typing import BinaryIO

from assets.documents.formats.mail import header, parse_mail, part_bytes
from assets.documents.formats.unreadable import UnreadableError
from assets.machine_faults import raise_machine_fault
from assets.sources.bulk.records import Record, bulk_url

_LINE_BYTES = 1 << 16
_TIME = rb"\d{1,2}:\d\d(?::\d\d)?"
_DATED = re.compile(
    rb"From .*?(?:"
    rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),?\s+"
    rb"(?:[A-Z][a-z]{2}\s+\d{1,2}\s+" + _TIME + rb"(?:\s+[\w+-]+)?\s+\d{4}(?:\s+[\w+-]+)?"
    rb"|\d{1,2}\s+[A-Z][a-z]{2}\s+\d{4}\s+" + _TIME + rb"(?:\s+[\w+()-]+)*)"
    rb"|\d{4}-\d\d-\d\d[T ]" + _TIME + rb"\S*"
    rb")(?:\s+remote from \S+)?\s*"
)
_UNDATED = re.compile(rb"From (?:\S+\s*|.*" + _TIME + rb".*\s*)", re.DOTALL)  # one word, or a date of an unknown form
_HEADER = re.compile(rb"(?:>From |(?:From|To|Cc|Subject|Date|Received|Status|Sender|[A-Za-z0-9]+(?:-[A-Za-z0-9]+)+):)")


def split_mailbox(stream: BinaryIO, max_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """(number from 1, message) of an mbox stream; None for a message above the limit, which is never held."""
    number, size = 0, 0
    parts: list[bytes] = []
    after_empty, envelope = True, False
    following = stream.readline(_LINE_BYTES)
    while line := following:
        following = stream.readline(_LINE_BYTES)
        before, envelope = envelope, after_empty and _is_envelope(line, following)
        if envelope:
            if number:
                yield number, b"".join(parts) if size <= max_bytes else None
            number, size, parts = number + 1, 0, []
        elif before and line.startswith(b">From "):
            pass  # an envelope of an earlier delivery; no header
        elif number or line.strip():
            number = number or 1  # a file that does not begin with `From ` is still one message
            size += len(line)
            if size <= max_bytes:
                parts.append(line)
            else:
                parts.clear()
        after_empty = line in (b"\n", b"\r\n")
    if number:
        yield number, b"".join(parts) if size <= max_bytes else None


def _is_envelope(line: bytes, following: bytes) -> bool:
    """Whether a line after an empty one begins a message, judged with the line that follows it."""
    if not line.startswith(b"From "):
        return False
    return bool(_DATED.fullmatch(line) or (_UNDATED.fullmatch(line) and _HEADER.match(following)))


def mail_records(
    content: bytes, place: str, name: str, attachment_type: Callable[[str, str], str | None], attachments: bool
) -> Iterator[Record]:
    """The message and each of its attachments. A Message-ID names it in every export; without one, its content does."""
    where = bulk_url("documents", name, place)
    try:
        message = parse_mail(content)
    except UnreadableError as error:
        yield Record(where, drop_reason=error.reason, detail=f"{place}: {error}")
        return
    identity = header(message, "Message-ID").strip("<> ") or "sha256:" + hashlib.sha256(content).hexdigest()
    url = bulk_url("documents", name, "mail", identity)
    at = _date(message)
    yield Record(url, content, "message/rfc822", fetched_at=at, title=header(message, "Subject") or None)
    if attachments:
        yield from _attachments(message, url, place, at, attachment_type)


def _attachments(
    message: EmailMessage, url: str, place: str, at: datetime | None, attachment_type: Callable[[str, str], str | None]
) -> Iterator[Record]:
    try:
        parts = list(message.iter_attachments())
    except Exception as error:  # malformed multiparts
        raise_machine_fault(error)
        detail = f"{place}: attachments: {type(error).__name__}: {error}"[:300]
        yield Record(f"{url}/attachments", drop_reason="broken_message", detail=detail)
        return
    for number, part in enumerate(parts, 1):
        if part.is_multipart():
            continue  # a forwarded message; its text is in what was forwarded
        filename = part.get_filename() or f"part-{number}"
        where = f"{url}/attachment-{number}/{bulk_url('', '', filename).partition('/')[2]}"
        declared = part.get_content_type()
        content_type = attachment_type(filename, declared)
        if content_type is None:
            detail = f"{place}: {filename[:100]} ({declared})"
            yield Record(where, drop_reason="unsupported_content_type", detail=detail, fetched_at=at)
            continue
        try:
            yield Record(where, part_bytes(part), content_type, fetched_at=at, title=filename)
        except UnreadableError as error:
            yield Record(where, drop_reason=error.reason, detail=f"{place}: {error}", fetched_at=at)


def _date(message: EmailMessage) -> datetime | None:
    try:
        at = parsedate_to_datetime(header(message, "Date"))
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
