"""What `headwater status` and `headwater plan` print. A source has a crawl for each night: of many partitions in one
state all but the newest are one row with what they have in common, for nobody reads a thousand nights, and drawing
them takes ten seconds. --json lists each."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from orchestration.cli.render.tables import table
from orchestration.cli.render.takedown import named
from orchestration.identity.catalog import Catalog
from orchestration.identity.status import Item, Status
from orchestration.process.terminal import console, emit, quoted
from orchestration.upkeep.taken_down import TakenDown
from orchestration.upkeep.taken_down import as_json as taken_down_json

STATE_STYLE = {"fresh": "green", "stale": "yellow", "missing": "red", "history": "dim", "taken_down": "magenta"}
SHOWN_PARTITIONS, SHOWN_NEWEST = 20, 10
Row = TypeVar("Row")


def folded(rows: Iterable[Row], group: Callable[[Row], Hashable]) -> Iterator[tuple[Sequence[Row], Sequence[Row]]]:
    """Per group, in order of appearance: the older rows that become one, and those that are shown."""
    groups: dict[Hashable, list[Row]] = {}
    for row in rows:
        groups.setdefault(group(row), []).append(row)
    for found in groups.values():
        older = len(found) - SHOWN_NEWEST if len(found) > SHOWN_PARTITIONS else 0
        yield found[:older], found[older:]


def in_common(causes: Sequence[Sequence[str]]) -> list[str]:
    """What every one of them says, in the words of the first."""
    others = [set(each) for each in causes[1:]]
    return [cause for cause in causes[0] if all(cause in other for other in others)]


def status(found: Status, gone: Sequence[TakenDown] = (), *, as_json: bool) -> None:
    """One row per asset and partition, with the causes; then what was taken down."""
    if as_json:
        emit(
            {
                "commit": found.commit,
                "items": [
                    {
                        "asset": item.asset,
                        "partition": item.partition,
                        "state": item.state,
                        "causes": list(item.causes),
                        "version": item.version,
                        "code": item.identity.code if item.identity else None,
                    }
                    for item in found.items.values()
                ],
                "taken_down": taken_down_json(gone),
            }
        )
        return
    grid = table("Status", "asset", "partition", "state", "why", "version")
    for older, shown in folded(found.items.values(), lambda item: (item.asset, item.state)):
        if older:
            why = _why(in_common([item.causes for item in older]))
            grid.add_row(older[0].asset, _count_of(older), _state(older[0]), why, "")
        for item in shown:
            grid.add_row(item.asset, item.partition or "", _state(item), _why(item.causes), (item.version or "")[:12])
    out = console()
    if not found.items:
        out.print("Nothing is built yet. `make demo` or `headwater run` begins.")
        return
    out.print(grid)
    counts = {s: sum(i.state == s for i in found.items.values()) for s in STATE_STYLE}
    out.print(", ".join(f"{n} {s}" for s, n in counts.items() if n))
    if counts["stale"] or counts["missing"]:
        out.print("Next: `headwater plan` shows what would be built; `headwater run` builds it.")
    named(gone, out)


def _state(item: Item) -> str:
    return f"[{STATE_STYLE[item.state]}]{item.state}[/]"


def _why(causes: Sequence[str]) -> str:
    return quoted("; ".join(causes[:3]) + (f" (+{len(causes) - 3} more)" if len(causes) > 3 else ""))


def _count_of(older: Sequence[Any]) -> str:
    return f"{len(older):,} older (--json)"


def plan(steps: Sequence[Any], catalog: Catalog, outlook: str | None = None, *, as_json: bool) -> None:
    """Steps with causes and the seconds their last builds took; then what is to be expected of the crawls."""
    durations: dict[str, list[float]] = {}
    for (asset, _), manifest in catalog.manifests.items():
        durations.setdefault(asset, []).append(manifest["duration_s"])
    seconds = {asset: sum(found) / len(found) for asset, found in durations.items()}
    rows = [
        {
            "job": step.job,
            "partition": step.partition,
            "asset": asset,
            "why": list(step.causes.get(asset, ())),
            "seconds": seconds.get(asset),
        }
        for step in steps
        for asset in step.assets
    ]
    known = [row["seconds"] for row in rows if row["seconds"] is not None]
    if as_json:
        emit(
            {"steps": rows, "seconds": sum(known), "assets_without_history": len(rows) - len(known), "outlook": outlook}
        )
        return
    out = console()
    if not rows:
        out.print("Everything is up to date: `headwater run` would do nothing.")
        return
    grid = table("Plan", "job", "partition", "asset", "why", "seconds", numbers=["seconds"])
    for older, shown in folded(rows, lambda row: (row["job"], row["asset"])):
        if older:
            why = quoted("; ".join(in_common([row["why"] for row in older])[:2]))
            grid.add_row(older[0]["job"], _count_of(older), older[0]["asset"], why, _seconds(older))
        for row in shown:
            why = quoted("; ".join(row["why"][:2]))
            grid.add_row(row["job"], row["partition"] or "", row["asset"], why, _seconds([row]))
    out.print(grid)
    note = f", {len(rows) - len(known)} never built before (unknown)" if len(known) < len(rows) else ""
    out.print(f"About {sum(known):.0f} s{note}.")
    if outlook:
        out.print(outlook, markup=False, soft_wrap=True)


def _seconds(rows: Sequence[dict[str, Any]]) -> str:
    known = [row["seconds"] for row in rows if row["seconds"] is not None]
    return f"{sum(known):.1f}" if known else "?"
