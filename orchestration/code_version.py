"""The code version of a stage: a hash of exactly the code that can change its output.

Syntax trees without comments, docstrings and formatting. Entry points are the stage's modules (whole)
and its build function in defs.py; imports of project modules are followed, also those inside
functions. `from module import name` counts only the definitions that `name` needs there, so that a
new column in one schema does not make every asset stale. Third-party imports become a list of
distributions with their versions.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any, TypeVar

from orchestration.config import REPOSITORY, home_folder
from orchestration.stages import STAGES, Stage

PROJECT_PACKAGES = frozenset({"assets", "training", "quality", "orchestration"})
WHOLE = "*"
PICTURES = frozenset({"assets.plots", "assets.evaluation.plots"})
"""Left out by name: they draw what the UI shows beside the data, and no byte of the data."""

PLACES = frozenset({"assets.documents.executors"})
"""Left out by name: where tasks run, on which processes or machines; `make campaign-executors` compares what comes out."""


@dataclass(frozen=True)
class CodeVersion:
    """Hash of the code and the parts it is made of, so that a change can be named."""

    digest: str
    modules: dict[str, str]
    """Module (or data file) -> hash of what counts of it."""
    libraries: dict[str, str]
    """Distribution -> version."""


@dataclass(eq=False)  # one object per module of the process, so that what is found about it can be cached
class _Module:
    name: str
    is_package: bool
    tree: ast.Module
    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, list[ast.stmt]] = field(default_factory=dict)
    effects: list[ast.stmt] = field(default_factory=list)


@cache
def code_version(stage: Stage) -> CodeVersion:
    """The code version of a stage as the files are now (cached for the life of the process)."""
    modules, libraries = _known_parts()[stage.name]
    data = {
        str(path.relative_to(REPOSITORY)): hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        for pattern in stage.data_files
        for path in sorted(REPOSITORY.glob(pattern))
    }
    modules = modules | data
    joined = "\n".join(f"{name} {digest}" for name, digest in modules.items())
    return CodeVersion(hashlib.sha256(joined.encode()).hexdigest()[:16], modules, _versions(libraries))


Parts = tuple[dict[str, str], list[str]]
"""Hash of what counts of each module, and the top-level names of the libraries that they import."""


@cache
def _known_parts() -> dict[str, Parts]:
    """The parts of every stage. Parsing the project takes two seconds of every command, so what was found is kept."""

    def read(kept: Any) -> dict[str, Parts]:
        return {stage.name: (dict(kept[stage.name][0]), list(kept[stage.name][1])) for stage in STAGES}

    return _kept("code_parts.json", _hash_of_sources(), read, lambda: {stage.name: _parts(stage) for stage in STAGES})


Found = TypeVar("Found")


def _kept(name: str, of: str, read: Callable[[Any], Found], find: Callable[[], Found]) -> Found:
    """What an earlier process found in the same circumstances (`of`). A file that is of others, or cannot be read or
    written, costs the time to find it again."""
    home = home_folder()
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        content = json.loads((home / "scratch" / name).read_text(encoding="utf-8"))
        if content["of"] == of:
            return read(content["found"])
    found = find()
    if home.is_dir():  # a home is not made for this
        from orchestration.store.durable import write_small_file  # pygit2, for those who write alone

        with contextlib.suppress(OSError):
            write_small_file(home / "scratch", name, json.dumps({"of": of, "found": found}).encode())
    return found


def _hash_of_sources() -> str:
    """Over every file that `_parts` may read, and the version of Python, whose syntax trees they are."""
    hasher = hashlib.sha256(sys.version.encode())
    for package in sorted(PROJECT_PACKAGES):
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            content = path.read_bytes()
            hasher.update(f"{path.relative_to(REPOSITORY)} {len(content)}\n".encode() + content)
    return hasher.hexdigest()


def _parts(stage: Stage) -> Parts:
    needed: dict[str, set[str]] = {}
    libraries: set[str] = set()
    queue: list[tuple[str, str]] = [(name, WHOLE) for name in stage.modules]
    queue.append((f"assets.{stage.group}.defs", stage.name))
    while queue:
        module_name, symbol = queue.pop()
        if module_name in PICTURES | PLACES:
            continue
        module = _load(module_name)
        if module is None:
            libraries.add(module_name.partition(".")[0])
            continue
        seen = needed.setdefault(module_name, set())
        if symbol in seen or WHOLE in seen:
            continue
        fresh = _closure(module, symbol) - seen
        seen |= fresh
        for statement in _statements(module, fresh):
            if _bound_module(statement, module) is None:
                queue.extend(_targets(statement, module))
                queue.extend(_attributes(statement, module))
    modules = {name: _digest(_load(name), symbols) for name, symbols in sorted(needed.items())}
    return modules, sorted(libraries)


@cache
def _load(name: str) -> _Module | None:
    """The parsed module, or None when it is not ours."""
    if name.partition(".")[0] not in PROJECT_PACKAGES:
        return None
    base = REPOSITORY / Path(*name.split("."))
    is_package = (base / "__init__.py").exists()
    path = base / "__init__.py" if is_package else base.with_suffix(".py")
    if not path.exists():
        raise ModuleNotFoundError(f"{name}: no {path.relative_to(REPOSITORY)}; stages.py or an import names it")
    module = _Module(name, is_package, ast.parse(path.read_bytes(), filename=str(path)))
    for statement in module.tree.body:
        if _is_docstring(statement):
            continue
        names = _defined_names(statement)
        if isinstance(statement, ast.Import | ast.ImportFrom):
            for bound, alias in zip(names, statement.names, strict=True):
                module.imports.setdefault(bound, []).append(_single_import(statement, alias))
        elif names:
            for bound in names:
                module.definitions.setdefault(bound, []).append(statement)
        else:
            module.effects.append(statement)
    return module


def _single_import(statement: ast.Import | ast.ImportFrom, alias: ast.alias) -> ast.stmt:
    """`from m import a, b` as `from m import a`: b must not count for those who need a."""
    if isinstance(statement, ast.Import):
        return ast.Import(names=[alias])
    return ast.ImportFrom(module=statement.module, names=[alias], level=statement.level)


def _is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _defined_names(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name.partition(".")[0] for alias in statement.names]
    if isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        return [n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)]
    return []


def _closure(module: _Module, symbol: str) -> set[str]:
    """Top-level names of the module that `symbol` needs; a symbol it merely re-exports is its import."""
    if symbol == WHOLE:
        return {WHOLE}
    reached: set[str] = set()
    todo = [symbol] + [n for s in module.effects for n in _names(s)]
    while todo:
        name = todo.pop()
        if name in reached or (name not in module.definitions and name not in module.imports):
            continue
        reached.add(name)
        for statement in module.definitions.get(name, []):
            todo.extend(_names(statement))
    return reached | {symbol}


@cache
def _names(node: ast.AST) -> list[str]:
    return [child.id for child in ast.walk(node) if isinstance(child, ast.Name)]


def _statements(module: _Module, symbols: set[str]) -> list[ast.stmt]:
    if WHOLE in symbols:
        imports = [one for group in module.imports.values() for one in group]
        return [s for s in module.tree.body if not isinstance(s, ast.Import | ast.ImportFrom)] + imports
    chosen = list(module.effects)
    for symbol in sorted(symbols):
        chosen.extend(module.definitions.get(symbol, []))
        chosen.extend(module.imports.get(symbol, []))
    return chosen


@cache
def _targets(statement: ast.stmt, module: _Module) -> list[tuple[str, str]]:
    """(module, symbol) pairs that the imports anywhere inside a statement refer to."""
    found: list[tuple[str, str]] = []
    for node in ast.walk(statement):
        if isinstance(node, ast.Import):
            found.extend((alias.name, WHOLE) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = _absolute(node, module)
            for alias in node.names:
                submodule = f"{parent}.{alias.name}"
                if _is_project_module(submodule):
                    found.append((submodule, WHOLE))
                else:
                    found.append((parent, alias.name))
    return [(name, symbol) for name, symbol in found if name.partition(".")[0] not in sys.stdlib_module_names]


@cache
def _bound_module(statement: ast.stmt, module: _Module) -> str | None:
    """`from assets import schemas` at top level binds a project module: what counts is how it is used."""
    if not isinstance(statement, ast.ImportFrom) or len(statement.names) != 1:
        return None
    name = f"{_absolute(statement, module)}.{statement.names[0].name}"
    return name if _is_project_module(name) else None


@cache
def _attributes(statement: ast.stmt, module: _Module) -> list[tuple[str, str]]:
    """(module, symbol) for each `schemas.ORDER`; the whole module where its name is used in another way."""
    found: list[tuple[str, str]] = []
    owners = {id(n.value): n.attr for n in ast.walk(statement) if isinstance(n, ast.Attribute)}
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and node.id in module.imports:
            for imported in module.imports[node.id]:
                if target := _bound_module(imported, module):
                    found.append((target, owners.get(id(node), WHOLE)))
    return found


def _absolute(node: ast.ImportFrom, module: _Module) -> str:
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    kept = parts[: len(parts) - node.level + (1 if module.is_package else 0)]
    return ".".join([*kept, *([node.module] if node.module else [])])


@cache
def _is_project_module(name: str) -> bool:
    if name.partition(".")[0] not in PROJECT_PACKAGES:
        return False
    base = REPOSITORY / Path(*name.split("."))
    return base.with_suffix(".py").exists() or (base / "__init__.py").exists()


class _WithoutDocstrings(ast.NodeTransformer):
    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [s for s in body if not _is_docstring(s)]  # type: ignore[attr-defined]
        return node


def _digest(module: _Module | None, symbols: set[str]) -> str:
    assert module is not None
    kept = _statements(module, symbols)
    seen: set[int] = set()
    hasher = hashlib.sha256()
    for statement in kept:
        if id(statement) in seen or _is_docstring(statement):
            continue
        seen.add(id(statement))
        hasher.update(_bare(statement))
    return hasher.hexdigest()[:16]


@cache
def _bare(statement: ast.stmt) -> bytes:
    """The syntax tree of a statement without docstrings; statements live as long as their module, so each is done once."""
    return ast.dump(_WithoutDocstrings().visit(ast.parse(ast.unparse(statement)))).encode() + b"\n"


@cache
def _distributions() -> dict[str, dict[str, str]]:
    """Top-level name -> distributions and their versions. Asking each for its files and its description takes a
    second of every command: kept."""

    def read(kept: Any) -> dict[str, dict[str, str]]:
        return {name: dict(versions) for name, versions in kept.items()}

    def find() -> dict[str, dict[str, str]]:
        found = packages_distributions()
        versions = {distribution: version(distribution) for names in found.values() for distribution in names}
        return {top_level: {name: versions[name] for name in names} for top_level, names in found.items()}

    return _kept("distributions.json", _hash_of_installed(), read, find)


def _hash_of_installed() -> str:
    """Over the folders where importable distributions describe themselves; installing one again makes its folder anew."""
    hasher = hashlib.sha256()
    for folder in sys.path:
        with contextlib.suppress(OSError), os.scandir(folder or ".") as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.name.endswith((".dist-info", ".egg-info")):
                    hasher.update(f"{entry.path} {entry.stat().st_mtime_ns}\n".encode())
    return hasher.hexdigest()


def _versions(imported: list[str]) -> dict[str, str]:
    found = {"python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    for top_level in imported:
        found |= _distributions().get(top_level, {})
    return dict(sorted(found.items()))
