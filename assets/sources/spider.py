"""One crawl of one site, in a process of its own: `python -m assets.sources.spider --job job.json`.

The site is walked breadth first, level by level, each level in URL order. Requests overlap, but
their results are consumed in that order, so limits cut, records lie and first links win in the
same way whatever the network does: two crawls of an unchanged site give equal captures.parquet.

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
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import scrapy
from scrapy.crawler import AsyncCrawlerProcess

from assets.child_process import end_with_parent
from assets.schemas import CAPTURES, document_id
from assets.sources.config import SourceConfig, WebSource
from assets.sources.fetch import CONTENT_TYPES, Fetched, Fetcher, ip_of, scrapy_settings
from assets.sources.optout import SitePolicy, page_opt_out, site_policy
from assets.sources.scope import PageLinks, Scope, canonical_url, origin, read_page, resolve_link
from assets.sources.warc import WarcFolder
from assets.tables import write_table

PROGRESS_EVERY_S = 0.5
_ROBOTS_REDIRECTS = 5  # RFC 9309: at least five
_NO_LINKS = PageLinks((), None, ())


class CrawlFailedError(Exception):
    """The crawl cannot be published; the message says why and what to do."""


def emit(event: str, **fields: Any) -> None:
    """One JSON line for the parent."""
    print(json.dumps({"event": event, **fields}, ensure_ascii=False), flush=True)


class SiteSpider(scrapy.Spider):
    """Walks one source and leaves rows, WARC files and a summary."""

    name = "site"

    def __init__(self, source_name: str, crawl: str, source: WebSource, output: Path) -> None:
        super().__init__()
        self.source_name, self.crawl_name, self.source, self.output = source_name, crawl, source, output
        self.scope = Scope.of(source.start_urls, source.path_prefixes)
        self.policies: dict[str, SitePolicy] = {}
        self.rows: dict[str, dict[str, Any]] = {}
        self.wanted_names: dict[str, str] = {}  # URL -> its rel=canonical, where that is another page in scope
        self.requests = self.retries = self.stored_bytes = 0
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
        self.fetcher = Fetcher(self.crawler, self.source)
        info = {
            "software": f"Headwater, Scrapy {scrapy.__version__}",
            "format": "WARC File Format 1.1",
            "robots": "obey" if self.source.respect_robots else "ignore",
            "http-header-user-agent": self.crawler.settings["USER_AGENT"],
            "isPartOf": self.crawl_name,
        }
        with WarcFolder(self.output, info) as self.warc:
            for where in self.scope.origins:
                await self._read_policy(where)
            level = {canonical_url(url): url for url in self.source.start_urls}
            for _ in range(self.source.max_depth + 1):
                level = await self._walk_level(level)
                if not level or self.limit:
                    break
            for url, requested in level.items():
                self._record(url, requested, drop_reason=self.limit or "depth_limit")
        self._settle_names()

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
                    if self.requests >= self.source.max_pages:
                        self.limit = "page_limit"
                        waiting.appendleft((url, requested))
                        break
                    self.requests += 1
                    flying.append((url, requested, asyncio.ensure_future(self._fetch_page(requested))))
                if not flying:
                    break
                url, requested, task = flying.popleft()
                links = self._process(url, requested, await task)
                if self.limit == "byte_limit":
                    waiting.extendleft((u, r) for u, r, _ in reversed(flying))
                    break
                for link, target in links:
                    if link not in self.rows and link not in level and self.scope.contains(link):
                        found.setdefault(link, target)
                self._progress(url, len(waiting) + len(found))
        finally:
            await asyncio.gather(*(task for _, _, task in flying), return_exceptions=True)
        for url, requested in waiting:
            self._record(url, requested, drop_reason=self.limit)
        return found

    def _refuse_unfetched(self, url: str, requested: str) -> bool:
        """Record a page that its host does not let us fetch, or not for training."""
        policy = self.policies[origin(url)]
        if self.source.respect_robots and not policy.may_fetch(requested):
            self._record(url, requested, drop_reason="robots_denied")
            return True
        if signal_name := policy.opt_out(requested):
            self._record(url, requested, drop_reason="opted_out", opt_out=signal_name)
            return True
        return False

    async def _fetch_page(self, url: str) -> Fetched:
        polite = self.policies[origin(canonical_url(url))].crawl_delay_s > self.source.delay_s
        return await self.fetcher.fetch(url, autothrottle_dont_adjust_delay=polite)

    def _process(self, url: str, requested: str, fetched: Fetched) -> tuple[tuple[str, str], ...]:
        """Decide what becomes of one fetched URL, store it, and return its links."""
        self.retries += fetched.retries
        response = fetched.response
        if response is None:
            self._record(url, requested, fetched, drop_reason=fetched.failure)
            return ()
        location = fetched.header("Location")
        if 300 <= response.status < 400 and location:
            self._record(url, requested, fetched, drop_reason="redirected")
            target = resolve_link(requested, location)
            return (target,) if target else ()
        if response.status != 200:
            self._record(url, requested, fetched, drop_reason=f"http_{response.status}")
            return ()
        if fetched.content_type not in CONTENT_TYPES:
            self._record(url, requested, fetched, drop_reason="unsupported_content_type")
            return ()
        page = read_page(response) if fetched.is_html and response.body else _NO_LINKS
        if signal_name := page_opt_out(fetched.headers, page.metas):
            self._record(url, requested, fetched, drop_reason="opted_out", opt_out=signal_name)
        elif not response.body:
            self._record(url, requested, fetched, drop_reason="empty_body")
        elif self.stored_bytes + len(response.body) > self.source.max_total_bytes:
            self.limit = "byte_limit"
            self._record(url, requested, fetched, drop_reason=self.limit)
        else:
            self._store(url, requested, fetched)
            if page.canonical and page.canonical != url and self.scope.contains(page.canonical):
                self.wanted_names[url] = page.canonical
                return (*page.links, (page.canonical, page.canonical))
        return page.links

    def _store(self, url: str, requested: str, fetched: Fetched) -> None:
        response = fetched.response
        assert response is not None
        headers = fetched.headers
        if encoding := response.meta.get("content_encoding"):
            headers.append(("Content-Encoding", encoding))
        place = self.warc.write_response(url, response.status, headers, response.body, fetched.at, ip_of(response))
        self.stored_bytes += len(response.body)
        sha256 = hashlib.sha256(response.body).hexdigest()
        self._record(
            url,
            requested,
            fetched,
            content_length=len(response.body),
            content_sha256=sha256,
            doc_id=document_id(self.source_name, url, sha256),
            warc_file=place.file,
            warc_offset=place.offset,
            warc_length=place.length,
        )

    def _record(self, url: str, requested: str, fetched: Fetched | None = None, **decided: Any) -> None:
        row: dict[str, Any] = dict.fromkeys(CAPTURES.names)
        row |= {
            "url": url,
            "requested_url": requested,
            "source": self.source_name,
            "crawl": self.crawl_name,
            "licence": self.source.licence,
            "domain": self.source.domain,
            "robots_sha256": self.policies[origin(url)].robots_sha256,
        }
        if fetched is not None:
            row["fetched_at"] = fetched.at
            if fetched.response is not None:
                row["status"] = fetched.response.status
                row["content_type"] = fetched.content_type
                row["etag"] = fetched.header("ETag")
                row["last_modified"] = fetched.header("Last-Modified")
        self.rows[url] = row | decided

    def _settle_names(self) -> None:
        """A page that names another page of the source as its canonical form is dropped, if that page is there."""
        for url, name in sorted(self.wanted_names.items()):
            other = self.rows.get(name)
            if other is not None and other["drop_reason"] is None and self.wanted_names.get(name) is None:
                self.rows[url]["drop_reason"] = "non_canonical"

    async def _read_policy(self, where: str) -> None:
        """Read robots.txt and the opt-out files of an origin; stops the crawl where RFC 9309 says so."""
        robots = await self._policy_file(f"{where}/robots.txt")
        if robots.response is None or robots.response.status >= 500:
            why = f"status {robots.response.status}" if robots.response else robots.detail
            raise CrawlFailedError(_unreachable(self.source_name, where, robots.failure, why))
        tdmrep, ai_txt = [
            await self._policy_file(f"{where}{path}") for path in ("/.well-known/tdmrep.json", "/.well-known/ai.txt")
        ]
        if _body(ai_txt, "text/plain") is None:
            ai_txt = await self._policy_file(f"{where}/ai.txt")
        self.policies[where] = site_policy(_body(robots), _body(tdmrep), _body(ai_txt, "text/plain"))
        host = urlsplit(where).hostname or ""  # Scrapy's key for what it delays
        delay = max(self.source.delay_s, self.policies[where].crawl_delay_s)
        assert self.crawler.engine is not None
        self.crawler.engine.downloader.per_slot_settings[host] = {"delay": delay}

    async def _policy_file(self, url: str) -> Fetched:
        for _ in range(_ROBOTS_REDIRECTS + 1):
            fetched = await self.fetcher.fetch(url, any_type=True, download_slot="policy")
            response = fetched.response
            location = fetched.header("Location")
            if response is None or not (300 <= response.status < 400 and location):
                break
            target = resolve_link(url, location)
            if target is None:
                break
            url = target[1]
        if fetched.response is not None and fetched.response.status == 200:
            response = fetched.response
            self.warc.write_response(url, 200, fetched.headers, response.body, fetched.at, ip_of(response))
        return fetched

    def _progress(self, url: str, waiting: int) -> None:
        now = time.monotonic()
        if now - self._last_progress >= PROGRESS_EVERY_S:
            self._last_progress = now
            emit("progress", done=self.requests, total=self.requests + waiting, note=url)

    def summary(self) -> dict[str, Any]:
        """Numbers of this execution for the report."""
        return {
            "requests": self.requests,
            "retries": self.retries,
            "limit": self.limit,
            "rsl_licences": sum(len(policy.rsl_licences) for policy in self.policies.values()),
        }


def _body(fetched: Fetched, content_type: str | None = None) -> bytes | None:
    """Body of a policy file that exists; servers that answer 200 with a page for everything are told by the type."""
    if fetched.response is None or fetched.response.status != 200:
        return None
    if content_type is not None and fetched.content_type != content_type:
        return None
    return fetched.response.body


def _unreachable(source: str, where: str, failure: str | None, why: str) -> str:
    if failure == "private_address":
        return (
            f"source {source!r}: {where} is refused: {why}, which is not a public address. If this is a site of your own, "
            "set allow_private_hosts = true in its table of sources.toml; otherwise the name points where it must not"
        )
    return (
        f"source {source!r}: {where}/robots.txt cannot be read ({why}); RFC 9309 then forbids to crawl, and an empty "
        "crawl is never published. Check that the site is up and reachable from here, then crawl again"
    )


def run_job(job: dict[str, Any]) -> dict[str, Any]:
    """Crawl, write captures.parquet and return the summary. Raises CrawlFailedError."""
    source = SourceConfig.model_validate(job["source"]).root
    assert isinstance(source, WebSource)
    process = AsyncCrawlerProcess(scrapy_settings(source))
    crawler = process.create_crawler(SiteSpider)
    process.crawl(crawler, source_name=job["name"], crawl=job["crawl"], source=source, output=Path(job["output"]))
    process.start(install_signal_handlers=False)
    spider = crawler.spider
    if not isinstance(spider, SiteSpider):
        raise RuntimeError("Scrapy did not start the spider")  # its own traceback stands above in the log
    if spider.failure is not None:
        raise spider.failure
    if not spider.finished:
        raise CrawlFailedError(f"source {job['name']!r}: the crawl was interrupted; start it again")
    rows = [spider.rows[url] for url in sorted(spider.rows)]
    write_table(Path(job["output"]), "captures", rows, CAPTURES)
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
