"""One mail message to subject and text: the best body part, in its real encoding, without what it quotes."""

from __future__ import annotations

import re
from email import message_from_bytes
from email.message import EmailMessage, Message
from email.policy import default
from typing import Any

from assets.documents.formats.charset import decode
from assets.documents.formats.html import decoded_html
from assets.documents.formats.unreadable import UnreadableError
from assets.machine_faults import raise_machine_fault

REPLY_LANGUAGES = ["en", "zh", "de", "fr", "es", "it", "ja", "ko", "nl", "pl"]
"""Whose "On ... wrote:" lines mail-parser-reply looks for."""

_ESCAPED = ">From "
_LABEL = re.compile(r"^[*> ]*[^\s:][^:\n]{0,19}:", re.MULTILINE)
_TIME = re.compile(r"\d{1,2}[:h]\d\d")
_YEAR = re.compile(r"(?<!\d)(?:19|20)\d\d(?!\d)")


def mail_text(payload: bytes, max_replaced_share: float) -> tuple[str, str]:
    """(subject, text the sender wrote). Raises UnreadableError: broken_message, undecodable, no_text_part."""
    message = parse_mail(payload)
    body = _body(message)
    if body is None:
        raise UnreadableError("no_text_part", "the message has neither a text nor an HTML part")
    content = part_bytes(body)
    content_type = str(body.get("Content-Type", "text/plain"))
    if body.get_content_type() == "text/html":
        text = decoded_html(content, content_type, max_replaced_share)
    else:
        decoded = decode(content, content_type, max_replaced_share=max_replaced_share)
        if decoded is None:
            raise UnreadableError("undecodable", "no encoding fits the text part")
        text = decoded.text
    return header(message, "Subject"), without_quotes(text)


def parse_mail(payload: bytes) -> EmailMessage:
    """The message. Raises UnreadableError when there is no header at all."""
    try:
        message: Any = message_from_bytes(payload, policy=default)
    except Exception as error:  # the parser promises none; its header classes raise some
        raise_machine_fault(error)
        raise UnreadableError("broken_message", f"{type(error).__name__}: {error}"[:300]) from None
    if not message.keys():
        raise UnreadableError("broken_message", "no header: this is no mail message")
    return message


def header(message: Message, name: str) -> str:
    """One header as text; empty when it is absent or cannot be decoded."""
    try:
        return " ".join(str(message.get(name, "")).split())
    except Exception as error:  # the header classes of the standard library raise many on malformed ones
        raise_machine_fault(error)
        return ""


def part_bytes(part: Message) -> bytes:
    """A leaf's content without its transfer encoding. Raises UnreadableError when that is broken beyond reading."""
    try:
        content = part.get_payload(decode=True)
    except Exception as error:
        raise_machine_fault(error)
        raise UnreadableError("broken_message", f"transfer encoding: {error}"[:300]) from None
    return content if isinstance(content, bytes) else b""


def _body(message: EmailMessage) -> Any:
    try:
        found = message.get_body(preferencelist=("plain", "html"))
    except Exception as error:  # malformed multiparts
        raise_machine_fault(error)
        found = None
    if found is not None:
        return found
    leaves = [part for part in message.walk() if not part.is_multipart() and part.get_content_maintype() == "text"]
    return leaves[0] if leaves else None


def without_quotes(text: str) -> str:
    """The newest message of a mail, without quoted replies and their heads."""
    from mailparser_reply import EmailReplyParser

    found = EmailReplyParser(languages=REPLY_LANGUAGES).read(_unescaped(text.replace("\r\n", "\n")))
    end = 0
    for number, reply in enumerate(found.replies):
        start = found.text.find(reply.content, end)
        if number and _is_reply_head(reply.headers or ""):
            end = start
            break
        end = start + len(reply.content)
    kept = [line for line in found.text[:end].split("\n") if not line.startswith(">")]
    return "\n".join(kept).strip()


def _unescaped(text: str) -> str:
    """Without the `>` that mailboxes put before `From ` at the start of a line; inside a quotation it is one of its own."""
    lines = text.split("\n")
    quoted = [line.startswith(">") and not line.startswith(_ESCAPED) for line in lines]
    for number, line in enumerate(lines):
        if line.startswith(_ESCAPED) and not any(quoted[max(0, number - 1) : number + 2]):
            lines[number] = line[1:]
    return "\n".join(lines)


def _is_reply_head(head: str) -> bool:
    """Whether what mail-parser-reply takes for the head of a quoted message is one: two lines like `From: Lyon` and
    `To: Paris` are text unless an address, a time or more such lines stand with them."""
    labels = len(_LABEL.findall(head))
    if labels < 2 or "@" in head or _TIME.search(head):
        return True
    return labels >= 4 or (labels == 3 and _YEAR.search(head) is not None)
