"""Dagster's instance behind the UI: what a person types there is judged before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dagster import DagsterInstance
from dagster._core.instance.ref import InstanceRef

from orchestration.config import Config, ConfigError
from orchestration.graph.in_progress import PARTITION_TAG
from orchestration.graph.launch_options import refuse_unknown_sources, sources_accepted
from orchestration.identity.catalog import read_catalog
from orchestration.identity.key_order import Kind, check_order
from orchestration.identity.partitions import check_stamp, split_key
from orchestration.identity.status import CRAWL, PLANNER
from orchestration.process.workplace import open_workplace
from orchestration.stages import BY_NAME, JOBS

KINDS: tuple[Kind, ...] = ("crawl", "run")


class HomeInstance(DagsterInstance):
    """Refuses partitions that name no crawl and no run, and options that name no source, with our own sentences."""

    @classmethod
    def config_schema(cls) -> Mapping[str, Any]:
        """Dagster asks; there is nothing to configure."""
        return {}

    @staticmethod
    def config_defaults(base_dir: str) -> Mapping[str, Any]:
        """Dagster asks: as without a class of one's own."""
        return InstanceRef.config_defaults(base_dir)

    def add_dynamic_partitions(self, partitions_def_name: str, partition_keys: Sequence[str]) -> None:
        """Raises PartitionError, KeyOrderError or ConfigError for what can be no partition of now."""
        for kind in KINDS:
            if kind == partitions_def_name:
                for key in partition_keys:
                    refuse_key(kind, key)
        super().add_dynamic_partitions(partitions_def_name, partition_keys)

    def create_run(self, **wanted: Any) -> Any:
        """Raises the same for a run that is launched with one, or with options that mean nothing here."""
        tags = wanted.get("tags") or {}
        kind, key = _kind(wanted), tags.get(PARTITION_TAG)
        if kind and key:
            refuse_key(kind, key)
        if named := sources_accepted(wanted.get("run_config") or {}, tags):
            refuse_unknown_sources(named, open_workplace().config.sources)
        return super().create_run(**wanted)


def open_home_instance(folder: Path | str) -> DagsterInstance:
    """The instance of a Dagster home, as the UI uses it."""
    ours = {"module": HomeInstance.__module__, "class": HomeInstance.__name__}
    return DagsterInstance.from_ref(InstanceRef.from_dir(str(folder), overrides={"instance_class": ours}))


def refuse_key(kind: Kind, key: str) -> None:
    """Raises PartitionError, KeyOrderError or ConfigError unless a crawl or run of this name may be made, or is there."""
    name, stamp = split_key(key)
    check_stamp(stamp)
    workplace = open_workplace()
    published = read_catalog(workplace.store).partitions(CRAWL if kind == "crawl" else PLANNER)
    if key not in published:
        _refuse_unknown_name(kind, name, workplace.config)
    check_order(kind, key, published)


def _refuse_unknown_name(kind: Kind, name: str, config: Config) -> None:
    if kind == "crawl":
        refuse_unknown_sources([name], config.sources)
    elif name not in config.runs:
        known = ", ".join(sorted(config.runs)) or "none"
        raise ConfigError(f"recipe {name!r} is not in config/recipes/; known: {known}")


def _kind(wanted: Mapping[str, Any]) -> Kind | None:
    """Crawl or run, by the assets that a run selects, or by its job."""
    names = [key.path[-1] for key in wanted.get("asset_selection") or ()]
    names = names or list(next((assets for job, assets in JOBS.items() if job == wanted.get("job_name")), ()))
    return next((BY_NAME[name].partition for name in names if name in BY_NAME and BY_NAME[name].partition), None)
