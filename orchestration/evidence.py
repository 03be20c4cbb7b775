"""What the checks of a staged partition look at, the yields of its source before it, and what a person accepted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from assets.build import StageReport
from orchestration.catalog import Catalog
from orchestration.partitions import split_key
from orchestration.stages import Stage
from quality.asset_checks import NamedOutcome
from quality.outcome import Evidence
from quality.yields import YIELDS_ARE_LIKE_BEFORE

ACCEPT_YIELD_TAG = "headwater/accept_yield"
"""Run tag: sources, separated by commas, whose yields may jump in this run."""


def earlier_reports(stage: Stage, partition: str | None, catalog: Catalog) -> list[Mapping[str, Any]]:
    """Reports of the accepted partitions of the same source before this one, oldest first; none without partitions."""
    if stage.partition != "crawl" or partition is None:
        return []
    source = split_key(partition)[0]
    keys = [key for key in catalog.partitions(stage.name) if split_key(key)[0] == source and key < partition]
    return [catalog.manifests[stage.name, key]["report"] for key in keys]


def evidence(
    stage: Stage,
    partition: str | None,
    catalog: Catalog,
    report: StageReport,
    manifest: Mapping[str, Any],
) -> Evidence:
    """What the checks of a staged partition may look at."""
    previous = catalog.get(stage.name, partition)
    return Evidence(
        report.as_json(),
        previous["report"] if previous else None,
        manifest["rows"],
        manifest["bytes"],
        earlier_reports(stage, partition, catalog),
        [{"title": each.title, "columns": each.columns, "rows": each.rows} for each in report.samples],
    )


def accept(
    checks: Sequence[NamedOutcome], partition: str | None, sources: frozenset[str]
) -> tuple[tuple[NamedOutcome, ...], list[str]]:
    """The checks, with a yield alarm of an accepted source as a remark instead; and what was accepted, for the manifest."""
    accepted, seen = [], []
    named = partition is not None and split_key(partition)[0] in sources
    for check in checks:
        if named and check.name == YIELDS_ARE_LIKE_BEFORE.name and not check.outcome.passed:
            seen.append(check.outcome.description)
            words = f"accepted by a person: {check.outcome.description}"
            check = replace(check, blocking=False, outcome=replace(check.outcome, description=words))
        accepted.append(check)
    return tuple(accepted), seen
