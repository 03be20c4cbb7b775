"""Reads config/: TOML into validated tables. Errors name the file, the key and the rule.

config/sources.toml            one table per source
config/recipes/curation.toml   how crawls become a corpus, a tokenizer, shards
config/recipes/<recipe>.toml   one training run
config/models/<model>.toml     model shapes
config/profiles/<profile>.toml where and with how much it runs (never part of a data set's identity)
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from assets.errors import HeadwaterError
from assets.executors.placement import ExecutorName, RayOptions, SlurmOptions
from assets.sources.variables import PLACES, VARIABLE, named_place, without_userinfo
from orchestration.stages import BY_NAME, GROUPS, Stage
from orchestration.training_place import TrainingPlace

if TYPE_CHECKING:
    from assets.training.run_request import ModelRecipe

REPOSITORY = Path(__file__).resolve().parent.parent
CURATION = "curation"


class ConfigError(HeadwaterError):
    """A configuration file breaks a rule; the message names file, key, rule and remedy."""


class Profile(BaseModel):
    """Resources of the machine; never part of a data set's identity."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    workers: int = Field(2, ge=1, description="processes of this machine for curation, threads for scoring")
    executor: ExecutorName = Field("local", description="where the tasks of extraction and filters run")
    stalled_after_s: float = Field(
        7200, gt=0, description="a local or Ray stage without an ended task for so long fails"
    )
    ray: RayOptions = RayOptions.model_validate({})
    slurm: SlurmOptions | None = None
    training: TrainingPlace = TrainingPlace.model_validate({})
    observe_every_steps: int = Field(20, ge=1, description="training steps between two observations in the UI")

    def with_workers(self, workers: int) -> Profile:
        """The same with so many workers, wherever they are."""
        slurm = self.slurm and self.slurm.model_copy(update={"workers": workers})
        ray = self.ray.model_copy(update={"workers": workers})
        return self.model_copy(update={"workers": workers, "ray": ray, "slurm": slurm})

    @model_validator(mode="after")
    def _slurm_is_described(self) -> Profile:
        if self.executor == "slurm" and self.slurm is None:
            raise ValueError("executor = 'slurm' needs a table [slurm] with at least `partition`")
        return self


@dataclass(frozen=True, eq=False)
class Config:
    """All of config/, validated. Compared by identity, so that what is derived from it can be cached."""

    folder: Path
    profile: Profile
    sources: dict[str, dict[str, Any]]
    curation: dict[str, dict[str, Any]]
    runs: dict[str, dict[str, dict[str, Any]]]
    """Recipe name -> table name -> table."""

    def tables(self, stage: Stage, partition: str | None) -> dict[str, dict[str, Any]]:
        """The recipe tables that tune one stage, with every default filled in.

        Raises ConfigError when the partition names a recipe or source that is no longer configured.
        """
        chosen: dict[str, dict[str, Any]] = {}
        for table in stage.recipes:
            if table == "sources":
                chosen[table] = self._named(self.sources, "source", partition, "sources.toml")
            elif stage.partition == "run":
                chosen[table] = self._named(self.runs, "recipe", partition, "recipes/").get(table, {})
            else:
                chosen[table] = self.curation.get(table, {})
        return chosen

    def _named(self, known: dict[str, Any], what: str, partition: str | None, where: str) -> Any:
        name = (partition or "").partition("@")[0]
        if name not in known:
            raise ConfigError(
                f"{self.folder / where}: {what} {name!r} of partition {partition!r} is not configured. "
                f"Configured: {', '.join(sorted(known)) or 'none'}. Add it back, or name another partition."
            )
        return known[name]


@cache
def recipe_models() -> dict[str, type[BaseModel]]:
    """Recipe table name -> pydantic model, collected from the RECIPES of every group's defs.py."""
    models: dict[str, type[BaseModel]] = {}
    for group in GROUPS:
        models.update(import_module(f"assets.{group}.defs").RECIPES)
    return models


def config_folder() -> Path:
    """$HEADWATER_CONFIG, or config/ of the repository."""
    return Path(os.environ.get("HEADWATER_CONFIG") or REPOSITORY / "config").resolve()


