"""Deltas: which rule decides, and that the fold of all deltas is what a model of the policy says is live."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assets.build import BuildError, Segment
from assets.dedup.live import read_live
from assets.delta_table import write_changes
from assets.schemas import CAPTURES, CRAWL_DELTA, LIVE_PAGES, document_id
from assets.sources.defs import crawl_delta
from assets.sources.delta import DeltaPolicy, delta_rows, is_complete, live_changes
from assets.tables import write_table
from quality.outcome import CheckOutcome, Evidence
from quality.sources_checks import links_led_beyond_the_start_urls, removed_pages_are_a_minority
from tests.builds import make_build, published, segment_of

DAYS = ("site@20260101T000000Z", "site@20260102T000000Z", "site@20260103T000000Z")


def capture(page: str, outcome: str, crawl: str = DAYS[1]) -> dict[str, Any]:
    """A row whose outcome is `=text` (kept with that content) or a drop reason."""
    url, source = f"http://site/{page}", crawl.partition("@")[0]
    row = {"url": url, "crawl": crawl, "drop_reason": outcome, "doc_id": None, "content_sha256": None}
    if outcome.startswith("="):
        row |= {"drop_reason": None, "content_sha256": outcome, "doc_id": document_id(source, url, outcome)}
    return row


def captures(pages: dict[str, str], crawl: str) -> list[dict[str, Any]]:
    return [capture(page, outcome, crawl) for page, outcome in pages.items()]


def apply(rows: list[dict[str, Any]], live: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The live pages after a delta."""
    changes = live_changes(rows, live)
    pages = {row["url"]: row for row in live}
    for row in changes.removed.to_pylist():
        assert pages.pop(row["url"]) == row
    pages |= {row["url"]: row for row in changes.added.to_pylist()}
    return list(pages.values())


def delta_of(before: dict[str, str], after: dict[str, str], **policy: Any) -> dict[str, tuple[str, str]]:
    """Page -> (change, rule) of the second of two crawls."""
    chosen = DeltaPolicy(**policy)
    live = apply(delta_rows(captures(before, DAYS[0]), [], chosen), [])
    return {
        row["url"].rpartition("/")[2]: (row["change"], row["rule"])
        for row in delta_rows(captures(after, DAYS[1]), live, chosen)
    }


@pytest.mark.parametrize(
    ("outcome", "change", "rule"),
    [
        ("=old", "unchanged", "same_content"),
        ("=new", "changed", "new_content"),
        ("http_404", "removed", "http_404"),
        ("http_410", "removed", "http_410"),
        ("http_451", "removed", "http_451"),
        ("opted_out", "removed", "opted_out"),
        ("robots_denied", "removed", "robots_denied"),
        ("redirected", "removed", "redirected"),
        ("non_canonical", "removed", "non_canonical"),
        ("unsupported_content_type", "removed", "unsupported_content_type"),
        ("too_large", "removed", "too_large"),
        ("http_500", "unchanged", "fetch_failed_kept"),
        ("http_403", "unchanged", "fetch_failed_kept"),
        ("http_429", "unchanged", "fetch_failed_kept"),
        ("fetch_failed", "unchanged", "fetch_failed_kept"),
        ("empty_body", "unchanged", "fetch_failed_kept"),
        ("page_limit", "unchanged", "not_reached_kept"),
        ("depth_limit", "unchanged", "not_reached_kept"),
    ],
)
def test_each_outcome_has_its_rule(outcome: str, change: str, rule: str) -> None:
    assert delta_of({"a": "=old", "b": "=b"}, {"a": outcome, "b": "=b"})["a"] == (change, rule)


def test_a_page_is_added_once_and_a_failed_one_never() -> None:
    assert delta_of({"a": "=a"}, {"a": "=a", "b": "=b", "c": "http_500", "d": "opted_out"}) == {
        "a": ("unchanged", "same_content"),
        "b": ("added", "new_url"),
    }


def test_a_missing_page_leaves_only_after_a_complete_crawl() -> None:
    before = {"a": "=a", "b": "=b"}
    assert delta_of(before, {"a": "=a"})["b"] == ("removed", "missing")
    for hidden_by in ("fetch_failed", "http_503", "page_limit", "byte_limit"):
        assert delta_of(before, {"a": "=a", "c": hidden_by})["b"] == ("unchanged", "incomplete_crawl_kept")
    assert delta_of(before, {"a": "=a", "c": "http_403"})["b"] == ("removed", "missing")
    assert delta_of(before, {"a": "=a", "c": "http_500"}, max_failed_share=0.5)["b"] == ("removed", "missing")


def test_misses_are_counted_over_crawls_and_forgotten_when_the_page_is_back() -> None:
    policy = DeltaPolicy(missing_crawls=2)
    live: list[dict[str, Any]] = []
    seen = []
    for pages in ({"a": "=a", "b": "=b"}, {"b": "=b"}, {"a": "=a", "b": "=b"}, {"b": "=b"}, {"b": "=b"}):
        rows = delta_rows(captures(pages, DAYS[1]), live, policy)
        live = apply(rows, live)
        seen.append(next((r["change"], r["rule"], r["missed_crawls"]) for r in rows if r["url"].endswith("/a")))
    assert seen == [
        ("added", "new_url", 0),
        ("unchanged", "missing_kept", 1),
        ("unchanged", "same_content", 0),
        ("unchanged", "missing_kept", 1),
        ("removed", "missing", 2),
    ]


_outcomes = st.sampled_from(
    ["=x", "=y", "http_404", "http_500", "http_403", "opted_out", "fetch_failed", "page_limit", "empty_body"]
)
_crawls = st.lists(st.dictionaries(st.sampled_from("abcdef"), _outcomes, min_size=1), min_size=1, max_size=6)


