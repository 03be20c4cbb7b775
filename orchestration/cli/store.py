"""`headwater store ...` and `headwater repair`: what concerns a store as a whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

Place = Annotated[str, typer.Argument(help="A folder, or lakefs://REPOSITORY.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of sentences.")]


def store_commands(expected_errors: Callable[[Callable[..., None]], Callable[..., None]]) -> typer.Typer:
    """The sub-commands, each under the error handling of the main command."""
    commands = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    commands.callback()(whole_stores)
    commands.command("copy")(expected_errors(copy))
    return commands


def add_repair_command(app: typer.Typer, expected_errors: Callable[[Callable[..., None]], Callable[..., None]]) -> None:
    """`headwater repair`, under the error handling of the main command."""
    app.command("repair")(expected_errors(repair))


def repair(
    source: Annotated[
        Path | None,
        typer.Option("--from", help="A clone of the store (with git-lfs), a mirror, or a backup of its folder."),
    ] = None,
    json: Json = False,
) -> None:
    """Mend the store: refs, Git objects and contents that are lost or damaged. Exit code 3 when some stay so.

    Without --from, what can be told from the store itself. Only bytes with the right digest are taken.
    """
    from dataclasses import asdict

    from orchestration.cli.render import store as render_store
    from orchestration.process.terminal import emit
    from orchestration.process.workplace import open_workplace
    from orchestration.publish.publisher import STAGED
    from orchestration.store import open_store
    from orchestration.store.contract import StoreError, VerifyReport
    from orchestration.store.git.mending.repair import repair as mend
    from orchestration.upkeep.run_tags import restore_run_tags

    place = open_workplace().store_place
    if "://" in place:
        raise StoreError(f"{place} keeps its refs on a server, which has its own backups; repair mends a local store")
    report = mend(Path(place.removeprefix("git:")), source, STAGED)
    if all(damage.kind == "content" for damage in report.left):
        report.done += restore_run_tags(open_store(place))
    if json:
        emit(asdict(report))
    else:
        render_store.repaired(report.done, VerifyReport(damage=report.left))
    if report.left:
        raise typer.Exit(3)


def whole_stores() -> None:
    """Copy a store to another place or another kind of store."""


def copy(source: Place, target: Place, json: Json = False) -> None:
    """Copy all commits, branches, tags and takedowns from SOURCE to TARGET, then compare them file by file.

    Interrupted or repeated, it continues with what is missing.
    """
    from dataclasses import asdict

    from orchestration.process.terminal import console, emit
    from orchestration.store import open_store
    from orchestration.store.contract import StoreError
    from orchestration.store.copy import copy_store

    if not source.startswith("lakefs://") and not Path(source.removeprefix("git:")).exists():
        raise StoreError(f"there is no store at {source}")
    out = console(json)
    tell = (lambda line: None) if json else lambda line: out.print(line, highlight=False, markup=False, soft_wrap=True)
    report = copy_store(open_store(source), open_store(target), tell)
    if json:
        emit(asdict(report))
        return
    out.print(
        f"{report.commits} commits copied ({report.already_there} were there), {report.branches} branches, "
        f"{report.tags} tags, {report.takedowns} takedowns; {report.files_compared} files compared: all equal.",
        highlight=False,
        soft_wrap=True,
    )
    for line in report.left_out:
        out.print(f"left out: {line}", highlight=False, markup=False, soft_wrap=True)
