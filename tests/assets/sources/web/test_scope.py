"""One name per page, and only pages of the source."""

from __future__ import annotations

import pytest
from scrapy.http import HtmlResponse

from assets.sources.web.scope import Scope, canonical_url, is_public_address, read_page, resolve_link


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("HTTP://Example.ORG:80", "http://example.org/"),
        ("https://example.org:443/a#top", "https://example.org/a"),
        ("http://h:8080/a?b=2&a=1&c=", "http://h:8080/a?a=1&b=2&c="),
        ("http://h/中文.html?q=水", "http://h/%E4%B8%AD%E6%96%87.html?q=%E6%B0%B4"),
        ("http://h/%7euser", "http://h/~user"),
    ],
)
def test_canonical_names(url: str, name: str) -> None:
    assert canonical_url(url) == name
    assert canonical_url(name) == name


def test_a_query_is_escaped_in_the_encoding_of_its_page() -> None:
    assert resolve_link("http://h/d/x.html", "../水.html?q=水", "gb18030") == ("http://h/%E6%B0%B4.html?q=%CB%AE",) * 2


@pytest.mark.parametrize("target", ["mailto:a@b", "javascript:x()", "ftp://h/", "http://[bad/", "x" * 3000])
def test_what_is_no_link(target: str) -> None:
    assert resolve_link("http://h/", target) is None


def test_scope_is_the_folder_of_each_start_url() -> None:
    scope = Scope.of(("http://h:81/docs/zh/index.html", "http://h:81/docs/en/"))
    assert scope.origins == ["http://h:81"]
    assert scope.contains("http://h:81/docs/zh/a/b.html")
    for outside in (
        "http://h:81/docs/fr/a.html",
        "http://h/docs/zh/a.html",
        "https://h:81/docs/zh/a.html",
        "http://h.evil:81/docs/zh/a.html",
        "http://h:81/docs/zh/%2e%2e/fr/a.html",
    ):
        assert not scope.contains(outside), outside


def test_prefixes_replace_the_folders() -> None:
    scope = Scope.of(("http://h/docs/zh/index.html",), ("/docs/", "/文/"))
    assert scope.contains("http://h/docs/fr/a.html")
    assert scope.contains(canonical_url("http://h/文/a.html"))
    assert not scope.contains("http://h/other/")


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1", False),
        ("fd00::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:93.184.216.34", True),
        ("64:ff9b::93.184.216.34", True),
        ("64:ff9b::10.0.0.1", False),
        ("64:ff9b::169.254.169.254", False),
        ("64:ff9b:1::1", False),  # NAT64 of a network's own
        ("64:ff9b:1::93.184.216.34", False),
        ("::127.0.0.1", False),  # IPv4-compatible
        ("::93.184.216.34", False),
        ("::ffff:0:127.0.0.1", False),  # SIIT
        ("::ffff:0:93.184.216.34", False),
        ("2002:5db8:d822::1", True),  # 6to4 of 93.184.216.34
        ("2002:a00:1::1", False),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", False),  # Teredo
        ("2606:4700::5efe:10.0.0.1", False),  # ISATAP
        ("2606:4700::200:5efe:10.0.0.1", False),
        ("2606:4700::200:5efe:93.184.216.34", True),
        ("fe80::5efe:93.184.216.34", False),
        ("fec0::1", False),
        ("fec0::93.184.216.34", False),
        ("5f00::1", False),
        ("100::1", False),
        ("100:0:0:1::1", False),
        ("2001:2::1", False),
        ("2001:db8::1", False),
        ("3fff::1", False),
        ("4000::1", False),
        ("ff0e::1", False),
        ("fe80::1%eth0", False),
        ("2606:2800:220:1::1%eth0", True),
        ("192.88.99.1", False),
        ("192.0.0.170", False),
        ("198.18.0.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public_address(address) is public


def page(body: bytes, encoding: str | None = None) -> HtmlResponse:
    return HtmlResponse("http://h/d/x.html", body=body, encoding=encoding)


def test_markup_says_where_it_points() -> None:
    found = read_page(
        page(
            b'<head><base href="/base/"><link rel="canonical" href="http://h/c?b=1&a=2">'
            b'<meta http-equiv="Refresh" content="3; URL=next.html"><meta name="robots" content="noai"></head>'
            b'<a href=" a.html#part ">a</a><area href="b.html"><a name="no-target"></a>'
        )
    )
    assert [name for name, _ in found.links] == [
        "http://h/base/a.html",
        "http://h/base/b.html",
        "http://h/base/next.html",
    ]
    assert found.canonical == "http://h/c?a=2&b=1"
    assert found.metas == (("robots", "noai"),)


def test_xhtml_with_a_prolog_is_read_as_html() -> None:
    body = (
        '<?xml version="1.0" encoding="UTF-8"?><!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN" '
        '"http://www.w3.org/TR/xhtml1/DTD/xhtml1-strict.dtd"><html xmlns="http://www.w3.org/1999/xhtml"><head>'
        '<link rel="canonical" href="https://other.example/x.html" /></head><body><a href="一.html">一</a></body></html>'
    )
    found = read_page(page(body.encode()))
    assert found.links == (("http://h/d/%E4%B8%80.html",) * 2,)
    assert found.canonical == "https://other.example/x.html"


@pytest.mark.parametrize(
    "body",
    [
        b"\x00",
        b" ",
        b"<!-- only -->",
        b'<base href="http://[x"><a href=y>',
        b'<meta http-equiv=refresh content="0;url=http://["><a href=y>',
        b'<a href="http://h:99999/"><a href=y>',
        b"<div>" * 5000,
        b'<a href="\xff\xfe"><a href=y>',
        b'<link rel=canonical href="http://[bad"><a href=y>',
        b"<meta charset=nonsense><a href=y>",
        b"<meta name=robots><a href=y>",
    ],
)
@pytest.mark.parametrize("encoding", [None, "gb18030", "utf-16"])
def test_broken_markup_never_ends_a_crawl(body: bytes, encoding: str | None) -> None:
    found = read_page(page(body, encoding))
    if b"href=y" in body and encoding != "utf-16":
        assert "http://h/d/y" in [name for name, _ in found.links]


def test_a_page_leads_to_a_bounded_number_of_others() -> None:
    body = b"".join(b"<a href='?%d'>x</a><a href='?%d'>again</a>" % (n, n) for n in range(12_000))
    page = read_page(HtmlResponse("http://h.example/docs/", body=body, encoding="utf-8"))
    assert len(page.links) == len(set(page.links)) == 10_000
    assert page.refused == 2_000
