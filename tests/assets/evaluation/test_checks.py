"""The checks of evaluation can fail, and say the numbers when they do."""

from __future__ import annotations

from typing import Any

import pytest

from quality.evaluation_checks import CHECKS
from quality.outcome import Evidence
from quality.thresholds import EVALUATION


def evidence(stats: dict[str, Any], rows: dict[str, int], previous: dict[str, Any] | None = None) -> Evidence:
    report = {"documents_in": None, "documents_kept": None, "dropped": {}, "stats": stats}
    return Evidence(report, {"stats": previous} if previous else None, rows, 0)


def test_each_asset_has_a_blocking_and_an_informational_check() -> None:
    for asset in ("perplexity", "probability_probes", "needle_in_haystack", "release_card"):
        kinds = {limit.blocking for limit in EVALUATION if limit.asset == asset}
        kinds |= {check.blocking for check in CHECKS.get(asset, ())}
        assert kinds == {True, False}, asset


@pytest.mark.parametrize(("rows", "passed"), [(116, True), (115, False), (0, False)])
def test_missing_rows_are_found(rows: int, passed: bool) -> None:
    outcome = CHECKS["probability_probes"][0].run(evidence({"checkpoints": 2, "probes": 58}, {"probes": rows}))
    assert outcome.passed is passed
    assert f"{rows} rows" in outcome.description


@pytest.mark.parametrize(("before", "passed"), [(3.0, True), (2.96, True), (2.9, False)])
def test_a_worse_rebuild_is_found(before: float, passed: bool) -> None:
    check = CHECKS["perplexity"][0]
    assert check.run(evidence({"final_loss": 3.0}, {}, {"final_loss": before})).passed is passed


def test_a_first_version_has_nothing_to_compare_with() -> None:
    assert CHECKS["perplexity"][0].run(evidence({"final_loss": 3.0}, {})).passed
