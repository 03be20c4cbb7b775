"""WARC files of others: every compression and encoding, and every way in which they break."""

from __future__ import annotations

import gzip
import re
import zlib
from pathlib import Path
from typing import Any

import brotli
import pytest
from backports import zstd

from assets.build import BuildError
from assets.sources.streams.warc_members import gzip_members, plain_members
from tests.assets.sources.bulk.bulk import crawl, table
from tests.assets.sources.bulk.warc_files import DATE, Page, warc_bytes, wet_bytes

ZH = "<html><body><p>软件包管理系统。</p></body></html>".encode()
PAGES = [Page(f"http://example.org/{n}", ZH + str(n).encode()) for n in range(6)]


def warc(path: Path | str, **keys: Any) -> dict[str, Any]:
    return table("warc", paths=[str(path)], **keys)


@pytest.mark.parametrize("form", ["members", "plain", "whole", "zst"])
def test_every_compression_holds_the_same_records(tmp_path: Path, form: str) -> None:
    content = warc_bytes(PAGES, gz=form == "members")[0]
    content = {"whole": gzip.compress, "zst": zstd.compress}.get(form, bytes)(content)
    (tmp_path / "c.warc.gz").write_bytes(content)
    found = crawl(tmp_path / "b", warc(tmp_path / "c.warc.gz"))
    assert found.payloads == {page.url: page.body for page in PAGES}
    row = found.rows["http://example.org/0"]
    assert (row["status"], row["fetched_at"].isoformat()) == (200, "2024-05-06T07:08:09+00:00")
    assert found.summary["not_taken"] == {"record_type_request": 6, "record_type_warcinfo": 1}


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [("gzip", gzip.compress), ("deflate", zlib.compress), ("br", brotli.compress), ("zstd", zstd.compress)],
)
def test_payloads_are_stored_without_their_encoding(tmp_path: Path, encoding: str, pack: Any) -> None:
    page = Page("http://example.org/", pack(ZH), headers=(("Content-Encoding", encoding),))
    lying = Page("http://example.org/lie", ZH, headers=(("Content-Encoding", "gzip"),))
    chunked = b"4\r\nfour\r\n0\r\n\r\n"
    chunks = Page(
        "http://example.org/c", chunked, content_type="text/plain", headers=(("Transfer-Encoding", "chunked"),)
    )
    (tmp_path / "c.warc.gz").write_bytes(warc_bytes([page, lying, chunks])[0])
    found = crawl(tmp_path / "b", warc(tmp_path / "c.warc.gz"))
    assert found.payloads == {page.url: ZH, lying.url: ZH, chunks.url: b"four"}


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        (ZH, ZH),  # joined by the recorder, which kept the header
        (
            gzip.compress(ZH, mtime=0),
            gzip.compress(ZH, mtime=0),
        ),  # a time in it would name the test anew in each worker
        (b"\r\n" + ZH, b"\r\n" + ZH),
        (b"4;a=b\r\nfour\r\n0\r\nX-Trailer: 1\r\n\r\n", b"four"),
        (b"4\r\nfour\r\n", b"four"),
        (b"4\r\nfour\r\n0", b"four"),
        (b"4\nfour\n0\n\n", b"four"),
        (b"4\r\nfour\r\n-3\r\nsix\r\n0\r\n\r\n", None),
        (b"4\r\nfour\r\nffff\r\ncut", None),
    ],
)
def test_chunks_as_recorders_leave_them(tmp_path: Path, body: bytes, kept: bytes | None) -> None:
    odd = Page("http://example.org/odd", body, headers=(("Transfer-Encoding", "chunked"),))
    (tmp_path / "c.warc.gz").write_bytes(warc_bytes([PAGES[0], odd, PAGES[1]])[0])
    found = crawl(tmp_path / "b", warc(tmp_path / "c.warc.gz"))
    expected = {page.url: page.body for page in PAGES[:2]} | ({odd.url: kept} if kept else {})
    assert found.payloads == expected
    assert found.reasons[odd.url] == (None if kept else "damaged_payload")


