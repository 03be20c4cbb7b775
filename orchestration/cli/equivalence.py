"""`headwater equivalence ...`: code hashes, and which of them give the same output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of sentences.")]


def equivalence_commands(expected_errors: Callable[[Callable[..., None]], Callable[..., None]]) -> typer.Typer:
    """The sub-commands, each under the error handling of the main command."""
    commands = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    commands.callback()(equivalences)
    commands.command("codes")(expected_errors(codes))
    commands.command("declare")(expected_errors(declare))
    return commands


def equivalences() -> None:
    """For those who change Headwater's code: hashes of it, and which of them give the same output."""


def codes(json: Json = False) -> None:
    """The hash of each stage's code as the files are now: what a manifest calls `code`."""
    from orchestration.identity.equivalences import codes as of_stages
    from orchestration.process.terminal import console, emit

    found = of_stages()
    if json:
        emit(found)
        return
    for stage, code in found.items():
        console(json).print(f"{stage:<22} {code}", highlight=False, markup=False)


def declare(
    reason: Annotated[str, typer.Argument(help="What was refactored, and how you know that no output changed.")],
    json: Json = False,
) -> None:
    """Declare that the working tree computes what the last commit does: write orchestration/equivalences.toml.

    For a refactor that changes the code of a stage and not its output. Without it everything downstream is stale.
    The rows are reviewed like code.
    """
    from dataclasses import asdict

    from orchestration.identity.equivalences import EQUIVALENCES
    from orchestration.identity.equivalences import declare as write
    from orchestration.process.terminal import console, emit

    rows = write(reason)
    if json:
        emit([asdict(row) for row in rows])
        return
    out = console(json)
    for row in rows:
        out.print(f"{row.stage}: {row.new} gives what {row.old} gave", highlight=False, markup=False)
    said = f"{len(rows)} rows in {EQUIVALENCES}: commit them with the refactor" if rows else "no stage's code differs"
    out.print(said, highlight=False, markup=False)
