"""WARC in and out: what a crawl stored, and how a later stage gets one payload back.

One gzip member per record, so that a record is found by (file, offset, length) from
captures.parquet without reading its neighbours. Payloads are stored after transfer and content
decoding; what that removed is kept in `X-Crawl-*` headers, as Common Crawl does, so the digest of a
page does not depend on whether a server chose to compress it.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Literal
from urllib.parse import quote, urlsplit

from assets.build import BuildError, Segment

WARC_FILE_BYTES = 1 << 30
"""A file is closed after the record that passes this size: 1 GiB, the usual size of WARC files."""

# Hop-by-hop or describing an encoding that was removed before storing.
_ENCODING_HEADERS = {"content-encoding", "transfer-encoding", "content-length"}


Revisit = Literal["server_not_modified", "identical_payload"]

_PROFILES: dict[Revisit, str] = {
    "server_not_modified": "http://netpreserve.org/warc/1.1/revisit/server-not-modified",
    "identical_payload": "http://netpreserve.org/warc/1.1/revisit/identical-payload-digest",
}


@dataclass(frozen=True)
class Place:
    """Where one record lies."""

    file: str
    offset: int
    length: int


@dataclass(frozen=True)
class Exchange:
    """One request and its answer, for the records of both; header values as Latin-1 text."""

    url: str
    requested_url: str
    request_headers: Sequence[tuple[str, str]]
    status: int
    headers: Sequence[tuple[str, str]]
    fetched_at: datetime
    ip_address: str | None = None


class WarcFolder:
    """Writes `crawl-00000.warc.gz`, `crawl-00001.warc.gz`, ... into a folder, one record at a time."""

    def __init__(self, folder: Path, info: Mapping[str, str], file_bytes: int = WARC_FILE_BYTES) -> None:
        self._folder = folder
        self._info = dict(info)
        self._file_bytes = file_bytes
        self._number = -1
        self._out: IO[bytes] | None = None
        self._writer: Any = None

    def __enter__(self) -> WarcFolder:
        self._next_file()
        return self

    def __exit__(self, *_: object) -> None:
        if self._out is not None:
            self._out.close()

    def _next_file(self) -> None:
        from warcio.warcwriter import WARCWriter

        if self._out is not None:
            self._out.close()
        self._number += 1
        self._out = open(self._folder / self._name, "wb")  # noqa: SIM115 - stays open over many records
        self._writer = WARCWriter(self._out, gzip=True, warc_version="WARC/1.1")
        self._writer.write_record(self._writer.create_warcinfo_record(self._name, self._info))

    @property
    def _name(self) -> str:
        return f"crawl-{self._number:05d}.warc.gz"

    def _write(self, record: Any) -> Place:
        assert self._out is not None
        if self._out.tell() >= self._file_bytes:
            self._next_file()
        offset = self._out.tell()
        self._writer.write_record(record)
        return Place(self._name, offset, self._out.tell() - offset)

    def write_exchange(self, exchange: Exchange, payload: bytes) -> Place:
        """Store one HTTP response with its decoded payload, then the request that it answers."""
        response = self._response(exchange, payload)
        place = self._write(response)
        self._write_request(exchange, response)
        return place

    def write_response(
        self,
        url: str,
        status: int,
        headers: Sequence[tuple[str, str]],
        payload: bytes,
        fetched_at: datetime,
        ip_address: str | None = None,
    ) -> Place:
        """Store one HTTP response with its decoded payload, where the request is not known."""
        exchange = Exchange(url, url, (), status, headers, fetched_at, ip_address)
        return self._write(self._response(exchange, payload))

    def _response(self, exchange: Exchange, payload: bytes) -> Any:
        kept = [(f"X-Crawl-{k}" if k.lower() in _ENCODING_HEADERS else k, v) for k, v in exchange.headers]
        kept.append(("Content-Length", str(len(payload))))
        return self._writer.create_warc_record(
            exchange.url,
            "response",
            payload=BytesIO(payload),
            length=len(payload),
            http_headers=_response_head(exchange, kept),
            warc_headers_dict=_warc_headers(exchange) | {"WARC-Payload-Digest": _digest(_sha256(payload))},
        )

    def write_revisit(self, exchange: Exchange, kind: Revisit, content_sha256: str, original_at: datetime) -> Place:
        """Store that a page was what it had been: headers only, pointing at the record that holds the payload."""
        record = self._writer.create_revisit_record(
            exchange.url,
            _digest(content_sha256),
            refers_to_uri=exchange.url,
            refers_to_date=_warc_date(original_at),
            http_headers=_response_head(exchange, list(exchange.headers)),
            warc_headers_dict=_warc_headers(exchange),
        )
        record.rec_headers.replace_header("WARC-Profile", _PROFILES[kind])
        place = self._write(record)
        self._write_request(exchange, record)
        return place

    def _write_request(self, exchange: Exchange, response: Any) -> None:
        from warcio.statusandheaders import StatusAndHeaders

        parts = urlsplit(exchange.requested_url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = StatusAndHeaders(f"GET {target} HTTP/1.1", list(exchange.request_headers), is_http_request=True)
        concurrent = {"WARC-Concurrent-To": response.rec_headers.get_header("WARC-Record-ID")}
        request = self._writer.create_warc_record(
            exchange.url, "request", http_headers=headers, warc_headers_dict=_warc_headers(exchange) | concurrent
        )
        self._writer.write_record(request)  # in the file of the response, even when that is now full

    def write_resource(self, url: str, content_type: str, payload: bytes, fetched_at: datetime) -> Place:
        """Store one file that did not come over HTTP."""
        return self._write(
            self._writer.create_warc_record(
                url,
                "resource",
                payload=BytesIO(payload),
                warc_content_type=content_type,
                warc_headers_dict={"WARC-Date": _warc_date(fetched_at)},
            )
        )


def _warc_date(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def _warc_headers(exchange: Exchange) -> dict[str, str]:
    address = {"WARC-IP-Address": exchange.ip_address} if exchange.ip_address else {}
    return {"WARC-Date": _warc_date(exchange.fetched_at), **address}


def _response_head(exchange: Exchange, headers: list[tuple[str, str]]) -> Any:
    from http import HTTPStatus

    from warcio.statusandheaders import StatusAndHeaders

    status = exchange.status
    phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else ""
    # warcio escapes values that are not ASCII, but not names.
    named = [(name if name.isascii() else quote(name), value) for name, value in headers]
    return StatusAndHeaders(f"{status} {phrase}".strip(), named, protocol="HTTP/1.1")


def _sha256(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()


def _digest(sha256: str) -> str:
    """The hash of captures.parquet, so that a revisit, whose payload is not at hand, names the same one."""
    return f"sha256:{sha256}"


def read_payload(warc_path: Path, offset: int, length: int) -> bytes:
    """The decoded payload of the record at (offset, length)."""
    from assets.sources.streams.warc_members import UnreadableRecord, gzip_members, parse_record, reading_record

    with open(warc_path, "rb") as stream:
        stream.seek(offset)
        packed = stream.read(length)
    member = next(gzip_members(BytesIO(packed), sys.maxsize), None)
    found = parse_record(member.content) if member is not None and not member.problem else None
    if found is not None:
        with suppress(UnreadableRecord), reading_record():
            return bytes(found.reader.read())
    raise BuildError(
        f"no WARC record of {length} bytes at offset {offset} of {warc_path.name}: the index and the file disagree"
    )


def read_capture(segment: Segment, row: Mapping[str, Any]) -> bytes:
    """Payload of one row of captures.parquet, its SHA-256 checked. `segment` is the raw_crawl segment."""
    where = f"{segment.asset}/{segment.partition}"
    if row.get("revisit"):
        raise BuildError(
            f"{where}: {row['url']} was unchanged ({row['revisit']}): its payload is in raw_crawl/{row['payload_crawl']}, "
            "which the history of this source must still hold; an unchanged page is never extracted again"
        )
    if row["warc_file"] is None:
        raise BuildError(
            f"{where}: {row['url']} has no stored payload (drop_reason {row['drop_reason']!r}); read kept rows only"
        )
    payload = read_payload(segment.path(row["warc_file"]), row["warc_offset"], row["warc_length"])
    found = _sha256(payload)
    if found != row["content_sha256"]:
        raise BuildError(
            f"{where}: payload of {row['url']} has SHA-256 {found}, captures.parquet says {row['content_sha256']};"
            f" {row['warc_file']} does not belong to this index or is damaged: run `headwater verify`, or crawl again"
        )
    return payload


def iter_payloads(segment: Segment, urls: Collection[str] | None = None) -> Iterator[tuple[dict[str, Any], bytes]]:
    """(row, payload) of every payload this crawl stored, or of those of `urls`, in the order they lie on disk."""
    rows = [
        row
        for row in segment.table("captures").to_pylist()
        if row["drop_reason"] is None and not row.get("revisit") and (urls is None or row["url"] in urls)
    ]
    rows.sort(key=lambda row: (row["warc_file"], row["warc_offset"]))
    for row in rows:
        yield row, read_capture(segment, row)