@pytest.mark.parametrize(
    ("old", "new", "url", "reason"),
    [
        (b"http://example.org/odd", b"ftp://example.org/odd", "ftp://example.org/odd", "not_an_http_url"),
        (b"http://example.org/odd", b"dns:example.org", "dns:example.org", "not_an_http_url"),
        (b"http://example.org/odd", b"HTTP://Example.org/odd", "http://example.org/odd", None),
        (DATE.encode(), b"0000-01-01T00:00:00Z", "http://example.org/odd", None),
        (DATE.encode(), b"9999-12-31T23:59:59-14:00", "http://example.org/odd", None),
        (b"WARC-Type", b"WARC-Block-Digest: shake_128:AAAA\r\nWARC-Type", "http://example.org/odd", None),
        (b"X-Name", "X-N\xe4me".encode("latin-1"), "http://example.org/odd", None),
    ],
)
def test_an_odd_record_costs_at_most_itself(
    tmp_path: Path, old: bytes, new: bytes, url: str, reason: str | None
) -> None:
    odd = gzip.decompress(warc_bytes([Page("http://example.org/odd", ZH, headers=(("X-Name", "1"),))])[0])
    odd = odd[odd.rindex(b"WARC/1.0\r\n") :]
    odd = re.sub(rb"WARC-Block-Digest: sha1:\w+\r\n", b"", odd)
    http = odd.index(b"HTTP/1.1")
    head, block = odd[:http].replace(old, new), odd[http:].replace(old, new)
    good = [warc_bytes([page])[0] for page in PAGES[:2]]
    (tmp_path / "c.warc.gz").write_bytes(good[0] + gzip.compress(head + block) + good[1])
    found = crawl(tmp_path / "b", warc(tmp_path / "c.warc.gz"))
    assert found.reasons == {PAGES[0].url: None, PAGES[1].url: None, url: reason}
    assert set(found.payloads.values()) == {PAGES[0].body, PAGES[1].body} | (set() if reason else {ZH})


def test_responses_that_are_no_page_have_their_reason(tmp_path: Path) -> None:
    bomb = gzip.compress(b"\0" * 100_000_000)
    pages = [
        Page("http://example.org/gone", b"x", "404 Not Found"),
        Page("http://example.org/moved", b"", "301 Moved", headers=(("Location", "/new"),)),
        Page("http://example.org/image", b"\x89PNG", content_type="image/png"),
        Page("http://example.org/noai", ZH, headers=(("X-Robots-Tag", "noai"),)),
        Page("http://example.org/meta", b'<head><meta name="robots" content="noai"></head>' + ZH),
        Page("http://example.org/cut", ZH, warc_headers=(("WARC-Truncated", "length"),)),
        Page("http://example.org/empty", b""),
        Page("http://example.org/large", b"x" * 200_000),
        Page("http://example.org/bomb", bomb, headers=(("Content-Encoding", "gzip"),)),
        Page("http://example.org/broken", gzip.compress(ZH)[:-12], headers=(("Content-Encoding", "gzip"),)),
        Page("no url at all", ZH),
        Page("http://example.org/ok", ZH),
    ]
    (tmp_path / "c.warc.gz").write_bytes(warc_bytes(pages)[0])
    found = crawl(tmp_path / "b", warc(tmp_path / "c.warc.gz", max_bytes_per_record=100_000))
    short = {url.removeprefix("http://example.org/"): reason for url, reason in found.reasons.items()}
    nameless = [url for url in short if url.startswith("warc:bulk/c.warc.gz")]
    assert [short.pop(url) for url in nameless] == ["damaged_record"]
    assert short == {
        "gone": "http_404",
        "moved": "redirected",
        "image": "unsupported_content_type",
        "noai": "opted_out",
        "meta": "opted_out",
        "cut": "truncated_payload",
        "empty": "empty_body",
        "large": "too_large",
        "bomb": "too_large",
        "broken": "damaged_payload",
        "ok": None,
    }
    assert found.rows["http://example.org/noai"]["opt_out"] == "header_robots_noai"
    assert found.rows["http://example.org/meta"]["opt_out"] == "meta_robots_noai"


def test_conversions_are_text_with_their_language(tmp_path: Path) -> None:
    (tmp_path / "c.warc.wet.gz").write_bytes(
        wet_bytes({"http://example.org/": "软件包", "http://example.com/": "text"})
    )
    found = crawl(tmp_path / "b", warc(tmp_path / "c.warc.wet.gz"))
    assert found.payloads["http://example.org/"].decode() == "软件包"
    row = found.rows["http://example.org/"]
    assert (row["content_type"], row["language"], row["status"]) == ("text/plain", "zho", None)


