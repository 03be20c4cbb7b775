"""`headwater import` and `headwater export`: data in from any source, rows out of any asset."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a sentence.")]
Specs = Annotated[
    list[str], typer.Argument(help="Sources of sources.toml, or files, folders, globs and URLs of one new source.")
]


def add_data_commands(app: typer.Typer, expected_errors: Callable[[Callable[..., None]], Callable[..., None]]) -> None:
    """Register both commands under the error handling of the main command."""
    app.command("import")(expected_errors(import_data))
    app.command("export")(expected_errors(export_data))


def import_data(
    specs: Specs,
    name: Annotated[str, typer.Option(help="Name of the new source.")] = "",
    licence: Annotated[str, typer.Option(help="Its licence: an SPDX identifier or a sentence.")] = "",
    domain: Annotated[str, typer.Option(help="Its channel of the mixture.")] = "",
    kind: Annotated[str, typer.Option(help="What it is, where the name of the file does not say it.")] = "",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Another key of its table: columns.text=body (repeatable).")
    ] = None,
    at: Annotated[str | None, typer.Option(help="Time stamp of the new partition (YYYYMMDDTHHMMSSZ).")] = None,
    as_json: Json = False,
) -> None:
    """Read sources into raw_crawl and crawl_delta; files that are no source yet become one in sources.toml.

    `headwater run` then takes what is new through the rest of the graph.
    """
    from orchestration.config import ConfigError, config_folder, load_config
    from orchestration.upkeep.data_import import append_source, new_source

    config = config_folder()
    known = load_config().sources
    names = list(specs)
    if not set(specs) <= set(known):
        if mixed := sorted(set(specs) & set(known)):
            raise ConfigError(f"{', '.join(mixed)}: sources and files cannot be imported in one command")
        if not (name and licence and domain):
            raise ConfigError(
                f"{specs[0]!r} is no source of sources.toml: to make one of it, pass --name, --licence and --domain"
            )
        keys = {"kind": kind, "licence": licence, "domain": domain}
        append_source(name, new_source(list(specs), name, keys, _settings(settings), config), config)
        names = [name]
    elif settings or name or licence or domain or kind:
        raise ConfigError(f"{', '.join(specs)} stands in sources.toml: change its table there, not on the command line")
    _crawl(names, at, as_json)


def _settings(settings: list[str] | None) -> dict[str, Any]:
    """`a.b=1` as {"a": {"b": 1}}."""
    import tomllib

    from orchestration.config import ConfigError

    found: dict[str, Any] = {}
    for setting in settings or ():
        key, equals, text = setting.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {setting}: must be KEY=VALUE")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text  # a bare word
        *parents, last = key.strip().split(".")
        table = found
        for parent in parents:
            table = table.setdefault(parent, {})
            if not isinstance(table, dict):
                raise ConfigError(f"--set {setting}: {parent} is a value, not a table")
        table[last] = value
    return found


def _crawl(names: list[str], at: str | None, as_json: bool) -> None:
    """Publish raw_crawl and crawl_delta of a new partition of each source; say what came in, then what failed."""
    from orchestration.cli.render import tables
    from orchestration.identity.catalog import read_catalog
    from orchestration.identity.partitions import new_key
    from orchestration.process.progress import terminal
    from orchestration.process.workplace import open_workplace
    from orchestration.run.driver import Driver, Options, Step

    workplace = open_workplace()
    driver = Driver(workplace, Options(min(workplace.config.runs)))
    console = tables.console(as_json)
    partitions = [new_key(name, at) for name in names]
    with driver.exclusive(), terminal(console):
        done = [key for key in partitions if driver.attempt(Step("crawl_job", key, ("raw_crawl", "crawl_delta")))]
    catalog = read_catalog(workplace.store)
    rows = []
    for partition in done:
        crawl, delta = (catalog.manifests[asset, partition]["report"] for asset in ("raw_crawl", "crawl_delta"))
        rows.append(
            {
                "partition": partition,
                "records": crawl["documents_in"],
                "kept": crawl["documents_kept"],
                "dropped": crawl["dropped"],
                "not_taken": crawl["stats"]["not_taken"],
                "changes": delta["stats"]["changes"],
            }
        )
    if as_json:
        tables.emit(rows)
    for row in [] if as_json else rows:
        changes = ", ".join(f"{count:,} {change}" for change, count in row["changes"].items() if count)
        console.print(
            f"{row['partition']}: {row['kept']:,} of {row['records']:,} records kept; {changes}", highlight=False
        )
        for reason, count in sorted({**row["dropped"], **row["not_taken"]}.items(), key=lambda item: -item[1]):
            console.print(f"  {count:>10,}  {tables.quoted(reason)}")
    driver.raise_failures()


def export_data(
    subject: Annotated[
        str, typer.Argument(help="ASSET[@PARTITION][#TABLE], for instance corpus or raw_crawl#captures.")
    ],
    destination: Annotated[
        str,
        typer.Argument(
            help="FILE.parquet, FILE.jsonl[.zst|.gz|.bz2|.xz], or FOLDER/ in Hugging Face layout; or s3://..."
        ),
    ],
    text: Annotated[bool, typer.Option("--text", help="Add title and text to a table of documents.")] = False,
    ref: Annotated[str, typer.Option(help="Branch, tag or commit.")] = "main",
    overwrite: Annotated[bool, typer.Option(help="Replace what is there.")] = False,
    s3_endpoint: Annotated[str, typer.Option(help="An S3 server that is not AWS.")] = "",
    as_json: Json = False,
) -> None:
    """Write the rows of a published table where other tools read them."""
    from dataclasses import asdict

    from orchestration.cli.render import tables
    from orchestration.identity.catalog import read_catalog
    from orchestration.process.workplace import open_workplace
    from orchestration.upkeep.data_export import Subject, export

    store = open_workplace().store
    done = export(
        store,
        read_catalog(store, ref),
        Subject.parse(subject),
        destination,
        with_text=text,
        overwrite=overwrite,
        s3_endpoint=s3_endpoint,
    )
    if as_json:
        tables.emit(asdict(done))
        return
    said = f"{done.rows:,} rows of {done.table} in {done.destination}"
    tables.console(as_json).print(said, markup=False, soft_wrap=True)
