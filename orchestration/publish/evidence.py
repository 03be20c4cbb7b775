"""What the checks of a staged partition look at, the yields of its source before it, and what a person accepted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from assets.build import StageReport
from orchestration.identity.catalog import Catalog
from orchestration.identity.partitions import split_key
from orchestration.identity.status import published_crawls
from orchestration.stages import Stage
from quality.asset_checks import NamedOutcome
from quality.outcome import Evidence
from quality.thresholds import YIELD_DOCUMENTS_MINIMUM, YIELD_HISTORY_VERSIONS

ACCEPT_YIELD_TAG = "headwater/accept_yield"
"""Run tag: sources, separated by commas, whose yields may jump in this run."""


def source_yields(stage: Stage, partition: str | None, report: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Source -> what of it came in and was dropped, by a report; none for assets that do not handle documents."""
    if stage.partition == "crawl" and partition is not None:
        return {split_key(partition)[0]: report}
    came, dropped = (report["stats"].get(name, {}) for name in ("documents_by_source", "dropped_by_source"))
    return {source: {"documents_in": n, "dropped": dropped.get(source, {})} for source, n in came.items()}


def earlier_yields(stage: Stage, partition: str | None, catalog: Catalog) -> dict[str, list[Mapping[str, Any]]]:
    """Source -> its yields in what was accepted before, oldest first, as `Evidence.history`.

    Each version of an asset without partitions carries the yields of those before it in its manifest: garbage
    collection may take old versions, and a night must not read them all. Small sources have no history.
    """
    if stage.partition == "crawl" and partition is not None:
        source = split_key(partition)[0]
        keys = [k for k in published_crawls(catalog) if split_key(k)[0] == source and k < partition]
        keys = [k for k in keys if (stage.name, k) in catalog.manifests]
        manifests = [catalog.manifests[stage.name, key] for key in keys]
        return {source: [each["report"] | {"accepted": bool(each.get("accepted_yields"))} for each in manifests]}
    previous = catalog.get(stage.name, partition) if stage.partition is None else None
    if previous is None:
        return {}
    history = {source: list(known) for source, known in previous.get("yield_history", {}).items()}
    for source, last in source_yields(stage, None, previous["report"]).items():
        known = history.setdefault(source, [])
        accepted = {"accepted": True} if source in previous.get("accepted_sources", ()) else {}
        same = known and all(known[-1][name] == last[name] for name in ("documents_in", "dropped"))
        if last["documents_in"] >= YIELD_DOCUMENTS_MINIMUM and (accepted or not same):
            known.append({**last, **accepted})
    return {source: known[-YIELD_HISTORY_VERSIONS:] for source, known in sorted(history.items()) if known}


def evidence(
    stage: Stage,
    partition: str | None,
    catalog: Catalog,
    report: StageReport,
    manifest: Mapping[str, Any],
) -> Evidence:
    """What the checks of a staged partition may look at."""
    previous = catalog.get(stage.name, partition)
    found = report.as_json()
    return Evidence(
        found,
        previous["report"] if previous else None,
        manifest["rows"],
        manifest["bytes"],
        source_yields(stage, partition, found),
        earlier_yields(stage, partition, catalog),
        [{"title": each.title, "columns": each.columns, "rows": each.rows} for each in report.samples],
    )


def accept(
    checks: Sequence[NamedOutcome], sources: frozenset[str]
) -> tuple[tuple[NamedOutcome, ...], dict[str, list[str]]]:
    """The checks, with an alarm of accepted sources alone as a remark instead; and what the manifest says of it."""
    accepted: list[NamedOutcome] = []
    said: list[str] = []
    named: set[str] = set()
    for check in checks:
        concerned = set() if check.outcome.passed else set(check.outcome.metadata.get("sources", ()))
        if check.blocking and concerned and concerned <= sources:
            said.append(check.outcome.description)
            named |= concerned
            words = f"accepted by a person: {check.outcome.description}"
            check = replace(check, blocking=False, outcome=replace(check.outcome, description=words))
        accepted.append(check)
    return tuple(accepted), {"accepted_yields": said, "accepted_sources": sorted(named)} if said else {}
