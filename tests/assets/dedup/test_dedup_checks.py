"""Checks of dedup: each passes on a healthy build and fails on the failure it is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestration.publish.evidence import source_yields
from orchestration.stages import BY_NAME
from quality.dedup_checks import CHECKS
from quality.expectations import check_limits
from quality.outcome import CheckOutcome, Evidence
from quality.thresholds import DEDUP
from tests.assets.dedup.test_corpus import history
from tests.assets.dedup.worlds import Page, build_dedup, english


def verdict(asset: str, check: str, report: dict[str, Any], previous: dict | None = None, rows: int = 0) -> bool:
    """Whether one check of our own passes over made-up statistics."""
    return outcome(asset, check, report, previous, rows).passed


def outcome(
    asset: str, check: str, report: dict[str, Any], previous: dict | None = None, rows: int = 0
) -> CheckOutcome:
    """Outcome of one check of our own over made-up statistics."""
    full = {"documents_in": 0, "documents_kept": 0, "dropped": {}, "stats": {}}
    evidence = Evidence(full | report, full | previous if previous else None, {"signatures": rows}, 0)
    return next(one for one in CHECKS[asset] if one.name == check).run(evidence)


def test_a_healthy_build_passes_all_blocking_checks(tmp_path: Path) -> None:
    pages = [Page(f"m/{number}", english(number + 500)) for number in range(12)]
    built = build_dedup(tmp_path, history() | {"more@20260101T000000Z": pages})
    for asset, report in built.reports.items():
        json = report.as_json()
        rows = {"signatures": len(built.segments["document_signatures"].table("signatures"))}
        yields = source_yields(BY_NAME[asset], None, json)
        evidence = Evidence(json, json, rows, 1, yields, {source: [known] for source, known in yields.items()})
        limits = check_limits([limit for limit in DEDUP if limit.asset == asset], evidence)
        outcomes = [(limit.check, limit.blocking, outcome) for limit, outcome in limits]
        outcomes += [(check.name, check.blocking, check.run(evidence)) for check in CHECKS.get(asset, ())]
        assert [(name, outcome) for name, blocking, outcome in outcomes if blocking and not outcome.passed] == []
        assert {blocking for _, blocking, _ in outcomes} == {True, False}


@pytest.mark.parametrize(
    ("now", "before", "passed"),
    [
        ((1000, 990), (1000, 50), False),  # wiped
        ((1000, 990), None, False),  # wiped from the first
        ((1000, 600), (1000, 50), False),  # lost more than half
        ((1000, 0), (1000, 50), False),  # matched nothing
        ((1000, 60), (1000, 50), True),
        ((10, 10), None, True),  # too small to say
        ((100, 5), (1000, 50), True),  # the site itself shrank
    ],
)
@pytest.mark.parametrize("asset", ["duplicate_clusters", "contamination", "corpus"])
def test_yields_of_each_source_are_watched(
    asset: str, now: tuple[int, int], before: tuple | None, passed: bool
) -> None:
    def report(documents: int, dropped: int) -> dict[str, Any]:
        return {"documents_in": documents, "dropped": {"exact_duplicate": dropped}}

    history = {"wiki": [report(*before)]} if before else {}
    evidence = Evidence(report(0, 0), None, {}, 0, {"wiki": report(*now), "blog": report(100, 3)}, history)
    assert next(each for each in CHECKS[asset] if each.name == "yields_are_like_before").run(evidence).passed is passed


def test_relative_checks() -> None:
    assert verdict("corpus", "corpus_does_not_shrink", {"documents_kept": 80}, {"documents_kept": 100})
    before = {"documents_kept": 100, "stats": {"kept_by_source": {"wiki": 50, "blog": 50}}}
    after = {"documents_kept": 60, "stats": {"kept_by_source": {"wiki": 12, "blog": 48}}}
    assert not verdict("corpus", "corpus_does_not_shrink", after, before)
    assert verdict("corpus", "corpus_does_not_shrink", {"documents_kept": 0})
    assert verdict("corpus", "corpus_does_not_shrink", {"documents_kept": 2}, {"documents_kept": 5})
    hits = {"documents_in": 100, "dropped": {"contaminated": 30}}
    assert not verdict("contamination", "contamination_does_not_condemn_the_corpus", hits)
    assert verdict("contamination", "contamination_does_not_condemn_the_corpus", hits | {"documents_in": 1000})
    full, none = {"documents_in": 100, "dropped": {"near_duplicate": 30}}, {"documents_in": 100, "dropped": {}}
    full["stats"] = {"dropped_by_source": {"wiki": {"near_duplicate": 30}}}
    assert not verdict("duplicate_clusters", "duplicates_are_still_found", none, full)
    assert verdict("duplicate_clusters", "duplicates_are_still_found", full, none)
    assert not verdict("duplicate_clusters", "duplicate_rate_is_near_the_previous", none, full)
    assert verdict("duplicate_clusters", "duplicate_rate_is_near_the_previous", full, full)
    weak = {"stats": {"smallest_similarity": 0.79, "threshold": 0.8}}
    assert not verdict("duplicate_clusters", "proven_pairs_reach_the_threshold", weak)
    assert not verdict("document_signatures", "every_kept_document_is_signed", {"documents_in": 5}, rows=4)
    assert verdict("document_signatures", "every_kept_document_is_signed", {"documents_in": 5}, rows=5)


def test_blocks_that_a_person_may_lift_name_their_sources() -> None:
    """The publisher lets a blocking check pass when all sources that it names were accepted."""
    before = {"documents_kept": 100, "stats": {"kept_by_source": {"wiki": 50, "blog": 50}}}
    after = {"documents_kept": 60, "dropped": {}, "stats": {"kept_by_source": {"wiki": 12, "blog": 48}}}
    shrunk = outcome("corpus", "corpus_does_not_shrink", after, before)
    assert shrunk.metadata["sources"] == ["wiki"]
    assert "blog 50 to 48, wiki 50 to 12" in shrunk.description and "--accept-yield wiki`" in shrunk.description
    found = {"dropped": {"near_duplicate": 30}, "stats": {"dropped_by_source": {"wiki": {"near_duplicate": 30}}}}
    silent = outcome("duplicate_clusters", "duplicates_are_still_found", {"dropped": {}}, found)
    assert silent.metadata["sources"] == ["wiki"] and "--accept-yield wiki" in silent.description