def damaged(content: bytes, offset: int, size: int = 40) -> bytes:
    return content[: offset + 25] + b"\xff" * size + content[offset + 25 + size :]


def test_a_damaged_member_costs_itself_only(tmp_path: Path) -> None:
    content, places = warc_bytes(PAGES)
    (tmp_path / "c.warc.gz").write_bytes(damaged(content, places[2].offset))
    found = crawl(tmp_path / "b", warc(tmp_path / "c.warc.gz"))
    assert found.kept == [page.url for page in PAGES if page.url != places[2].url]
    assert [reason for reason in found.reasons.values() if reason] == ["damaged_record"] * len(
        [reason for reason in found.reasons.values() if reason]
    )
    assert any(f"c.warc.gz%23{places[2].offset}" in url for url in found.reasons)


def test_a_wrong_checksum_and_junk_between_members_are_survived(tmp_path: Path) -> None:
    content, places = warc_bytes(PAGES)
    end = places[1].offset + places[1].length
    wrong = content[: end - 8] + b"\0\0\0\0" + content[end - 4 :]
    junk = wrong[: places[4].offset] + b"junk" * 50 + wrong[places[4].offset :]
    (tmp_path / "c.warc.gz").write_bytes(junk)
    found = crawl(tmp_path / "b", warc(tmp_path / "c.warc.gz"))
    assert found.kept == [page.url for page in PAGES if page.url != PAGES[1].url]


@pytest.mark.parametrize("gz", [True, False])
def test_a_truncated_file_keeps_what_is_whole(tmp_path: Path, gz: bool) -> None:
    content, _ = warc_bytes(PAGES, gz=gz)
    (tmp_path / "c.warc.gz").write_bytes(content[:-30])
    found = crawl(tmp_path / "b", warc(tmp_path / "c.warc.gz"))
    assert found.kept == [page.url for page in PAGES[:-1]]
    assert "input_truncated" in found.reasons.values()


def test_a_lying_content_length_is_seen(tmp_path: Path) -> None:
    content, _ = warc_bytes(PAGES, gz=False)
    cut = content.split(b"WARC/1.0\r\n")
    longer = cut[3].replace(b"Content-Length: ", b"Content-Length: 9")
    members = [gzip.compress(b"WARC/1.0\r\n" + part) for part in (*cut[1:3], longer, *cut[4:])]
    (tmp_path / "c.warc.gz").write_bytes(b"".join(members))
    found = crawl(tmp_path / "b", warc(tmp_path / "c.warc.gz"))
    assert found.kept == [page.url for page in PAGES[1:]]
    assert "damaged_record" in found.reasons.values()


def test_a_block_that_is_not_what_its_digest_says_is_refused(tmp_path: Path) -> None:
    content, _ = warc_bytes(PAGES, gz=False)
    (tmp_path / "c.warc").write_bytes(content.replace(ZH + b"3", ZH + b"4"))
    found = crawl(tmp_path / "b", warc(tmp_path / "c.warc"))
    assert {url: reason for url, reason in found.reasons.items() if reason} == {PAGES[3].url: "digest_mismatch"}


def test_what_is_no_warc_at_all_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "c.warc.gz").write_bytes(b"<html>no archive</html>\n" * 100)
    with pytest.raises(BuildError, match=r"kept nothing.*damaged_record"):
        crawl(tmp_path / "b", warc(tmp_path / "c.warc.gz"))


def test_memory_does_not_follow_a_member_that_unpacks_to_much() -> None:
    import tracemalloc
    from io import BytesIO

    packed = gzip.compress(b"WARC/1.0\r\n" + b"x" * 60_000_000) + gzip.compress(b"WARC/1.0\r\n\r\n")
    tracemalloc.start()
    sizes = [(member.length, len(member.content), member.problem) for member in gzip_members(BytesIO(packed), 10_000)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sizes == [(60_000_010, 10_000, ""), (12, 12, "")]
    assert peak < 8_000_000
    header = b"WARC/1.0\r\nContent-Length: 50000000\r\n\r\n"
    assert [len(m.content) for m in plain_members(BytesIO(header + b"x" * 50_000_000), 10_000)] == [
        len(header) + 10_000
    ]
