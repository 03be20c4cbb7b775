"""A StageReport as JSON and back, so that samples and plots survive with the data they describe."""

from __future__ import annotations

import base64
from datetime import date, datetime
from typing import Any

from assets.build import Sample, StageReport


def encode(report: StageReport) -> dict[str, Any]:
    """JSON-safe: plots as base64, cells that JSON does not know as text."""
    return report.as_json() | {
        "samples": [
            {
                "title": sample.title,
                "columns": list(sample.columns),
                "rows": [[_cell(cell) for cell in row] for row in sample.rows],
            }
            for sample in report.samples
        ],
        "plots": {title: base64.b64encode(png).decode() for title, png in report.plots.items()},
        "volatile_files": list(report.volatile_files),
    }


def decode(content: dict[str, Any]) -> StageReport:
    """The inverse of `encode`."""
    return StageReport(
        documents_in=content["documents_in"],
        documents_kept=content["documents_kept"],
        dropped=content["dropped"],
        tokens_in=content["tokens_in"],
        tokens_out=content["tokens_out"],
        stats=content["stats"],
        samples=[
            Sample(s["title"], tuple(s["columns"]), tuple(tuple(row) for row in s["rows"])) for s in content["samples"]
        ],
        plots={title: base64.b64decode(text) for title, text in content["plots"].items()},
        volatile_files=tuple(content["volatile_files"]),
    )


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, date | datetime):
        return value.isoformat()
    return str(value)
