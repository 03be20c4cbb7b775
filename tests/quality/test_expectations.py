"""Limits: our comparison and Great Expectations' agree, and a process without a broken limit does not import it."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quality.expectations import check_limits, validates, within
from quality.outcome import Evidence
from quality.thresholds import LIMITS, Limit

numbers = st.floats(allow_nan=False, allow_infinity=False, width=32) | st.integers(-1000, 1000).map(float)
limits = st.none() | numbers

IN_LIMITS = """
import sys
from quality.asset_checks import run_checks
from quality.outcome import Evidence
stats = {"live_after": 3, "crawl_was_complete": 1, "changed_share": 0.9}
report = {"documents_in": 3, "documents_kept": 3, "dropped": {}, "stats": stats}
from quality.expectations import check_limits
from quality.thresholds import SOURCES
found = list(check_limits([each for each in SOURCES if each.asset == "crawl_delta"], Evidence(report, None, {}, 0)))
print([outcome.passed for _, outcome in found], sorted({"great_expectations", "pandas"} & set(sys.modules)))
"""


def limit(minimum: float | None, maximum: float | None, *, blocking: bool = True) -> Limit:
    return Limit("crawl_delta", "numbers_are_small", "number", minimum, maximum, blocking, "for a test")


def measured(value: object) -> Evidence:
    return Evidence(
        {"documents_in": None, "documents_kept": None, "dropped": {}, "stats": {"number": value}}, None, {}, 0
    )


@settings(max_examples=40, deadline=None)
@given(numbers, limits, limits)
def test_our_comparison_and_great_expectations_agree(value: float, low: float | None, high: float | None) -> None:
    if (low is None and high is None) or (None not in (low, high) and low > high):  # type: ignore[operator]
        low, high = value, None  # limits that it refuses to make
    assert within(value, limit(low, high)) == validates(value, limit(low, high))


@pytest.mark.parametrize(("value", "passed"), [(0, False), (1, True), (2, True), (3, False)])
@pytest.mark.parametrize("blocking", [True, False])
def test_a_limit_holds_from_its_minimum_to_its_maximum(value: int, passed: bool, blocking: bool) -> None:
    [(_, outcome)] = check_limits([limit(1, 2, blocking=blocking)], measured(value))
    assert outcome.passed is passed
    assert outcome.description == f"number = {value} (at least 1, at most 2): for a test"


@pytest.mark.parametrize("value", [math.nan, "3", True, None])
def test_what_is_no_number_never_passes(value: object) -> None:
    with pytest.raises(TypeError, match="not a number"):
        list(check_limits([limit(None, 2)], measured(value)))


def test_great_expectations_is_imported_only_to_block() -> None:
    done = subprocess.run([sys.executable, "-c", IN_LIMITS], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[True, True, False] []"


def test_every_limit_has_a_side_and_a_reason() -> None:
    assert [each.check for each in LIMITS if (each.minimum, each.maximum) == (None, None) or not each.reason] == []
