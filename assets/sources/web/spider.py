"""One crawl of one site, in a process of its own: `python -m assets.sources.web.spider --job job.json`.

The site is walked breadth first, level by level, each level in URL order. Requests overlap, but
their results are consumed in that order, so limits cut, records lie and first links win in the
same way whatever the network does: two crawls of an unchanged site give equal captures.parquet.
What the source's previous crawl holds unchanged (history.py) takes its place in the walk with the
links it had, so a re-crawl meets the same pages as a crawl from nothing and transfers what changed.

Progress goes to stdout as JSON lines (`progress`, then `done` or `failed`), logs to stderr.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import sys
import time
from collections import deque
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import scrapy
from scrapy.crawler import AsyncCrawlerProcess

from assets.child_process import end_with_parent, peak_rss_bytes
from assets.schemas import document_id
from assets.sources.config import SourceConfig, WebSource
from assets.sources.history import History, KnownPage, read_history
from assets.sources.variables import Variables
from assets.sources.warc import Place, Revisit, WarcFolder
from assets.sources.web.crawl_record import CrawlRecord
from assets.sources.web.fetch import CONTENT_TYPES, Fetched, Fetcher, scrapy_settings
from assets.sources.web.optout import SitePolicy, page_opt_out, rsl_reserves
from assets.sources.web.scope import PageLinks, Scope, canonical_url, licence_links, origin, read_page, resolve_link
from assets.sources.web.site_files import CrawlFailedError, SiteFiles, SitemapPages

PROGRESS_EVERY_S = 0.5
UNREACHED_RECORDED = 10_000
"""URLs remembered beyond what max_pages lets us fetch: they show that the crawl was cut, and a trap of endless links
does not fill the memory."""
_NO_LINKS = PageLinks((), None, ())


def emit(event: str, **fields: Any) -> None:
    """One JSON line for the parent."""
    print(json.dumps({"event": event, **fields}, ensure_ascii=False), flush=True)


class SiteSpider(scrapy.Spider):
    """Walks one source and leaves rows, WARC files and a summary."""

    name = "site"

    def __init__(self, source_name: str, crawl: str, source: WebSource, output: Path, history: History) -> None:
        super().__init__()
        self.source_name, self.crawl_name, self.source, self.output = source_name, crawl, source, output
        self.history = history
        self.variables = Variables.of(source_name, vars(source))
        self.started_at = datetime.now(UTC)
        self.scope = Scope.of(source.start_urls, source.path_prefixes)
        self.policies: dict[str, SitePolicy] = {}
        self.sitemap = SitemapPages()
        self.record = CrawlRecord(source_name, crawl, source)
        self.names: dict[str, str] = {}  # URL as requested -> canonical URL: known links are resolved once
        self.pages = self.retries = self.stored_bytes = self.bad_links = 0
        self.limit: str | None = None
        self.failure: BaseException | None = None
        self.finished = False
        self._last_progress = 0.0

    async def start(self) -> AsyncIterator[Any]:
        """Scrapy's entry point; the walk drives the downloader itself and yields nothing to the scheduler."""
        try:
            await self._walk()
            self.finished = True
        except Exception as error:
            self.failure = error
        return
        yield

    async def _walk(self) -> None:
        self.fetcher = Fetcher(self.crawler, self.source, self.variables)
        info = {
            "software": f"Headwater, Scrapy {scrapy.__version__}",
            "format": "WARC File Format 1.1",
            "robots": "obey" if self.source.respect_robots else "ignore",
            "http-header-user-agent": self.crawler.settings["USER_AGENT"],
            "isPartOf": self.crawl_name,
        }
        with WarcFolder(self.output, info) as self.warc:
            self.files = SiteFiles(self.source_name, self.source, self.scope, self.fetcher, self.warc)
            for where in self.scope.origins:
                await self._read_origin(where)
            level = {canonical_url(url): url for url in self.source.start_urls}
            for depth in range(self.source.max_depth + 1):
                found = await self._walk_level(level)
                if depth == 0:
                    found = {u: at for u, at in self.sitemap.requested.items() if u not in self.record.rows} | found
                level = found
                if not level or self.limit:
                    break
            for url, requested in level.items():
                self.record.add(url, requested, drop_reason=self.limit or "depth_limit")
            if (
                not self.limit
            ):  # pages that nothing links any more: are they still there? What they link is not followed
                known = (
                    url for url in self.history.still_asked if url not in self.record.rows and self.scope.contains(url)
                )
                await self._walk_level({url: url for url in known})
        self.record.settle()

    async def _walk_level(self, level: dict[str, str]) -> dict[str, str]:
        """Fetch one level in URL order; returns the pages it met first, canonical URL -> URL to request."""
        found: dict[str, str] = {}
        waiting = deque(sorted(level.items()))
        flying: deque[tuple[str, str, asyncio.Task[Fetched]]] = deque()
        try:
            while waiting or flying:
                while waiting and len(flying) < 2 * self.source.concurrency and not self.limit:
                    url, requested = waiting.popleft()
                    if self._refuse_unfetched(url, requested):
                        continue
                    if self.pages >= self.source.max_pages:
                        self.limit = "page_limit"
                        waiting.appendleft((url, requested))
                        break
                    self.pages += 1
                    flying.append((url, requested, asyncio.ensure_future(self._fetch_page(url, requested))))
                if not flying:
                    break
                url, requested, task = flying.popleft()
                links = await self._process(url, requested, await task)
                if self.limit == "byte_limit":
                    waiting.extendleft((u, r) for u, r, _ in reversed(flying))
                    break
                room = max(0, self.source.max_pages - self.pages) + UNREACHED_RECORDED
                for link, target in links:
                    if len(found) >= room:
                        break
                    if link not in self.record.rows and link not in level and self.scope.contains(link):
                        found.setdefault(link, target)
                self._progress(url, len(waiting) + len(found))
        finally:
            await asyncio.gather(*(task for _, _, task in flying), return_exceptions=True)
        for url, requested in waiting:
            self.record.add(url, requested, drop_reason=self.limit)
        return found

    def _refuse_unfetched(self, url: str, requested: str) -> bool:
        """Record a page that its host does not let us fetch, or not for training."""
        policy = self.policies[origin(url)]
        if self.source.respect_robots and not policy.may_fetch(requested):
            self.record.add(url, requested, drop_reason="robots_denied")
            return True
        if signal_name := policy.opt_out(requested):
            self.record.add(url, requested, drop_reason="opted_out", opt_out=signal_name)
            return True
        return False

    async def _fetch_page(self, url: str, requested: str) -> Fetched:
        known = self.history.kept.get(url)
        if known is not None and self._sitemap_says_unchanged(url, known):
            return Fetched(known.row["fetched_at"], known_by_sitemap=True)
        polite = self.policies[origin(url)].crawl_delay_s > self.source.delay_s
        headers = known.validators if known is not None else None
        return await self.fetcher.fetch(requested, headers, autothrottle_dont_adjust_delay=polite)

    def _sitemap_says_unchanged(self, url: str, known: KnownPage) -> bool:
        changed_by, asked_at = self.sitemap.changed_by.get(url), known.row["fetched_at"]
        if changed_by is None or changed_by > asked_at:
            return False
        return self.started_at - asked_at < timedelta(days=self.source.sitemap_trust_days)

    async def _process(self, url: str, requested: str, fetched: Fetched) -> tuple[tuple[str, str], ...]:
        """Decide what becomes of one fetched URL, store it, and return its links."""
        self.retries += fetched.retries
        response, known = fetched.response, self.history.kept.get(url)
        if known is not None and fetched.known_by_sitemap:
            return self._keep_known(url, requested, fetched, known)
        if response is None:
            self.record.add(url, requested, fetched, drop_reason=fetched.failure)
            return ()
        if response.status == 304 and known is not None and known.validators:
            if signal_name := page_opt_out(fetched.headers):
                self.record.add(url, requested, fetched, drop_reason="opted_out", opt_out=signal_name)
                return ()
            return self._keep_known(url, requested, fetched, known)
        location = fetched.header("Location")
        if 300 <= response.status < 400 and location:
            target = resolve_link(requested, location)
            self.record.add(url, requested, fetched, drop_reason="redirected", location=target[0] if target else None)
            return (target,) if target else ()
        if response.status != 200:
            self.record.add(url, requested, fetched, drop_reason=f"http_{response.status}")
            return ()
        if fetched.content_type not in CONTENT_TYPES:
            self.record.add(url, requested, fetched, drop_reason="unsupported_content_type")
            return ()
        return await self._process_page(url, requested, fetched)

    async def _process_page(self, url: str, requested: str, fetched: Fetched) -> tuple[tuple[str, str], ...]:
        """A page that was answered in full."""
        response = fetched.response
        assert response is not None
        page = read_page(response) if fetched.is_html and response.body else _NO_LINKS
        self.bad_links += page.refused
        if signal_name := page_opt_out(fetched.headers, page.metas) or await self._licence_opt_out(url, fetched, page):
            self.record.add(url, requested, fetched, drop_reason="opted_out", opt_out=signal_name)
        elif not response.body:
            self.record.add(url, requested, fetched, drop_reason="empty_body")
        elif self.stored_bytes + len(response.body) > self.source.max_total_bytes:
            self.limit = "byte_limit"
            self.record.add(url, requested, fetched, drop_reason=self.limit)
        else:
            self._store(url, requested, fetched)
            self.record.links[url] = tuple(target for link, target in page.links if self.scope.contains(link))
            if page.canonical and page.canonical != url and self.scope.contains(page.canonical):
                self.record.wanted_names[url] = page.canonical
                return (*page.links, (page.canonical, page.canonical))
        return page.links

    async def _licence_opt_out(self, url: str, fetched: Fetched, page: PageLinks) -> str | None:
        """The signal of an RSL licence that this one page names."""
        for target in licence_links(fetched.header("Link") or ""):
            if not (link := resolve_link(url, target)) or rsl_reserves(await self.files.licence(link[1]), url):
                return "header_rsl"
        for licence in page.licences:
            if rsl_reserves(await self.files.licence(licence), url):
                return "link_rsl"
        return None

    def _store(self, url: str, requested: str, fetched: Fetched) -> None:
        response, known = fetched.response, self.history.kept.get(url)
        assert response is not None
        sha256 = hashlib.sha256(response.body).hexdigest()
        decided: dict[str, Any]
        if known is not None and known.row["content_sha256"] == sha256:
            place = self._write_revisit(url, fetched, known, "identical_payload")
            decided = {"revisit": "identical_payload", **known.payload}
        else:
            place = self.warc.write_exchange(fetched.exchange(url), response.body)
            self.stored_bytes += len(response.body)
            decided = {"payload_fetched_at": fetched.at}
        self.record.add(
            url,
            requested,
            fetched,
            content_length=len(response.body),
            content_sha256=sha256,
            doc_id=document_id(self.source_name, url, sha256),
            **_columns(place),
            **decided,
        )

    def _keep_known(self, url: str, requested: str, fetched: Fetched, known: KnownPage) -> tuple[tuple[str, str], ...]:
        """A page that need not be downloaded: its row stands for the payload of an earlier crawl, its links are those."""
        same = ("content_type", "content_length", "content_sha256", "doc_id", "etag", "last_modified")
        decided: dict[str, Any] = {name: known.row[name] for name in same} | known.payload
        if fetched.known_by_sitemap:
            decided["revisit"] = "sitemap_unchanged"
        else:
            place = self._write_revisit(url, fetched, known, "server_not_modified")
            decided |= _columns(place) | {"revisit": "server_not_modified"}
            for name, header in (("etag", "ETag"), ("last_modified", "Last-Modified")):
                decided[name] = fetched.header(header) or decided[name]
        self.record.add(url, requested, fetched, **decided)
        self.record.links[url] = known.links
        if known.canonical_url:
            self.record.wanted_names[url] = known.canonical_url
        targets = (*known.links, *([known.canonical_url] if known.canonical_url else []))
        return tuple((self._name_of(target), target) for target in targets)

    def _write_revisit(self, url: str, fetched: Fetched, known: KnownPage, kind: Revisit) -> Place:
        payload = known.payload
        return self.warc.write_revisit(
            fetched.exchange(url), kind, known.row["content_sha256"], payload["payload_fetched_at"]
        )

    def _name_of(self, requested: str) -> str:
        if requested not in self.names:
            self.names[requested] = canonical_url(requested)
        return self.names[requested]

    async def _read_origin(self, where: str) -> None:
        """Policy, pace and sitemaps of an origin."""
        policy = self.policies[where] = await self.files.policy(where)
        self.record.robots_sha256[where] = policy.robots_sha256
        host = urlsplit(where).hostname or ""  # Scrapy's key for what it delays
        assert self.crawler.engine is not None
        delay = max(self.source.delay_s, policy.crawl_delay_s)
        self.crawler.engine.downloader.per_slot_settings[host] = {"delay": delay}
        if self.source.sitemaps:
            await self.files.sitemaps(where, policy, self.sitemap)

    def _progress(self, url: str, waiting: int) -> None:
        now = time.monotonic()
        if now - self._last_progress >= PROGRESS_EVERY_S:
            self._last_progress = now
            emit("progress", done=self.pages, total=self.pages + waiting, note=url)

    def summary(self) -> dict[str, Any]:
        """Numbers of this execution for the report."""
        return {
            "requests": self.fetcher.requests,
            "received_bytes": self.fetcher.received_bytes,
            "retries": self.retries,
            "limit": self.limit,
            "rsl_licences": sum(len(policy.rsl_licences) for policy in self.policies.values()),
            "sitemaps": {"read": self.sitemap.read, "unreadable": self.sitemap.unreadable},
            "malformed_links": self.bad_links,
            "peak_rss_bytes": peak_rss_bytes(),
        }


