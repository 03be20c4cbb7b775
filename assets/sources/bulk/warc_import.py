"""WARC and WET files of others as captures: HTTP responses, resources and conversions, with their own times and headers."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from assets.documents.formats.media_types import BINARY
from assets.sources.bulk.records import Record, RecordSink, bulk_url
from assets.sources.bulk_config import BulkSource, WarcSource
from assets.sources.streams.decompression import InputError
from assets.sources.streams.inputs import Input, Inputs
from assets.sources.streams.warc_members import (
    Member,
    UnreadableRecord,
    block_span,
    decoded_payload,
    digest_matches,
    http_body,
    open_members,
    parse_record,
    reading_record,
)
from assets.sources.web.optout import page_opt_out

TAKEN_TYPES = {"text/html", "application/xhtml+xml", "text/plain", "text/markdown", *BINARY}
"""Content types of responses that extraction can read; the others are recorded without their bodies."""

_META_TAGS = "meta[name]"


def read_warc_files(source: WarcSource, name: str, inputs: Inputs, sink: RecordSink) -> None:
    """Feed the records of every file to the sink. Raises BuildError when a path names nothing."""
    for item in inputs.list(source.paths):
        if not read_warc_file(source, name, inputs, item, sink, frozenset(source.record_types)):
            return


def read_warc_file(
    source: BulkSource, name: str, inputs: Inputs, item: Input, sink: RecordSink, types: frozenset[str]
) -> bool:
    """Feed one file to the sink; False when a limit is reached."""
    try:
        for record in _file_records(source, name, inputs, item, types):
            if isinstance(record, str):
                sink.not_taken[record] += 1
            elif not sink.add(record):
                return False
    except InputError as error:
        return sink.add(
            Record(bulk_url("warc", name, item.name), drop_reason=error.reason, detail=f"{item.name}: {error}")
        )
    return True


def _file_records(
    source: BulkSource, name: str, inputs: Inputs, item: Input, types: frozenset[str]
) -> Iterator[Record | str]:
    number = 0
    for member in open_members(lambda: inputs.open(item), source.max_bytes_per_record):
        number += 1
        yield member_record(member, f"{item.name}#{member.offset}", name, source, types)
    if not number:
        raise InputError("input_damaged", "no WARC record in it")


def member_record(member: Member, place: str, name: str, source: BulkSource, types: frozenset[str]) -> Record | str:
    """The record of one gzip member; a string names what is not taken."""
    where = bulk_url("warc", name, place)
    if member.problem:
        return Record(where, drop_reason=member.reason, detail=f"{place}: {member.problem}")
    found = parse_record(member.content)
    span = block_span(member.content)
    if found is None or span is None:
        return Record(where, drop_reason="damaged_record", detail=f"{place}: the member holds no WARC record")
    start, end = span
    if end > member.length:
        said = f"{place}: Content-Length {end - start}, but the block has {member.length - start} bytes"
        return Record(where, drop_reason="damaged_record", detail=said)
    block = member.content[start:end] if end <= len(member.content) else None
    try:
        return _record(found, where, source, types, block)
    except UnreadableRecord as error:
        return Record(where, drop_reason="damaged_record", detail=f"{place}: {error}"[:300])


def _record(found: Any, where: str, source: BulkSource, types: frozenset[str], block: bytes | None) -> Record | str:
    """One of fastwarc's records; `block` is its raw block, None where only its beginning was kept."""
    kind = str(found.headers.get("WARC-Type") or "unknown").strip().lower()
    if kind == "revisit" and "response" in types:
        kind = "response"  # of a page that another file holds; recorded, so that it does not count as missing
        revisit = True
    else:
        revisit = False
    if kind not in types:
        return f"record_type_{kind}"
    headers = found.headers
    uri = (headers.get("WARC-Target-URI") or "").strip("<> ")
    url = record_url(uri)
    if url is None:
        return Record(where, drop_reason="damaged_record", detail=f"WARC-Target-URI {uri[:200]!r} is no URL")
    if kind == "response" and not found.is_http:
        return "record_type_response_without_http"
    known: dict[str, Any] = {"requested_url": uri, "fetched_at": _record_date(found)}
    known["language"] = headers.get("WARC-Identified-Content-Language")
    known["record_id"] = (headers.get("WARC-Record-ID") or "").strip("<> ") or None
    if revisit:
        return Record(url, drop_reason="revisit_without_payload", detail="refers to a record of another file", **known)
    if block is None:
        return Record(url, drop_reason="too_large", detail=f"{headers.get('Content-Length')} bytes", **known)
    if (declared := headers.get("WARC-Block-Digest")) and digest_matches(block, declared) is False:
        return Record(url, drop_reason="digest_mismatch", detail=f"the block is not {declared}", **known)
    if kind == "response" and not url.startswith(("http://", "https://")):
        return Record(url, drop_reason="not_an_http_url", detail="an HTTP response whose URI is none of HTTP", **known)
    if cut := headers.get("WARC-Truncated"):
        return Record(url, drop_reason="truncated_payload", detail=f"the crawler cut it: {cut}", **known)
    if kind == "response":
        return _response(found, url, known, source)
    content_type = (headers.get("Content-Type") or "").strip() or "text/plain"
    with reading_record():
        payload = found.reader.read()
    return Record(url, payload, content_type, **known)


