"""Fresh, stale and why, missing: our own walk over all ancestors, from the manifests.

Dagster's own staleness is not transitive, skips wide fan-ins and never refuses; this one decides.
A partition is stale when one of its own parts changed (configuration, code, libraries, inputs) or
anything upstream is not fresh. Raw crawls are evidence and never stale. Runs that a newer run of the
same recipe superseded are history, and so are crawls that a check blocked when a newer one took their place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from orchestration.config import Config, ConfigError
from orchestration.identity.catalog import Catalog
from orchestration.identity.fingerprint import Identity, identity
from orchestration.identity.partitions import newest_keys, previous_key
from orchestration.stages import BY_NAME, STAGES, Edge, Stage, ancestors

CRAWL = "raw_crawl"
"""What the world said at one time: evidence, never stale."""

PLANNER = "mixture_manifest"
"""The first asset of a run: it reads what is on main and pins that commit for the rest of the run."""

CRAWL_STAGES = tuple(stage.name for stage in STAGES if stage.partition == "crawl")
"""What one crawl goes through."""

_BY_ITSELF = tuple(name for name in CRAWL_STAGES if all(each.partition for each in ancestors(BY_NAME[name])))
"""Those of them that read nothing but the crawl."""

State = Literal["fresh", "stale", "missing", "history", "taken_down"]
"""`taken_down` is for people (taken_down.py): the walk does not look for it, and a build fails only if it reads what is gone."""


@dataclass(frozen=True)
class Item:
    """One partition of one asset."""

    asset: str
    partition: str | None
    state: State
    causes: tuple[str, ...] = ()
    """Why it is stale or missing, most direct first."""
    version: str | None = None
    identity: Identity | None = None
    """What it would be if built now; None for history and where the configuration is gone."""

    @property
    def label(self) -> str:
        """`asset` or `asset[partition]`, for messages."""
        return f"{self.asset}[{self.partition}]" if self.partition else self.asset


@dataclass
class Status:
    """The state of every known partition of every asset, in graph order."""

    commit: str
    items: dict[tuple[str, str | None], Item] = field(default_factory=dict)

    def of(self, asset: str) -> list[Item]:
        """Items of one asset, sorted by partition."""
        return [item for (name, _), item in self.items.items() if name == asset]

    def needing(self) -> list[Item]:
        """Everything stale or missing, in graph order."""
        return [item for item in self.items.values() if item.state in ("stale", "missing")]


def current_inputs(
    stage: Stage, partition: str | None, catalog: Catalog, crawls: list[str]
) -> dict[str, dict[str, str]]:
    """Upstream -> partition -> version that a build would read now (frozen and pinned edges give none)."""
    found: dict[str, dict[str, str]] = {}
    for edge in stage.inputs:
        if edge.kind in ("frozen", "pinned"):
            continue
        for key in _edge_keys(edge, stage, partition, catalog, crawls):
            manifest = catalog.get(edge.upstream, key)
            if manifest:
                found.setdefault(edge.upstream, {})[key or ""] = manifest["version"]
    return found


def _edge_keys(
    edge: Edge, stage: Stage, partition: str | None, catalog: Catalog, crawls: list[str]
) -> list[str | None]:
    """Partitions of the upstream asset that an edge leads to, published or not."""
    upstream = BY_NAME[edge.upstream]
    if upstream.partition is None:
        return [None]
    if edge.kind == "same":
        return [partition]
    if edge.kind == "previous":
        before = previous_key(partition or "", crawls)
        return [before] if before else []
    if edge.kind == "records" or upstream.partition == "run":
        return list(catalog.partitions(edge.upstream))
    return list(whole_crawls(catalog, crawls))


def whole_crawls(catalog: Catalog, crawls: Sequence[str]) -> list[str]:
    """The crawls that are read across partitions: of each source all before the first that is not published whole.

    What a crawl goes through only after a global stage is no part of it: who reads that waits for it.

    A crawl whose extraction is blocked or still runs keeps only itself, and the later ones of its source, which
    say only what changed since, out of the global stages: they go on with what is there.
    """
    broken: set[str] = set()
    whole = []
    for key in crawls:
        source = key.partition("@")[0]
        if source in broken:
            continue
        if all((name, key) in catalog.manifests for name in _BY_ITSELF):
            whole.append(key)
        else:
            broken.add(source)
    return whole


def published_crawls(catalog: Catalog) -> list[str]:
    """Crawl partitions whose raw crawl is published: the ones that downstream must account for.

    Those that a later crawl was not built upon (superseding.py) are history.
    """
    gone = set(superseded_crawls(catalog))
    return [key for key in catalog.partitions(CRAWL) if key not in gone]


def superseded_crawls(catalog: Catalog) -> dict[str, str]:
    """Crawl that a check blocked -> the crawl that takes its place."""
    found: dict[str, str] = {}
    for key in catalog.partitions(CRAWL):
        found |= dict.fromkeys(catalog.manifests[CRAWL, key].get("supersedes", ()), key)
    return found


def walk(catalog: Catalog, config: Config, extra_runs: Iterable[str] = (), of: Stage | None = None) -> Status:
    """State of everything at a catalog, or of what a stage reads, directly or through others.

    `extra_runs` adds runs that were started but published nothing.
    """
    status = Status(catalog.commit)
    crawls, gone = published_crawls(catalog), superseded_crawls(catalog)
    runs = sorted(set(catalog.partitions(PLANNER)) | set(extra_runs))
    newest = set(newest_keys(runs).values())
    for stage in STAGES if of is None else ancestors(of):
        keys: list[str | None] = [None]
        if stage.partition:
            keys = [*sorted([*crawls, *gone])] if stage.partition == "crawl" else [*runs]
        for key in keys:
            superseded = key in gone or (stage.partition == "run" and key not in newest)
            item = (
                _history(stage, key, catalog, gone)
                if superseded
                else _judge(stage, key, catalog, config, crawls, status)
            )
            if item:
                status.items[stage.name, key] = item
    return status


def _history(stage: Stage, key: str | None, catalog: Catalog, gone: Mapping[str, str]) -> Item | None:
    manifest = catalog.get(stage.name, key)
    causes = (f"blocked by a check; {gone[key]} takes its place",) if key and key in gone else ()
    return Item(stage.name, key, "history", causes, manifest["version"]) if manifest else None


def _judge(stage: Stage, key: str | None, catalog: Catalog, config: Config, crawls: list[str], status: Status) -> Item:
    manifest = catalog.get(stage.name, key)
    version = manifest["version"] if manifest else None
    if stage.name == CRAWL and manifest:
        return Item(stage.name, key, "fresh", version=version)
    upstream = upstream_problems(stage, key, catalog, crawls, status)
    try:
        wanted = identity(stage, key, config, current_inputs(stage, key, catalog, crawls))
    except ConfigError as error:
        if stage.partition == "run" and manifest:
            return Item(stage.name, key, "history", (str(error),), version)
        return Item(stage.name, key, "stale" if manifest else "missing", (str(error),), version)
    if manifest is None:
        return Item(stage.name, key, "missing", ("never built", *upstream), None, wanted)
    causes = (*differences(manifest["identity"], wanted), *upstream)
    return Item(stage.name, key, "stale" if causes else "fresh", causes, version, wanted)


def upstream_problems(
    stage: Stage,
    key: str | None,
    catalog: Catalog,
    crawls: list[str],
    status: Status,
    *,
    for_build: bool = False,
) -> list[str]:
    """Upstream partitions that are not fresh, one sentence each; for a build these forbid it.

    Through frozen and pinned edges a stale upstream does not make something built stale (a changed
    recipe shows as a difference of its own), but nothing new may be built from it: a frozen sample
    reads its inputs when it is built, a run when it is planned (mixture_manifest).
    """
    return [
        f"upstream {upstream}[{at}] is {state}" if at else f"upstream {upstream} is {state}"
        for (upstream, at), state in unfit_inputs(stage, key, catalog, crawls, status, for_build=for_build)
    ]


def unfit_inputs(
    stage: Stage,
    key: str | None,
    catalog: Catalog,
    crawls: list[str],
    status: Status,
    *,
    for_build: bool = False,
) -> list[tuple[tuple[str, str | None], State]]:
    """Upstream partitions that are not fresh, with their state (see `upstream_problems`)."""
    found: list[tuple[tuple[str, str | None], State]] = []
    built = catalog.get(stage.name, key) is not None
    for edge in stage.inputs:
        if edge.kind == "records":
            continue
        if edge.kind in ("frozen", "pinned") and (built if not for_build else _reads_pin(edge, stage)):
            continue
        for upstream_key in _edge_keys(edge, stage, key, catalog, crawls):
            item = status.items.get((edge.upstream, upstream_key))
            state = item.state if item else "missing"
            if state in ("stale", "missing"):
                found.append(((edge.upstream, upstream_key), state))
    return found


def _reads_pin(edge: Edge, stage: Stage) -> bool:
    return edge.kind == "pinned" and stage.name != PLANNER


def differences(recorded: dict[str, Any], wanted: Identity) -> list[str]:
    """What changed between a manifest's identity and what it would be now, named as a person would."""
    causes = _changed_keys("config", recorded["config"], wanted.config)
    if recorded["code"] != wanted.code:
        names = _changed_modules(recorded["modules"], wanted.modules)
        causes.append(f"code changed: {', '.join(names) or wanted.code}")
    for name in _changed_names(recorded["libraries"], wanted.libraries):
        before, after = recorded["libraries"].get(name, "absent"), wanted.libraries.get(name, "absent")
        causes.append(f"library changed: {name} {before} -> {after}")
    for asset in sorted(set(recorded["inputs"]) | set(wanted.inputs)):
        before, after = recorded["inputs"].get(asset, {}), wanted.inputs.get(asset, {})
        changed = _changed_names(before, after)
        if changed:
            shown = ", ".join(c or "its version" for c in changed[:3]) + (" ..." if len(changed) > 3 else "")
            causes.append(f"input changed: {asset} ({shown})")
    for asset in _changed_names(recorded["recipes"], wanted.recipes):
        causes.append(f"recipe upstream changed: {asset}")
    return causes


def _changed_modules(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Modules that say something else. One that was only moved does not, and of what was hashed in another way (by an
    earlier version, recognised by its length) nothing can be told."""
    if {len(digest) for digest in before.values()} != {len(digest) for digest in after.values()}:
        return []
    moved = set(before.values()) & set(after.values())
    return [name for name in _changed_names(before, after) if not {before.get(name), after.get(name)} & moved]


def _changed_names(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    if before == after:
        return []
    return sorted(k for k in set(before) | set(after) if before.get(k) != after.get(k))


def _changed_keys(name: str, before: Any, after: Any) -> list[str]:
    if before == after:
        return []
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            cause
            for key in sorted(set(before) | set(after))
            for cause in _changed_keys(f"{name}.{key}", before.get(key), after.get(key))
        ]
    return [f"{name} changed: {_short(before)} -> {_short(after)}"]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."
