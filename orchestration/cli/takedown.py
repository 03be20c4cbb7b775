"""`headwater takedown`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

EXIT_REMAINS = 3


def add_takedown_command(
    app: typer.Typer, expected_errors: Callable[[Callable[..., None]], Callable[..., None]]
) -> None:
    """Register it under the error handling of the main command."""
    app.command("takedown")(expected_errors(takedown))


def takedown(
    objects: Annotated[list[str], typer.Argument(help="SHA-256 of an object, or REF:PATH of a file.")],
    reason: Annotated[str, typer.Option(help="What readers of the history are told.")],
    text: Annotated[
        list[str] | None,
        typer.Option(help="Search for this sentence instead of sentences of the objects (repeatable)."),
    ] = None,
    search_only: Annotated[
        bool, typer.Option("--search-only", help="Delete nothing; list what else holds the text.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of sentences.")] = False,
) -> None:
    """Delete objects under every commit, for good, and list what else on main and in the home holds their text.

    Cannot be undone. Exit code 3 when the text was found elsewhere.
    """
    from orchestration.cli.render import takedown as render_takedown
    from orchestration.process.workplace import open_workplace
    from orchestration.upkeep.takedown import take_down

    workplace = open_workplace()
    done = take_down(
        workplace.store,
        workplace.home,
        objects,
        reason,
        texts=text or (),
        places=[workplace.dagster_home] if workplace.has_dagster else [],
        search_only=search_only,
    )
    render_takedown.takedown(done, as_json=json)
    if done.search.found:
        raise typer.Exit(EXIT_REMAINS)
