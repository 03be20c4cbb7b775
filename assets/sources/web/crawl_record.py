"""What one crawl of a site met: a row per URL, the links of the kept pages, and what only the whole decides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from assets.schemas import CAPTURES, LINKS
from assets.sources.config import WebSource
from assets.sources.web.fetch import Fetched
from assets.sources.web.scope import origin
from assets.tables import write_table


class CrawlRecord:
    """Filled by the walk, settled at its end, written once."""

    def __init__(self, source_name: str, crawl: str, source: WebSource) -> None:
        self.source_name, self.crawl_name, self.source = source_name, crawl, source
        self.robots_sha256: dict[str, str | None] = {}  # by origin
        self.rows: dict[str, dict[str, Any]] = {}
        self.links: dict[str, tuple[str, ...]] = {}  # kept URL -> what it leads to inside the source, as requested
        self.wanted_names: dict[str, str] = {}  # URL -> its rel=canonical, where that is another page in scope

    def add(self, url: str, requested: str, fetched: Fetched | None = None, **decided: Any) -> None:
        """Record one URL; `decided` are columns of CAPTURES."""
        row: dict[str, Any] = dict.fromkeys(CAPTURES.names)
        row |= {
            "url": url,
            "requested_url": requested,
            "source": self.source_name,
            "crawl": self.crawl_name,
            "licence": self.source.licence,
            "domain": self.source.domain,
            "robots_sha256": self.robots_sha256[origin(url)],
        }
        if fetched is not None:
            row["fetched_at"] = fetched.at
            row["detail"] = fetched.detail or None
            if fetched.response is not None:
                row["status"] = fetched.response.status
                row["content_type"] = fetched.content_type
                row["etag"] = fetched.header("ETag")
                row["last_modified"] = fetched.header("Last-Modified")
        self.rows[url] = row | decided

    def settle(self) -> None:
        """Decide what depends on more than one page, when all have been met."""
        self._settle_names()
        self._settle_redirects()

    def write(self, output: Path) -> None:
        """Write captures.parquet and links.parquet."""
        write_table(output, "captures", [self.rows[url] for url in sorted(self.rows)], CAPTURES)
        write_table(output, "links", self._link_rows(), LINKS)

    def _settle_names(self) -> None:
        """A page that names another page of the source as its canonical form is dropped, if that page is there."""
        for url, name in sorted(self.wanted_names.items()):
            other = self.rows.get(name)
            if other is not None and other["drop_reason"] is None and self.wanted_names.get(name) is None:
                self.rows[url]["drop_reason"] = "non_canonical"

    def _settle_redirects(self) -> None:
        """A redirect that comes back to where it was is no redirect: nothing is there, for now."""
        for start in sorted(self.rows):
            seen: set[str] = set()
            url: str | None = start
            while url is not None and url not in seen:
                seen.add(url)
                row = self.rows.get(url)
                url = row["location"] if row is not None and row["location"] else None
            if url is not None:
                self.rows[start]["drop_reason"] = "redirect_loop"

    def _link_rows(self) -> list[dict[str, Any]]:
        return [
            {"url": url, "canonical_url": self.wanted_names.get(url), "links": list(self.links[url])}
            for url in sorted(self.links)
            if self.rows[url]["drop_reason"] is None
        ]
