"""MediaWiki XML dumps as captures: one per page, its wikitext as the payload, its revision as provenance.

mwxml walks the XML; this module bounds what it may be made to do. A dump declares no DTD, so one that does
is refused before the parser sees an entity; a page that never ends is refused before memory does.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, BinaryIO
from urllib.parse import quote, urlsplit
from xml.etree.ElementTree import ParseError

from assets.sources.bulk.records import Record, RecordSink, bulk_url
from assets.sources.bulk_config import WikipediaSource
from assets.sources.streams.decompression import InputError
from assets.sources.streams.inputs import Inputs

PROLOGUE_BYTES = 1 << 16  # the root element begins in the first 200 bytes of every dump
MIN_REVISION_BYTES = 64 << 20  # of XML; MediaWiki allows 2 MiB of text


def read_wikipedia(source: WikipediaSource, name: str, inputs: Inputs, sink: RecordSink) -> None:
    """Feed the pages of every dump file to the sink. Raises BuildError when a path names nothing."""
    for item in inputs.list(source.paths):
        try:
            with inputs.unpacked(item) as stream:
                if not all(sink.add(record) for record in dump_records(stream, source, sink)):
                    return
        except InputError as error:
            where = bulk_url("wikipedia", name, item.name)
            if not sink.add(Record(where, drop_reason=error.reason, detail=f"{item.name}: {error}")):
                return


def dump_records(stream: BinaryIO, source: WikipediaSource, sink: RecordSink) -> Iterator[Record]:
    """Records of the pages in the wanted namespaces; others are counted. Raises InputError where the dump breaks off."""
    import mwxml
    from mwxml.element_iterator import ElementIterator
    from mwxml.errors import MalformedXML

    guard = _GuardedXml(stream, max(MIN_REVISION_BYTES, 8 * source.max_bytes_per_record))
    pages = 0
    try:
        root = ElementIterator.from_file(guard)
        dump = mwxml.Dump.from_element(root)
        site = _site(dump.site_info.base, source)
        for page in dump:
            pages += 1
            if isinstance(page, mwxml.Page):
                record = _page_record(page, site, source, guard)
                if record is None:
                    sink.not_taken[f"namespace_{page.namespace}"] += 1
                else:
                    yield record
            root.element.clear()  # or the root keeps an empty element of every page
            guard.mark()
    except ParseError as error:
        truncated = "no element found" in str(error) or "unclosed" in str(error)
        reason = "input_truncated" if truncated else "input_damaged"
        raise InputError(reason, f"XML after {pages} pages: {error}"[:300]) from None
    except (MalformedXML, ValueError, TypeError, AttributeError) as error:  # mwxml meets what is no dump
        raise InputError("input_damaged", f"no MediaWiki dump after {pages} pages: {error}"[:300]) from None


def _page_record(page: Any, site: str, source: WikipediaSource, guard: _GuardedXml) -> Record | None:
    """The newest revision of a page, or None when its namespace is not wanted."""
    if page.namespace not in source.namespaces:
        return None
    newest = None
    for revision in page:
        newest = revision
        guard.mark()
    revision = newest
    title = page.title or ""
    url = f"{site}/wiki/{quote(title.replace(' ', '_'), safe='/:@!$*(),;~')}"
    if revision is None:
        return Record(url, drop_reason="empty_body", title=title, detail="a page without any revision")
    described = {"page_id": page.id, "revision_id": revision.id}
    record = {
        "requested_url": f"{site}/w/index.php?oldid={revision.id}",
        "fetched_at": datetime.fromtimestamp(revision.timestamp.unix(), UTC) if revision.timestamp else None,
        "language": source.language,
        "title": title,
        "metadata": json.dumps(described, sort_keys=True),
    }
    if page.redirect:
        return Record(url, drop_reason="redirected", detail=f"to {page.redirect}", **record)
    if revision.model not in (None, "wikitext"):
        model = f"content model {revision.model}"
        return Record(url, drop_reason="unsupported_content_type", detail=model, **record)
    if revision.deleted is not None and revision.deleted.text:
        return Record(url, drop_reason="deleted_by_publisher", detail="the revision's text was suppressed", **record)
    variant = source.variant or ("zh-hans" if source.language.startswith("zh") else "")
    content_type = "text/x-wiki; charset=utf-8" + (f"; variant={variant}" if variant else "")
    return Record(url, (revision.text or "").encode("utf-8", "surrogatepass"), content_type, **record)


def _site(base: str | None, source: WikipediaSource) -> str:
    """https://zh.wikipedia.org, from the dump's own <base>."""
    parts = urlsplit(base or "")
    return f"https://{parts.hostname}" if parts.hostname else f"https://{source.language}.wikipedia.org"


class _GuardedXml(io.RawIOBase):
    """The XML as the parser may read it: no DTD, and no revision beyond a limit."""

    def __init__(self, stream: BinaryIO, max_bytes: int) -> None:
        head = stream.read(PROLOGUE_BYTES)
        prologue, root, _ = head.partition(b"<mediawiki")
        if b"<!DOCTYPE" in prologue or b"<!ENTITY" in prologue:
            raise InputError("input_damaged", "declares a DTD: MediaWiki dumps have none, and entities can hold a bomb")
        if not root:
            raise InputError("input_damaged", f"no <mediawiki> in the first {PROLOGUE_BYTES} bytes: not a dump")
        self._head, self._stream, self._max_bytes = head, stream, max_bytes
        self._since = 0

    def mark(self) -> None:
        """A revision or a page has ended."""
        self._since = 0

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        if self._since > self._max_bytes:
            raise InputError("input_damaged", f"one revision is longer than {self._max_bytes} bytes of XML")
        if self._head:
            data, self._head = self._head, b""
        else:
            data = self._stream.read(size)
        self._since += len(data)
        return data