@settings(max_examples=200, deadline=None)
@given(histories=st.tuples(_crawls, _crawls), missing_crawls=st.integers(1, 3))
def test_the_live_pages_are_what_the_policy_calls_live(
    tmp_path_factory: pytest.TempPathFactory,
    histories: tuple[list[dict[str, str]], list[dict[str, str]]],
    missing_crawls: int,
) -> None:
    policy = DeltaPolicy(missing_crawls=missing_crawls)
    deltas, expected = [], {}
    for source, crawls in zip(("one", "two"), histories, strict=True):
        files: dict[str, Path] = {}
        pages_before: list[dict[str, Any]] = []
        live: dict[str, tuple[str, str, int]] = {}  # the model: page -> content, crawl that holds it, misses
        for day, pages in enumerate(crawls):
            name = f"{source}@2026010{day + 1}T000000Z"
            rows = captures(pages, name)
            complete = is_complete(rows, policy)
            for page in sorted(live.keys() | pages.keys()):
                outcome = pages.get(page)
                if outcome is None:
                    content, crawl, missed = live[page]
                    live[page] = (content, crawl, missed + complete)
                    if complete and missed + 1 >= missing_crawls:
                        del live[page]
                elif outcome.startswith("="):
                    same = page in live and live[page][0] == outcome
                    live[page] = (outcome, live[page][1] if same else name, 0)
                elif outcome in ("http_404", "opted_out"):
                    live.pop(page, None)
                elif page in live:
                    live[page] = (*live[page][:2], 0)
            folder = tmp_path_factory.mktemp("delta")
            changes = live_changes(delta_rows(rows, pages_before, policy), pages_before)
            update = write_changes(folder, "live", changes, LIVE_PAGES, files)
            files = {kept: files[kept] for kept in update.kept} | {path.name: path for path in folder.iterdir()}
            deltas.append(Segment("crawl_delta", name, "", files))
            pages_before = deltas[-1].table("live").to_pylist()
        for page, (content, crawl, _) in live.items():
            url = f"http://site/{page}"
            expected[document_id(source, url, content)] = (url, source, crawl)
    for order in (deltas, deltas[::-1]):
        found = read_live(order)
        assert found["doc_id"].to_pylist() == sorted(expected)
        assert {r["doc_id"]: (r["url"], r["source"], r["crawl"]) for r in found.to_pylist()} == expected


def test_no_deltas_no_documents() -> None:
    assert read_live([]).num_rows == 0


def raw_segment(folder: Path, crawl: str, pages: dict[str, str]) -> Segment:
    folder.mkdir()
    empty = dict.fromkeys(CAPTURES.names)
    write_table(folder, "captures", [empty | row for row in captures(pages, crawl)], CAPTURES)
    return segment_of(folder, "raw_crawl", crawl)


def test_the_build_reads_this_crawl_and_the_one_before(tmp_path: Path) -> None:
    raw = [
        raw_segment(tmp_path / "raw1", DAYS[0], {"a": "=a", "b": "=b", "c": "=c"}),
        raw_segment(tmp_path / "raw2", DAYS[1], {"a": "=a", "b": "=new", "d": "=d"}),
    ]
    first = make_build(tmp_path / "d1", "crawl_delta", raw[:1], partition=DAYS[0])
    deltas = [published(first, crawl_delta(first))]
    second = make_build(tmp_path / "d2", "crawl_delta", [raw[1], *deltas], partition=DAYS[1])
    report = crawl_delta(second)
    deltas.append(published(second, report))
    assert report.stats["changes"] == {"added": 1, "changed": 1, "removed": 1, "unchanged": 1}
    assert (report.stats["live_before"], report.stats["live_after"]) == (3, 3)
    table = deltas[1].table("delta")
    assert table.schema.equals(CRAWL_DELTA)
    assert [row["url"][-1] for row in table.to_pylist()] == ["a", "b", "c", "d"]
    assert [row["url"][-1] for row in table.to_pylist() if row["doc_id"] is None] == ["a"]
    changes = deltas[1].changes("live", deltas[0].version)
    assert changes is not None
    assert [[row["url"][-1] for row in part.to_pylist()] for part in (changes.removed, changes.added)] == [
        ["b", "c"],
        ["b", "d"],
    ]
    assert {r["url"][-1]: r["crawl"] for r in read_live(deltas).to_pylist()} == {
        "a": DAYS[0],
        "b": DAYS[1],
        "d": DAYS[1],
    }
    with pytest.raises(BuildError, match="compared one after the other"):
        crawl_delta(make_build(tmp_path / "d3", "crawl_delta", [raw[1], *deltas], partition=DAYS[2]))


def test_a_source_cannot_lose_most_of_its_pages_unnoticed() -> None:
    def outcome(removed: int, live: int) -> CheckOutcome:
        stats = {"changes": {"removed": removed}, "live_before": live, "removed_share": removed / live, "rules": {}}
        report = {"stats": stats}
        return removed_pages_are_a_minority(Evidence(report, None, {}, 0, {"site": report}))

    assert outcome(50, 100).passed
    refused = outcome(51, 100)
    assert not refused.passed and refused.metadata["sources"] == ["site"]
    assert "--accept-yield site" in refused.description
    assert outcome(3, 4).passed  # too few to judge


def test_a_crawl_cannot_shrink_to_its_start_urls_unnoticed() -> None:
    def evidence(kept: int) -> Evidence:
        return Evidence({"documents_kept": kept, "stats": {"start_urls": 6}}, None, {}, 0)

    assert links_led_beyond_the_start_urls(evidence(7)).passed
    assert not links_led_beyond_the_start_urls(evidence(6)).passed
