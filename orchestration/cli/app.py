"""The `headwater` command. Every command has --json, says what to do when it fails, and exits with

0 done, or all is well · 1 it failed · 2 wrong usage · 3 something is stale, damaged or in violation.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from orchestration.cli.checkout import add_checkout_command
from orchestration.cli.data import add_data_commands
from orchestration.cli.equivalence import equivalence_commands
from orchestration.cli.layout import add_layout_command
from orchestration.cli.stage import stage_commands
from orchestration.cli.store import add_repair_command, store_commands
from orchestration.cli.takedown import add_takedown_command
from orchestration.cli.ui import add_ui_command
from orchestration.cli.upkeep import add_upkeep_commands
from orchestration.process.offline import apply_offline_defaults

EXIT_FAILED, EXIT_FINDINGS = 1, 3
app = typer.Typer(
    help="From raw web to an evaluated base model, as one graph that can be rebuilt, audited and undone.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Recipe = Annotated[str, typer.Option(help="Recipe of the training run: a file in config/recipes/.")]


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        from orchestration.process.terminal import console

        console().print(f"headwater {version('headwater')}", highlight=False)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version and end.")
    ] = False,
) -> None:
    """From raw web to an evaluated base model, as one graph that can be rebuilt, audited and undone."""


def main() -> None:
    """Entry point: quiet libraries first, then the command. SIGTERM ends it as Ctrl+C does: children first, one message."""
    apply_offline_defaults(os.environ)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app()
    except Exception as error:  # a bug
        from orchestration.process.terminal import print_traceback

        print_traceback(error)
        sys.exit(EXIT_FAILED)


def expected_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Known errors, and faults of the machine, become one message on standard error and exit code 1.

    Anything else is a bug, with a traceback.
    """

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except KeyboardInterrupt:
            _fail("interrupted; the same command continues from what is published")
        except Exception as error:
            message = _expected(error)
            if message is None:
                raise
            _fail(message)

    return wrapped


def _expected(error: Exception) -> str | None:
    """What a person is told of an error that was raised on purpose, or of a fault of the machine; None for a bug."""
    from assets.errors import HeadwaterError
    from orchestration.config import home_folder
    from orchestration.process.machine_errors import machine_trouble

    return str(error) if isinstance(error, HeadwaterError) else machine_trouble(error, home_folder())


def _fail(message: str) -> None:
    from orchestration.process.terminal import console, quoted

    console(as_json=True).print(f"[bold red]error:[/] {quoted(message)}", soft_wrap=True)
    raise typer.Exit(EXIT_FAILED)


@app.command()
@expected_errors
def run(
    recipe: Recipe = "demo",
    recrawl: Annotated[list[str] | None, typer.Option(help="Crawl this source again (repeatable).")] = None,
    train: Annotated[bool, typer.Option(help="Also train and evaluate.")] = True,
    new_run: Annotated[bool, typer.Option(help="Start a new training run although the newest is fresh.")] = False,
    rebuild: Annotated[
        list[str] | None, typer.Option(help="Build this asset again although it is fresh, if damaged (repeatable).")
    ] = None,
    allow_stale: Annotated[bool, typer.Option(help="Build on stale input; recorded in the manifest.")] = False,
    accept_yield: Annotated[
        list[str] | None, typer.Option(help="Accept a jump in the yields of this source; recorded (repeatable).")
    ] = None,
    abandon: Annotated[
        list[str] | None,
        typer.Option(
            help="First forget this partition, which never published anything or is from the future (repeatable)."
        ),
    ] = None,
    at: Annotated[str | None, typer.Option(help="Time stamp of new partitions (YYYYMMDDTHHMMSSZ).")] = None,
    json: Json = False,
) -> None:
    """Bring everything up to date: crawl what was never crawled, build what is stale or missing, train, index."""
    from orchestration.cli.runner import run_to_date
    from orchestration.process.workplace import open_workplace
    from orchestration.run.driver import Options

    options = Options(
        recipe=recipe,
        recrawl=tuple(recrawl or ()),
        train=train,
        new_run=new_run,
        allow_stale=allow_stale,
        rebuild=tuple(rebuild or ()),
        accept_yield=tuple(accept_yield or ()),
        abandon=tuple(abandon or ()),
        at=at,
    )
    run_to_date(open_workplace(), options, as_json=json)


@app.command()
@expected_errors
def demo(json: Json = False) -> None:
    """Fetch the demo sources, serve them on localhost, crawl them and make a small language model."""
    from orchestration.cli.runner import run_demo
    from orchestration.process.workplace import open_workplace

    run_demo(open_workplace(), as_json=json)


@app.command()
@expected_errors
def status(json: Json = False) -> None:
    """What is fresh, stale and why, missing, or taken down, per asset and partition. Exit code 3 when not all is fresh."""
    from orchestration.cli.render import status as render_status
    from orchestration.identity.catalog import read_catalog
    from orchestration.identity.status import walk
    from orchestration.process.workplace import open_workplace
    from orchestration.upkeep.taken_down import taken_down, with_takedowns

    workplace = open_workplace()
    gone = taken_down(workplace.store)
    found = with_takedowns(walk(read_catalog(workplace.store), workplace.config), gone)
    render_status.status(found, gone, as_json=json)
    if found.needing() or any(item.state == "taken_down" for item in found.items.values()):
        raise typer.Exit(EXIT_FINDINGS)


