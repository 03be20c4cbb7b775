"""Checks of the documents group: each passes on a healthy report and fails on the accident it is there for."""

from __future__ import annotations

from typing import Any

import pytest

from quality.documents_checks import CHECKS
from quality.outcome import CheckOutcome, Evidence
from quality.thresholds import DOCUMENTS

HEALTHY: dict[str, Any] = {
    "documents_in": 100,
    "documents_kept": 80,
    "dropped": {"too_short": 20},
    "stats": {
        "mean_characters": 5000.0,
        "failed_share": 0.0,
        "undecodable_share": 0.0,
        "kept_outside_keep_languages": 0,
        "languages_seen": {"zh": 50, "en": 50},
        "yield_by_language": {"zh": 0.8, "en": 0.8},
        "wanted_seen": 100,
        "largest_drop_share": 0.2,
        "mean_quality": 0.8,
    },
}


def outcome(name: str, previous: dict[str, Any] | None = None, rows: int = 100, **changes: Any) -> CheckOutcome:
    stats = HEALTHY["stats"] | {k: v for k, v in changes.items() if k in HEALTHY["stats"]}
    report = HEALTHY | {k: v for k, v in changes.items() if k in HEALTHY} | {"stats": stats}
    check = next(check for checks in CHECKS.values() for check in checks if check.name == name)
    return check.run(Evidence(report, previous, {"documents": rows, "decisions": rows}, 1000))


@pytest.mark.parametrize("check", [check for checks in CHECKS.values() for check in checks], ids=lambda c: c.name)
def test_a_healthy_report_passes(check: Any) -> None:
    assert check.run(Evidence(HEALTHY, HEALTHY, {"documents": 100, "decisions": 100}, 1000)).passed


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("every_document_has_one_row", {"rows": 99}),
        ("source_was_not_wiped_out", {"documents_kept": 0}),
        ("source_was_not_wiped_out", {"documents_kept": 39, "previous": HEALTHY}),
        ("drop_rate_is_like_before", {"dropped": {"too_short": 41}, "previous": HEALTHY}),
        ("text_lengths_are_plausible", {"mean_characters": 12.0}),
        ("extraction_rarely_fails", {"failed_share": 0.1}),
        ("no_rule_drops_most_of_a_source", {"largest_drop_share": 0.6}),
        ("quality_is_plausible", {"mean_quality": 0.1}),
        ("language_yields_are_plausible", {"yield_by_language": {"zh": 0.02, "en": 0.9}}),
    ],
)
def test_an_accident_fails(name: str, changes: dict[str, Any]) -> None:
    assert not outcome(name, **changes).passed


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("source_was_not_wiped_out", {"documents_kept": 0, "documents_in": 3, "wanted_seen": 3}),
        ("extraction_rarely_fails", {"failed_share": 1.0, "documents_in": 1}),
        ("no_rule_drops_most_of_a_source", {"largest_drop_share": 1.0, "wanted_seen": 1}),
        ("language_yields_are_plausible", {"yield_by_language": {"zh": 0.0}, "languages_seen": {"zh": 2}}),
        ("quality_is_plausible", {"mean_quality": 0.0, "documents_kept": 0}),
    ],
)
def test_a_small_delta_is_not_judged_by_shares(name: str, changes: dict[str, Any]) -> None:
    assert outcome(name, **changes).passed


def test_the_rise_is_named() -> None:
    dropped = {"too_short": 20, "repeated_phrase": 30}
    assert "repeated_phrase by 30" in outcome("drop_rate_is_like_before", HEALTHY, dropped=dropped).description


def test_each_asset_blocks_on_something_and_informs_of_something() -> None:
    for asset, checks in CHECKS.items():
        blocking = {c.blocking for c in checks} | {limit.blocking for limit in DOCUMENTS if limit.asset == asset}
        assert blocking == {True, False}
