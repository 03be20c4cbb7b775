"""What raw_crawl and crawl_delta say of themselves: counts, samples by reason, plots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from assets.build import BuildError, Sample, Segment, StageReport
from assets.plots import grouped_bars, histogram
from assets.sources.config import AnySource, WebSource
from assets.sources.delta import DeltaPolicy, is_complete
from assets.sources.warc import read_capture
from assets.sources.web.scope import canonical_url

SAMPLE_ROWS = 5  # per drop reason or change: enough to argue with, few enough to read
READ_BACK_CAPTURES = 200  # payloads read from the WARC files again, spread evenly over the index
REVISITS = ("server_not_modified", "identical_payload", "sitemap_unchanged")
_SAMPLE_COLUMNS = ("url", "status", "content_type", "content_length", "opt_out")
_FAILED = ("fetch_failed", "private_address", "http_5")


def crawl_report(source: AnySource, segment: Segment, summary: Mapping[str, Any]) -> StageReport:
    """Report of a raw_crawl; `segment` is the staged output."""
    rows = segment.table("captures")
    kept = rows.filter(pc.is_null(rows["drop_reason"]))
    dropped = _present(rows["drop_reason"])
    failed = sum(n for reason, n in dropped.items() if reason.startswith(_FAILED))
    stored = kept.filter(pc.is_null(kept["revisit"]))
    sizes = stored["content_length"].to_numpy()
    revisits = _present(kept["revisit"])
    stride = max(1, -(-len(stored) // READ_BACK_CAPTURES))
    read_back = stored.take(pa.array(range(0, len(stored), stride), pa.int64())).to_pylist()
    stats = {
        "statuses": _counts(rows["status"]),
        "content_types": _counts(rows["content_type"]),
        "opt_outs": _present(rows["opt_out"]),
        "stored_bytes": int(sizes.sum()),
        "distinct_contents": pc.count_distinct(kept["content_sha256"]).as_py(),
        "failed_share": failed / len(rows),
        "start_urls": len(source.start_urls) if isinstance(source, WebSource) else 0,
        "start_urls_failed": _failed_starts(source, rows),
        "cut_by_limit": int(summary["limit"] is not None),
        "read_back_captures": len(read_back),
        "read_back_failures": _failures(segment, read_back),
        "revisits": {kind: revisits.get(kind, 0) for kind in REVISITS},
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
        dropped=dropped,
        stats=stats,
        samples=_samples("drop_reason", _first_of_each(rows, "drop_reason"), _SAMPLE_COLUMNS),
        plots={
            "Responses by status": grouped_bars("URLs", {"status": stats["statuses"]}),
            "Content types": grouped_bars("URLs", {"content type": stats["content_types"]}),
            "Why URLs were dropped": grouped_bars("URLs", {"drop reason": dropped or {"nothing dropped": 0}}),
            **(
                {"Size of stored payloads": histogram("bytes", {"captures": sizes}, logarithmic=True)}
                if len(sizes)
                else {}
            ),
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
        "rules": dict(sorted(Counter(_label(row["rule"]) for row in rows).items())),
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


def _failed_starts(source: AnySource, rows: pa.Table) -> int:
    """Start URLs that led nowhere: neither kept nor a redirect that was followed."""
    if not isinstance(source, WebSource):
        return 0
    urls, reasons = rows["url"].to_pylist(), rows["drop_reason"].to_pylist()
    led = (None, "redirected", "opted_out", "non_canonical")
    fine = {url for url, reason in zip(urls, reasons, strict=True) if reason in led}
    return sum(canonical_url(url) not in fine for url in source.start_urls)


def _failures(segment: Segment, captures: Sequence[Mapping[str, Any]]) -> int:
    """Captures whose stored payload cannot be read again with the recorded hash."""
    failures = 0
    for row in captures:
        try:
            read_capture(segment, row)
        except BuildError:
            failures += 1
    return failures


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    """How often each value occurs; null is "none"."""
    counts: Counter[str] = Counter()
    for pair in pc.value_counts(column).to_pylist():
        counts[_label(pair["values"])] += pair["counts"]
    return dict(sorted(counts.items()))


def _present(column: pa.ChunkedArray) -> dict[str, int]:
    """How often each value that is not null occurs."""
    return _counts(column.drop_null())


def _first_of_each(rows: pa.Table, key: str) -> list[dict[str, Any]]:
    """The first SAMPLE_ROWS rows of each value of a column, in order."""
    found = []
    for value in pc.unique(rows[key]):
        mine = rows.filter(pc.equal(rows[key], value) if value.is_valid else pc.is_null(rows[key]))
        found += mine.slice(0, SAMPLE_ROWS).to_pylist()
    return found


def _label(value: Any) -> str:
    return "none" if value is None else str(value)


def _samples(key: str, rows: Sequence[Mapping[str, Any]], columns: tuple[str, ...]) -> list[Sample]:
    by_label: dict[str, list[tuple[Any, ...]]] = {}
    for row in rows:
        shown = by_label.setdefault(row[key] or "kept", [])
        if len(shown) < SAMPLE_ROWS:
            shown.append(tuple(row[column] for column in columns))
    return [Sample(label, columns, tuple(shown)) for label, shown in sorted(by_label.items())]