def home_folder() -> Path:
    """$HEADWATER_HOME (state: store, Dagster's home, scratch), or .headwater/ of the repository."""
    return Path(os.environ.get("HEADWATER_HOME") or REPOSITORY / ".headwater").resolve()


def load_config(folder: Path | None = None) -> Config:
    """Read and validate all of config/. Raises ConfigError for the first broken rule."""
    folder = folder or config_folder()
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder. Set HEADWATER_CONFIG to a folder with sources.toml and recipes/.")
    profile = load_profile(folder)
    curation_path = folder / "recipes" / f"{CURATION}.toml"
    runs = {}
    for path in sorted((folder / "recipes").glob("*.toml")):
        if path != curation_path:
            runs[path.stem] = _read_recipe(path, "run", folder)
    return Config(
        folder=folder,
        profile=profile,
        sources=_read_sources(folder / "sources.toml"),
        curation=_read_recipe(curation_path, "curation", folder),
        runs=runs,
    )


def load_profile(folder: Path | None = None) -> Profile:
    """profiles/$HEADWATER_PROFILE.toml (default: local). Raises ConfigError for the first broken rule."""
    profiles = (folder or config_folder()) / "profiles"
    name = os.environ.get("HEADWATER_PROFILE", "local")
    path = profiles / f"{name}.toml"
    if not path.is_file() and (known := sorted(each.stem for each in profiles.glob("*.toml"))):
        raise ConfigError(f"HEADWATER_PROFILE={name}: there is no {path}; known profiles: {', '.join(known)}")
    return validate(Profile, read_toml(path), path, "")


def read_toml(path: Path) -> dict[str, Any]:
    """One TOML file with ${VARIABLE} and ${VARIABLE:-default} replaced inside strings."""
    table: dict[str, Any] = _substitute(_parse(path), lambda text: _read_variables(text, path))
    return table


def read_sources_toml(path: Path) -> dict[str, Any]:
    """sources.toml: a source is published, so its places keep the names of variables, and nothing else may have one
    without a default."""
    return {name: _named_source(table, f"{path}: {name}", path) for name, table in _parse(path).items()}


def _named_source(table: Any, where: str, path: Path) -> Any:
    def place(text: str) -> str:
        return named_place(text, lambda part: _read_variables(part, path))

    if not isinstance(table, dict):
        return table
    return {
        key: _substitute(
            value, place if key in PLACES else lambda text, key=key: _published(text, f"{where}.{key}", path)
        )
        for key, value in table.items()
    }


def _published_toml(path: Path) -> dict[str, Any]:
    """A recipe or a model: part of identity as a whole."""
    table: dict[str, Any] = _substitute(_parse(path), lambda text: _published(text, str(path), path))
    return table


def _published(text: str, where: str, path: Path) -> str:
    """A string that identity and data hold. Raises ConfigError for a variable that may be a secret."""
    secret = next((found for found in VARIABLE.finditer(text) if not found[2]), None)
    if secret:
        raise ConfigError(
            f"{where}: {text!r}: what {secret[1]} holds would be published. Write ${{{secret[1]}:-default}} if it is no "
            f"secret; one without a default is for places of sources.toml ({', '.join(PLACES)})"
        )
    return _read_variables(text, path)


