"""What an origin says of itself before its pages are asked for: robots.txt, opt-out files, licences, sitemaps.

Every file that was read is stored in the WARC: it is the evidence for what was fetched and what was not.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from assets.errors import HeadwaterError
from assets.sources.config import WebSource
from assets.sources.warc import WarcFolder
from assets.sources.web.fetch import Fetched, Fetcher
from assets.sources.web.optout import SitePolicy, site_policy
from assets.sources.web.rsl import MAX_RSL_BYTES, RESERVED, RslRule, rsl_rules
from assets.sources.web.scope import Scope, origin, resolve_link
from assets.sources.web.sitemaps import MAX_SITEMAP_BYTES, MAX_SITEMAPS, SitemapUnreadableError, read_sitemap

_REDIRECTS = 5  # RFC 9309: at least five
_NO_ANSWER = {408, 421, 425, 429}  # timeout, wrong connection, too early, too many requests
_WHOLE = {200, 203}  # 203: a proxy between us and the site changed something; the rules still bind


class CrawlFailedError(HeadwaterError):
    """The crawl cannot be published; the message says why and what to do."""


@dataclass
class SitemapPages:
    """The pages of the source that its sitemaps name."""

    requested: dict[str, str] = field(default_factory=dict)
    """Canonical URL -> URL to request."""
    changed_by: dict[str, datetime] = field(default_factory=dict)
    """Canonical URL -> the page has not changed after this moment."""
    read: int = 0
    unreadable: int = 0


class SiteFiles:
    """Reads the files of the origins of one source."""

    def __init__(self, name: str, source: WebSource, scope: Scope, fetcher: Fetcher, warc: WarcFolder) -> None:
        self._name, self._source, self._scope, self._fetcher, self._warc = name, source, scope, fetcher, warc
        self._licences: dict[str, tuple[RslRule, ...]] = {}

    async def policy(self, where: str) -> SitePolicy:
        """Policy of an origin. Raises CrawlFailedError where RFC 9309, or caution, then forbids to crawl."""
        robots = await self._file(f"{where}/robots.txt")
        if _failed(robots):
            why = f"status {robots.response.status}" if robots.response else robots.detail
            raise CrawlFailedError(_unreachable(self._name, where, robots.failure, why))
        tdmrep = await self._optional(f"{where}/.well-known/tdmrep.json")
        ai_txt = await self._optional(f"{where}/.well-known/ai.txt")
        if _body(ai_txt, "text/plain") is None:
            ai_txt = await self._optional(f"{where}/ai.txt")
        policy = site_policy(_body(robots), _unless_page(_body(tdmrep)), _body(ai_txt, "text/plain"))
        rules: list[RslRule] = []
        for licence in policy.rsl_licences:
            link = resolve_link(f"{where}/robots.txt", licence)
            rules += await self.licence(link[1]) if link else RESERVED
        return replace(policy, rsl=tuple(rules))

    async def licence(self, url: str) -> tuple[RslRule, ...]:
        """Rules of an RSL licence file, read once per crawl; RESERVED when there is none or it cannot be read."""
        if url not in self._licences:
            body = _body(await self._optional(url, MAX_RSL_BYTES))
            self._licences[url] = RESERVED if body is None else rsl_rules(body)
        return self._licences[url]

    async def sitemaps(self, where: str, policy: SitePolicy, pages: SitemapPages) -> None:
        """Add the pages of an origin's sitemaps; those of other origins, and pages outside the source, do not count.

        A sitemap that cannot be read is counted, and its pages are found by links.
        """
        waiting = deque(policy.sitemaps or (f"{where}/sitemap.xml",))
        seen: set[str] = set()
        while waiting and len(seen) < MAX_SITEMAPS and len(pages.requested) < self._source.max_pages:
            link = resolve_link(f"{where}/robots.txt", waiting.popleft())
            if link is None or link[0] in seen or origin(link[0]) not in self._scope.origins:
                continue
            seen.add(link[0])
            if self._source.respect_robots and not policy.may_fetch(link[1]):
                continue
            fetched = await self._file(link[1], MAX_SITEMAP_BYTES, slot=None)  # there may be many: at the pace of pages
            body = _body(fetched)
            if body is None:
                pages.unreadable += bool(policy.sitemaps)  # nobody promised /sitemap.xml
                continue
            try:
                is_index, entries = read_sitemap(body)
            except SitemapUnreadableError:
                pages.unreadable += bool(policy.sitemaps)
                continue
            pages.read += 1
            if is_index:
                waiting.extend(entry.url for entry in entries)
                continue
            for entry in entries:
                page = resolve_link(link[1], entry.url)
                if page is None or not self._scope.contains(page[0]):
                    continue
                pages.requested.setdefault(*page)
                if entry.changed_by is not None:
                    newest = max(entry.changed_by, pages.changed_by.get(page[0], entry.changed_by))
                    pages.changed_by[page[0]] = newest

    async def _optional(self, url: str, max_bytes: int | None = None) -> Fetched:
        """A file that need not exist; but a server that cannot say whether it does stops the crawl."""
        fetched = await self._file(url, max_bytes)
        if fetched.failure == "too_large" or not _failed(fetched):
            return fetched
        why = f"status {fetched.response.status}" if fetched.response else fetched.detail
        raise CrawlFailedError(
            f"source {self._name!r}: {url} cannot be read ({why}), so nobody knows what it keeps from training; "
            "nothing was published. Crawl again when the server answers for it (404 is an answer, 429 is none)"
        )

    async def _file(self, url: str, max_bytes: int | None = None, slot: str | None = "policy") -> Fetched:
        meta: dict[str, Any] = {"any_type": True}
        if max_bytes:
            meta["download_maxsize"] = max_bytes
        if slot:
            meta["download_slot"] = slot
        for _ in range(_REDIRECTS + 1):
            fetched = await self._fetcher.fetch(url, **meta)
            response = fetched.response
            location = fetched.header("Location")
            if response is None or not (300 <= response.status < 400 and location):
                break
            target = resolve_link(url, location)
            if target is None:
                break
            url = target[1]
        if fetched.response is not None and fetched.response.status in _WHOLE:
            self._warc.write_exchange(fetched.exchange(url), fetched.response.body)
        return fetched


def _failed(fetched: Fetched) -> bool:
    """Whether nobody knows what the file says. RFC 9309 takes a 4xx for "there is none"; not so those that speak of the
    moment or the connection, as 429 does. 401 and 403 do answer for the file: there is none for us."""
    response = fetched.response
    return response is None or response.status >= 500 or response.status in _NO_ANSWER


def _body(fetched: Fetched, content_type: str | None = None) -> bytes | None:
    """Body of a file that exists; servers that answer 200 with a page for everything are told by the type."""
    if fetched.response is None or fetched.response.status not in _WHOLE:
        return None
    if content_type is not None and fetched.content_type != content_type:
        return None
    return fetched.response.body


def _unless_page(body: bytes | None) -> bytes | None:
    """A JSON file; None for markup, which no JSON begins with: a site that answers everything with its home page. Broken
    JSON stays, because somebody meant it."""
    return None if body is not None and body.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"<" else body


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
