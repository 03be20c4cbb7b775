"""Which checkpoint a person means, what must be known of it, and the tokenizer it was trained with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from assets.errors import HeadwaterError
from orchestration.config import Config
from orchestration.identity.catalog import Catalog, prefix, read_catalog, segment
from orchestration.identity.partitions import newest_keys
from orchestration.identity.status import CRAWL, PLANNER, walk
from orchestration.process.terminal import listed
from orchestration.stages import BY_NAME
from orchestration.store.contract import VersionedStore
from orchestration.upkeep.taken_down import TakenDown, taken_down
from training.contract import outputs

CHECKPOINTS, CARD, TOKENIZER = "base_checkpoints", "release_card", "tokenizer"


class CheckoutError(HeadwaterError):
    """A checkpoint is not to be had, or cannot be put there. Nothing was written."""


@dataclass(frozen=True)
class Chosen:
    """One published checkpoint: its row of checkpoints.parquet, and what else its run has."""

    run: str
    step: int
    steps: tuple[int, ...]
    """All of the run, ascending."""
    row: dict[str, Any]
    manifest: dict[str, Any]

    @property
    def folder(self) -> str:
        """Path of the checkpoint in the store, ending in a slash."""
        return f"{prefix(BY_NAME[CHECKPOINTS], self.run)}{self.row['folder']}/"


def choose(store: VersionedStore, catalog: Catalog, subject: str) -> Chosen:
    """RUN/STEP, RUN (its last step) or RECIPE (its newest run). Raises CheckoutError naming what there is."""
    name, slash, wanted = subject.partition("/")
    runs = catalog.partitions(CHECKPOINTS)
    run = name if "@" in name else newest_keys(runs).get(name, name)
    manifest = catalog.get(CHECKPOINTS, run)
    if manifest is None:
        raise CheckoutError(_unknown(name, run, runs, catalog.partitions(PLANNER)))
    rows = segment(store, catalog.commit, manifest, verified=True).table("checkpoints").to_pylist()
    by_step = {row["step"]: row for row in rows}
    steps = tuple(sorted(by_step))
    step = (int(wanted) if wanted.isascii() and wanted.isdigit() else -1) if slash else steps[-1]
    if step not in by_step:
        known = listed([str(each) for each in steps], 20)
        raise CheckoutError(f"{run} has no checkpoint of step {wanted!r}; it has the steps {known}.")
    return Chosen(run, step, steps, by_step[step], manifest)


def _unknown(name: str, run: str, runs: Sequence[str], planned: Sequence[str]) -> str:
    begun = run in planned or ("@" not in name and run in newest_keys(planned))
    why = "is planned, but has no published checkpoint yet" if begun else "is no run with published checkpoints"
    known = f"there are {listed(runs[::-1])}" if runs else "there are none: `headwater run` trains and publishes them"
    return f"{name!r} {why}; {known}. Name one as RUN/STEP, or as RUN for its last step."


def notes_on(
    store: VersionedStore, catalog: Catalog, config: Config, chosen: Chosen, *, allow_stale: bool
) -> tuple[str, ...]:
    """What a person must know of it, one sentence each. Raises CheckoutError where it is stale, unless that is allowed."""
    status = walk(catalog, config)
    items = [item for asset in (CHECKPOINTS, CARD) if (item := status.items.get((asset, chosen.run)))]
    stale = [f"{item.label} is stale ({'; '.join(item.causes)})" for item in items if item.state == "stale"]
    if stale and not allow_stale:
        raise CheckoutError(
            f"{chosen.run}/{chosen.step} is not checked out: {'; '.join(stale)}. `headwater run` brings everything up to "
            "date; --allow-stale checks it out as it is, and its README.md says so."
        )
    found = [f"Stale when it was checked out: {each}." for each in stale]
    manifests = [m for asset in (CHECKPOINTS, CARD) if (m := catalog.get(asset, chosen.run))]
    allowed = dict.fromkeys(each for m in manifests for each in m.get("built_on_stale_input", ()))
    found += [f"Built on stale input, which was allowed then: {each}." for each in allowed]
    newest = newest_keys(catalog.partitions(PLANNER)).get(chosen.run.partition("@")[0], chosen.run)
    if newest != chosen.run:
        found.append(f"{newest} is a newer run of the same recipe.")
    if catalog.get(CARD, chosen.run) is None:
        found.append("Not evaluated yet: this run has no release card.")
    return (*found, *_taken_down_since(store, catalog, chosen.run, taken_down(store)))


def _taken_down_since(store: VersionedStore, catalog: Catalog, run: str, gone: Sequence[TakenDown]) -> list[str]:
    """Whether the run read crawls of which something was taken down: its weights were not made again."""
    crawls = {each.partition for each in gone if each.asset and BY_NAME[each.asset].partition == "crawl"}
    read = _planned_on(store, catalog, run).partitions(CRAWL) if crawls else []
    seen = [crawl for crawl in read if crawl in crawls]
    return [f"Something of {listed(seen)} was taken down since; the weights may remember it."] if seen else []


def tokenizer_of(store: VersionedStore, catalog: Catalog, chosen: Chosen) -> tuple[str, dict[str, Any]]:
    """(commit, manifest) of the tokenizer that the weights were trained with, which main may have replaced since."""
    marker = json.loads(store.read_bytes(catalog.commit, chosen.folder + outputs.MARKER))
    wanted = marker["identity"]["tokenizer_version"]
    current = catalog.get(TOKENIZER, None)
    if current is not None and current["version"] == wanted:
        return catalog.commit, current
    pinned = _planned_on(store, catalog, chosen.run)
    planned = pinned.get(TOKENIZER, None)
    if planned is None or planned["version"] != wanted:
        raise CheckoutError(
            f"{chosen.run}/{chosen.step} was trained with tokenizer {wanted[:12]}, which neither main nor the commit that the "
            f"run was planned on ({pinned.commit[:12]}) has; `headwater verify` looks for damage."
        )
    return pinned.commit, planned


def _planned_on(store: VersionedStore, catalog: Catalog, run: str) -> Catalog:
    planner = catalog.get(PLANNER, run)
    if planner is None:
        raise CheckoutError(
            f"{run} has no {PLANNER}: nothing says what it was planned on; `headwater verify` looks for damage."
        )
    return read_catalog(store, planner["pin"])
