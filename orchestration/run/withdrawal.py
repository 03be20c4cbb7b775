"""The way out of a takedown: `headwater run --recrawl SOURCE` starts a source anew when something of it was taken down.

A crawl says what changed since the one before, so that a later crawl needs the files of the earlier ones. Where some
are gone, all crawls of the source leave main before it is crawled, and the new one is its first: every page
is new, and what is made from it needs nothing that is gone. Their history stays. Killed in between, or where the new
crawl fails, the source has no crawl, and every `headwater run` tries it until one succeeds.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestration.identity.catalog import prefix, read_catalog
from orchestration.identity.partitions import split_key
from orchestration.identity.status import CRAWL_STAGES
from orchestration.process.workplace import Workplace
from orchestration.stages import BY_NAME
from orchestration.store.contract import MAIN
from orchestration.upkeep.taken_down import by_partition, taken_down


def withdraw(workplace: Workplace, sources: Sequence[str]) -> dict[str, int]:
    """Take the crawls of those sources off main that lost something to a takedown; one commit for each.

    Source -> how many crawls left.
    """
    if not sources:
        return {}
    store = workplace.store
    done: dict[str, int] = {}
    lost = {split_key(key)[0] for asset, key in by_partition(taken_down(store)) if asset in CRAWL_STAGES and key}
    for source in sorted(lost & set(sources)):
        catalog = read_catalog(store)
        published = sorted(
            (stage, key)
            for stage, key in catalog.manifests
            if stage in CRAWL_STAGES and key and split_key(key)[0] == source
        )
        keys = tuple(sorted({str(key) for _, key in published}))
        for key in keys:  # or it would count as started and not published
            workplace.instance.delete_dynamic_partition("crawl", key)
        store.commit(
            MAIN,
            {},
            [prefix(BY_NAME[stage], key) for stage, key in published],
            message=f"Withdraw {len(keys)} crawl(s) of {source}: something of them was taken down, it is crawled anew",
            metadata={"withdrawn": source},
            expected_parent=catalog.commit,
        )
        done[source] = len(keys)
    return done
