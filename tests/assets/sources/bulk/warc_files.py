"""WARC files as others make them: by warcio, with HTTP encodings, digests and metadata; and what breaks them."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

DATE = "2024-05-06T07:08:09Z"


@dataclass(frozen=True)
class Page:
    """One response."""

    url: str
    body: bytes
    status: str = "200 OK"
    content_type: str = "text/html; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()
    warc_headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Place:
    """Where a page's record lies."""

    url: str
    offset: int
    length: int
    status: str
    mime: str


def warc_bytes(pages: list[Page], gz: bool = True) -> tuple[bytes, list[Place]]:
    """A WARC file with a warcinfo record, a request before each response, and the responses."""
    out = BytesIO()
    writer = WARCWriter(out, gzip=gz)
    writer.write_record(writer.create_warcinfo_record("test.warc.gz", {"software": "test"}))
    places = []
    for page in pages:
        request = StatusAndHeaders("GET / HTTP/1.1", [("Host", "example.org")], is_http_request=True)
        writer.write_record(writer.create_warc_record(page.url, "request", http_headers=request))
        offset = out.tell()
        headers = [("Content-Type", page.content_type), *page.headers]
        http = StatusAndHeaders(page.status, headers, protocol="HTTP/1.1")
        writer.write_record(
            writer.create_warc_record(
                page.url,
                "response",
                payload=BytesIO(page.body),
                http_headers=http,
                warc_headers_dict={"WARC-Date": DATE, **dict(page.warc_headers)},
            )
        )
        mime = page.content_type.partition(";")[0]
        places.append(Place(page.url, offset, out.tell() - offset, page.status[:3], mime))
    return out.getvalue(), places


def wet_bytes(texts: dict[str, str]) -> bytes:
    """A WET file: conversion records with the language that Common Crawl identified."""
    out = BytesIO()
    writer = WARCWriter(out, gzip=True)
    writer.write_record(writer.create_warcinfo_record("test.warc.wet.gz", {"software": "test"}))
    for url, text in texts.items():
        language = "zho" if any(ord(c) > 0x3000 for c in text) else "eng"
        writer.write_record(
            writer.create_warc_record(
                url,
                "conversion",
                payload=BytesIO(text.encode()),
                warc_content_type="text/plain",
                warc_headers_dict={"WARC-Date": DATE, "WARC-Identified-Content-Language": language},
            )
        )
    return out.getvalue()


def common_crawl(folder: Path, pages: list[Page], name: str = "CC-MAIN-2024-18") -> list[Place]:
    """A small Common Crawl below `folder`: one WARC, its path list, its CDXJ and its columnar index."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    content, places = warc_bytes(pages)
    filename = f"crawl-data/{name}/segments/1.1/warc/{name}-00000.warc.gz"
    path = folder / filename
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    (folder / "warc.paths.gz").write_bytes(gzip.compress(f"{filename}\n".encode()))
    lines, rows = [], []
    for place in places:
        fields = {"url": place.url, "mime": place.mime, "mime-detected": place.mime, "status": place.status}
        fields |= {"length": str(place.length), "offset": str(place.offset), "filename": filename}
        lines.append(f"org,example)/ 20240506070809 {json.dumps(fields)}\n")
        row = {"url": place.url, "url_host_registered_domain": "example.org", "fetch_status": int(place.status)}
        row |= {"content_mime_detected": place.mime, "warc_filename": filename}
        rows.append(row | {"warc_record_offset": place.offset, "warc_record_length": place.length})
    (folder / "cdx-00000.gz").write_bytes(gzip.compress("".join(lines).encode()))
    pq.write_table(pa.Table.from_pylist(rows), folder / "part-00000.parquet")
    return places
