"""One polite request through Scrapy's downloader: limits, retries with back-off, no private addresses."""

from __future__ import annotations

import asyncio
import ipaddress
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from scrapy import Request, signals
from scrapy.crawler import Crawler
from scrapy.exceptions import (
    CannotResolveHostError,
    DownloadCancelledError,
    DownloadConnectionRefusedError,
    DownloadFailedError,
    DownloadTimeoutError,
    IgnoreRequest,
    ResponseDataLossError,
    StopDownload,
)
from scrapy.http import HtmlResponse, Response
from scrapy.resolver import CachingThreadedResolver
from twisted.internet.error import DNSLookupError

from assets.sources.config import WebSource
from assets.sources.optout import AGENT
from assets.sources.scope import is_public_address

CONTENT_TYPES = {"text/html", "application/xhtml+xml", "text/plain"}
"""What a crawl downloads; anything else is recorded by its headers and its body is not fetched."""

MAX_RETRY_WAIT_S = 60.0  # a Retry-After beyond it is not worth holding a crawl for: the page is kept as it was
_RETRY_STATUSES = {408, 429, 500, 502, 503, 504, 522, 524}
_TRANSPORT_ERRORS = (
    CannotResolveHostError,
    DownloadConnectionRefusedError,
    DownloadFailedError,
    DownloadTimeoutError,
    ResponseDataLossError,
    OSError,  # gzip that ends early
    EOFError,
    zlib.error,
)


def scrapy_settings(source: WebSource) -> dict[str, Any]:
    """Scrapy reduced to its downloader: robots, redirects and retries are decided by the spider, which records them."""
    return {
        "USER_AGENT": f"{AGENT.title()} (+{source.contact or 'local use'})",
        "DEFAULT_REQUEST_HEADERS": {"Accept": "text/html,application/xhtml+xml,text/plain;q=0.9,*/*;q=0.1"},
        "CONCURRENT_REQUESTS": source.concurrency,
        "CONCURRENT_REQUESTS_PER_DOMAIN": source.concurrency,
        "DOWNLOAD_DELAY": source.delay_s,
        "DOWNLOAD_DELAY_JITTER": 0.0,  # Scrapy's default halves some delays: ours is a promise, not an average
        "AUTOTHROTTLE_ENABLED": source.delay_s > 0,
        "AUTOTHROTTLE_START_DELAY": source.delay_s,
        "AUTOTHROTTLE_TARGET_CONCURRENCY": float(source.concurrency),
        "DOWNLOAD_TIMEOUT": source.timeout_s,
        "DOWNLOAD_MAXSIZE": source.max_bytes_per_page,
        "DOWNLOAD_WARNSIZE": 0,
        "DOWNLOAD_VERIFY_CERTIFICATES": True,
        "TWISTED_DNS_RESOLVER": "scrapy.resolver.CachingThreadedResolver"
        if source.allow_private_hosts
        else "assets.sources.fetch.PublicResolver",
        "ROBOTSTXT_OBEY": False,  # Scrapy's own allows everything when robots.txt answers 5xx, against RFC 9309
        "REDIRECT_ENABLED": False,
        "METAREFRESH_ENABLED": False,
        "RETRY_ENABLED": False,
        "COOKIES_ENABLED": False,
        "HTTPPROXY_ENABLED": False,  # a proxy would resolve names itself, behind the address guard
        "TELNETCONSOLE_ENABLED": False,
        "REMOTE_CONTROL_ENABLED": False,
        "MEMUSAGE_ENABLED": False,
        "LOG_LEVEL": "WARNING",
        "STATS_DUMP": False,
    }


class PublicResolver(CachingThreadedResolver):
    """Refuses names and literals that resolve to an address outside the open internet.

    The address that was checked is the one that is connected to, so a name cannot change its answer in between.
    """

    refused: dict[str, str] = {}  # noqa: RUF012 - one reactor, one resolver, one process

    def getHostByName(self, name: str, timeout: Any = ()) -> Any:
        """The address of a name, or a DNS error for a private one."""
        return super().getHostByName(name, timeout).addCallback(self._check, name)

    def _check(self, address: str, name: str) -> str:
        if not is_public_address(address):
            self.refused[name] = address
            raise DNSLookupError(f"{name} is {address}, not a public address")
        return address


