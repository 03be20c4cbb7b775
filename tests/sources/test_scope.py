"""One name per page, and only pages of the source."""

from __future__ import annotations

import pytest

from assets.sources.scope import Scope, canonical_url, is_public_address, resolve_link


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
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public_address(address) is public
