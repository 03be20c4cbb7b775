"""A second crawl of a real server: what travels, what is recorded, and that history changes nothing downstream."""

from __future__ import annotations

import gzip
import random
import subprocess
import sys
import zlib
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from fastwarc.warc import ArchiveIterator, WarcRecordType
from warcio.checker import Checker

from assets.build import BuildError, Segment, StageReport
from assets.documents.selection import select_captures
from assets.sources.defs import crawl_delta, raw_crawl
from assets.sources.warc import iter_payloads, read_capture
from tests.assets.sources.site import Page, Site, html, serve
from tests.assets.sources.web.test_crawl import rows_of, source_of
from tests.builds import make_build, segment_of

DAYS = [f"docs@202601{day:02d}T000000Z" for day in range(1, 29)]
OLD = "Mon, 01 Jan 2024 00:00:00 GMT"


def crawl(folder: Path, source: dict[str, Any], day: int, previous: Segment | None) -> tuple[StageReport, Segment]:
    inputs = [previous] if previous else []
    build = make_build(folder / f"raw{day}", "raw_crawl", inputs, {"sources": source}, DAYS[day])
    report = raw_crawl(build)
    return report, segment_of(build.output, "raw_crawl", DAYS[day], report=report)


def delta(folder: Path, day: int, raw: Segment, previous: Segment | None) -> Segment:
    build = make_build(folder / f"delta{day}", "crawl_delta", [raw, *([previous] if previous else [])], {}, DAYS[day])
    return segment_of(build.output, "crawl_delta", DAYS[day], report=crawl_delta(build))


def changes(segment: Segment) -> dict[str, tuple[str, str]]:
    return {
        "/" + row["url"].split("/", 3)[3]: (row["change"], row["rule"]) for row in segment.table("delta").to_pylist()
    }


def tag(body: bytes) -> str:
    return f'"{zlib.crc32(body):x}"'


def tagged(title: str, *links: str, **page: Any) -> Page:
    body = html(title, *links)
    return Page(body, headers={"ETag": tag(body), **page.pop("headers", {})}, **page)


def small_site() -> dict[str, Page]:
    """/docs/ -> a -> b -> c, and d and e; only b has no validator."""
    return {
        "/docs/": tagged("Index", "a.html", "d.html", "e.html"),
        "/docs/a.html": tagged("A", "b.html"),
        "/docs/b.html": Page(html("B", "c.html", text="without a validator")),
        "/docs/c.html": Page(html("C"), headers={"Last-Modified": OLD}),
        "/docs/d.html": tagged("D"),
        "/docs/e.html": tagged("E"),
    }


def docs(site: Site, **changed: Any) -> dict[str, Any]:
    return source_of(site, start_urls=[f"{site.url}/docs/"], **changed)


def test_an_unchanged_site_sends_headers_only_and_gives_the_same_pages(tmp_path: Path) -> None:
    with serve(small_site()) as site:
        first_report, first = crawl(tmp_path, docs(site), 0, None)
        second_report, second = crawl(tmp_path, docs(site), 1, first)
        third_report, third = crawl(tmp_path, docs(site), 2, second)
    same = ("content_sha256", "doc_id", "content_length", "content_type", "drop_reason", "etag", "last_modified")
    for later in (second, third):
        before, after = rows_of(first), rows_of(later)
        assert before.keys() == after.keys()
        assert all(before[path][name] == after[path][name] for path in before for name in same)
        assert {path: row["revisit"] for path, row in after.items()} == {
            "/docs/": "server_not_modified",
            "/docs/a.html": "server_not_modified",
            "/docs/b.html": "identical_payload",
            "/docs/c.html": "server_not_modified",
            "/docs/d.html": "server_not_modified",
            "/docs/e.html": "server_not_modified",
        }
        assert {row["payload_crawl"] for row in after.values()} == {DAYS[0]}
        assert all(after[path]["payload_fetched_at"] == before[path]["fetched_at"] for path in before)
        assert list(iter_payloads(later)) == []
    assert first_report.stats["revisits"] == {"server_not_modified": 0, "identical_payload": 0, "sitemap_unchanged": 0}
    assert second_report.stats["revisits"] == third_report.stats["revisits"]
    assert second_report.stats["stored_bytes"] == 0
    assert second_report.documents_kept == first_report.documents_kept == 6
    body_bytes = sum(len(page.body) for path, page in site.pages.items() if path != "/docs/b.html")
    assert first_report.stats["received_bytes"] - second_report.stats["received_bytes"] > 0.7 * body_bytes
    with pytest.raises(BuildError, match=rf"unchanged \(server_not_modified\).*raw_crawl/{DAYS[0]}"):
        read_capture(second, rows_of(second)["/docs/a.html"])


