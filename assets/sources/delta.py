"""What a crawl changed. Pure: captures of this crawl + the pages live before it -> one row per page live before or after.

Beside the delta stands the table of the pages live after this crawl, an update of the table of the
source's previous crawl: it costs what changed, and the newest one is all that later stages read.
A page leaves only for a stated reason: a server that is down for a night must not empty the corpus.

    captured now, not live before       added      new_url
    captured now, other content         changed    new_content
    captured now, same content          unchanged  same_content, or what made it needless to fetch it:
                                                   not_modified (HTTP 304), sitemap_unchanged
    refused, gone or replaced           removed    the capture's drop reason: http_404, opted_out, redirected, ...
    failed, forbidden or empty for now  unchanged  fetch_failed_kept
    cut by a limit of the crawl         unchanged  not_reached_kept
    not met by a complete crawl         removed    missing, after `missing_crawls` of them; missing_kept before
    not met by an incomplete crawl      unchanged  incomplete_crawl_kept
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from assets.build import BuildError
from assets.delta_table import Changes
from assets.schemas import LIVE_PAGES
from assets.sources.partition import parse_crawl

REFUSED_OR_REPLACED = {
    "opted_out",
    "robots_denied",
    "redirected",
    "non_canonical",
    "unsupported_content_type",
    "too_large",
}
_TRANSIENT = (
    *("fetch_failed", "private_address", "http_408", "http_421", "http_425", "http_429", "http_5"),
    *("invalid_json", "invalid_csv", "invalid_index_line", "damaged_record"),  # whose URL could not be read
)
"""Drop reasons (prefixes) that may be gone tomorrow. A 403 is not one: a login page linked from everywhere
would make every crawl incomplete."""
_REVISIT_RULES = {"server_not_modified": "not_modified", "sitemap_unchanged": "sitemap_unchanged"}
_LIMITS = {"page_limit", "byte_limit"}
_UNREAD_INPUT = "input_"  # prefix of the reasons of files that could not be read to their end
_NOT_REACHED = {*_LIMITS, "depth_limit"}


class DeltaPolicy(BaseModel):
    """Recipe table [delta]: when a page that was live stops being so."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    missing_crawls: int = Field(1, ge=1)  # complete crawls in a row without the page before it is removed
    max_failed_share: float = Field(0.0, ge=0, le=1)
    """Share of URLs with a transient failure up to which a crawl counts as complete. 0: one page that failed may have
    been the only link to others. Raise it for sites so large that some page always fails."""
    gone_statuses: tuple[int, ...] = (
        404,
        410,
        451,
    )  # not 401, 403, 429: those refuse the crawler for now, not the page


def delta_rows(
    captures: Sequence[Mapping[str, Any]], live: Sequence[Mapping[str, Any]], policy: DeltaPolicy
) -> list[dict[str, Any]]:
    """Rows of CRAWL_DELTA, sorted by url, from captures.parquet and the pages live before (LIVE_PAGES, of one source).

    Rows of unchanged pages name no document: the live pages say which it is.
    """
    now = {row["url"]: row for row in captures}
    before = {row["url"]: row for row in live}
    complete = is_complete(captures, policy)
    crawls = {row["crawl"] for row in captures}
    if len(crawls) != 1:
        raise BuildError(f"captures must be of one crawl, found {sorted(crawls)}")
    crawl = crawls.pop()
    source = parse_crawl(crawl)[0]
    rows = []
    for url in sorted(now.keys() | before.keys()):
        row = _decide(now.get(url), before.get(url), complete, policy)
        if row is not None:
            rows.append({"url": url, "source": source, "crawl": crawl} | row)
    return rows


def live_changes(rows: Sequence[Mapping[str, Any]], live: Sequence[Mapping[str, Any]]) -> Changes:
    """What the delta does to the pages live before it."""
    before = {row["url"]: row for row in live}
    removed, added = [], []
    for row in rows:
        held = before.get(row["url"])
        if row["change"] == "unchanged":
            assert held is not None
            if held["missed_crawls"] == row["missed_crawls"]:
                continue
            new = {**held, "missed_crawls": row["missed_crawls"]}
        else:
            new = {name: row[name] for name in LIVE_PAGES.names}
        if held is not None:
            removed.append(held)
        if row["change"] != "removed":
            added.append(new)
    return Changes(*(pa.Table.from_pylist(part, schema=LIVE_PAGES) for part in (removed, added)))


def is_complete(captures: Sequence[Mapping[str, Any]], policy: DeltaPolicy) -> bool:
    """Whether the absence of a page from this crawl means anything."""
    reasons = Counter(row["drop_reason"] for row in captures)
    failed = sum(n for reason, n in reasons.items() if reason and reason.startswith(_TRANSIENT))
    cut = any(reason in _LIMITS or reason.startswith(_UNREAD_INPUT) for reason in reasons if reason)
    return not cut and failed <= policy.max_failed_share * len(captures)


def _ends_page(reason: str, policy: DeltaPolicy) -> bool:
    return reason in REFUSED_OR_REPLACED or reason in {f"http_{status}" for status in policy.gone_statuses}


def _decide(
    now: Mapping[str, Any] | None, before: Mapping[str, Any] | None, complete: bool, policy: DeltaPolicy
) -> dict[str, Any] | None:
    """Change, rule and identities of one URL; None when it is live neither before nor after."""
    if now is not None and now["drop_reason"] is None:
        new = {"doc_id": now["doc_id"], "content_sha256": now["content_sha256"], "missed_crawls": 0}
        if before is None:
            return _row("added", "new_url", None, new)
        if before["content_sha256"] == now["content_sha256"]:
            rule = _REVISIT_RULES.get(now.get("revisit") or "", "same_content")
            return _row("unchanged", rule, None, {"missed_crawls": 0})
        return _row("changed", "new_content", before["doc_id"], new)
    if before is None:
        return None
    missed = before["missed_crawls"]
    if now is None:
        missed += complete
        removed = complete and missed >= policy.missing_crawls
        rule = "missing" if removed else "missing_kept" if complete else "incomplete_crawl_kept"
    else:
        reason = now["drop_reason"]
        removed = _ends_page(reason, policy)
        rule = reason if removed else "not_reached_kept" if reason in _NOT_REACHED else "fetch_failed_kept"
        missed = 0
    if not removed:
        return _row("unchanged", rule, None, {"missed_crawls": missed})
    gone = {"doc_id": before["doc_id"], "content_sha256": before["content_sha256"], "missed_crawls": missed}
    return _row("removed", rule, before["doc_id"], gone)


def _row(change: str, rule: str, previous_doc_id: str | None, rest: dict[str, Any]) -> dict[str, Any]:
    empty = {"doc_id": None, "content_sha256": None}
    return {"change": change, "rule": rule, "previous_doc_id": previous_doc_id, **empty, **rest}
