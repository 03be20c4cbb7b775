"""`headwater stage NAME`: one stage of the graph on plain files, with the graph's code and recipe.

No store, no home and no sources are needed: only the stage's own table of the recipe is read.
"""

from __future__ import annotations

import time
import tomllib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

Input = Annotated[Path, typer.Option("--input", help="A file or a folder.")]
Output = Annotated[Path, typer.Option("--output", help="Folder for the results; made when it is not there.")]
Recipe = Annotated[str, typer.Option(help="A recipe in config/recipes/, or the path of a TOML file.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Another value for a key of the stage's table: filters.zh.min_characters=50."),
]
Format = Literal["html", "text", "code"]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes; default: those of the profile.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a sentence.")]


def stage_commands(expected_errors: Callable[[Callable[..., None]], Callable[..., None]]) -> typer.Typer:
    """The sub-commands, each under the error handling of the main command."""
    commands = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    for command in (extract, filter_documents, dedup, tokenize):
        name = "filter" if command is filter_documents else command.__name__
        commands.command(name)(expected_errors(command))
    return commands


def extract(
    source: Input,
    output: Output,
    declared: Annotated[
        Format, typer.Option("--format", help="What the payloads are; text/plain stays text.")
    ] = "html",
    recipe: Recipe = "curation",
    settings: Set = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """HTML files, WARC, or JSONL of {id, html} to text: documents.jsonl and dropped.jsonl."""
    from assets.documents.extraction import Extraction
    from assets.documents.standalone import extract_files

    table = read_table(recipe, "extraction", Extraction, settings)
    _run("extract", as_json, output, lambda p: extract_files(source, output, table, declared, *_place(workers, p)))


def filter_documents(
    source: Input,
    output: Output,
    recipe: Recipe = "curation",
    settings: Set = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """JSONL of {id, text} to decisions.jsonl (every document, why) and kept.jsonl (those that stay)."""
    from assets.documents.recipe import Filters
    from assets.documents.standalone import filter_files

    table = read_table(recipe, "filters", Filters, settings)
    _run("filter", as_json, output, lambda p: filter_files(source, output, table, *_place(workers, p)))


def dedup(
    source: Input,
    output: Output,
    state: Annotated[
        Path | None,
        typer.Option(help="Folder of what earlier calls read: this call adds to it and compares only what is new."),
    ] = None,
    remove: Annotated[Path | None, typer.Option(help="File of ids that leave the state, one per line.")] = None,
    recipe: Recipe = "curation",
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """JSONL of {id, text} to clusters.tsv (every document and the one kept for it) and pairs.tsv (proofs)."""
    from assets.dedup.recipe import DedupRecipe
    from assets.dedup.signatures import SignatureRecipe
    from assets.dedup.standalone import deduplicate

    known = ("signatures", "dedup")
    signing = read_table(recipe, "signatures", SignatureRecipe, settings, known)
    clustering = read_table(recipe, "dedup", DedupRecipe, settings, known)
    _run("dedup", as_json, output, lambda p: deduplicate(source, output, signing, clustering, p, state, remove))


def tokenize(
    source: Input,
    output: Output,
    tokenizer: Annotated[
        Path | None, typer.Option(help="A tokenizer.json; default: the tokenizer that is published in the store.")
    ] = None,
    recipe: Recipe = "curation",
    settings: Set = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """JSONL of {id, text} to token shards, their index.parquet and encoding.json."""
    from assets.tokenizer.shards import TokenShardsRecipe
    from assets.tokenizer.standalone import tokenize_files

    table = read_table(recipe, "token_shards", TokenShardsRecipe, settings)
    path = tokenizer or _published_tokenizer()
    _run("tokenize", as_json, output, lambda p: tokenize_files(source, path, output, table, _workers(workers), p))


def read_table(recipe: str, name: str, model: Any, settings: list[str] | None, known: tuple[str, ...] = ()) -> Any:
    """One validated table of a recipe file with `--set` on top; settings of the other `known` tables are left out.

    Raises ConfigError naming the file (or --set), the key and the rule.
    """
    from orchestration.config import ConfigError, config_folder, read_toml, validate

    path = Path(recipe) if recipe.endswith(".toml") else config_folder() / "recipes" / f"{recipe}.toml"
    table = validate(model, read_toml(path).get(name, {}), path, name).model_dump(mode="json")
    tables = known or (name,)
    changed = False
    for setting in settings or ():
        key, equals, value = setting.partition("=")
        first, *rest = key.strip().split(".")
        if not equals or first not in tables or not rest:
            raise ConfigError(f"--set {setting}: must be TABLE.KEY=VALUE with the table {' or '.join(tables)}")
        if first == name:
            _assign(table, rest, _value(value), setting)
            changed = True
    return validate(model, table, Path(f"{path} with --set") if changed else path, name)


def _assign(table: dict[str, Any], keys: list[str], value: Any, setting: str) -> None:
    from orchestration.config import ConfigError

    for key in keys[:-1]:
        inner = table.setdefault(key, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {setting}: {key} is a value, not a table")
        table = inner
    table[keys[-1]] = value


def _value(text: str) -> Any:
    """A TOML value; what is none (a bare word) is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _workers(asked: int | None) -> int:
    from orchestration.config import load_profile

    return asked or load_profile().workers


def _place(asked: int | None, progress: Any) -> tuple[int, Any, Any]:
    """Workers, progress and executor, as the profile says but for the workers asked for."""
    from orchestration.config import load_profile
    from orchestration.launch.curation import CurationExecutor

    profile = load_profile()
    if asked:
        profile = profile.with_workers(asked)
    return profile.workers, progress, CurationExecutor(profile)


def _published_tokenizer() -> Path:
    from assets.build import BuildError
    from orchestration.identity.catalog import read_catalog, segment
    from orchestration.process.workplace import open_workplace

    store = open_workplace().store
    catalog = read_catalog(store)
    manifest = catalog.get("tokenizer", None)
    if manifest is None:
        raise BuildError("no tokenizer is published in the store yet: name one with --tokenizer FILE")
    return segment(store, catalog.commit, manifest).path("tokenizer.json")


def _run(name: str, as_json: bool, output: Path, work: Callable[[Any], Any]) -> None:
    """Show progress, then say what came out."""
    from orchestration.cli.render import tables as render
    from orchestration.process.progress import progress_for, terminal

    console = render.console(as_json)
    started = time.monotonic()
    with terminal(console):
        progress = progress_for(f"stage {name}")
        summary = asdict(work(progress))
        progress.finish(f"{summary['documents']:,} documents")
    summary["seconds"] = round(time.monotonic() - started, 2)
    if as_json:
        render.emit(summary | {"output": str(output)})
        return
    said = ", ".join(f"{key.replace('_', ' ')} {_shown(value)}" for key, value in summary.items() if value != {})
    console.print(f"{name}: {said} -> {output}", markup=False, soft_wrap=True)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{key} {number:,}" for key, number in value.items()) + ")"
    return f"{value:,}"
