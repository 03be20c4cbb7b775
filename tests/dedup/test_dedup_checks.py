"""Checks of dedup: each passes on a healthy build and fails on the failure it is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quality.dedup_checks import CHECKS
from quality.expectations import check_limits
from quality.outcome import Evidence
from quality.thresholds import DEDUP
from tests.dedup.test_corpus import history
from tests.dedup.worlds import Page, build_dedup, english


def verdict(asset: str, check: str, report: dict[str, Any], previous: dict | None = None, rows: int = 0) -> bool:
    """Outcome of one check of our own over made-up statistics."""
    full = {"documents_in": 0, "documents_kept": 0, "dropped": {}, "stats": {}}
    evidence = Evidence(full | report, full | previous if previous else None, {"signatures": rows}, 0)
    return next(one for one in CHECKS[asset] if one.name == check).run(evidence).passed


def test_a_healthy_build_passes_all_blocking_checks(tmp_path: Path) -> None:
    pages = [Page(f"m/{number}", english(number + 500)) for number in range(12)]
    built = build_dedup(tmp_path, history() | {"more@20260101T000000Z": pages})
    for asset, report in built.reports.items():
        json = report.as_json()
        rows = {"signatures": len(built.segments["document_signatures"].table("signatures"))}
        evidence = Evidence(json, json, rows, 1)
        limits = check_limits([limit for limit in DEDUP if limit.asset == asset], evidence)
        outcomes = [(limit.check, limit.blocking, outcome) for limit, outcome in limits]
        outcomes += [(check.name, check.blocking, check.run(evidence)) for check in CHECKS.get(asset, ())]
        assert [(name, outcome) for name, blocking, outcome in outcomes if blocking and not outcome.passed] == []
        assert {blocking for _, blocking, _ in outcomes} == {True, False}


@pytest.mark.parametrize(
    ("now", "before", "passed"),
    [
        ({"wiki": (1000, 10)}, {"wiki": (1000, 950)}, False),  # wiped
        ({"wiki": (1000, 10)}, None, False),  # wiped from the first
        ({"wiki": (1000, 400)}, {"wiki": (1000, 950)}, False),  # lost more than half
        ({"wiki": (1000, 600)}, {"wiki": (1000, 950)}, True),
        ({"wiki": (10, 0)}, None, True),  # too small to say
        ({"wiki": (100, 95)}, {"wiki": (1000, 950)}, True),  # the site itself shrank: not for dedup to block
    ],
)
def test_no_source_is_wiped(now: dict, before: dict | None, passed: bool) -> None:
    def report(sources: dict) -> dict:
        return {
            "stats": {
                "documents_by_source": {name: pair[0] for name, pair in sources.items()},
                "kept_by_source": {name: pair[1] for name, pair in sources.items()},
            }
        }

    for asset in ("duplicate_clusters", "corpus"):
        assert verdict(asset, "no_source_is_wiped", report(now), report(before) if before else None) is passed


def test_relative_checks() -> None:
    assert verdict("corpus", "corpus_does_not_shrink", {"documents_kept": 80}, {"documents_kept": 100})
    assert not verdict("corpus", "corpus_does_not_shrink", {"documents_kept": 60}, {"documents_kept": 100})
    assert verdict("corpus", "corpus_does_not_shrink", {"documents_kept": 0})
    assert verdict("corpus", "corpus_does_not_shrink", {"documents_kept": 2}, {"documents_kept": 5})
    hits = {"documents_in": 100, "dropped": {"contaminated": 30}}
    assert not verdict("contamination", "contamination_does_not_condemn_the_corpus", hits)
    assert verdict("contamination", "contamination_does_not_condemn_the_corpus", hits | {"documents_in": 1000})
    full, none = {"documents_in": 100, "dropped": {"near_duplicate": 30}}, {"documents_in": 100, "dropped": {}}
    assert not verdict("duplicate_clusters", "duplicates_are_still_found", none, full)
    assert verdict("duplicate_clusters", "duplicates_are_still_found", full, none)
    assert not verdict("duplicate_clusters", "duplicate_rate_is_near_the_previous", none, full)
    assert verdict("duplicate_clusters", "duplicate_rate_is_near_the_previous", full, full)
    weak = {"stats": {"smallest_similarity": 0.79, "threshold": 0.8}}
    assert not verdict("duplicate_clusters", "proven_pairs_reach_the_threshold", weak)
    assert not verdict("document_signatures", "every_kept_document_is_signed", {"documents_in": 5}, rows=4)
    assert verdict("document_signatures", "every_kept_document_is_signed", {"documents_in": 5}, rows=5)