def _record_date(found: Any) -> datetime | None:
    """WARC-Date in UTC; None when it is missing or no date, and then the import's own time counts."""
    try:
        with reading_record():
            at = found.record_date
        return at and (at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC))
    except (UnreadableRecord, OverflowError):
        return None


def _response(found: Any, url: str, known: dict[str, Any], source: BulkSource) -> Record:
    http = found.http_headers
    if http is None or http.status_code is None:
        return Record(url, drop_reason="damaged_record", detail="no HTTP status line", **known)
    pairs = tuple((str(key), str(value)) for key, value in http.to_tuples())
    content_type = (http.get("Content-Type") or "").strip()
    media = content_type.partition(";")[0].strip().lower()
    known |= {"status": http.status_code, "headers": pairs, "content_type": content_type or None}
    if 300 <= http.status_code < 400 and http.get("Location"):
        return Record(url, drop_reason="redirected", detail=f"to {http.get('Location')}"[:300], **known)
    if http.status_code != 200:
        return Record(url, drop_reason=f"http_{http.status_code}", **known)
    if media not in TAKEN_TYPES:
        return Record(url, drop_reason="unsupported_content_type", **known)
    try:
        payload = http_body(found, source.max_bytes_per_record)
        payload = decoded_payload(payload, http.get("Content-Encoding") or "", source.max_bytes_per_record)
    except InputError as error:
        reason = "archive_bomb" if error.reason == "input_bomb" else "damaged_payload"
        return Record(url, drop_reason=reason, detail=f"HTTP encoding: {error}", **known)
    if signal := page_opt_out(list(pairs), _metas(payload) if "html" in media else ()):
        return Record(url, drop_reason="opted_out", opt_out=signal, **known)
    return Record(url, payload, **known)


def _metas(payload: bytes) -> tuple[tuple[str, str], ...]:
    """name and content of the meta elements of a page."""
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding
    from resiliparse.parse.html import HTMLTree

    end = payload.lower().find(b"</head", 0, 200_000)
    head = payload[: end if end > 0 else 50_000]
    tree = HTMLTree.parse(bytes_to_str(head, detect_encoding(head) or "utf-8"))
    found = tree.document.query_selector_all(_META_TAGS) if tree.document else ()
    return tuple((meta.getattr("name") or "", meta.getattr("content") or "") for meta in found)


def record_url(uri: str) -> str | None:
    """The URL of a WARC-Target-URI or an index entry, canonical when it is one of HTTP; None when it is none at all."""
    from assets.sources.web.scope import canonical_url

    if not uri.isprintable() or ":" not in uri:
        return None
    if not uri.lower().startswith(("http://", "https://")):
        return uri
    try:
        return canonical_url(uri)
    except ValueError:
        return None