def test_a_recent_last_modified_is_no_validator(tmp_path: Path) -> None:
    now = format_datetime(datetime.now(UTC), usegmt=True)
    pages = {"/docs/": Page(html("Index", "a.html")), "/docs/a.html": Page(html("A"), headers={"Last-Modified": now})}
    with serve(pages) as site:
        _, first = crawl(tmp_path, docs(site), 0, None)
        site.pages["/docs/a.html"] = Page(html("A, again in the same second"), headers={"Last-Modified": now})
        _, second = crawl(tmp_path, docs(site), 1, first)
    assert "If-Modified-Since" not in dict(site.sent["/docs/a.html"])
    assert rows_of(second)["/docs/a.html"]["revisit"] is None


def test_warc_records_of_a_recrawl_are_valid_and_point_at_the_original(tmp_path: Path) -> None:
    with serve(small_site()) as site:
        _, first = crawl(tmp_path, docs(site), 0, None)
        _, second = crawl(tmp_path, docs(site), 1, first)
        sent = site.sent["/docs/a.html"]
        url = f"{site.url}/docs/a.html"
    for segment in (first, second):
        path = segment.path("crawl-00000.warc.gz")

        class Command:
            inputs, verbose = [str(path)], False

        assert Checker(Command()).process_all() == 0
        command = [sys.executable, "-m", "fastwarc.cli", "check", "-q", str(path)]
        checked = subprocess.run(command, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout + checked.stderr
    original = next(r for r in records(first, WarcRecordType.response) if r["WARC-Target-URI"] == url)
    revisits = {r["WARC-Target-URI"]: r for r in records(second, WarcRecordType.revisit)}
    assert len(revisits) == 6
    assert revisits[url]["WARC-Profile"].endswith("/warc/1.1/revisit/server-not-modified")
    assert revisits[f"{site.url}/docs/b.html"]["WARC-Profile"].endswith("/revisit/identical-payload-digest")
    assert revisits[url]["WARC-Refers-To-Target-URI"] == url
    assert revisits[url]["WARC-Refers-To-Date"] == original["WARC-Date"]
    assert revisits[url]["WARC-Payload-Digest"] == original["WARC-Payload-Digest"]
    assert original["WARC-Payload-Digest"] == "sha256:" + rows_of(first)["/docs/a.html"]["content_sha256"]
    asked = next(r for r in records(second, WarcRecordType.request) if r["WARC-Target-URI"] == url)
    assert asked["WARC-Concurrent-To"] == revisits[url]["WARC-Record-ID"]
    assert sorted(asked["http"]) == sorted((name.title(), value) for name, value in sent)
    assert "If-None-Match" in dict(asked["http"])


def records(segment: Segment, kind: WarcRecordType) -> list[dict[str, Any]]:
    found = []
    with segment.path("crawl-00000.warc.gz").open("rb") as stream:
        for record in ArchiveIterator(stream, record_types=kind):
            http = [(name.title(), value) for name, value in record.http_headers.items()] if record.http_headers else []
            found.append({**dict(record.headers.items()), "http": http})
    return found


def test_a_page_that_nothing_links_is_still_asked_for(tmp_path: Path) -> None:
    with serve(small_site()) as site:
        _, first = crawl(tmp_path, docs(site), 0, None)
        site.pages["/docs/"] = tagged("Index, shorter", "a.html")
        del site.pages["/docs/d.html"]
        _, second = crawl(tmp_path, docs(site), 1, first)
        before = delta(tmp_path, 0, first, None)
        after = delta(tmp_path, 1, second, before)
        _, third = crawl(tmp_path, docs(site), 2, second)
    assert changes(after)["/docs/d.html"] == ("removed", "http_404")
    assert changes(after)["/docs/e.html"] == ("unchanged", "not_modified")
    assert changes(after)["/docs/b.html"] == ("unchanged", "same_content")
    assert "/docs/d.html" not in rows_of(third), "a page that is gone and not linked is not asked for forever"
    assert "/docs/e.html" in rows_of(third)


def test_a_failed_page_is_asked_for_again_and_depth_does_not_creep(tmp_path: Path) -> None:
    with serve(small_site()) as site:
        source = docs(site, max_depth=2, retries=0)
        _, first = crawl(tmp_path, source, 0, None)
        site.pages["/docs/"] = tagged("Index, shorter", "a.html")
        site.pages["/docs/e.html"].status = 503
        _, second = crawl(tmp_path, source, 1, first)
        site.pages["/docs/e.html"] = tagged("E", "new.html")
        site.pages["/docs/new.html"] = tagged("New, behind a page that nothing links")
        _, third = crawl(tmp_path, source, 2, second)
    assert rows_of(first)["/docs/c.html"]["drop_reason"] == "depth_limit"
    assert rows_of(third)["/docs/c.html"]["drop_reason"] == "depth_limit"
    assert rows_of(second)["/docs/e.html"]["drop_reason"] == "http_503"
    assert rows_of(third)["/docs/e.html"]["drop_reason"] is None
    assert "/docs/new.html" not in rows_of(third)


def test_a_page_that_was_gone_and_is_back_brings_its_payload(tmp_path: Path) -> None:
    with serve(small_site()) as site:
        back = site.pages["/docs/d.html"]
        raws, deltas = [], []
        for day, page in enumerate((back, Page(status=404), back)):
            site.pages["/docs/d.html"] = page
            raws.append(crawl(tmp_path, docs(site), day, raws[-1] if raws else None)[1])
            deltas.append(delta(tmp_path, day, raws[-1], deltas[-1] if deltas else None))
    assert [changes(d)["/docs/d.html"][0] for d in deltas] == ["added", "removed", "added"]
    row = rows_of(raws[2])["/docs/d.html"]
    assert row["revisit"] is None
    assert read_capture(raws[2], row) == back.body
    for raw, found in zip(raws, deltas, strict=True):  # what extraction reads is in the crawl itself
        selected, _ = select_captures(raw, found, tmp_path, 10)
        assert selected.exists()


def test_a_page_that_stops_naming_another_one_brings_its_payload(tmp_path: Path) -> None:
    pages = small_site()
    pages["/docs/d.html"] = tagged("D", headers={})
    copy = html("Copy", head='<link rel="canonical" href="d.html">')
    pages["/docs/e.html"] = Page(copy, headers={"ETag": '"e"'})
    with serve(pages) as site:
        _, first = crawl(tmp_path, docs(site), 0, None)
        assert rows_of(first)["/docs/e.html"]["drop_reason"] == "non_canonical"
        site.pages["/docs/d.html"] = Page(status=410)
        _, second = crawl(tmp_path, docs(site), 1, first)
        site.pages["/docs/d.html"] = tagged("D again")
        _, third = crawl(tmp_path, docs(site), 2, second)
    row = rows_of(second)["/docs/e.html"]
    assert (row["drop_reason"], row["revisit"]) == (None, None)
    assert read_capture(second, row) == copy
    assert rows_of(third)["/docs/e.html"]["drop_reason"] == "non_canonical"


def test_an_unchanged_page_whose_site_now_opts_out_is_removed(tmp_path: Path) -> None:
    with serve(small_site()) as site:
        _, first = crawl(tmp_path, docs(site), 0, None)
        before = delta(tmp_path, 0, first, None)
        site.pages["/robots.txt"] = Page(
            b"User-agent: *\nContent-Usage: /docs/d train-ai=n\n", content_type="text/plain"
        )
        site.pages["/docs/e.html"].headers["X-Robots-Tag"] = "noai"  # sent with the 304
        asked = site.requests["/docs/d.html"]
        _, second = crawl(tmp_path, docs(site), 1, first)
        after = delta(tmp_path, 1, second, before)
    rows = rows_of(second)
    assert (rows["/docs/d.html"]["opt_out"], rows["/docs/e.html"]["opt_out"]) == (
        "robots_content_usage",
        "header_robots_noai",
    )
    assert rows["/docs/e.html"]["status"] == 304
    assert site.requests["/docs/d.html"] == asked
    assert changes(after)["/docs/d.html"] == changes(after)["/docs/e.html"] == ("removed", "opted_out")
    assert rows["/docs/d.html"]["robots_sha256"] != rows_of(first)["/docs/d.html"]["robots_sha256"]


def test_a_source_with_another_scope_forgets_what_it_knew_of_links(tmp_path: Path) -> None:
    with serve(small_site()) as site:
        _, first = crawl(tmp_path, docs(site), 0, None)
        _, second = crawl(tmp_path, docs(site, path_prefixes=["/"]), 1, first)
    assert {row["revisit"] for row in rows_of(second).values()} == {None}


def sitemap(lastmod: dict[str, str], base: str) -> bytes:
    entries = "".join(f"<url><loc>{base}{p}</loc><lastmod>{at}</lastmod></url>" for p, at in lastmod.items())
    return f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{entries}</urlset>'.encode()


def test_pages_that_a_sitemap_calls_unchanged_are_not_asked_for(tmp_path: Path) -> None:
    pages = {f"/docs/{n}.html": Page(html(str(n))) for n in range(20)} | {"/docs/": Page(html("Index"))}
    with serve(pages) as site:
        index = f"<sitemapindex><sitemap><loc>{site.url}/maps/pages.xml.gz</loc></sitemap></sitemapindex>".encode()
        site.pages["/robots.txt"] = Page(f"Sitemap: {site.url}/maps/index.xml\n".encode(), content_type="text/plain")
        site.pages["/maps/index.xml"] = Page(index, content_type="application/xml")
        lastmod = dict.fromkeys(pages, "2024-01-01")
        packed = Page(gzip.compress(sitemap(lastmod, site.url)), content_type="application/gzip")
        site.pages["/maps/pages.xml.gz"] = packed
        report, first = crawl(tmp_path, docs(site), 0, None)
        assert report.documents_kept == 21, "pages that only the sitemap names are found"
        assert report.stats["sitemaps"] == {"read": 2, "unreadable": 0}
        before = site.requests.copy()
        tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat(timespec="seconds")
        lastmod |= {"/docs/3.html": tomorrow, "/docs/4.html": tomorrow, "/docs/21.html": "2024-01-01"}
        site.pages["/docs/3.html"] = Page(html("3, changed"))
        site.pages["/docs/21.html"] = Page(html("new"))
        packed.body = gzip.compress(sitemap(lastmod, site.url))
        report, second = crawl(tmp_path, docs(site), 1, first)
        asked = {path for path in site.requests if path.startswith("/docs") and site.requests[path] > before[path]}
        changed = changes(delta(tmp_path, 1, second, delta(tmp_path, 0, first, None)))
        unchanged = [path for path, (_, rule) in changed.items() if rule == "sitemap_unchanged"]
        third, _ = crawl(tmp_path, docs(site, sitemap_trust_days=0), 2, second)
    assert asked == {"/docs/3.html", "/docs/4.html", "/docs/21.html"}
    assert len(unchanged) == 19
    assert changed["/docs/3.html"] == ("changed", "new_content")
    assert changed["/docs/4.html"] == ("unchanged", "same_content")
    assert changed["/docs/21.html"] == ("added", "new_url")
    assert report.stats["revisits"]["sitemap_unchanged"] == 19
    assert third.stats["revisits"] == {"server_not_modified": 0, "identical_payload": 22, "sitemap_unchanged": 0}
    assert rows_of(second)["/docs/5.html"]["fetched_at"] == rows_of(first)["/docs/5.html"]["fetched_at"]


def test_alternates_and_bare_ampersands_of_a_sitemap_are_pages(tmp_path: Path) -> None:
    paths = ("/docs/en.html", "/docs/zh.html", "/docs/list.html?a=1&b=2")
    with serve({path: Page(html(path)) for path in paths} | {"/docs/": Page(html("Index"))}) as site:
        link = f'<x:link xmlns:x="http://www.w3.org/1999/xhtml" rel="alternate" hreflang="zh" href="{site.url}{paths[1]}"/>'
        entries = f"<url><loc>{site.url}{paths[0]}</loc>{link}</url><url><loc>{site.url}{paths[2]}</loc></url>"
        site.pages["/sitemap.xml"] = Page(f"<urlset>{entries}</urlset>".encode(), content_type="application/xml")
        _, segment = crawl(tmp_path, docs(site), 0, None)
    assert set(rows_of(segment)) == {"/docs/", *paths}


def test_a_sitemap_that_cannot_be_read_is_counted_and_links_lead_on(tmp_path: Path) -> None:
    with serve(small_site()) as site:
        lines = f"Sitemap: {site.url}/broken.xml\nSitemap: {site.url}/none.xml\nSitemap: http://127.0.0.2:9/other.xml\n"
        site.pages["/robots.txt"] = Page(lines.encode(), content_type="text/plain")
        site.pages["/broken.xml"] = Page(b"\x1f\x8bnot gzip", content_type="application/xml")
        report, _ = crawl(tmp_path, docs(site), 0, None)
    assert report.stats["sitemaps"] == {"read": 0, "unreadable": 2}
    assert report.documents_kept == 6


@pytest.mark.slow
def test_history_changes_nothing_that_a_later_stage_sees(tmp_path: Path) -> None:
    """Four random days: pages appear, change, vanish, come back, get other links, opt out, fail; each day's crawl
    with history and one that starts from nothing must keep the same pages with the same contents."""
    chance = random.Random(15)
    names = [f"{n}.html" for n in range(12)]
    with serve({}) as site:
        state: dict[str, Page] = {}
        raw: Segment | None = None
        for day in range(4):
            for name in chance.sample(names, 6 if day else 12):
                state[f"/docs/{name}"] = _random_page(chance, names)
            start = html(f"Index {chance.randrange(3)}", *names)  # links all: an orphan is where the two may differ
            site.pages = {"/docs/": Page(start, headers={"ETag": tag(start)}), **state}
            _, raw = crawl(tmp_path, docs(site, retries=0), day, raw)
            _, alone = crawl(tmp_path / "alone", docs(site, retries=0), day, None)
            compared = ("drop_reason", "content_sha256", "doc_id", "opt_out", "location", "content_length")
            ours, theirs = rows_of(raw), rows_of(alone)
            assert {p: [r[c] for c in compared] for p, r in ours.items()} == {
                p: [r[c] for c in compared] for p, r in theirs.items()
            }, f"day {day}"


def _random_page(chance: random.Random, names: list[str]) -> Page:
    kind = chance.choice(["plain", "tagged", "tagged", "tagged", "dated", "gone", "moved", "noai", "canonical", "down"])
    body = html(f"text {chance.randrange(4)}", *chance.sample(names, 2))
    if kind == "tagged":
        return Page(body, headers={"ETag": tag(body)})
    if kind == "dated":
        at = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(seconds=zlib.crc32(body) % 10**7)
        return Page(body, headers={"Last-Modified": format_datetime(at, usegmt=True)})
    if kind == "noai":
        return Page(body, headers={"ETag": tag(body), "X-Robots-Tag": "noai"})
    if kind == "canonical":
        named = html("copy", *names[:1], head=f'<link rel="canonical" href="{chance.choice(names)}">')
        return Page(named, headers={"ETag": tag(named)})
    if kind == "moved":
        return Page(status=302, headers={"Location": f"/docs/{chance.choice(names)}"})
    return {"plain": Page(body), "gone": Page(status=410), "down": Page(status=500)}[kind]