def _parse(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; a copy of the repository's config/ has one.") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8: {error}") from None


def _substitute(value: Any, read: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {key: _substitute(item, read) for key, item in value.items()}
    if isinstance(value, list):
        return [_substitute(item, read) for item in value]
    return read(value) if isinstance(value, str) else value


def _read_variables(text: str, path: Path) -> str:
    def replace(match: re.Match[str]) -> str:
        found = os.environ.get(match[1], match[2])
        if found is None:
            raise ConfigError(f"{path}: {text!r} needs the environment variable {match[1]}; set it.")
        return found

    return VARIABLE.sub(replace, text)


def validate(model: type[BaseModel], table: dict[str, Any], path: Path, name: str) -> Any:
    """The table as its model; ConfigError naming file, key and rule otherwise."""
    try:
        return model.model_validate(table)
    except ValidationError as error:
        lines, kinds = [], tags(model)
        for problem in error.errors():
            key = ".".join([name, *(str(part) for part in problem["loc"] if part not in kinds)]).strip(".")
            rule = problem["msg"]
            if problem["type"] == "extra_forbidden":
                rule = f"unknown key; known keys here: {', '.join(_known_keys(model, problem['loc']))}"
            found = without_userinfo(repr(problem["input"]))
            lines.append(f"{path}: {key}: {rule} (found {found:.80})")
        raise ConfigError("\n".join(lines)) from None


def tags(model: type[BaseModel]) -> tuple[str, ...]:
    """What tells the tables of a tagged union apart, which pydantic puts into the place of an error; none of another model."""
    from typing import get_args

    if "root" not in model.model_fields:
        return ()
    variants = _members(model.model_fields["root"].annotation)
    return tuple(tag for variant in variants for tag in get_args(variant.model_fields["kind"].annotation))


def _known_keys(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Keys of the table that an error location is in; for a tagged union, of the variant its tag names."""
    from typing import get_args

    if "root" in model.model_fields:
        variants = [v for v in _members(model.model_fields["root"].annotation) if issubclass(v, BaseModel)]
        tagged = [v for v in variants if location[0] in get_args(v.model_fields["kind"].annotation)]
        if tagged and len(location) > 2:
            return _known_keys(tagged[0], location[1:])
        return sorted(key for variant in tagged or variants for key in variant.model_fields)
    for part in location[:-1]:
        inner = [v for v in _members(model.model_fields[str(part)].annotation) if hasattr(v, "model_fields")]
        if not inner:
            break
        model = inner[0]
    return sorted(model.model_fields)


def _members(annotation: Any) -> list[Any]:
    from typing import get_args

    members = get_args(annotation)
    return [m for a in members for m in _members(a)] if members else [annotation]


def _read_sources(path: Path) -> dict[str, dict[str, Any]]:
    model = recipe_models().get("sources")
    tables = read_sources_toml(path)
    if not tables:
        raise ConfigError(f"{path}: no source. Add a table, for instance [my-site] with kind, start_urls and licence.")
    for name, table in tables.items():
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
            raise ConfigError(f"{path}: source name {name!r}: lower-case letters, digits and hyphens only.")
        if not isinstance(table, dict):
            raise ConfigError(f"{path}: {name}: a source is a table [name], found {table!r:.80}")
    return {name: _fill(model, table, path, name) for name, table in tables.items()}


def _fill(model: type[BaseModel] | None, table: dict[str, Any], path: Path, name: str) -> dict[str, Any]:
    return validate(model, table, path, name).model_dump(mode="json") if model else table


def _read_recipe(path: Path, kind: str, folder: Path) -> dict[str, dict[str, Any]]:
    known = {
        table
        for stage in BY_NAME.values()
        for table in stage.recipes
        if table != "sources" and (stage.partition == "run") == (kind == "run")
    }
    tables = _published_toml(path)
    for name, table in tables.items():
        if name not in known or not isinstance(table, dict):
            raise ConfigError(f"{path}: unknown table [{name}]; known tables: {', '.join(sorted(known))}")
    filled = {}
    for name in sorted(known):
        table = tables.get(name, {})
        if name == "model":
            table = _model_table(table, path, folder)
        filled[name] = _fill(recipe_models().get(name), table, path, name)
    return filled


def _model_table(table: dict[str, Any], path: Path, folder: Path) -> dict[str, Any]:
    if "file" not in table:
        return table
    shape = _published_toml(_model_path(table["file"], folder, f"{path}: model.file: "))
    return shape | {key: value for key, value in table.items() if key != "file"}


def _model_path(name: str, folder: Path, where: str) -> Path:
    path = folder / "models" / f"{name}.toml"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.toml")))
        raise ConfigError(f"{where}no {path.name} in {path.parent}; known models: {known}")
    return path


def load_model(name: str, folder: Path | None = None) -> ModelRecipe:
    """The shape models/<name>.toml. Raises ConfigError naming the known models, or the broken rule."""
    path = _model_path(name, folder or config_folder(), "")
    return validate(recipe_models()["model"], _published_toml(path), path, "")
