"""A real crawl of a real server: what is kept, what is dropped and why, and that order does not matter."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from warcio.archiveiterator import ArchiveIterator
from warcio.checker import Checker

from assets.build import BuildError, Segment, StageReport
from assets.schemas import document_id
from assets.sources.config import declared_format
from assets.sources.defs import raw_crawl
from assets.sources.warc import iter_payloads, read_capture
from orchestration.identity.digest import data_version
from tests.assets.sources.site import Page, Site, build_site, html, serve
from tests.builds import make_build, segment_of

CRAWL = "docs@20260101T000000Z"


def source_of(site: Site, **changes: Any) -> dict[str, Any]:
    table = {
        "kind": "web",
        "licence": "CC-BY-4.0",
        "domain": "documentation",
        "format": "html",
        "start_urls": [f"{site.url}/docs/index.html"],
        "max_bytes_per_page": 50_000,
        "delay_s": 0,
        "concurrency": 4,
        "retry_wait_s": 0.01,
        "allow_private_hosts": True,
    }
    return table | changes


def crawl(folder: Path, source: dict[str, Any], partition: str = CRAWL) -> tuple[StageReport, Segment]:
    build = make_build(folder, "raw_crawl", recipes={"sources": source}, partition=partition)
    report = raw_crawl(build)
    return report, segment_of(build.output, "raw_crawl", partition, report=report)


def rows_of(segment: Segment) -> dict[str, dict[str, Any]]:
    """Rows by URL without host."""
    return {"/" + row["url"].split("/", 3)[3]: row for row in segment.table("captures").to_pylist()}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with serve(build_site()) as running:
        yield running


@pytest.fixture(scope="module")
def crawled(site: Site, tmp_path_factory: pytest.TempPathFactory) -> tuple[StageReport, Segment]:
    return crawl(tmp_path_factory.mktemp("crawl"), source_of(site))


def test_each_url_has_its_reason(crawled: tuple[StageReport, Segment]) -> None:
    reasons = {path: row["drop_reason"] for path, row in rows_of(crawled[1]).items() if row["drop_reason"]}
    assert reasons == {
        "/docs/missing.html": "http_404",
        "/docs/gone.html": "http_410",
        "/docs/moved.html": "redirected",
        "/docs/elsewhere.html": "redirected",
        "/docs/logo.png": "unsupported_content_type",
        "/docs/data.bin": "unsupported_content_type",
        "/docs/huge.html": "too_large",
        "/docs/bomb.html": "too_large",
        "/docs/empty.html": "empty_body",
        "/docs/cut.html": "fetch_failed_length",
        "/docs/broken.html": "http_500",
        "/docs/private/secret.html": "robots_denied",
        "/docs/closed/page.html": "opted_out",
        "/docs/noai-header.html": "opted_out",
        "/docs/noai-meta.html": "opted_out",
        "/docs/tdm.html": "opted_out",
        "/docs/usage.html": "opted_out",
        "/docs/copy.html": "non_canonical",
    }


def test_kept_pages_are_the_rest(crawled: tuple[StageReport, Segment]) -> None:
    report, segment = crawled
    kept = sorted(path for path, row in rows_of(segment).items() if row["drop_reason"] is None)
    assert kept == [
        "/docs/arrived.html",
        "/docs/en/",
        "/docs/en/deep/one.html",
        "/docs/en/deep/three.html",
        "/docs/en/deep/two.html",
        "/docs/flaky.html",
        "/docs/foreign.html",
        "/docs/fr/",
        "/docs/gb.html",
        "/docs/gzip.html",
        "/docs/index.html",
        "/docs/notes.txt",
        "/docs/zh/",
        "/docs/zh/%E4%B8%80.html",
        "/docs/zh/%E4%BA%8C.html?a=1&b=2",
    ]
    assert report.documents_in == report.documents_kept + sum(report.dropped.values())
    assert report.stats["read_back_failures"] == 0
    assert report.stats["start_urls_failed"] == 0
    assert all(len(png) < 40_000 for png in report.plots.values())


def test_opt_out_signals_are_recorded_and_their_pages_not_stored(
    crawled: tuple[StageReport, Segment], site: Site
) -> None:
    report, segment = crawled
    assert report.stats["opt_outs"] == {
        "header_content_usage": 1,
        "header_robots_noai": 1,
        "header_tdm_reservation": 1,
        "meta_robots_noai": 1,
        "robots_content_signal": 1,
    }
    for row in rows_of(segment).values():
        if row["drop_reason"] == "opted_out":
            assert (row["warc_file"], row["content_sha256"], row["doc_id"]) == (None, None, None)
    assert site.requests["/docs/closed/page.html"] == 0
    assert site.requests["/docs/private/secret.html"] == 0
    assert site.requests["/outside/page.html"] == 0


def test_rows_carry_identity_and_provenance(crawled: tuple[StageReport, Segment], site: Site) -> None:
    rows = rows_of(crawled[1])
    row = rows["/docs/index.html"]
    body = site.pages["/docs/index.html"].body
    assert row["content_sha256"] == hashlib.sha256(body).hexdigest()
    assert row["doc_id"] == document_id("docs", f"{site.url}/docs/index.html", row["content_sha256"])
    assert row["robots_sha256"] == hashlib.sha256(site.pages["/robots.txt"].body).hexdigest()
    assert (row["etag"], row["last_modified"]) == ('"v1"', "Mon, 01 Jan 2024 00:00:00 GMT")
    assert (row["licence"], row["domain"], row["crawl"]) == ("CC-BY-4.0", "documentation", CRAWL)
    assert rows["/docs/zh/%E4%BA%8C.html?a=1&b=2"]["requested_url"].endswith("?b=2&a=1")
    assert declared_format(crawled[1]) == "html"
    assert site.agents == {"Headwater (+local use)"}


def test_payloads_come_back_as_served(crawled: tuple[StageReport, Segment], site: Site) -> None:
    segment = crawled[1]
    rows = rows_of(segment)
    assert "汉字" in read_capture(segment, rows["/docs/gb.html"]).decode("gb18030")
    assert read_capture(segment, rows["/docs/gzip.html"]) == html("Packed", text="packed")
    payloads = {row["url"]: payload for row, payload in iter_payloads(segment)}
    assert len(payloads) == crawled[0].documents_kept
    assert [row["url"] for row, _ in iter_payloads(segment, {f"{site.url}/docs/fr/"})] == [f"{site.url}/docs/fr/"]
    with pytest.raises(BuildError, match="no stored payload"):
        read_capture(segment, rows["/docs/missing.html"])
    wrong = rows["/docs/fr/"] | {"warc_offset": rows["/docs/en/"]["warc_offset"]}
    with pytest.raises(BuildError, match="the index and the file disagree"):
        read_capture(segment, wrong)
    with pytest.raises(BuildError, match="SHA-256"):
        read_capture(segment, rows["/docs/fr/"] | {"content_sha256": "0" * 64})


def test_the_warc_file_is_valid_and_holds_the_policy_files(crawled: tuple[StageReport, Segment], site: Site) -> None:
    path = crawled[1].path("crawl-00000.warc.gz")

    class Command:
        inputs, verbose = [str(path)], False

    assert Checker(Command()).process_all() == 0
    with path.open("rb") as stream:
        records = [(r.rec_type, r.rec_headers.get_header("WARC-Target-URI")) for r in ArchiveIterator(stream)]
    assert records[0][0] == "warcinfo"
    assert records[1] == ("response", f"{site.url}/robots.txt")
    assert Counter(kind for kind, _ in records) == {
        "warcinfo": 1,
        "response": 1 + 15 + 1,
        "request": 1 + 15 + 1,
    }  # robots, kept, non-canonical


def test_flaky_pages_are_tried_again_and_broken_ones_a_limited_number_of_times(
    crawled: tuple[StageReport, Segment], site: Site
) -> None:
    assert site.requests["/docs/flaky.html"] == 2
    assert site.requests["/docs/broken.html"] == 3
    assert site.requests["/docs/cut.html"] == 3
    assert site.requests["/docs/missing.html"] == 1


@pytest.mark.parametrize("limits", [{}, {"max_pages": 12, "max_depth": 2}, {"max_total_bytes": 2500}])
def test_the_digest_does_not_depend_on_the_order_of_arrival(site: Site, tmp_path: Path, limits: dict[str, int]) -> None:
    versions, reasons = set(), []
    for jitter, concurrency in ((0.0, 1), (0.02, 5)):
        site.jitter_s = jitter
        source = source_of(site, **limits)
        report, segment = crawl(tmp_path / str(concurrency), source | {"concurrency": concurrency})
        versions.add(data_version(tmp_path / str(concurrency) / "output", report.volatile_files)[0])
        reasons.append(Counter(row["drop_reason"] for row in rows_of(segment).values()))
    site.jitter_s = 0.0
    assert len(versions) == 1
    if "max_pages" in limits:
        assert reasons[0]["page_limit"] > 0
        assert report.stats["cut_by_limit"] == 1
    if "max_total_bytes" in limits:
        assert reasons[0]["byte_limit"] > 0
        assert report.stats["stored_bytes"] <= 2500


def test_depth_is_the_shortest_path(site: Site, tmp_path: Path) -> None:
    _, segment = crawl(tmp_path, source_of(site, max_depth=1))
    rows = rows_of(segment)
    assert rows["/docs/en/"]["drop_reason"] is None
    assert rows["/docs/en/deep/one.html"]["drop_reason"] == "depth_limit"
    assert "/docs/en/deep/two.html" not in rows


def test_private_addresses_are_refused_unless_allowed(site: Site, tmp_path: Path) -> None:
    public = {"allow_private_hosts": False, "contact": "https://example.org/bot", "delay_s": 0.1}
    before = site.requests.total()
    for name in ("127.0.0.1", "localhost"):
        start = f"{site.url}/docs/index.html".replace("127.0.0.1", name)
        with pytest.raises(BuildError, match=rf"{name}.*not a public address.*allow_private_hosts"):
            crawl(tmp_path / name, source_of(site, **public, start_urls=[start]))
    assert site.requests.total() == before


def test_a_source_that_cannot_be_reached_is_an_error_with_its_cause(tmp_path: Path) -> None:
    with serve({}) as closed:
        table = source_of(closed, retries=0)
    with pytest.raises(BuildError, match=r"robots\.txt cannot be read .*refused.*never published"):
        crawl(tmp_path, table)
    assert not (tmp_path / "output" / "captures.parquet").exists()


@pytest.mark.parametrize("status", [408, 421, 425, 429, 500, 503])
def test_robots_txt_that_fails_forbids_the_crawl(tmp_path: Path, status: int) -> None:
    pages = build_site() | {"/robots.txt": Page(b"slow down", status=status)}
    with serve(pages) as failing, pytest.raises(BuildError, match=rf"status {status}.*RFC 9309"):
        crawl(tmp_path, source_of(failing, retries=0))
    assert set(failing.requests) == {"/robots.txt"}


def test_an_opt_out_file_that_answers_429_stops_the_crawl(tmp_path: Path) -> None:
    pages = build_site() | {"/.well-known/tdmrep.json": Page(b"slow down", status=429)}
    with serve(pages) as failing, pytest.raises(BuildError, match=r"tdmrep\.json cannot be read \(status 429\)"):
        crawl(tmp_path, source_of(failing, retries=0))


def test_rules_that_a_proxy_passed_on_bind_as_well(tmp_path: Path) -> None:
    shut = Page(b"User-agent: *\nDisallow: /docs/\n", status=203, content_type="text/plain")
    denied = pytest.raises(BuildError, match=r"kept nothing .*'robots_denied': 1")
    with serve(build_site() | {"/robots.txt": shut}) as site, denied:
        crawl(tmp_path, source_of(site))


@pytest.mark.parametrize("type_", ["text/html; charset=utf-8", "application/json"])
def test_a_home_page_in_the_place_of_an_opt_out_file_says_nothing(tmp_path: Path, type_: str) -> None:
    home = Page(b"\xef\xbb\xbf\n<!DOCTYPE html><html><body>Welcome</body></html>", content_type=type_)
    pages = {"/.well-known/tdmrep.json": home, "/docs/index.html": Page(html("Index", text="open"))}
    with serve(pages) as site:
        report, _ = crawl(tmp_path, source_of(site))
    assert report.documents_kept == 1


@pytest.mark.parametrize("body", [b"{broken", b"no", b'[{"location": "/", "tdm-reservation": 1}]'])
def test_an_empty_crawl_names_the_signal_that_closed_the_site(tmp_path: Path, body: bytes) -> None:
    pages = {"/.well-known/tdmrep.json": Page(body), "/docs/index.html": Page(html("Index", text="open"))}
    closed = pytest.raises(BuildError, match=r"kept nothing .*keeps these pages from training by tdmrep_json")
    with serve(pages) as site, closed as error:
        crawl(tmp_path, source_of(site))
    assert "start_urls" not in str(error.value)


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_robots_txt_that_is_not_there_leaves_the_site_open(tmp_path: Path, status: int) -> None:
    pages = {"/robots.txt": Page(b"", status=status), "/docs/index.html": Page(html("Index", text="open"))}
    with serve(pages) as site:
        report, _ = crawl(tmp_path, source_of(site))
    assert report.documents_kept == 1


def test_a_crawl_that_keeps_nothing_is_an_error(tmp_path: Path) -> None:
    robots = Page(b"User-agent: headwater\nDisallow: /\n", content_type="text/plain")
    with serve(build_site() | {"/robots.txt": robots}) as shut:
        with pytest.raises(BuildError, match=r"kept nothing .*'robots_denied': 1.*robots\.txt keeps us from them"):
            crawl(tmp_path, source_of(shut))
        assert set(shut.requests) == {"/robots.txt", "/.well-known/tdmrep.json", "/.well-known/ai.txt", "/ai.txt"}


def test_the_crawl_delay_of_robots_txt_is_kept(tmp_path: Path) -> None:
    robots = Page(b"User-agent: *\nCrawl-delay: 0.3\n", content_type="text/plain")
    pages = {"/robots.txt": robots, "/docs/index.html": Page(html("Index", "a.html", "b.html", "c.html"))}
    pages |= {f"/docs/{name}.html": Page(html(name)) for name in "abc"}
    with serve(pages) as patient:
        report, _ = crawl(tmp_path, source_of(patient))
        times = [at for at, path in patient.times if path.startswith("/docs/")]
    assert report.documents_kept == 4
    assert min(later - earlier for earlier, later in pairwise(times)) > 0.25


def test_a_redirect_to_an_unescaped_path_is_followed(tmp_path: Path) -> None:
    pages = {
        "/docs/": Page(html("Index", "old")),
        "/docs/old": Page(status=302, headers={"Location": "/docs/新".encode().decode("latin-1")}),
        "/docs/%E6%96%B0": Page(html("新")),
    }
    with serve(pages) as site:
        report, segment = crawl(tmp_path, source_of(site, start_urls=[f"{site.url}/docs/"]))
    assert {path: row["drop_reason"] for path, row in rows_of(segment).items()} == {
        "/docs/": None,
        "/docs/old": "redirected",
        "/docs/%E6%96%B0": None,
    }
    assert rows_of(segment)["/docs/"]["robots_sha256"] is None
    assert report.dropped == {"redirected": 1}


def test_the_crawler_ends_with_its_parent(tmp_path: Path) -> None:
    with serve(build_site(), jitter_s=3.0) as slow:
        source = source_of(slow, concurrency=1, timeout_s=60)
        program = (
            "import sys; from pathlib import Path; from tests.assets.sources.web.test_crawl import crawl\n"
            f"crawl(Path({str(tmp_path)!r}), {source!r})"
        )
        parent = subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parents[4])
        deadline = time.monotonic() + 30
        while not slow.requests and time.monotonic() < deadline:
            time.sleep(0.05)
        assert slow.requests, "the crawl never started"
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        while any(_alive(int(child)) for child in children) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert children
        assert not any(_alive(int(child)) for child in children)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
