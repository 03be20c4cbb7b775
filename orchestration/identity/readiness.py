"""Which stale or missing items can be built now, and what the others lack: for the driver and for the sensors."""

from __future__ import annotations

from collections.abc import Iterable

from orchestration.identity.catalog import Catalog
from orchestration.identity.status import Item, Status, published_crawls, unfit_inputs
from orchestration.stages import BY_NAME


def ready(items: Iterable[Item], status: Status, catalog: Catalog) -> tuple[list[Item], dict[str, list[str]]]:
    """(Items of one run whose inputs are fresh or made by the run before them, label -> what the others lack).

    Items are in graph order, as a run builds them.
    """
    crawls = published_crawls(catalog)
    made: set[tuple[str, str | None]] = set()
    found, waiting = [], {}
    for item in items:
        unfit = unfit_inputs(BY_NAME[item.asset], item.partition, catalog, crawls, status, for_build=True)
        lacking = [f"{asset}[{at}]" if at else asset for (asset, at), _ in unfit if (asset, at) not in made]
        if lacking:
            waiting[item.label] = lacking
        else:
            made.add((item.asset, item.partition))
            found.append(item)
    return found, waiting
