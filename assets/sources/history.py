"""What the source's previous crawl knew, so that this one transfers only what changed.

A page that was kept is asked for with its validators; when it is unchanged, its digest and its links
come from here, so the walk goes on as if the page had been downloaded. Everything else is fetched in
full: a page that was dropped, whatever its reason, has no payload in the store that a later stage
could read, and one whose links were never recorded cannot be walked through.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from assets.build import Segment
from assets.sources.config import SOURCE_FILE, SourceConfig, WebSource
from assets.sources.delta import REFUSED_OR_REPLACED

LAST_MODIFIED_AGE = timedelta(seconds=60)
"""A Last-Modified younger than this when it was seen is no validator: the page may change again in the same second,
and the two clocks differ (RFC 7232, section 2.2.2)."""

_GONE = {"http_404", "http_410", "http_451"}
_SCOPE_KEYS = ("start_urls", "path_prefixes")


@dataclass(frozen=True, slots=True)
class KnownPage:
    """A page as the previous crawl kept it."""

    row: Mapping[str, Any]
    """Its row of captures.parquet."""
    canonical_url: str | None
    links: tuple[str, ...]

    @property
    def validators(self) -> dict[str, str]:
        """Request headers that let the server answer 304."""
        found = {}
        if self.row["etag"]:
            found["If-None-Match"] = self.row["etag"]
        modified = self.row["last_modified"]
        if modified and _is_strong(modified, self.row["fetched_at"]):
            found["If-Modified-Since"] = modified
        return found

    @property
    def payload(self) -> dict[str, Any]:
        """Where the payload is, as columns of a revisit."""
        row = self.row
        return {
            "payload_crawl": row.get("payload_crawl") or row["crawl"],
            "payload_fetched_at": row.get("payload_fetched_at") or row["fetched_at"],
        }


@dataclass(frozen=True)
class History:
    """The previous crawl of a source; empty for the first one."""

    kept: Mapping[str, KnownPage] = field(default_factory=dict)
    still_asked: tuple[str, ...] = ()
    """URLs to ask for even when nothing links them any more: pages that may be live, so that their 404 is heard."""


def history_files(segment: Segment) -> dict[str, list[str]]:
    """The files of a raw_crawl segment that `read_history` reads, for the job of the crawler's process."""
    links = [] if "links.parquet" not in segment.files else segment.parts("links")
    return {
        "captures": [str(path) for path in segment.parts("captures")],
        "links": [str(path) for path in links],
        "source": [str(segment.path(SOURCE_FILE))],
    }


def read_history(files: Mapping[str, Sequence[str]], source: WebSource) -> History:
    """History from the files of the previous crawl.

    Links outside the source were not recorded, so a source with another scope knows pages but no links.
    """
    before = SourceConfig.model_validate_json(Path(files["source"][0]).read_text(encoding="utf-8")).root
    same_scope = isinstance(before, WebSource) and all(
        getattr(before, key) == getattr(source, key) for key in _SCOPE_KEYS
    )
    links = {row["url"]: row for row in _rows(files["links"])} if same_scope else {}
    kept: dict[str, KnownPage] = {}
    asked = []
    names: dict[str, str] = {}  # one string per URL, however many pages link it
    for row in _rows(files["captures"]):
        reason = row["drop_reason"]
        if reason is None or not (reason in REFUSED_OR_REPLACED or reason in _GONE):
            asked.append(row["url"])
        found = links.get(row["url"])
        if reason is None and found is not None:
            targets = tuple(names.setdefault(link, link) for link in found["links"])
            kept[row["url"]] = KnownPage(row, found["canonical_url"], targets)
    return History(kept, tuple(asked))


def _rows(paths: Sequence[str]) -> list[dict[str, Any]]:
    return [row for path in paths for row in pq.ParquetFile(path).read().to_pylist()]


def _is_strong(last_modified: str, fetched_at: datetime) -> bool:
    try:
        modified = parsedate_to_datetime(last_modified)
    except ValueError:
        return False
    if modified.tzinfo is None:
        modified = modified.replace(tzinfo=UTC)
    return modified + LAST_MODIFIED_AGE <= fetched_at
