"""One polite request through Scrapy's downloader: limits, retries with back-off, no private addresses."""

from __future__ import annotations

import asyncio
import ipaddress
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from scrapy import Request, signals
from scrapy.crawler import Crawler
from scrapy.exceptions import (
    CannotResolveHostError,
    DownloadCancelledError,
    DownloadConnectionRefusedError,
    DownloadFailedError,
    DownloadTimeoutError,
    ResponseDataLossError,
    StopDownload,
)
from scrapy.http import HtmlResponse, Response
from scrapy.resolver import CachingThreadedResolver
from scrapy.responsetypes import responsetypes
from twisted.internet.error import ConnectError, DNSLookupError

from assets.machine_faults import raise_machine_fault
from assets.sources.config import WebSource
from assets.sources.variables import Variables
from assets.sources.warc import Exchange
from assets.sources.web.content_coding import (
    ACCEPT_ENCODING,
    BodyTooLargeError,
    BodyUndecodableError,
    UnsupportedCodingError,
    decode_body,
    gunzip,
)
from assets.sources.web.optout import AGENT
from assets.sources.web.scope import canonical_url, is_public_address, origin

CONTENT_TYPES = {"text/html", "application/xhtml+xml", "text/plain"}
"""What a crawl downloads; anything else is recorded by its headers and its body is not fetched."""

MAX_RETRY_WAIT_S = 60.0  # a Retry-After beyond it is not worth holding a crawl for: the page is kept as it was
MAX_UNZIPPED_BYTES = 50 * 1024 * 1024  # of a sitemap
_RETRY_STATUSES = {408, 429, 500, 502, 503, 504, 522, 524}
_TRANSPORT_ERRORS: tuple[tuple[type[BaseException], str], ...] = (
    (
        DownloadTimeoutError,
        "fetch_failed_timeout",
    ),  # also a server that sends a byte a minute: the limit is of the whole
    (ResponseDataLossError, "fetch_failed_length"),  # fewer or more bytes than Content-Length, or no last chunk
    (DownloadConnectionRefusedError, "fetch_failed_connection"),
    (DownloadFailedError, "fetch_failed_connection"),
    (ConnectError, "fetch_failed_connection"),  # no route to the host: Scrapy has no exception of its own for it
    (OSError, "fetch_failed_connection"),
)
"""First match decides. All are worth another try, and none says anything about the page."""


