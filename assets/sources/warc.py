"""WARC in and out: what a crawl stored, and how a later stage gets one payload back.

One gzip member per record, so that a record is found by (file, offset, length) from
captures.parquet without reading its neighbours. Payloads are stored after transfer and content
decoding; what that removed is kept in `X-Crawl-*` headers, as Common Crawl does, so the digest of a
page does not depend on whether a server chose to compress it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from assets.build import BuildError, Segment

WARC_FILE_BYTES = 1 << 30
"""A file is closed after the record that passes this size: 1 GiB, the usual size of WARC files."""

# Hop-by-hop or describing an encoding that was removed before storing.
_ENCODING_HEADERS = {"content-encoding", "transfer-encoding", "content-length"}


@dataclass(frozen=True)
class Place:
    """Where one record lies."""

    file: str
    offset: int
    length: int


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

    def write_response(
        self,
        url: str,
        status: int,
        headers: Sequence[tuple[str, str]],
        payload: bytes,
        fetched_at: datetime,
        ip_address: str | None = None,
    ) -> Place:
        """Store one HTTP response with its decoded payload."""
        from http import HTTPStatus

        from warcio.statusandheaders import StatusAndHeaders

        kept = [(f"X-Crawl-{k}" if k.lower() in _ENCODING_HEADERS else k, v) for k, v in headers]
        kept.append(("Content-Length", str(len(payload))))
        phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else ""
        http_headers = StatusAndHeaders(f"{status} {phrase}".strip(), kept, protocol="HTTP/1.1")
        warc_headers = {"WARC-Date": _warc_date(fetched_at)}
        if ip_address:
            warc_headers["WARC-IP-Address"] = ip_address
        return self._write(
            self._writer.create_warc_record(
                url, "response", payload=BytesIO(payload), http_headers=http_headers, warc_headers_dict=warc_headers
            )
        )

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


def read_payload(warc_path: Path, offset: int, length: int) -> bytes:
    """The decoded payload of the record at (offset, length)."""
    from warcio.archiveiterator import ArchiveIterator

    with open(warc_path, "rb") as stream:
        stream.seek(offset)
        member = stream.read(length)
    for record in ArchiveIterator(BytesIO(member)):
        return record.content_stream().read()
    raise BuildError(
        f"no WARC record of {length} bytes at offset {offset} of {warc_path.name}: the index and the file disagree"
    )


def read_capture(segment: Segment, row: Mapping[str, Any]) -> bytes:
    """Payload of one row of captures.parquet, its SHA-256 checked. `segment` is the raw_crawl segment."""
    where = f"{segment.asset}/{segment.partition}"
    if row["warc_file"] is None:
        raise BuildError(
            f"{where}: {row['url']} has no stored payload (drop_reason {row['drop_reason']!r}); read kept rows only"
        )
    payload = read_payload(segment.path(row["warc_file"]), row["warc_offset"], row["warc_length"])
    found = hashlib.sha256(payload).hexdigest()
    if found != row["content_sha256"]:
        raise BuildError(
            f"{where}: payload of {row['url']} has SHA-256 {found}, captures.parquet says {row['content_sha256']};"
            f" {row['warc_file']} does not belong to this index or is damaged: run `headwater verify`, or crawl again"
        )
    return payload


def iter_payloads(segment: Segment, urls: Collection[str] | None = None) -> Iterator[tuple[dict[str, Any], bytes]]:
    """(row, payload) of every kept capture, or of those in `urls`, in the order they lie on disk."""
    rows = [
        row
        for row in segment.table("captures").to_pylist()
        if row["drop_reason"] is None and (urls is None or row["url"] in urls)
    ]
    rows.sort(key=lambda row: (row["warc_file"], row["warc_offset"]))
    for row in rows:
        yield row, read_capture(segment, row)
