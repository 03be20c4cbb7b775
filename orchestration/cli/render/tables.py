"""What the command line prints: a table for people, or the same content as JSON on standard output."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.table import Table

from orchestration.process.terminal import console as console
from orchestration.process.terminal import emit as emit
from orchestration.process.terminal import quoted as quoted
from orchestration.store.contract import Change, CommitInfo, GarbageReport
from orchestration.upkeep.compaction import Packed
from orchestration.upkeep.retention import DroppedStates
from orchestration.upkeep.run_history import TrimmedHistory

if TYPE_CHECKING:
    from assets.training.layout import LayoutAdvice
    from assets.training.shape_rules import Advice


def table(title: str | None, *columns: str, numbers: Iterable[str] = ()) -> Table:
    """An empty table; the columns named in `numbers` are right-aligned."""
    grid = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=None, pad_edge=False)
    right = set(numbers)
    for column in columns:
        grid.add_column(
            column, justify="right" if column in right else "left", overflow="fold", no_wrap=column in right
        )
    return grid


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return ""


def packs(done: Sequence[Packed], *, as_json: bool) -> None:
    """One row per asset."""
    if as_json:
        emit([asdict(each) for each in done])
        return
    grid = table("Packs", "asset", "partitions", "packs", "rows", numbers=("partitions", "packs", "rows"))
    for each in done:
        grid.add_row(each.asset, f"{each.partitions:,}", str(each.packs), f"{each.rows:,}")
    console().print(grid)


def audit(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    """Findings, one per rule and run; rows of rule `taken_down` are a state, not violations."""
    if as_json:
        emit(rows)
        return
    grid = table("Audit", "rule", "run", "checked", "violations", "example", numbers=["checked", "violations"])
    for row in rows:
        style = "red" if row["violations"] else "green"
        shown = (f"{row['checked']:,}", f"[{style}]{row['violations']:,}[/]", quoted(row["example"] or ""))
        grid.add_row(row["rule"], row["run"], *shown)
    console().print(grid)


def layout(advice: LayoutAdvice, shape: Sequence[Advice], *, as_json: bool) -> None:
    """The rungs that were considered, the chosen layout with its reasons and memory, and the rules of good shape."""
    from assets.training.memory import memory_shares

    rungs = [
        {
            "layout": rung.name,
            "memory_gib": None if rung.memory is None else round(rung.memory.total / 2**30, 1),
            "verdict": rung.verdict,
        }
        for rung in (*advice.tried, advice.chosen)
    ]
    memory = memory_shares(advice.memory)
    if as_json:
        content = {"recipe": advice.recipe, "memory_bytes_per_rank": memory, "considered": rungs}
        emit(content | {"reasons": advice.reasons, "shape": [asdict(each) for each in shape]})
        return
    out = console()
    grid = table("Layouts considered", "layout", "GiB per GPU", "verdict", numbers=["GiB per GPU"])
    for rung in rungs:
        grid.add_row(rung["layout"], "" if rung["memory_gib"] is None else f"{rung['memory_gib']}", rung["verdict"])
    out.print(grid)
    out.print("\n[bold]\\[training][/]  # for the recipe")
    for name, value in advice.recipe.items():
        out.print(f"{name} = {json.dumps(value)}")
    out.print("\n[bold]Why[/]")
    for reason in advice.reasons:
        out.print(f"- {quoted(reason)}")
    out.print(f"\n[bold]Memory of a GPU at its worst moment[/] ({advice.memory.moment})")
    grid = table(None, "held by", "GiB", numbers=["GiB"])
    for name, count in memory.items():
        grid.add_row(name, f"{count / 2**30:.1f}")
    out.print(grid)
    for each in shape:
        if not each.kept:
            out.print(f"[yellow]shape:[/] {quoted(each.rule)} (here {quoted(each.found)}): {quoted(each.why)}")


def findings(rows: Sequence[Any], *, as_json: bool) -> None:
    """What doctor found."""
    if as_json:
        emit([asdict(row) for row in rows])
        return
    grid = table("Doctor", "", "check", "found", "remedy")
    for row in rows:
        mark = "[green]✓[/]" if row.ok else ("[red]✗[/]" if row.severity == "error" else "[yellow]![/]")
        grid.add_row(mark, row.name, quoted(row.found), "" if row.ok else quoted(row.remedy))
    console().print(grid)


def log(commits: Sequence[CommitInfo], *, more: bool, as_json: bool) -> None:
    """History, newest first; `more`: there are older commits."""
    if as_json:
        found = [asdict(commit) | {"metadata": dict(commit.metadata)} for commit in commits]
        emit({"commits": found, "more": more})
        return
    grid = table("Log", "commit", "when", "message")
    for commit in commits:
        grid.add_row(commit.id[:12], commit.committed_at, quoted(commit.message.splitlines()[0]))
    console().print(grid)
    if more:
        console().print(f"the newest {len(commits):,} commits; there are older ones (`--limit N`)")


def diff(changes: Sequence[Change], *, as_json: bool) -> None:
    """Paths that differ."""
    if as_json:
        emit([asdict(change) for change in changes])
        return
    grid = table("Diff", "", "path", "before", "after", numbers=["before", "after"])
    for change in changes:
        before = size(change.before.size_bytes) if change.before else ""
        after = size(change.after.size_bytes) if change.after else ""
        grid.add_row(change.kind, quoted(change.path), before, after)
    out = console()
    out.print(grid if changes else "No difference.")


def garbage(
    report: GarbageReport,
    dropped: Sequence[DroppedStates],
    history: TrimmedHistory,
    keep_days: float,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """What gc did, the states of runs that left main before, and what left Dagster's history."""
    if as_json:
        emit(asdict(report) | {"dropped_states": [asdict(each) for each in dropped], "history": asdict(history)})
        return
    for each in dropped:
        console().print(
            f"{each.run}: the states of {each.checkpoints} checkpoints ({size(each.bytes)}) "
            f"{'would leave' if dry_run else 'left'} main; commits of the last {keep_days:g} days keep them",
            highlight=False,
        )
    verb = "would be deleted" if dry_run else "deleted"
    console().print(
        f"{report.deleted_objects:,} objects ({size(report.deleted_bytes)}) {verb}, {report.kept_objects:,} kept."
    )
    if report.packed_objects:
        verb = "would be packed" if dry_run else "packed"
        console().print(f"{report.packed_objects:,} small files of the store's history {verb}.")
    if history.deleted_runs or history.shortened_runs:
        verb, freed = ("would leave", "") if dry_run else ("left", f" ({size(history.freed_bytes)})")
        runs = history.deleted_runs + history.shortened_runs
        console().print(
            f"The logs of {runs:,} old runs {verb} Dagster's history{freed}; {history.deleted_runs:,} wholly."
        )
