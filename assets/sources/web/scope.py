"""Which URLs are pages of a source, under one name each, and what an HTML page points to."""

from __future__ import annotations

import ipaddress
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from parsel import Selector
from w3lib.url import canonicalize_url, safe_url_string

from assets.sources.variables import names_again
from assets.sources.web.rsl import RSL_TYPE

MAX_LINKS_PER_PAGE = 10_000  # distinct ones, in page order: a sitemap in HTML has thousands, a trap has millions
MAX_URL_CHARACTERS = 2083  # longer ones are session state or traps, not pages

_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")  # leaves out ::a.b.c.d, 64:ff9b:1::/48, 5f00::/16, fec0::/10, ...
_TRANSLATED = (ipaddress.IPv6Network("::ffff:0:0/96"), ipaddress.IPv6Network("64:ff9b::/96"))  # mapped, NAT64
_CLOSED = tuple(map(ipaddress.IPv6Network, ("2001::/23", "2001:db8::/32", "3fff::/20")))
"""Within it: protocol assignments with Teredo, and documentation, a part of which Python 3.11 takes for global."""
_RELAYS = ipaddress.IPv4Network("192.88.99.0/24")  # of 6to4, abandoned
_ISATAP = 0x00005EFE  # of an interface identifier; bit 0x02000000 says only whether the IPv4 address is unique
_DEFAULT_PORTS = {"http": 80, "https": 443}
_OTHER_SCHEME = re.compile(r"\s*(mailto|javascript|tel|data|ftp|about|blob|sms|irc):", re.IGNORECASE)  # no mistakes
_LICENCE_LINK = re.compile(r"<([^>]*)>([^,<]*)")
_REFRESH_URL = re.compile(r"url\s*=\s*['\"]?([^'\"]+)", re.IGNORECASE)


def canonical_url(url: str, encoding: str = "utf-8") -> str:
    """The one name of a page: sorted query, normal escapes, lower-case host, no fragment, no default port."""
    parts = urlsplit(canonicalize_url(url, keep_fragments=False, encoding=encoding))
    netloc = parts.netloc
    if parts.port == _DEFAULT_PORTS.get(parts.scheme):
        netloc = netloc.rpartition(":")[0]
    return names_again(urlunsplit((parts.scheme, netloc, parts.path or "/", parts.query, "")))


def origin(url: str) -> str:
    """scheme://host[:port] of a canonical URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


@dataclass(frozen=True)
class Scope:
    """The origins of the start URLs and the path prefixes below which pages belong to the source."""

    prefixes: frozenset[tuple[str, str]]

    @classmethod
    def of(cls, start_urls: tuple[str, ...], path_prefixes: tuple[str, ...] = ()) -> Scope:
        """Scope of a source; without prefixes, the folder of each start URL."""
        urls = [canonical_url(url) for url in start_urls]
        if path_prefixes:
            return cls(frozenset((origin(url), prefix) for url in urls for prefix in path_prefixes))
        return cls(frozenset((origin(url), urlsplit(url).path.rpartition("/")[0] + "/") for url in urls))

    @property
    def origins(self) -> list[str]:
        """Origins that the crawl may contact, sorted."""
        return sorted({where for where, _ in self.prefixes})

    def contains(self, url: str) -> bool:
        """Whether a canonical URL belongs to the source."""
        where, path = origin(url), unquote(urlsplit(url).path)
        if ".." in path.split("/"):
            return False  # an escaped %2e%2e would climb out of the prefix on the server
        return any(where == o and path.startswith(unquote(prefix)) for o, prefix in self.prefixes)


def is_public_address(address: str) -> bool:
    """Whether an IP address is one of the open internet: not loopback, private, link-local, reserved or multicast.

    IPv6 is closed but for the space that IANA has opened; what is not listed there is some network's own. An address
    that carries an IPv4 one is as public as that one.
    """
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv4Address):
        return ip.is_global and not ip.is_multicast and ip not in _RELAYS
    carried = _carried(ip)
    if carried is not None and not is_public_address(str(carried)):
        return False
    if any(ip in network for network in _TRANSLATED):
        return True
    return ip in _GLOBAL_UNICAST and ip.is_global and not any(ip in network for network in _CLOSED)


def _carried(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that translation or a tunnel takes out of an IPv6 one: mapped, NAT64, 6to4, ISATAP."""
    if any(ip in network for network in _TRANSLATED) or (int(ip) >> 32) & 0xFDFFFFFF == _ISATAP:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.sixtofour


