"""Builds what a new crawl or a new run made stale. Our staleness walk decides; the sensor only triggers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dagster as dg

from orchestration.catalog import read_catalog
from orchestration.identity import digest_of
from orchestration.status import Item, walk
from orchestration.workplace import open_workplace

INTERVAL_S = 60


def build_sensors(jobs: dict[str, Any]) -> list[dg.SensorDefinition]:
    """One sensor for the global stages and one for the lineage, off until a person turns them on."""
    return [
        _stale_sensor("build_what_is_stale", jobs["curate_job"], lineage=False),
        _stale_sensor("index_new_runs", jobs["audit_job"], lineage=True),
    ]


def _stale_sensor(name: str, job: Any, *, lineage: bool) -> dg.SensorDefinition:
    @dg.sensor(
        name=name,
        job=job,
        minimum_interval_seconds=INTERVAL_S,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Materialises exactly the unpartitioned assets that `headwater status` calls stale or missing.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        items = stale_global_items(lineage=lineage)
        if not items:
            yield dg.SkipReason("everything is fresh, or waits for a crawl partition to be finished")
            return
        # The same staleness asks once: a failed build is not retried until something changes.
        run_key = digest_of([[item.asset, item.causes, item.version] for item in items])
        yield dg.RunRequest(
            run_key=run_key,
            asset_selection=[dg.AssetKey(item.asset) for item in items],
            tags={"headwater/reason": "; ".join(f"{i.asset}: {i.causes[0]}" for i in items)[:250]},
        )

    return sensor


def stale_global_items(*, lineage: bool) -> list[Item]:
    """Stale or missing unpartitioned assets, unless a crawl partition upstream is itself unfinished."""
    workplace = open_workplace()
    status = walk(read_catalog(workplace.store), workplace.config)
    if not status.of("raw_crawl"):
        return []
    if any(
        item.state in ("stale", "missing") and item.partition and "@" in item.partition and _is_crawl(item)
        for item in status.items.values()
    ):
        return []
    return [
        item for item in status.needing() if item.partition is None and (item.asset.startswith("lineage") == lineage)
    ]


def _is_crawl(item: Item) -> bool:
    from orchestration.stages import BY_NAME

    return BY_NAME[item.asset].partition == "crawl"
