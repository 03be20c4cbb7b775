"""Partitions that were started and have published nothing: which of them are tried again, and how one is forgotten.

A crawl that fails leaves its partition registered in Dagster. It is tried again by the next `headwater run`, once,
for most failures pass; after that only `--recrawl SOURCE` tries it, so that one dead server does not cost every
night its time-outs. A source without any published crawl is tried every time: nothing can be built from it yet.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestration.identity.catalog import Catalog, prefix, read_catalog
from orchestration.identity.key_order import believable, is_ahead
from orchestration.identity.partitions import PartitionError, split_key
from orchestration.identity.status import CRAWL
from orchestration.process.asset_lock import AlreadyRunningError
from orchestration.process.dagster_peek import partitions
from orchestration.process.reaper import CUT_SHORT_TAG
from orchestration.process.workplace import Workplace
from orchestration.stages import BY_NAME, STAGES
from orchestration.store.contract import MAIN

if TYPE_CHECKING:
    from dagster import DagsterInstance

TRIES = 2
"""How often a crawl of a source that has a published one is tried by itself: once, and once more after it failed."""

KINDS = ("crawl", "run")


def registered(workplace: Workplace, kind: str) -> list[str]:
    """Partitions that were started, here or in the UI, where anything can be typed: what can be no key of now is left out."""
    return believable(partitions(workplace, kind))


def unfinished_crawls(started: Iterable[str], catalog: Catalog) -> dict[str, str]:
    """Source -> its newest crawl that was started and not published; none where a newer one is published."""
    newest: dict[str, str] = {}
    for key in catalog.partitions(CRAWL):
        newest[split_key(key)[0]] = key
    found: dict[str, str] = {}
    for key in sorted(started):
        source = split_key(key)[0]
        if key > newest.get(source, ""):
            found[source] = key
    return found


def failures(instance: DagsterInstance, key: str) -> int:
    """How often the crawl of a partition failed by itself: a killed or interrupted one did not."""
    from dagster import DagsterRunStatus, RunsFilter

    runs = instance.get_runs(RunsFilter(tags={"dagster/partition": key}, statuses=[DagsterRunStatus.FAILURE]))
    return sum(CUT_SHORT_TAG not in run.tags for run in runs)


def abandon(workplace: Workplace, keys: Sequence[str]) -> None:
    """Forget partitions that were started and never published, with what was staged of them.

    One from the future is forgotten although it is published: all that a later crawl or run may do is wait for its day.
    Raises PartitionError for what is unknown or published, AlreadyRunningError for what is being built.
    """
    if not keys:
        return
    from dagster import DagsterRunStatus, RunsFilter

    instance, catalog = workplace.instance, read_catalog(workplace.store)
    kinds = {key: kind for kind in KINDS for key in instance.get_dynamic_partitions(kind)}
    published = {partition for _, partition in catalog.manifests if partition}
    kinds |= {key: "crawl" if key in catalog.partitions(CRAWL) else "run" for key in published}
    for key in keys:
        if key in published:
            _refuse_to_withdraw(key, keys, published)
        if key not in kinds:
            raise PartitionError(f"partition {key} was never started. {_known(set(kinds) - published)}")
        active = [DagsterRunStatus.STARTED, DagsterRunStatus.STARTING, DagsterRunStatus.CANCELING]
        if instance.get_runs(RunsFilter(tags={"dagster/partition": key}, statuses=active)):
            raise AlreadyRunningError(f"partition {key} is being built. Wait for it, or end it; then abandon it.")
    for key in keys:
        if key in published:
            _withdraw(workplace, key, catalog)
        _forget_staged(workplace, key)
        instance.delete_dynamic_partition(kinds[key], key)


def _refuse_to_withdraw(key: str, keys: Sequence[str], published: Iterable[str]) -> None:
    """Raises PartitionError unless a published partition is from the future, and so is what was made after it."""
    if not is_ahead(key):
        raise PartitionError(
            f"partition {key} is published: what was built from it would no longer be true. Only a partition that "
            "never published anything, or one that is stamped more than a day ahead of the clock, can be abandoned."
        )
    source = split_key(key)[0]
    after = sorted(each for each in published if each > key and split_key(each)[0] == source and each not in keys)
    if after:
        options = " ".join(f"--abandon {each}" for each in [key, *after])
        raise PartitionError(
            f"partition {key} was published before {after[0]}, which says what changed since: they can be abandoned "
            f"together: `headwater run {options}`."
        )


def _withdraw(workplace: Workplace, key: str, catalog: Catalog) -> None:
    """Take a partition off `main`. The history keeps it, and so does the tag of a run."""
    folders = [prefix(BY_NAME[asset], partition) for asset, partition in catalog.manifests if partition == key]
    message = f"Withdraw {key}: it is stamped more than a day ahead of the clock"
    workplace.store.commit(MAIN, {}, folders, message=message, metadata={"withdrawn": key})


def _known(unfinished: Iterable[str]) -> str:
    found = sorted(unfinished)
    return f"Unfinished: {', '.join(found)}." if found else "No partition is unfinished."


def _forget_staged(workplace: Workplace, key: str) -> None:
    """Delete the build branches and scratch folders of a partition."""
    for stage in STAGES:
        for branch in [b for b in workplace.store.branches() if b.startswith(f"build/{stage.name}/{key}/")]:
            workplace.store.delete_branch(branch)
        shutil.rmtree(Path(workplace.home) / "scratch" / stage.name / key, ignore_errors=True)