@app.command()
@expected_errors
def plan(
    recipe: Recipe = "demo",
    recrawl: Annotated[list[str] | None, typer.Option(help="Plan to crawl this source again (repeatable).")] = None,
    train: Annotated[bool, typer.Option(help="Include training.")] = True,
    json: Json = False,
) -> None:
    """What `headwater run` would do, why, and about how long it takes (from earlier builds)."""
    from orchestration.cli.render import status as render_status
    from orchestration.identity.catalog import read_catalog
    from orchestration.identity.status import CRAWL
    from orchestration.process.workplace import open_workplace
    from orchestration.run.driver import Driver, Options

    workplace = open_workplace()
    driver = Driver(workplace, Options(recipe, tuple(recrawl or ()), train))
    steps = driver.preview()
    crawled = [step.partition.partition("@")[0] for step in steps if step.partition and CRAWL in step.assets]
    outlook = driver.demo_pages.outlook(crawled)
    render_status.plan(steps, read_catalog(workplace.store), outlook, as_json=json)


@app.command()
@expected_errors
def lineage(
    subject: Annotated[str, typer.Argument(help="URL (or part of one), doc_id, RUN:STEP, or checkpoint RUN/STEP.")],
    limit: Annotated[int, typer.Option(min=1, help="At most so many of the documents that match.")] = 20,
    every: Annotated[bool, typer.Option("--all", help="All documents that match.")] = False,
    json: Json = False,
) -> None:
    """Which steps and checkpoints saw a page; which pages a step or a checkpoint saw.

    When more documents match than are shown, the answer says how many there are.
    """
    from orchestration.cli.lineage_query import answer
    from orchestration.process.workplace import open_workplace

    answer(open_workplace(), subject, None if every else limit, as_json=json)


@app.command()
@expected_errors
def audit(json: Json = False) -> None:
    """The audit's findings. Exit code 3 when a rule is violated."""
    from orchestration.cli.render import tables
    from orchestration.identity.catalog import read_catalog, segment
    from orchestration.process.workplace import open_workplace
    from orchestration.upkeep.taken_down import audit_rows, taken_down

    store = open_workplace().store
    manifest = read_catalog(store).get("lineage_audit", None)
    if manifest is None:
        _fail("no audit is published yet; `headwater run` makes one")
        return
    rows = segment(store, "main", manifest).table("findings").to_pylist()
    rows += audit_rows(taken_down(store))
    tables.audit(rows, as_json=json)
    if any(row["violations"] for row in rows):
        raise typer.Exit(EXIT_FINDINGS)


@app.command()
@expected_errors
def doctor(json: Json = False) -> None:
    """Check this machine and the configuration before a run. Exit code 3 when something must be mended."""
    from orchestration.cli.render import tables
    from orchestration.config import config_folder, home_folder
    from orchestration.doctor.checks import run_checks

    findings = run_checks(home_folder(), config_folder(), for_demo=True)
    tables.findings(findings, as_json=json)
    if any(not f.ok and f.severity == "error" for f in findings):
        raise typer.Exit(EXIT_FINDINGS)


@app.command()
@expected_errors
def verify(
    ref: Annotated[str | None, typer.Argument(help="Branch, tag or commit; default: all branches and tags.")] = None,
    read_data_subset: Annotated[str, typer.Option(help="Share of objects to re-read, for instance 5%.")] = "100%",
    seed: Annotated[int, typer.Option(help="Which random share.")] = 0,
    json: Json = False,
) -> None:
    """Read refs, commits and objects of the store. Exit code 3 when one is missing or altered."""
    from orchestration.cli.render import store as render_store
    from orchestration.process.workplace import open_workplace
    from orchestration.store import verify_store
    from orchestration.store.contract import StoreError
    from orchestration.upkeep.run_tags import untagged_runs_damage
    from orchestration.upkeep.taken_down import taken_down

    try:
        fraction = float(read_data_subset.rstrip("%")) / 100
    except ValueError:
        raise typer.BadParameter(f"{read_data_subset!r} is not a percentage such as 5%") from None
    if not 0 < fraction <= 1:
        raise typer.BadParameter(f"{read_data_subset!r}: more than 0% and at most 100%")
    workplace = open_workplace()
    report = verify_store(workplace.store_place, ref, fraction, seed)
    report.damage += untagged_runs_damage(workplace.store_place)
    try:
        gone = taken_down(workplace.store)
    except StoreError:  # told as damage, unless the report is of something else
        gone = []
    render_store.verification(report, gone, as_json=json)
    if report.damage:
        raise typer.Exit(EXIT_FINDINGS)


add_checkout_command(app, expected_errors)
add_data_commands(app, expected_errors)
add_layout_command(app, expected_errors)
add_ui_command(app, expected_errors)
add_upkeep_commands(app, expected_errors)
add_repair_command(app, expected_errors)
add_takedown_command(app, expected_errors)
app.add_typer(stage_commands(expected_errors), name="stage", help="One stage of the graph on plain files.")
app.add_typer(equivalence_commands(expected_errors), name="equivalence", help="Code hashes that give the same output.")
app.add_typer(store_commands(expected_errors), name="store", help="A store as a whole: copy it to another place.")

if __name__ == "__main__":
    main()
