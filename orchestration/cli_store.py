"""`headwater store ...`: what concerns a store as a whole."""

from __future__ import annotations

from typing import Annotated

import typer

store_app = typer.Typer(
    help="Copy a store to another place or another kind of store.", no_args_is_help=True, rich_markup_mode=None
)
Place = Annotated[str, typer.Argument(help="A folder, or lakefs://REPOSITORY.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


@store_app.callback()
def store() -> None:
    """Copy a store to another place or another kind of store."""


@store_app.command("copy")
def copy(source: Place, target: Place, json: JsonOption = False) -> None:
    """Copy all commits, branches, tags and takedowns from SOURCE to TARGET, then compare them file by file.

    Interrupted or repeated, it continues with what is missing.
    """
    from orchestration.cli import expected_errors

    expected_errors(_copy)(source, target, json)


def _copy(source: str, target: str, json: bool) -> None:
    import json as encoder
    from dataclasses import asdict
    from pathlib import Path

    from rich.console import Console

    from orchestration.store import open_store
    from orchestration.store.contract import StoreError
    from orchestration.store.copy import copy_store

    if not source.startswith("lakefs://") and not Path(source.removeprefix("git:")).exists():
        raise StoreError(f"there is no store at {source}")
    out = Console()
    tell = (lambda line: None) if json else lambda line: out.print(line, highlight=False, markup=False, soft_wrap=True)
    report = copy_store(open_store(source), open_store(target), tell)  # type: ignore[arg-type]
    if json:
        print(encoder.dumps(asdict(report)))
        return
    out.print(
        f"{report.commits} commits copied ({report.already_there} were there), {report.branches} branches, "
        f"{report.tags} tags, {report.takedowns} takedowns; {report.files_compared} files compared: all equal.",
        highlight=False,
        soft_wrap=True,
    )
    for line in report.left_out:
        out.print(f"left out: {line}", highlight=False, markup=False, soft_wrap=True)
