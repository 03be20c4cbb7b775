"""What a crawl changed. Pure: captures of this crawl + the delta before it -> one row per page live before or after.

The delta before it lists every page that was live after the previous crawl, with its content hash,
so history needs no other table. A page leaves only for a stated reason: a server that is down for a
night must not empty the corpus.

    captured now, not live before       added      new_url
    captured now, other content         changed    new_content
    captured now, same content          unchanged  same_content
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
from assets.schemas import CRAWL_DELTA
from assets.sources.partition import parse_crawl
from assets.tables import schema

LIVE_DOCUMENTS = schema({"doc_id": pa.string(), "url": pa.string(), "source": pa.string(), "crawl": pa.string()})
"""Result of `live_documents`, sorted by doc_id; `crawl` is the partition of extracted_documents that holds the text."""

_REFUSED_OR_REPLACED = {
    "opted_out",
    "robots_denied",
    "redirected",
    "non_canonical",
    "unsupported_content_type",
    "too_large",
}
_TRANSIENT = ("fetch_failed", "private_address", "http_408", "http_429", "http_5")
"""Drop reasons (prefixes) that may be gone tomorrow. A 403 is not one: a login page linked from everywhere
would make every crawl incomplete."""
_LIMITS = {"page_limit", "byte_limit"}
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
    captures: Sequence[Mapping[str, Any]], previous: Sequence[Mapping[str, Any]], policy: DeltaPolicy
) -> list[dict[str, Any]]:
    """Rows of CRAWL_DELTA, sorted by url, from captures.parquet and the previous delta.parquet (both of one source)."""
    now = {row["url"]: row for row in captures}
    live = {row["url"]: row for row in previous if row["change"] != "removed"}
    complete = is_complete(captures, policy)
    crawls = {row["crawl"] for row in captures}
    if len(crawls) != 1:
        raise BuildError(f"captures must be of one crawl, found {sorted(crawls)}")
    crawl = crawls.pop()
    rows = []
    for url in sorted(now.keys() | live.keys()):
        row = _decide(now.get(url), live.get(url), complete, policy)
        if row is not None:
            rows.append({"url": url, "source": parse_crawl(crawl)[0], "crawl": crawl, "missed_crawls": 0} | row)
    return rows


def is_complete(captures: Sequence[Mapping[str, Any]], policy: DeltaPolicy) -> bool:
    """Whether the absence of a page from this crawl means anything."""
    reasons = Counter(row["drop_reason"] for row in captures)
    failed = sum(n for reason, n in reasons.items() if reason and reason.startswith(_TRANSIENT))
    return not any(reasons[limit] for limit in _LIMITS) and failed <= policy.max_failed_share * len(captures)


def _ends_page(reason: str, policy: DeltaPolicy) -> bool:
    return reason in _REFUSED_OR_REPLACED or reason in {f"http_{status}" for status in policy.gone_statuses}


def _decide(
    now: Mapping[str, Any] | None, before: Mapping[str, Any] | None, complete: bool, policy: DeltaPolicy
) -> dict[str, Any] | None:
    """Change, rule and identities of one URL; None when it is live neither before nor after."""
    if now is not None and now["drop_reason"] is None:
        new = {"doc_id": now["doc_id"], "content_sha256": now["content_sha256"]}
        if before is None:
            return {"change": "added", "rule": "new_url", "previous_doc_id": None, **new}
        same = before["content_sha256"] == now["content_sha256"]
        change, rule = ("unchanged", "same_content") if same else ("changed", "new_content")
        return {"change": change, "rule": rule, "previous_doc_id": before["doc_id"], **new}
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
    return {
        "change": "removed" if removed else "unchanged",
        "rule": rule,
        "doc_id": before["doc_id"],
        "previous_doc_id": before["doc_id"],
        "content_sha256": before["content_sha256"],
        "missed_crawls": missed,
    }


def live_documents(deltas: Sequence[pa.Table]) -> pa.Table:
    """The live documents after all these crawls, of any number of sources, in any order of tables."""
    live: dict[str, dict[str, tuple[str, str]]] = {}  # source -> url -> (doc_id, crawl that holds the text)
    columns = ["url", "crawl", "change", "doc_id"]
    tables = [table.select(columns) for table in deltas if table.num_rows]
    for table in sorted(tables, key=lambda table: table["crawl"][0].as_py()):
        source, _ = parse_crawl(table["crawl"][0].as_py())
        pages = live.setdefault(source, {})
        for url, crawl, change, doc_id in zip(*(table[name].to_pylist() for name in columns), strict=True):
            if change in ("added", "changed"):
                pages[url] = (doc_id, crawl)
                continue
            held = pages.pop(url, None) if change == "removed" else pages.get(url)
            if held is None or held[0] != doc_id:
                raise BuildError(
                    f"crawl_delta/{crawl}: {url} is {change} with document {doc_id}, but the deltas before it hold {held}: "
                    "a crawl is missing from the history; build crawl_delta of every earlier crawl of this source"
                )
    rows = [
        {"doc_id": doc_id, "url": url, "source": source, "crawl": crawl}
        for source, pages in live.items()
        for url, (doc_id, crawl) in pages.items()
    ]
    return pa.Table.from_pylist(sorted(rows, key=lambda row: row["doc_id"]), schema=LIVE_DOCUMENTS)


def delta_table(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows as a CRAWL_DELTA table."""
    return pa.Table.from_pylist(rows, schema=CRAWL_DELTA)
