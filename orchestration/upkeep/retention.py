"""Which checkpoints stay resumable when there are many runs.

Lineage, scores and release cards name models (`hf/`), and those stay. The optimiser's state (`dcp/`) is three
quarters of the bytes and only serves to train on: it stays for the newest runs of a recipe, and for every run at the
commits that tags keep. Data versions do not count it, so nothing becomes stale.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from orchestration.identity.catalog import Catalog, prefix
from orchestration.identity.digest import DIGESTS, MANIFEST
from orchestration.identity.partitions import split_key
from orchestration.stages import BY_NAME
from orchestration.store.contract import MAIN, VersionedStore
from training.contract.outputs import MARKER

STAGE = BY_NAME["base_checkpoints"]


@dataclass(frozen=True)
class DroppedStates:
    """What one run lets go of."""

    run: str
    checkpoints: int
    bytes: int


def older_runs(runs: Iterable[str], keep: int) -> list[str]:
    """Runs that are not among the newest `keep` of their recipe, sorted."""
    newest: dict[str, list[str]] = {}
    for run in sorted(runs, key=lambda key: split_key(key)[1], reverse=True):
        newest.setdefault(split_key(run)[0], []).append(run)
    return sorted(run for of_recipe in newest.values() for run in of_recipe[keep:])


def drop_states(store: VersionedStore, catalog: Catalog, keep: int, *, dry_run: bool = False) -> list[DroppedStates]:
    """Take the states of all but the newest `keep` runs of each recipe off main, in one commit; gc frees their bytes.

    Raises LostRaceError when something was published meanwhile: nothing has changed then.
    """
    put: dict[str, bytes] = {}
    remove: list[str] = []
    dropped = []
    for run in older_runs(catalog.partitions(STAGE.name), keep):
        manifest = catalog.manifests[STAGE.name, run]
        states = [name for name in manifest["files"] if name.startswith("checkpoints/") and "/dcp/" in name]
        if not states:
            continue
        folder = prefix(STAGE, run)
        checkpoints = sorted({name.partition("/dcp/")[0] for name in states})
        changed: dict[str, Any] = {
            f"{name}/{MARKER}": without_state(_json(store, catalog, f"{folder}{name}/{MARKER}")) for name in checkpoints
        }
        digests = _json(store, catalog, folder + DIGESTS)
        changed[DIGESTS] = {name: digest for name, digest in digests.items() if name not in states}
        encoded = {name: _encoded(content) for name, content in changed.items()}
        sizes = {name: size for name, size in manifest["files"].items() if name not in states}
        sizes |= {name: len(content) for name, content in encoded.items() if name in sizes}
        encoded[MANIFEST] = _encoded(manifest | {"files": sizes, "bytes": sum(sizes.values())})
        put |= {folder + name: content for name, content in encoded.items()}
        remove += [folder + name for name in states]
        dropped.append(DroppedStates(run, len(checkpoints), sum(manifest["files"][name] for name in states)))
    if dropped and not dry_run:
        message = f"Let go of the optimiser states of {len(dropped)} runs; their models stay"
        store.commit(MAIN, put, remove, message=message, expected_parent=catalog.commit)
    return dropped


def without_state(marker: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's description as the training program itself writes it when it keeps the model alone."""
    kept = {name: entry for name, entry in marker["files"].items() if not name.startswith("dcp/")}
    return marker | {"files": kept, "keeps_state": False}


def _json(store: VersionedStore, catalog: Catalog, path: str) -> dict[str, Any]:
    return json.loads(store.read_bytes(catalog.commit, path))


def _encoded(content: Any) -> bytes:
    return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False).encode()
