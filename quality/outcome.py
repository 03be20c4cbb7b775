"""The shape of a quality check: pure function of statistics, never of texts, with a reason for its verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Evidence:
    """What a check may look at: the report of the staged data and of the accepted data before it.

    Both are `StageReport.as_json()` dicts: documents_in, documents_kept, dropped, tokens_in,
    tokens_out, stats. `rows` maps each staged table to its row count; `total_bytes` is the size
    of all staged files.
    """

    report: Mapping[str, Any]
    previous: Mapping[str, Any] | None
    rows: Mapping[str, int]
    total_bytes: int
    yields: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Source -> its `documents_in` and `dropped` (reason -> documents); of a crawl's partition, its whole report."""
    history: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """Source -> its yields in what was accepted before, oldest first: earlier partitions of a crawl's asset, earlier
    versions of an asset without partitions. `accepted` marks those whose alarm a person accepted."""
    samples: Sequence[Mapping[str, Any]] = ()
    """Sample tables of the staged report, each with `title`, `columns` and `rows`: to show, never to judge by."""

    def statistic(self, name: str) -> Any:
        """A report field (`documents_kept`), `drop_rate`, or an entry of stats; `a.b` looks into a nested one.

        Raises KeyError naming what exists: a check of a statistic that nobody measures is a bug.
        """
        if name == "drop_rate":
            documents_in = self.report.get("documents_in") or 0
            return sum(self.report["dropped"].values()) / documents_in if documents_in else 0.0
        if name in self.report and name != "stats":
            return self.report[name]
        value: Any = self.report["stats"]
        for part in name.split("."):
            if part not in value:
                raise KeyError(f"no statistic {name!r}; this report has {sorted(self.report['stats'])}")
            value = value[part]
        return value


@dataclass(frozen=True)
class CheckOutcome:
    """Verdict of one check, in words with the numbers in them."""

    passed: bool
    description: str
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """A named check of one asset. A blocking one that fails keeps the data off `main`."""

    name: str  # a true sentence in snake_case: drop_rate_is_within_budget
    blocking: bool
    description: str  # the rule and its reason
    run: Callable[[Evidence], CheckOutcome]