def scrapy_settings(source: WebSource) -> dict[str, Any]:
    """Scrapy reduced to its downloader: robots, redirects and retries are decided by the spider, which records them."""
    return {
        "USER_AGENT": f"{AGENT.title()} (+{source.contact or 'local use'})",
        "DEFAULT_REQUEST_HEADERS": {
            "Accept": "text/html,application/xhtml+xml,text/plain;q=0.9,*/*;q=0.1",
            "Accept-Encoding": ACCEPT_ENCODING,
        },
        "DOWNLOAD_HANDLERS": dict.fromkeys(
            ("http", "https"), "assets.sources.web.strict_http.StrictHTTP11DownloadHandler"
        ),
        "COMPRESSION_ENABLED": False,  # content_coding.py: a cut-off body must not pass for a page
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
        else "assets.sources.web.fetch.PublicResolver",
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
    """Outcome of one URL: a response with its body decoded, or the reason why there is none."""

    at: datetime
    response: Response | None = None
    headers: tuple[tuple[str, str], ...] = ()
    """Of the response as it came, names as Scrapy writes them, values as Latin-1 text."""
    request_headers: tuple[tuple[str, str], ...] = ()
    failure: str | None = None
    """Drop reason: too_large, unsupported_encoding, private_address or fetch_failed_..."""
    detail: str = ""
    retries: int = 0
    known_by_sitemap: bool = False
    """Nothing was fetched: the sitemap says that the page is what it was."""

    def header(self, name: str) -> str | None:
        """A response header, the first value."""
        value = self.response.headers.get(name) if self.response is not None else None
        if not value:
            return None
        try:
            return value.decode("utf-8").strip()  # servers send UTF-8 paths in Location, whatever the RFC says
        except UnicodeDecodeError:
            return value.decode("latin-1").strip()

    def exchange(self, url: str) -> Exchange:
        """Request and response for the WARC records of the page `url`."""
        assert self.response is not None
        return Exchange(
            url=url,
            requested_url=self.response.url,
            request_headers=self.request_headers,
            status=self.response.status,
            headers=self.headers,
            fetched_at=self.at,
            ip_address=_ip_of(self.response),
        )

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

    def __init__(self, crawler: Crawler, source: WebSource, variables: Variables) -> None:
        self._crawler = crawler
        self._source = source
        self._variables = variables
        self._own = {origin(canonical_url(url)) for url in source.start_urls}
        self.requests = 0
        self.received_bytes = 0
        """Header and body bytes as they came over the wire, of every attempt."""
        crawler.signals.connect(self._see_headers, signal=signals.headers_received)
        crawler.signals.connect(self._count_body, signal=signals.bytes_received)

    async def fetch(self, url: str, headers: Mapping[str, str] | None = None, **meta: Any) -> Fetched:
        """Fetch a URL, trying again after transient failures. Never follows a redirect.

        Variables get their values for the request alone, and only at the source's own origins: a page may write
        `${TOKEN}` into a link to anywhere.
        """
        outcome = Fetched(datetime.now(UTC))
        for attempt in range(self._source.retries + 1):
            outcome, transient = await self._once(url, headers or {}, attempt, meta)
            if not transient or attempt == self._source.retries:
                break
            wait = max(self._source.retry_wait_s * 2**attempt, _seconds_asked(outcome))
            await asyncio.sleep(min(wait, MAX_RETRY_WAIT_S))
        return outcome

    async def _once(
        self, url: str, headers: Mapping[str, str], attempt: int, meta: dict[str, Any]
    ) -> tuple[Fetched, bool]:
        """(outcome, whether another try may help)."""
        assert self._crawler.engine is not None
        at = datetime.now(UTC)
        request = self._request(url, headers, meta)
        self.requests += 1
        try:
            response = await self._crawler.engine.download_async(request)
        except DownloadCancelledError as error:
            return Fetched(at, failure="too_large", detail=self._variables.hide(str(error)), retries=attempt), False
        except CannotResolveHostError as error:
            host = urlsplit(url).hostname or ""
            if host in PublicResolver.refused:
                detail = f"{host} resolves to {PublicResolver.refused[host]}"
                return Fetched(at, failure="private_address", detail=detail, retries=attempt), False
            return Fetched(
                at, failure="fetch_failed_dns", detail=self._variables.hide(str(error)), retries=attempt
            ), True
        except tuple(kind for kind, _ in _TRANSPORT_ERRORS) as error:
            raise_machine_fault(error)
            failure = next(reason for kind, reason in _TRANSPORT_ERRORS if isinstance(error, kind))
            detail = self._variables.hide(f"{type(error).__name__}: {error}")
            return Fetched(at, failure=failure, detail=detail, retries=attempt), True
        outcome, transient = self._decode(request, response, at, attempt)
        return self._hidden(outcome, url), transient

    def _request(self, url: str, headers: Mapping[str, str], meta: dict[str, Any]) -> Request:
        if "${" in url and origin(canonical_url(url)) in self._own:
            url = self._variables.reveal(url)
        if origin(url) in self._own:  # an ETag may quote what it was asked for
            headers = {name: self._variables.reveal(value) for name, value in headers.items()}
        return Request(url, headers=dict(headers), meta=dict(meta))

    def _hidden(self, outcome: Fetched, url: str) -> Fetched:
        """The outcome as if the server knew the names of our variables only."""
        hide, response = self._variables.hide, outcome.response
        if not self._variables.secret or response is None:
            return outcome
        named = {name: [self._variables.hide_bytes(v) for v in values] for name, values in response.headers.items()}
        body = self._variables.hide_bytes(_unzipped(response.body))
        return replace(
            outcome,
            response=response.replace(url=url, headers=named, body=body),
            headers=tuple((name, hide(value)) for name, value in outcome.headers),
            request_headers=tuple((name, hide(value)) for name, value in outcome.request_headers),
        )

    def _decode(self, request: Request, response: Response, at: datetime, attempt: int) -> tuple[Fetched, bool]:
        received = _text_headers(response.headers)
        sent = (*_text_headers(request.headers), ("Host", urlsplit(request.url).netloc.rpartition("@")[2]))
        coding = b", ".join(response.headers.getlist("Content-Encoding")).decode("latin-1")
        if coding and response.body:
            limit = request.meta.get("download_maxsize", self._source.max_bytes_per_page)
            try:
                response = _replace_body(response, decode_body(response.body, coding, limit))
            except BodyTooLargeError as error:
                return Fetched(at, failure="too_large", detail=str(error), retries=attempt), False
            except UnsupportedCodingError as error:
                return Fetched(at, failure="unsupported_encoding", detail=str(error), retries=attempt), False
            except BodyUndecodableError as error:
                return Fetched(at, failure="fetch_failed_encoding", detail=str(error), retries=attempt), True
        fetched = Fetched(at, response, received, sent, retries=attempt)
        return fetched, response.status in _RETRY_STATUSES

    def _see_headers(self, headers: Any, body_length: int, request: Request, **_: Any) -> None:
        self.received_bytes += sum(len(name) + len(value) + 4 for name, values in headers.items() for value in values)
        media_type = (headers.get("Content-Type") or b"").partition(b";")[0].strip().lower().decode("latin-1")
        if body_length and not request.meta.get("any_type") and media_type not in CONTENT_TYPES:
            raise StopDownload(fail=False)

    def _count_body(self, data: bytes, **_: Any) -> None:
        self.received_bytes += len(data)


def _text_headers(headers: Any) -> tuple[tuple[str, str], ...]:
    return tuple(
        (name.decode("latin-1"), value.decode("latin-1")) for name, values in headers.items() for value in values
    )


def _replace_body(response: Response, body: bytes) -> Response:
    """The response as it would be without a content coding; Scrapy chooses its class anew, by type and content."""
    headers = response.headers.copy()
    del headers["Content-Encoding"]
    kind = responsetypes.from_args(headers=headers, url=response.url, body=body)
    return response.replace(cls=kind, headers=headers, body=body)


def _unzipped(body: bytes) -> bytes:
    """A sitemap that is a gzip file, unpacked; what cannot be is nobody's page."""
    if not body.startswith(b"\x1f\x8b"):
        return body
    try:
        return gunzip(body, MAX_UNZIPPED_BYTES)
    except (BodyTooLargeError, BodyUndecodableError, UnsupportedCodingError, EOFError, zlib.error, ValueError):
        return b""


def _seconds_asked(fetched: Fetched) -> float:
    """What Retry-After asks for, as seconds or as a date; 0 when it does not."""
    asked = fetched.header("Retry-After") or ""
    if asked.isdecimal():
        return float(asked[:9])
    try:
        until = parsedate_to_datetime(asked)
    except ValueError:
        return 0.0
    return max(0.0, (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _ip_of(response: Response) -> str | None:
    address = response.ip_address
    return str(address) if isinstance(address, ipaddress.IPv4Address | ipaddress.IPv6Address) else None
