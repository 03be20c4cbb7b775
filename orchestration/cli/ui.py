"""`headwater ui`: Dagster's web server, guarded, and its daemon, on the state of this home."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Annotated

import typer


def add_ui_command(app: typer.Typer, expected_errors: Callable[[Callable[..., None]], Callable[..., None]]) -> None:
    """Add the command under the error handling of the main command."""
    app.command("ui")(expected_errors(ui))
    app.command("alerts")(expected_errors(alerts))


def ui(
    port: Annotated[int, typer.Option(help="Port on localhost.", min=1, max=65535)] = 3000,
    origin: Annotated[
        list[str] | None, typer.Option(help="Also answer a proxy's browsers, for instance https://ui.example.org.")
    ] = None,
) -> None:
    """Open the Dagster UI (with schedules and sensors) on the same state, on localhost and for its own pages only."""
    from tempfile import TemporaryFile

    from orchestration.config import REPOSITORY
    from orchestration.graph.ui.home_instance import open_home_instance
    from orchestration.graph.ui.server import run_ui
    from orchestration.launch.board_facts import UI_URL
    from orchestration.process.terminal import console
    from orchestration.process.workplace import open_workplace
    from orchestration.run.demo_pages import DemoPages
    from orchestration.run.demo_site import refuse_busy_port

    refuse_busy_port(port, "headwater ui --port N")
    workplace = open_workplace()
    _ = workplace.config  # a mistake in it is told here, not in the middle of Dagster's start
    with TemporaryFile(dir=workplace.dagster_home) as probe:
        probe.write(b"Dagster writes here")
    os.environ["HEADWATER_HOME"] = str(workplace.home)
    os.environ.setdefault(UI_URL, origin[0] if origin else f"http://127.0.0.1:{port}")
    os.chdir(REPOSITORY)
    said = f"Dagster UI of {workplace.home}: http://127.0.0.1:{port} (Ctrl+C ends it)"
    out = console()
    out.print(said, markup=False, soft_wrap=True)
    with (
        DemoPages(
            workplace.home, workplace.config.sources, lambda words: out.print(words, markup=False, soft_wrap=True)
        ) as pages,
        open_home_instance(workplace.dagster_home) as instance,
    ):
        pages.serve_all()
        run_ui(instance, port, origin or ())


def alerts(
    test: Annotated[bool, typer.Option("--test", help="Send a test message over each channel.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of sentences.")] = False,
) -> None:
    """Who is told of failed runs, blocked checks, missed nights and silent sources: config/alerts.toml."""
    from orchestration.config import config_folder
    from orchestration.process.terminal import console, emit
    from orchestration.upkeep.alert_channels import channels_of
    from orchestration.upkeep.alerts import Alert, load_alerts

    channels = channels_of(load_alerts())
    for channel in channels if test else ():
        channel.send(Alert("test", "test", "a test", "`headwater alerts --test` sent this. Nothing is wrong."))
    if json:
        emit({"channels": [channel.name for channel in channels], "sent": test and bool(channels)})
        return
    names = ", ".join(channel.name for channel in channels)
    off = f"Alerts are off: name a channel in {config_folder() / 'alerts.toml'}."
    console().print(f"{'A test went to' if test else 'Alerts go to'}: {names}." if names else off, markup=False)
