"""Sitemaps (sitemaps.org): which pages a site says it has, and since when each has not changed."""

from __future__ import annotations

import calendar
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone

from lxml.etree import LxmlError
from scrapy.utils.sitemap import Sitemap

from assets.sources.web.content_coding import BodyTooLargeError, UnsupportedCodingError, gunzip

MAX_SITEMAP_BYTES = 50 * 1024 * 1024  # the protocol's limit for one file, uncompressed
MAX_SITEMAPS = 1_000  # files per origin: 50 million pages by the protocol's limit of 50,000 per file

_W3C_DATE = re.compile(
    r"(?P<year>\d{4})(?:-(?P<month>\d{2})(?:-(?P<day>\d{2})"
    r"(?:T(?P<hour>\d{2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:\.\d+)?)?(?P<zone>Z|[+-]\d{2}:?\d{2})?)?)?)?"
)
_BARE = re.compile(rb"<!\[CDATA\[.*?(?:\]\]>|\Z)|&(?!(?:#\d+|#[xX][0-9a-fA-F]+|amp|lt|gt|quot|apos);)", re.DOTALL)
_LAST_ZONE = timezone(timedelta(hours=-12))  # a date without a zone ends here last


_UNREADABLE = (
    LxmlError,
    SyntaxError,
    StopIteration,
    EOFError,
    zlib.error,
    BodyTooLargeError,
    UnsupportedCodingError,
    ValueError,
)


class SitemapUnreadableError(Exception):
    """A file that is no sitemap, is cut off, or is larger than the protocol allows."""


@dataclass(frozen=True)
class SitemapEntry:
    """One page, or one sitemap of an index."""

    url: str
    changed_by: datetime | None
    """The page has not changed after this moment; None when the site does not say."""


def read_sitemap(body: bytes) -> tuple[bool, list[SitemapEntry]]:
    """(whether these are further sitemaps, entries in file order) of XML, gzipped XML, or one URL a line.

    Raises SitemapUnreadableError.
    """
    try:
        if body.startswith(b"\x1f\x8b"):
            body = gunzip(body, MAX_SITEMAP_BYTES)
        if not body.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
            lines = body.decode("utf-8", "replace").split()
            return False, [SitemapEntry(line, None) for line in lines if line.startswith(("http://", "https://"))]
        sitemap = Sitemap(_with_escapes(body.lstrip(b"\xef\xbb\xbf \t\r\n")))
        if sitemap.type not in ("urlset", "sitemapindex"):
            raise SitemapUnreadableError(f"the root element is <{sitemap.type}>")
        return sitemap.type == "sitemapindex", list(_entries(sitemap))
    except _UNREADABLE as error:
        raise SitemapUnreadableError(f"{type(error).__name__}: {error}"[:200]) from None


def _entries(sitemap: Sitemap) -> Iterator[SitemapEntry]:
    for fields in sitemap:
        if fields["loc"]:
            yield SitemapEntry(fields["loc"], changed_by(fields.get("lastmod", "")))
        # Pages of their own, often named nowhere else; `lastmod` speaks of `loc`.
        yield from (SitemapEntry(url, None) for url in fields.get("alternate", ()))


def _with_escapes(body: bytes) -> bytes:
    """XML with `&amp;` for each `&` that begins no entity, which a parser would skip: a URL would become another one."""
    if b"<!ENTITY" in body:  # a file with names of its own knows what it escapes
        return body
    return _BARE.sub(lambda found: b"&amp;" if found[0] == b"&" else found[0], body)


def changed_by(lastmod: str) -> datetime | None:
    """The end of the period that a W3C date names: `2026-03-01` may mean any moment of that day, in any time zone."""
    match = _W3C_DATE.fullmatch(lastmod.strip())
    if not match:
        return None
    year, month, day = (int(match[name]) if match[name] else None for name in ("year", "month", "day"))
    try:
        assert year is not None
        if match["hour"]:
            second = int(match["second"] or 59) + 1  # without seconds or fractions: the end of what is named
            start = datetime(year, month or 1, day or 1, int(match["hour"]), int(match["minute"]), tzinfo=_zone(match))
            return (start + timedelta(seconds=second)).astimezone(UTC)
        last_month = month or 12
        last_day = day or calendar.monthrange(year, last_month)[1]
        return (datetime(year, last_month, last_day, tzinfo=_LAST_ZONE) + timedelta(days=1)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _zone(match: re.Match[str]) -> timezone:
    zone = match["zone"]
    if zone is None:
        return _LAST_ZONE
    if zone == "Z":
        return UTC
    sign = -1 if zone[0] == "-" else 1
    digits = zone[1:].replace(":", "")
    return timezone(sign * timedelta(hours=int(digits[:2]), minutes=int(digits[2:])))
