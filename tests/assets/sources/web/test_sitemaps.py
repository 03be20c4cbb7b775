"""Sitemaps: what they name, when a page surely had not changed, and what is no sitemap."""

from __future__ import annotations

import gzip

import pytest

from assets.sources.web.sitemaps import SitemapUnreadableError, changed_by, read_sitemap

URLSET = (
    b'<?xml version="1.0" encoding="UTF-8"?><urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">'
    b"<url><loc> https://h.example/a </loc><lastmod>2026-03-01T10:00:00+08:00</lastmod></url>"
    b"<url><loc>https://h.example/b</loc><priority>1</priority></url><url><lastmod>2026</lastmod></url></urlset>"
)


@pytest.mark.parametrize(
    ("lastmod", "end"),
    [
        ("2026-03-01T10:00:05Z", "2026-03-01T10:00:06+00:00"),
        ("2026-03-01T10:00:05.25+08:00", "2026-03-01T02:00:06+00:00"),
        ("2026-03-01T10:00Z", "2026-03-01T10:01:00+00:00"),
        ("2026-03-01T10:00:05-0330", "2026-03-01T13:30:06+00:00"),
        ("2026-03-01", "2026-03-02T12:00:00+00:00"),  # anywhere on Earth
        ("2026-02", "2026-03-01T12:00:00+00:00"),
        ("2024", "2025-01-01T12:00:00+00:00"),
        ("2026-02-30", None),
        ("9999-12-31", None),
        ("yesterday", None),
        ("", None),
    ],
)
def test_a_date_means_the_end_of_what_it_names(lastmod: str, end: str | None) -> None:
    found = changed_by(lastmod)
    assert (found.isoformat() if found else None) == end


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lambda body: b"\xef\xbb\xbf\n" + body])
def test_pages_of_a_urlset(pack: object) -> None:
    is_index, entries = read_sitemap(pack(URLSET))  # type: ignore[operator]
    assert not is_index
    assert [(e.url, str(e.changed_by)) for e in entries] == [
        ("https://h.example/a", "2026-03-01 02:00:01+00:00"),
        ("https://h.example/b", "None"),
    ]


def test_alternates_are_pages_of_unknown_age() -> None:
    body = URLSET.replace(
        b"<priority>1</priority>",
        b'<lastmod>2026</lastmod><x:link xmlns:x="h" rel="alternate" href="https://h.example/zh"/>',
    )
    assert [(e.url, e.changed_by is None) for e in read_sitemap(body)[1]] == [
        ("https://h.example/a", False),
        ("https://h.example/b", False),
        ("https://h.example/zh", True),
    ]


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("?a=1&b=2", "?a=1&b=2"),
        ("?a=1&amp;b=2", "?a=1&b=2"),
        ("?a=1&#38;b=2&#x26;c=3", "?a=1&b=2&c=3"),
        ("?a=1&copy=2&lt=3", "?a=1&copy=2&lt=3"),
        ("?q=&eacute;&b", "?q=&eacute;&b"),
        ("<![CDATA[?a=1&b=2&amp;c]]>", "?a=1&b=2&amp;c"),
    ],
)
def test_an_ampersand_stays_one_however_it_is_written(written: str, url: str) -> None:
    body = f"<urlset><url><loc>https://h.example/{written}</loc></url></urlset>".encode()
    assert [e.url for e in read_sitemap(body)[1]] == [f"https://h.example/{url}"]


def test_a_file_full_of_openings_is_read_in_a_moment() -> None:
    read_sitemap(b"<urlset>" + b"<![CDATA[&" * 500_000)


def test_an_index_and_a_list_of_lines() -> None:
    index = b"<sitemapindex><sitemap><loc>https://h.example/1.xml.gz</loc></sitemap></sitemapindex>"
    assert read_sitemap(index)[0] is True
    assert [e.url for e in read_sitemap(b"https://h.example/a\r\nhttps://h.example/b\nnot a url\n")[1]] == [
        "https://h.example/a",
        "https://h.example/b",
    ]


@pytest.mark.parametrize(
    "body",
    [
        b"<html><body>not found</body></html>",
        b"<",
        gzip.compress(URLSET)[:-5],
        b"\x1f\x8b\x08\x00" + b"\x00" * 20,
        gzip.compress(bytes(60 * 1024 * 1024)),
    ],
)
def test_what_is_no_sitemap(body: bytes) -> None:
    with pytest.raises(SitemapUnreadableError):
        read_sitemap(body)


def test_entities_are_not_expanded() -> None:
    bomb = b'<!DOCTYPE urlset [<!ENTITY a "https://h.example/a">]><urlset><url><loc>&a;</loc></url></urlset>'
    assert [e.url for e in read_sitemap(bomb)[1] if e.url] == []