@dataclass(frozen=True)
class Fetched:
    """Outcome of one URL: a response, or the reason why there is none."""

    at: datetime
    response: Response | None = None
    failure: str | None = None
    """Drop reason: too_large, fetch_failed or private_address."""
    detail: str = ""
    retries: int = 0

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Response headers, names as Scrapy writes them, values as Latin-1 text."""
        if self.response is None:
            return []
        return [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, values in self.response.headers.items()
            for value in values
        ]

    def header(self, name: str) -> str | None:
        """One header's first value."""
        value = self.response.headers.get(name) if self.response is not None else None
        if not value:
            return None
        try:
            return value.decode("utf-8").strip()  # servers send UTF-8 paths in Location, whatever the RFC says
        except UnicodeDecodeError:
            return value.decode("latin-1").strip()

    @property
    def content_type(self) -> str | None:
        """Media type without parameters, lower case."""
        value = self.header("Content-Type")
        return value.partition(";")[0].strip().lower() if value else None

    @property
    def is_html(self) -> bool:
        """Whether Scrapy parsed the response as HTML."""
        return isinstance(self.response, HtmlResponse) and self.content_type != "text/plain"


class Fetcher:
    """Requests for one crawl."""

    def __init__(self, crawler: Crawler, source: WebSource) -> None:
        self._crawler = crawler
        self._source = source
        crawler.signals.connect(self._stop_unwanted_body, signal=signals.headers_received)
        crawler.signals.connect(self._keep_encoding, signal=signals.response_downloaded)

    async def fetch(self, url: str, **meta: Any) -> Fetched:
        """Fetch a URL, trying again after transient failures. Never follows a redirect."""
        outcome = Fetched(datetime.now(UTC))
        for attempt in range(self._source.retries + 1):
            outcome, transient = await self._once(url, attempt, meta)
            if not transient or attempt == self._source.retries:
                break
            asked = outcome.header("Retry-After") or ""
            wait = max(self._source.retry_wait_s * 2**attempt, float(asked) if asked.isdigit() else 0.0)
            await asyncio.sleep(min(wait, MAX_RETRY_WAIT_S))
        return outcome

    async def _once(self, url: str, attempt: int, meta: dict[str, Any]) -> tuple[Fetched, bool]:
        """(outcome, whether another try may help)."""
        assert self._crawler.engine is not None
        at = datetime.now(UTC)
        try:
            response = await self._crawler.engine.download_async(Request(url, meta=dict(meta)))
        except (DownloadCancelledError, IgnoreRequest) as error:
            return Fetched(at, failure="too_large", detail=str(error), retries=attempt), False
        except CannotResolveHostError as error:
            host = Request(url).url.split("/")[2].rpartition("@")[2].partition(":")[0]
            if host in PublicResolver.refused:
                detail = f"{host} resolves to {PublicResolver.refused[host]}"
                return Fetched(at, failure="private_address", detail=detail), False
            return Fetched(at, failure="fetch_failed", detail=str(error), retries=attempt), True
        except _TRANSPORT_ERRORS as error:
            detail = f"{type(error).__name__}: {error}"
            return Fetched(at, failure="fetch_failed", detail=detail, retries=attempt), True
        return Fetched(at, response, retries=attempt), response.status in _RETRY_STATUSES

    def _stop_unwanted_body(self, headers: Any, request: Request, **_: Any) -> None:
        media_type = (headers.get("Content-Type") or b"").partition(b";")[0].strip().lower().decode("latin-1")
        if not request.meta.get("any_type") and media_type not in CONTENT_TYPES:
            raise StopDownload(fail=False)

    def _keep_encoding(self, response: Response, request: Request, **_: Any) -> None:
        """Remember what the decompression middleware is about to remove from the headers."""
        request.meta["content_encoding"] = (response.headers.get("Content-Encoding") or b"").decode("latin-1")


def ip_of(response: Response) -> str | None:
    """Address the response came from."""
    address = response.ip_address
    return str(address) if isinstance(address, ipaddress.IPv4Address | ipaddress.IPv6Address) else None
