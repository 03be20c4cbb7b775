"""Limits over the statistics of a stage. Before one keeps data off `main`, Great Expectations judges it.

Importing that takes longer than most stages that publish something small (3.5 CPU seconds), and whether a number lies
between two others needs no library: so it is imported by the first blocking limit of a process that looks broken.
It keeps whole rows inside its results, so what it sees is a one-row frame of numbers; texts never enter a data frame.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from functools import cache
from math import isnan
from typing import Any

from quality.outcome import CheckOutcome, Evidence
from quality.thresholds import Limit


def check_limits(limits: Sequence[Limit], evidence: Evidence) -> Iterator[tuple[Limit, CheckOutcome]]:
    """Validate each limit; raises KeyError if a statistic is not measured, TypeError if it is no number."""
    for limit in limits:
        value = _number(limit, evidence)
        low = "no lower limit" if limit.minimum is None else f"at least {limit.minimum:g}"
        high = "no upper limit" if limit.maximum is None else f"at most {limit.maximum:g}"
        yield (
            limit,
            CheckOutcome(
                within(value, limit) or (limit.blocking and validates(value, limit)),
                f"{limit.statistic} = {value:g} ({low}, {high}): {limit.reason}",
                {"value": value, "minimum": limit.minimum, "maximum": limit.maximum},
            ),
        )


def within(value: float, limit: Limit) -> bool:
    """Whether a number lies between two limits, both included."""
    return (limit.minimum is None or value >= limit.minimum) and (limit.maximum is None or value <= limit.maximum)


def validates(value: float, limit: Limit) -> bool:
    """What Great Expectations says of a number between two limits, as a frame of one row."""
    import pandas as pd

    batch = _batch_definition().get_batch(batch_parameters={"dataframe": pd.DataFrame([{limit.statistic: value}])})
    from great_expectations.expectations.core.expect_column_values_to_be_between import ExpectColumnValuesToBeBetween

    expectation = ExpectColumnValuesToBeBetween(
        column=limit.statistic, min_value=limit.minimum, max_value=limit.maximum
    )
    return bool(batch.validate(expectation, result_format="BOOLEAN_ONLY").success)


def _number(limit: Limit, evidence: Evidence) -> float:
    value = evidence.statistic(limit.statistic)
    # Not a number is missing to Great Expectations, and what is missing passes.
    if isinstance(value, bool) or not isinstance(value, int | float) or isnan(value):
        raise TypeError(f"{limit.asset}.{limit.check}: statistic {limit.statistic} is {value!r}, not a number")
    return float(value)


@cache
def _batch_definition() -> Any:
    """One in-memory context per process, without telemetry and without progress bars."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "False")
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    import great_expectations as gx

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}  # type: ignore[assignment]
    source = context.data_sources.add_pandas("statistics")
    return source.add_dataframe_asset("stage").add_batch_definition_whole_dataframe("row")