@dataclass(frozen=True)
class PageLinks:
    """What the markup of one page says: where it points, under which name it wants to be known, its meta elements."""

    links: tuple[tuple[str, str], ...]
    """(canonical URL, URL to request) of each link, in page order, whatever its scope."""
    canonical: str | None
    metas: tuple[tuple[str, str], ...]
    licences: tuple[str, ...] = ()
    """URLs of RSL licence files that the page is under."""
    refused: int = 0
    """Links that are no URL, are too long, hold a NUL, or come after the first 10,000."""


def read_page(response: Any) -> PageLinks:
    """Links, rel=canonical and meta elements of a Scrapy HtmlResponse."""
    # Not response.selector, which raises on a malformed <base>; type given, or an XML prolog makes it XML.
    selector = Selector(text=response.text, type="html")
    base = response.url
    with suppress(ValueError):  # a base that is no URL is ignored, as browsers do
        base = urljoin(base, selector.xpath("string(//base/@href)").get("").strip())
    encoding = response.encoding
    targets = selector.xpath("//a/@href | //area/@href | //frame/@src").getall()
    for refresh in selector.xpath("//meta[translate(@http-equiv, 'REFSH', 'refsh') = 'refresh']/@content").getall():
        targets += _REFRESH_URL.findall(refresh)
    resolved = [resolve_link(base, target, encoding) for target in targets if not _OTHER_SCHEME.match(target)]
    links = list(dict.fromkeys(link for link in resolved if link))
    refused = resolved.count(None) + max(0, len(links) - MAX_LINKS_PER_PAGE)
    canonical = selector.xpath("//link[@rel = 'canonical']/@href").get()
    named = resolve_link(base, canonical, encoding) if canonical else None
    metas = tuple(
        (meta.attrib.get("name", ""), meta.attrib.get("content", "")) for meta in selector.xpath("//meta[@name]")
    )
    licences = selector.xpath("//link[@rel = 'license' and @type = $type]/@href", type=RSL_TYPE).getall()
    named_licences = tuple(link[1] for licence in licences if (link := resolve_link(base, licence, encoding)))
    canonical_name = named[0] if named else None
    return PageLinks(tuple(links[:MAX_LINKS_PER_PAGE]), canonical_name, metas, named_licences, refused)


def licence_links(header: str) -> list[str]:
    """Targets of rel=license entries of type RSL in a `Link` header."""
    return [
        target
        for target, parameters in _LICENCE_LINK.findall(header)
        if RSL_TYPE in parameters.lower() and re.search(r"rel=\"?license\"?", parameters.lower())
    ]


def resolve_link(base: str, target: str, encoding: str = "utf-8") -> tuple[str, str] | None:
    """(canonical URL, URL to request) of a link, or None when it is no http URL, malformed, or signs in."""
    try:
        url = names_again(safe_url_string(urljoin(base, target.strip()), encoding=encoding).partition("#")[0])
        if (
            len(url) > MAX_URL_CHARACTERS
            or "%00" in url
            or urlsplit(url).scheme not in _DEFAULT_PORTS
            or not urlsplit(url).hostname
            or "@" in urlsplit(url).netloc  # somebody's password
        ):
            return None
        return canonical_url(url, encoding), url
    except (ValueError, UnicodeError):
        return None
