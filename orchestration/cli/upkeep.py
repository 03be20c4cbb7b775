"""`headwater log`, `diff`, `gc` and `compact`: the history of the store, and what is kept of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

MOST_DAYS = 36_500
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def add_upkeep_commands(
    app: typer.Typer, expected_errors: Callable[[Callable[..., None]], Callable[..., None]]
) -> None:
    """The four commands, under the error handling of the main command."""
    for command in (log, diff, gc, compact):
        app.command()(expected_errors(command))


def log(
    path: Annotated[str | None, typer.Argument(help="Only commits that changed something under this path.")] = None,
    ref: Annotated[str, typer.Option(help="Branch, tag or commit.")] = "main",
    limit: Annotated[int, typer.Option(min=1, help="At most so many commits.")] = 20,
    json: Json = False,
) -> None:
    """History of the data, newest first; says when there are older commits than it shows."""
    from itertools import islice

    from orchestration.cli.render import tables
    from orchestration.process.workplace import open_workplace
    from orchestration.publish.publisher import STAGED
    from orchestration.store.contract import PathNotFoundError

    published = (c for c in open_workplace().store.log(ref, path) if STAGED not in c.metadata)
    commits = list(islice(published, limit + 1))
    if path and not commits:
        raise PathNotFoundError(
            f"nothing under {path!r} was ever published on {ref}; paths begin as in GROUP/ASSET/, for instance "
            "dedup/corpus/ (`headwater status` lists the assets)"
        )
    tables.log(commits[:limit], more=len(commits) > limit, as_json=json)


def diff(
    before: Annotated[str, typer.Argument(help="Branch, tag or commit.")],
    after: Annotated[str, typer.Argument(help="Branch, tag or commit.")] = "main",
    prefix: Annotated[str, typer.Option(help="Only paths that begin so, for instance dedup/corpus/.")] = "",
    json: Json = False,
) -> None:
    """Files that differ between two versions of the data."""
    from orchestration.cli.render import tables
    from orchestration.process.workplace import open_workplace

    tables.diff(open_workplace().store.diff(before, after, prefix), as_json=json)


def _days(value: float) -> float:
    """`nan` is below no limit and beyond none, and no clock goes back a million days."""
    if not 0 <= value <= MOST_DAYS:
        raise typer.BadParameter(f"{value} is no number of days between 0 and {MOST_DAYS:,}")
    return value


def gc(
    keep_days: Annotated[
        float, typer.Option(min=0, callback=_days, help="Keep what commits of the last so many days hold.")
    ] = 14.0,
    keep_states: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="First let go of the optimiser states of all but the newest so many runs of each recipe; models stay, "
            "and so does what a tag keeps.",
        ),
    ] = None,
    keep_history_days: Annotated[
        float,
        typer.Option(
            min=0, callback=_days, help="Keep the logs of Dagster's runs that ended in the last so many days."
        ),
    ] = 30.0,
    dry_run: Annotated[bool, typer.Option(help="Only say what would be deleted.")] = False,
    json: Json = False,
) -> None:
    """Delete objects that no branch, tag (runs are tagged) or recent commit needs, and old logs of Dagster's runs."""
    from orchestration.cli.render import tables
    from orchestration.identity.catalog import read_catalog
    from orchestration.process.workplace import open_workplace
    from orchestration.upkeep.retention import drop_states
    from orchestration.upkeep.run_history import trim_home
    from orchestration.upkeep.run_tags import refuse_untagged_runs

    workplace = open_workplace()
    store = workplace.store
    refuse_untagged_runs(store)
    dropped = drop_states(store, read_catalog(store), keep_states, dry_run=dry_run) if keep_states is not None else []
    report = store.gc(keep_days=keep_days, dry_run=dry_run)
    history = trim_home(workplace, keep_history_days, dry_run=dry_run)
    tables.garbage(report, dropped, history, keep_days, dry_run=dry_run, as_json=json)


def compact(
    drop: Annotated[
        bool, typer.Option("--drop", help="Delete the packs instead; builds then read partition by partition.")
    ] = False,
    json: Json = False,
) -> None:
    """Copy the tables of many small crawls into packs that builds read instead; `headwater run` does it too."""
    from orchestration.cli.render import tables
    from orchestration.identity.catalog import read_catalog
    from orchestration.process.progress import progress_for, terminal
    from orchestration.process.workplace import open_workplace
    from orchestration.upkeep.compaction import compact, drop_packs

    workplace = open_workplace()
    if drop:
        drop_packs(workplace.home)
        return
    with terminal(tables.console(json)):
        progress = progress_for("compaction")
        done = compact(workplace.store, read_catalog(workplace.store), workplace.home, progress)
        progress.finish(
            f"{sum(each.partitions for each in done):,} partitions in {sum(each.packs for each in done)} packs"
        )
    tables.packs(done, as_json=json)
