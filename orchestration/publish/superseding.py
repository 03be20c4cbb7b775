"""A crawl that a check blocked is not built upon: the next crawl of its source starts from the one before it.

Which crawls it leaves out stands in the new crawl's manifest (`supersedes`), so that every reader of the store, and
a build from scratch, leaves them out as well. Before there is a newer crawl, a person may still accept the blocked
one or mend the recipe.
"""

from __future__ import annotations

import json

from orchestration.identity.catalog import Catalog, prefix
from orchestration.identity.digest import MANIFEST
from orchestration.identity.partitions import split_key
from orchestration.identity.status import CRAWL_STAGES, published_crawls, whole_crawls
from orchestration.stages import BY_NAME
from orchestration.store.contract import VersionedStore


def superseded_by(key: str, catalog: Catalog, store: VersionedStore) -> list[str]:
    """Published crawls that a new crawl leaves out: from the first of its source that is blocked on, if one is."""
    source = split_key(key)[0]
    mine = [each for each in published_crawls(catalog) if split_key(each)[0] == source and each < key]
    whole = set(whole_crawls(catalog, mine))
    broken = [each for each in mine if each not in whole]
    return broken if broken and _is_blocked(broken[0], catalog, store) else []


def _is_blocked(key: str, catalog: Catalog, store: VersionedStore) -> bool:
    """Whether what is missing of the crawl was staged and failed a blocking check: it lies on its build branch."""
    missing = [name for name in CRAWL_STAGES if (name, key) not in catalog.manifests]
    stages = {f"build/{name}/{key}/": BY_NAME[name] for name in missing}
    for branch in store.branches():
        for start, stage in stages.items():
            if branch.startswith(start):
                manifest = json.loads(store.read_bytes(branch, prefix(stage, key) + MANIFEST))
                if any(check["blocking"] and not check["passed"] for check in manifest["checks"]):
                    return True
    return False
