"""Tags `run/<key>`: each holds the commit that a run was planned on. Without its tag, `gc` deletes what it was made of."""

from __future__ import annotations

from orchestration.identity.catalog import CatalogError, read_catalog
from orchestration.identity.status import PLANNER
from orchestration.store import open_store
from orchestration.store.contract import REPAIR, Damage, DamagedIndexError, StoreError, VersionedStore


def untagged_runs(store: VersionedStore) -> dict[str, str]:
    """Published runs without their tag -> the commit it would name."""
    catalog, tags = read_catalog(store), store.tags()
    pins = {run: str(catalog.manifests[PLANNER, run]["pin"]) for run in catalog.partitions(PLANNER)}
    return {run: pin for run, pin in pins.items() if f"run/{run}" not in tags}


def refuse_untagged_runs(store: VersionedStore) -> None:
    """Raise DamagedIndexError while a published run has lost its tag."""
    if runs := untagged_runs(store):
        raise DamagedIndexError(
            f"{len(runs)} published runs have no tag (run/{', run/'.join(sorted(runs)[:5])}), so that gc would delete the "
            f"data they were made of: nothing was deleted. {REPAIR} (here also without --from) writes the tags again."
        )


def restore_run_tags(store: VersionedStore) -> list[str]:
    """Tag every published run again as its manifest says; what was done, a line per run."""
    done = []
    for run, pin in sorted(untagged_runs(store).items()):
        store.tag(f"run/{run}", pin, f"data that run {run} was planned on")
        done.append(f"tag run/{run}: written again, at {pin[:12]}, as the manifest of the run says")
    return done


def untagged_runs_damage(place: str) -> list[Damage]:
    """The same for `verify`; nothing where the store is too damaged to tell."""
    try:
        runs = untagged_runs(open_store(place))
    except (StoreError, CatalogError):
        return []
    return [Damage(f"refs/tags/run/{run}", "missing", (), (pin,), "ref") for run, pin in sorted(runs.items())]
