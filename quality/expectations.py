"""Limits as a Great Expectations suite over one row of statistics. Texts never enter a data frame.

Great Expectations keeps whole rows inside its results, so what is validated is a one-row frame of
numbers, one column per statistic.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from quality.outcome import CheckOutcome, Evidence
from quality.thresholds import Limit


def check_limits(limits: Sequence[Limit], evidence: Evidence) -> Iterator[tuple[Limit, CheckOutcome]]:
    """Validate each limit; raises KeyError if a statistic is not measured, TypeError if it is no number."""
    if not limits:
        return
    import pandas as pd
    from great_expectations.expectations.core.expect_column_values_to_be_between import ExpectColumnValuesToBeBetween

    values = {limit.statistic: _number(limit, evidence) for limit in limits}
    batch = _batch_definition().get_batch(batch_parameters={"dataframe": pd.DataFrame([values])})
    for limit in limits:
        expectation = ExpectColumnValuesToBeBetween(
            column=limit.statistic, min_value=limit.minimum, max_value=limit.maximum
        )
        result = batch.validate(expectation, result_format="BOOLEAN_ONLY")
        value = values[limit.statistic]
        low = "no lower limit" if limit.minimum is None else f"at least {limit.minimum:g}"
        high = "no upper limit" if limit.maximum is None else f"at most {limit.maximum:g}"
        yield (
            limit,
            CheckOutcome(
                bool(result.success),
                f"{limit.statistic} = {value:g} ({low}, {high}): {limit.reason}",
                {"value": value, "minimum": limit.minimum, "maximum": limit.maximum},
            ),
        )


def _number(limit: Limit, evidence: Evidence) -> float:
    value = evidence.statistic(limit.statistic)
    if isinstance(value, bool) or not isinstance(value, int | float):
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