def _columns(place: Place) -> dict[str, Any]:
    return {"warc_file": place.file, "warc_offset": place.offset, "warc_length": place.length}


def run_job(job: dict[str, Any]) -> dict[str, Any]:
    """Crawl, write captures.parquet and return the summary. Raises CrawlFailedError."""
    source = SourceConfig.model_validate(job["source"]).root
    assert isinstance(source, WebSource)
    with Variables.of(job["name"], vars(source)).hidden():
        return _crawl(job, source)


def _crawl(job: dict[str, Any], source: WebSource) -> dict[str, Any]:
    history = read_history(job["previous"], source) if job["previous"] else History()
    process = AsyncCrawlerProcess(scrapy_settings(source))
    crawler = process.create_crawler(SiteSpider)
    output = Path(job["output"])
    process.crawl(crawler, source_name=job["name"], crawl=job["crawl"], source=source, output=output, history=history)
    process.start(install_signal_handlers=False)
    spider = crawler.spider
    if not isinstance(spider, SiteSpider):
        raise RuntimeError("Scrapy did not start the spider")  # its own traceback stands above in the log
    if spider.failure is not None:
        raise spider.failure
    if not spider.finished:
        raise CrawlFailedError(f"source {job['name']!r}: the crawl was interrupted; start it again")
    spider.record.write(output)
    return spider.summary()


def main() -> None:
    """Entry point of the child process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", type=Path, required=True)
    arguments = parser.parse_args()
    end_with_parent()
    try:
        summary = run_job(json.loads(arguments.job.read_text(encoding="utf-8")))
    except CrawlFailedError as error:
        emit("failed", message=str(error))
        sys.exit(2)
    emit("done", **summary)


if __name__ == "__main__":
    main()
