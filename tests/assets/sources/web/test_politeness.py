"""What a crawler owes a site: its pace, its waits, and its licences."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest

from assets.build import BuildError
from tests.assets.sources.site import Page, html, serve
from tests.assets.sources.web.test_crawl import crawl, rows_of, source_of
from tests.assets.sources.web.test_recrawl import docs, small_site, tagged


def test_a_slow_server_is_asked_less_often(tmp_path: Path) -> None:
    """AutoThrottle: delay_s = 0.02 is only where it begins; four requests in flight of 0.8 s each mean one per 0.2 s."""
    pages = {f"/docs/{n}.html": Page(html(str(n)), latency_s=0.8) for n in range(16)}
    pages["/docs/"] = Page(html("Index", *(f"{n}.html" for n in range(16))))
    with serve(pages) as site:
        crawl(tmp_path, source_of(site, start_urls=[f"{site.url}/docs/"], delay_s=0.02, concurrency=4))
        times = [at for at, path in site.times if path.endswith(".html")]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert median(gaps[-8:]) > 0.12


@pytest.mark.parametrize(
    "retry_after",
    [lambda: "2", lambda: format_datetime(datetime.now(UTC) + timedelta(seconds=3), usegmt=True)],
    ids=["seconds", "date"],
)
def test_retry_after_is_waited_for(retry_after: Callable[[], str], tmp_path: Path) -> None:
    with serve(small_site()) as site:
        site.pages["/docs/a.html"] = Page(html("A"), fails_first=1, retry_after=retry_after)
        crawl(tmp_path, docs(site, retry_wait_s=0.0))
        first, second = [at for at, path in site.times if path == "/docs/a.html"]
    assert second - first > 1.8


def test_rsl_licences_of_robots_txt_and_of_pages_are_respected(tmp_path: Path) -> None:
    closed = '<rsl xmlns="https://rslstandard.org/rsl"><content url="{}"><license><prohibits type="usage">ai-train</prohibits></license></content></rsl>'
    link = '<link rel="license" type="application/rsl+xml" href="/page.xml">'
    with serve(small_site()) as site:
        site.pages["/robots.txt"] = Page(f"License: {site.url}/site.xml\n".encode(), content_type="text/plain")
        site.pages["/site.xml"] = Page(closed.format("/docs/e").encode(), content_type="application/rsl+xml")
        site.pages["/page.xml"] = Page(closed.format("/").encode(), content_type="application/rsl+xml")
        site.pages["/docs/d.html"] = Page(html("D", head=link))
        site.pages["/docs/a.html"] = tagged(
            "A", "b.html", headers={"Link": '</page.xml>; rel=license; type="application/rsl+xml"'}
        )
        report, segment = crawl(tmp_path, docs(site))
    assert {path: row["opt_out"] for path, row in rows_of(segment).items() if row["opt_out"]} == {
        "/docs/a.html": "header_rsl",
        "/docs/d.html": "link_rsl",
        "/docs/e.html": "robots_rsl",
    }
    assert site.requests["/page.xml"] == 1, "a licence is read once per crawl"
    assert rows_of(segment)["/docs/c.html"]["drop_reason"] is None, "what a page leads to is not under its licence"
    assert report.stats["rsl_licences"] == 1


def test_an_opt_out_file_that_fails_stops_the_crawl(tmp_path: Path) -> None:
    with serve(small_site()) as site:
        site.pages["/.well-known/tdmrep.json"] = Page(status=503)
        with pytest.raises(BuildError, match=r"tdmrep\.json cannot be read \(status 503\).*404 is an answer"):
            crawl(tmp_path, docs(site, retries=0))
