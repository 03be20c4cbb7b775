"""The code version of a stage: a hash of exactly the code that can change its output, wherever it stands.

Entry points are the stage's modules (whole) and its build function in defs.py. What they refer to is followed, also
inside functions and through modules that hand a name on: only definitions that are needed count, so that a new
column in one schema does not make every asset stale. The hash is over the set of their digests (code_graph.py), in
which no module name and no name of a local variable goes: a file that is moved, or split, changes no hash.
Third-party imports become a list of distributions with their versions.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import packages_distributions, version
from typing import Any, TypeVar

from orchestration.config import REPOSITORY, home_folder
from orchestration.identity.code_graph import WHOLE, CodeGraph, Reference
from orchestration.stages import STAGES, Stage

PROJECT_PACKAGES = frozenset({"assets", "training", "quality", "orchestration"})
DIGEST_CHARACTERS = 16
MODULE_CHARACTERS = 12
"""Fewer than the 16 of earlier manifests, whose modules were hashed in another way and cannot be compared."""


@dataclass(frozen=True)
class CodeVersion:
    """Hash of the code and the parts it is made of, so that a change can be named."""

    digest: str
    modules: dict[str, str]
    """Module (or data file) -> hash of what counts of it: tells what changed, and is no part of the digest."""
    libraries: dict[str, str]
    """Distribution -> version."""


@dataclass(frozen=True)
class Parts:
    """What is found in the sources for one stage."""

    code: list[str]
    """Digests of the definitions that it needs, sorted."""
    modules: dict[str, str]
    libraries: list[str]
    """Top-level names of the libraries that they import."""


@cache
def code_version(stage: Stage) -> CodeVersion:
    """The code version of a stage as the files are now (cached for the life of the process)."""
    parts = _known_parts()[stage.name]
    data = {
        str(path.relative_to(REPOSITORY)): hashlib.sha256(path.read_bytes()).hexdigest()
        for pattern in stage.data_files
        for path in sorted(REPOSITORY.glob(pattern))
    }
    files = sorted(f"{name.rpartition('/')[2]} {digest}" for name, digest in data.items())
    digest = hashlib.sha256("\n".join([*parts.code, *files]).encode()).hexdigest()[:DIGEST_CHARACTERS]
    modules = parts.modules | {name: digest[:MODULE_CHARACTERS] for name, digest in data.items()}
    return CodeVersion(digest, modules, _versions(parts.libraries))


@cache
def _known_parts() -> dict[str, Parts]:
    """The parts of every stage. Reading the project takes seconds of every command, so what was found is kept."""

    def read(kept: Any) -> dict[str, Parts]:
        return {stage.name: Parts(**kept[stage.name]) for stage in STAGES}

    def find() -> dict[str, Parts]:
        graph = CodeGraph(REPOSITORY, PROJECT_PACKAGES)
        return {stage.name: _parts(stage, graph) for stage in STAGES}

    return _kept("code_parts.json", _hash_of_sources(), read, find)


def _parts(stage: Stage, graph: CodeGraph) -> Parts:
    roots = [Reference(name, WHOLE) for name in stage.modules]
    roots.append(Reference(f"assets.{stage.group}.defs", stage.name))
    code: set[str] = set()
    libraries: set[str] = set()
    modules: defaultdict[str, list[str]] = defaultdict(list)
    for reference in graph.reached(roots):
        definition = graph.definition(reference)
        if reference.name == WHOLE or not definition.tokens:
            continue  # what a module consists of is no code
        code.add(graph.digest(reference))
        modules[reference.module].append(f"{reference.name} {graph.own_digest(reference)}")
        libraries |= definition.libraries
    return Parts(
        sorted(code),
        {name: _short_digest(lines) for name, lines in sorted(modules.items())},
        sorted(libraries - sys.stdlib_module_names),
    )


def _short_digest(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:MODULE_CHARACTERS]


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
            write_small_file(home / "scratch", name, json.dumps({"of": of, "found": found}, default=vars).encode())
    return found


def _hash_of_sources() -> str:
    """Over every file that the graph may read, and the version of Python, whose syntax trees they are."""
    hasher = hashlib.sha256(sys.version.encode())
    for package in sorted(PROJECT_PACKAGES):
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            content = path.read_bytes()
            hasher.update(f"{path.relative_to(REPOSITORY)} {len(content)}\n".encode() + content)
    return hasher.hexdigest()


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
