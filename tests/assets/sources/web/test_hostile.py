"""Hostile servers: each page has its reason, the page beside them is kept, and memory stays bounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from assets.build import BuildError, Segment, StageReport
from assets.sources.web.scope import is_public_address
from tests.assets.sources.web.hostile import CASES, LINKS, Hostile, serve_hostile
from tests.assets.sources.web.test_crawl import crawl, rows_of

EXPECTED: dict[str, str | None] = {
    "length-too-long": "fetch_failed_length",
    "closed-in-chunk": "fetch_failed_length",
    "no-last-chunk": "fetch_failed_length",
    "closed-in-headers": "fetch_failed_connection",
    "no-answer": "fetch_failed_connection",
    "not-http": "fetch_failed_connection",
    "endless-headers": "fetch_failed_connection",
    "loop-self": "redirect_loop",
    "loop-a": "redirect_loop",
    "loop-b": "redirect_loop",
    "loop-c": "redirect_loop",
    "chain-1": "redirected",
    "redirect-file": "redirected",
    "redirect-metadata": "redirected",
    "gzip-cut": "fetch_failed_encoding",
    "gzip-lie": "fetch_failed_encoding",
    "coding-unknown": "unsupported_encoding",
    "bomb-gzip": "too_large",
    "bomb-deflate": "too_large",
    "bomb-br": "too_large",
    "bomb-zstd": "too_large",
    "bomb-nested": "too_large",
    "bomb-in-bomb": "unsupported_encoding",
    "bomb-members": "unsupported_encoding",
    "100-mb": "too_large",
    "100-mb-chunked": "too_large",
    "endless": "too_large",
    "slow-headers": "fetch_failed_timeout",
    "slow-body": "fetch_failed_timeout",
    "nested-tags": None,
    "many-links": None,
    "length-too-short": "fetch_failed_length",
}


def hostile_source(server: Hostile, **changes: Any) -> dict[str, Any]:
    table = {
        "kind": "web",
        "licence": "CC0-1.0",
        "domain": "documentation",
        "format": "html",
        "start_urls": [f"{server.url}/docs/"],
        "max_bytes_per_page": 5_000_000,
        "max_pages": 200,
        "delay_s": 0,
        "timeout_s": 4,
        "retries": 0,
        "sitemaps": False,
        "allow_private_hosts": True,
    }
    return table | changes


@pytest.fixture(scope="module")
def crawled(tmp_path_factory: pytest.TempPathFactory) -> tuple[StageReport, Segment]:
    """One crawl of everything but the two cases that only cost time: their outcome is in docs/results/bad_input.json."""
    cases = [path for path in CASES if path not in ("/docs/many-links", "/docs/bomb-br")]
    with serve_hostile(*cases, links=tuple(LINKS.values())) as server:
        return crawl(tmp_path_factory.mktemp("hostile"), hostile_source(server))


def test_every_case_is_expected() -> None:
    assert {path.rpartition("/")[2] for path in CASES} == set(EXPECTED)


def test_each_page_has_its_reason_and_the_crawl_goes_on(crawled: tuple[StageReport, Segment]) -> None:
    report, segment = crawled
    found = {path.rpartition("/")[2]: row["drop_reason"] for path, row in rows_of(segment).items()}
    assert {name: found.get(name, "not met") for name in EXPECTED if name not in ("many-links", "bomb-br")} == {
        name: reason for name, reason in EXPECTED.items() if name not in ("many-links", "bomb-br")
    }
    assert found["fine"] is None
    assert found["chain-11"] == "depth_limit"
    assert report.documents_in == (report.documents_kept or 0) + sum(report.dropped.values())


def test_memory_is_bounded_by_the_page_limit(crawled: tuple[StageReport, Segment]) -> None:
    """About 60 MB are Python and Scrapy; 8 pages of 5 MB may be in flight, received, decoded and parsed."""
    assert crawled[0].stats["crawler_peak_rss_bytes"] < 400_000_000


def test_links_that_lead_astray_are_not_followed(crawled: tuple[StageReport, Segment]) -> None:
    report, segment = crawled
    outside = [path for path in rows_of(segment) if not path.startswith("/docs/")]
    assert outside == []
    assert not [
        row for row in segment.table("captures").to_pylist() if "2130706433" in row["url"] or "::1" in row["url"]
    ]
    assert not [path for path in rows_of(segment) if "passwd" in path or "%00" in path]
    assert report.stats["malformed_links"] >= 4  # NUL twice, 10^5 characters, broken IPv6, bad port


@pytest.mark.parametrize("host", ["2130706433", "[::1]"])
def test_private_targets_are_refused_however_they_are_written(host: str, tmp_path: Path) -> None:
    public = {"allow_private_hosts": False, "contact": "https://example.org/bot", "delay_s": 0.1}
    with serve_hostile() as server:
        start = f"{server.url}/docs/".replace("127.0.0.1", host)
        with pytest.raises(BuildError, match=r"robots\.txt cannot be read|not a public address"):
            crawl(tmp_path, hostile_source(server, **public, start_urls=[start]))
    assert not server.requests


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("::ffff:93.184.216.34", True),
        ("127.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("0.0.0.0", False),
        ("::", False),
        ("fe80::1", False),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public_address(address) is public
