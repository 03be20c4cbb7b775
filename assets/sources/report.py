"""What raw_crawl and crawl_delta say of themselves: counts, samples by reason, plots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from assets.build import BuildError, Sample, Segment, StageReport
from assets.plots import grouped_bars, histogram
from assets.sources.config import AnySource, WebSource
from assets.sources.delta import DeltaPolicy, is_complete
from assets.sources.scope import canonical_url
from assets.sources.warc import read_capture

SAMPLE_ROWS = 5  # per drop reason or change: enough to argue with, few enough to read
READ_BACK_CAPTURES = 200  # payloads read from the WARC files again, spread evenly over the index
REVISITS = ("server_not_modified", "identical_payload", "sitemap_unchanged")
_FAILED = ("fetch_failed", "private_address", "http_5")


def crawl_report(source: AnySource, segment: Segment, summary: Mapping[str, Any]) -> StageReport:
    """Report of a raw_crawl; `segment` is the staged output."""
    rows = segment.table("captures").to_pylist()
    kept = [row for row in rows if row["drop_reason"] is None]
    dropped = Counter(row["drop_reason"] for row in rows if row["drop_reason"])
    failed = sum(n for reason, n in dropped.items() if reason.startswith(_FAILED))
    stored = [row for row in kept if not row["revisit"]]
    sizes = [row["content_length"] for row in stored]
    stats = {
        "statuses": _labels(row["status"] for row in rows),
        "content_types": _labels(row["content_type"] for row in rows),
        "opt_outs": dict(sorted(Counter(row["opt_out"] for row in rows if row["opt_out"]).items())),
        "stored_bytes": sum(sizes),
        "distinct_contents": len({row["content_sha256"] for row in kept}),
        "failed_share": failed / len(rows),
        "start_urls": len(source.start_urls) if isinstance(source, WebSource) else 0,
        "start_urls_failed": _failed_starts(source, rows),
        "cut_by_limit": int(summary["limit"] is not None),
        "read_back_captures": len(stored[:: _stride(stored)]),
        "read_back_failures": _read_back(segment, stored),
        "revisits": {kind: sum(row["revisit"] == kind for row in kept) for kind in REVISITS},
        "requests": summary["requests"],
        "received_bytes": summary.get("received_bytes", 0),
        "sitemaps": summary.get("sitemaps", {}),
        "malformed_links": summary.get("malformed_links", 0),
        "crawler_peak_rss_bytes": summary.get("peak_rss_bytes"),
        "rsl_licences": summary["rsl_licences"],
        "not_taken": summary.get("not_taken", {}),
        "retries": summary["retries"],
    }
    return StageReport(
        documents_in=len(rows),
        documents_kept=len(kept),
        dropped=dict(dropped),
        stats=stats,
        samples=_samples("drop_reason", rows, ("url", "status", "content_type", "content_length", "opt_out")),
        plots={
            "Responses by status": grouped_bars("URLs", {"status": stats["statuses"]}),
            "Content types": grouped_bars("URLs", {"content type": stats["content_types"]}),
            "Why URLs were dropped": grouped_bars("URLs", {"drop reason": dropped or {"nothing dropped": 0}}),
            **({"Size of stored payloads": histogram("bytes", {"captures": sizes}, logarithmic=True)} if sizes else {}),
        },
        volatile_files=("*.warc.gz",),
    )


def delta_report(
    rows: Sequence[Mapping[str, Any]], captures: Sequence[Mapping[str, Any]], policy: DeltaPolicy
) -> StageReport:
    """Report of a crawl_delta."""
    changes = Counter(row["change"] for row in rows)
    live_before = changes["changed"] + changes["unchanged"] + changes["removed"]
    stats = {
        "changes": {change: changes[change] for change in ("added", "changed", "removed", "unchanged")},
        "rules": _labels(row["rule"] for row in rows),
        "live_before": live_before,
        "live_after": len(rows) - changes["removed"],
        "removed_share": changes["removed"] / live_before if live_before else 0.0,
        "changed_share": changes["changed"] / live_before if live_before else 0.0,
        "crawl_was_complete": int(is_complete(captures, policy)),
    }
    return StageReport(
        stats=stats,
        samples=_samples("change", rows, ("url", "rule", "doc_id", "previous_doc_id")),
        plots={
            "What changed": grouped_bars("pages", {"change": stats["changes"]}),
            "Which rule decided": grouped_bars("pages", {"rule": stats["rules"]}),
        },
    )


def _failed_starts(source: AnySource, rows: Sequence[Mapping[str, Any]]) -> int:
    """Start URLs that led nowhere: neither kept nor a redirect that was followed."""
    if not isinstance(source, WebSource):
        return 0
    fine = {row["url"] for row in rows if row["drop_reason"] in (None, "redirected", "opted_out", "non_canonical")}
    return sum(canonical_url(url) not in fine for url in source.start_urls)


def _stride(kept: Sequence[Any]) -> int:
    return max(1, -(-len(kept) // READ_BACK_CAPTURES))


def _read_back(segment: Segment, kept: Sequence[Mapping[str, Any]]) -> int:
    """Captures whose stored payload cannot be read again with the recorded hash."""
    failures = 0
    for row in kept[:: _stride(kept)]:
        try:
            read_capture(segment, row)
        except BuildError:
            failures += 1
    return failures


def _labels(values: Any) -> dict[str, int]:
    return dict(sorted(Counter("none" if value is None else str(value) for value in values).items()))


def _samples(key: str, rows: Sequence[Mapping[str, Any]], columns: tuple[str, ...]) -> list[Sample]:
    by_label: dict[str, list[tuple[Any, ...]]] = {}
    for row in rows:
        shown = by_label.setdefault(row[key] or "kept", [])
        if len(shown) < SAMPLE_ROWS:
            shown.append(tuple(row[column] for column in columns))
    return [Sample(label, columns, tuple(shown)) for label, shown in sorted(by_label.items())]
