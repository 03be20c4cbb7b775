"""Runs a history in processes of its own and says where it breaks the equality law.

The process that calls `run` must have no threads: it forks a child for every attempt to build, so that
each starts anew (a restart) and can be killed, without paying for imports again.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestration.stages import STAGES
from tests.histories import building
from tests.histories.model import expect, problems, recipe_after
from tests.histories.world import RECIPES, SOURCES, History, Night, page_name, render

KILLED = -9


@dataclass
class Outcome:
    """What a history did; `problems` is empty when the law holds."""

    problems: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


class ChildFailedError(Exception):
    """A child ended with an exception; the message is its traceback."""


def in_child(function: Callable[..., Any], *arguments: Any) -> tuple[int, Any]:
    """(0, result) of a function run in a forked process, or (KILLED, None). Raises ChildFailedError."""
    with tempfile.NamedTemporaryFile(dir=_memory()) as answer:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                from assets.child_process import end_forks_with_parent

                end_forks_with_parent()
                value: Any = function(*arguments)
                status = 0
            except BaseException:
                value = traceback.format_exc()
            with open(answer.name, "wb") as file:
                pickle.dump(value, file)
            os._exit(status)
        _, state = os.waitpid(pid, 0)
        if os.WIFSIGNALED(state):
            return -os.WTERMSIG(state), None
        value = pickle.loads(Path(answer.name).read_bytes())
        if os.WEXITSTATUS(state):
            raise ChildFailedError(value)
        return 0, value


def run(history: History) -> Outcome:
    """Live through a history, build from scratch beside it, compare both and the model."""
    outcome = Outcome()
    with tempfile.TemporaryDirectory(dir=_memory(), prefix="history-", ignore_cleanup_errors=True) as folder:
        try:
            _live_through(history, Path(folder), outcome)
            _compare(history, Path(folder), outcome)
        except ChildFailedError as error:
            outcome.problems.append(str(error))
    return outcome


def _memory() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _live_through(history: History, folder: Path, outcome: Outcome) -> None:
    recipe = {key: values[0] for key, values in RECIPES.items()}
    contents: dict[str, dict[int, str]] = {source: {} for source in SOURCES}
    home, config = folder / "lived", folder / "config"
    home.mkdir()
    for number, night in enumerate(history.nights):
        for source, slot, content in night.changes:
            if content is None:
                contents[source].pop(slot, None)
            else:
                contents[source][slot] = content
        recipe |= dict(night.recipe)
        _write_sites(folder / "sites", contents, night)
        building.write_config(config, folder / "sites", recipe, SOURCES, workers=1)
        crawls = [f"{source}@202601{number + 1:02d}T000000Z" for source in night.crawl]
        for kill in [*night.kills, 0]:
            status, built = in_child(_attempt, home, config, crawls, kill, False, night.builds)
            outcome.counts["processes"] += 1
            outcome.counts["crashes"] += status == KILLED
            outcome.counts["restarts after a crash"] += status == KILLED
            outcome.counts["builds"] += built or 0
            if status not in (0, KILLED):
                raise ChildFailedError(f"a build was ended by signal {-status}")


def _write_sites(folder: Path, contents: dict[str, dict[int, str]], night: Night) -> None:
    failing = {tuple(page) for page in night.fails}
    shutil.rmtree(folder, ignore_errors=True)
    for source, page_format in SOURCES.items():
        (folder / source).mkdir(parents=True)
        for slot, content in contents[source].items():
            data = b"" if (source, slot) in failing else render(content, page_format)
            (folder / source / page_name(source, slot)).write_bytes(data)


def _attempt(home: Path, config: Path, crawls: list[str], kill: int, backwards: bool, globals_too: bool = True) -> int:
    building.run_in_this_process(backwards=backwards)
    if kill:
        building.kill_at(kill)
    return building.bring_up_to_date(home, config, crawls, globals_too=globals_too)


def _compare(history: History, folder: Path, outcome: Outcome) -> None:
    lived, fresh = folder / "lived", folder / "fresh"
    fresh.mkdir()
    config = folder / "config-fresh"
    building.write_config(config, folder / "sites", recipe_after(history), SOURCES, history.workers)
    _, (mine, theirs, tables) = in_child(_from_scratch, lived, fresh, config, history.pool)
    outcome.counts["data versions compared"] += len(mine)
    outcome.problems += [
        f"{name}: {mine.get(name, 'absent')[:12]} after the history, {theirs.get(name, 'absent')[:12]} from scratch"
        for name in sorted(mine.keys() | theirs.keys())
        if mine.get(name) != theirs.get(name)
    ]
    outcome.problems += [f"model: {problem}" for problem in problems(expect(history), *tables)]


def _from_scratch(lived: Path, fresh: Path, config: Path, pool: bool) -> Any:
    if not pool:
        building.run_in_this_process(backwards=True)
    building.give(lived, fresh)
    building.bring_up_to_date(fresh, config)
    return building.versions(lived), building.versions(fresh), _tables(lived)


def _tables(home: Path) -> tuple[list[dict[str, Any]], ...]:
    from orchestration.identity.catalog import read_catalog, segment
    from orchestration.store import open_store

    store = open_store(str(home / "store.git"))
    catalog = read_catalog(store)

    def rows(asset: str, table: str, columns: list[str]) -> list[dict[str, Any]]:
        manifest = catalog.get(asset, None)
        assert manifest is not None, f"{asset} is not published"
        return segment(store, catalog.commit, manifest).table(table, columns).to_pylist()

    return (
        rows("corpus", "decisions", ["doc_id", "url", "source", "live", "stage", "drop_reason"]),
        rows("duplicate_clusters", "decisions", ["doc_id", "cluster_id", "kept"]),
        rows("corpus", "documents", ["doc_id", "url", "source"]),
    )


def warm_up() -> None:
    """Import, parse and load, before the first fork, what every build needs; start no thread."""
    import importlib

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    building.without_ornament()
    for stage in STAGES:
        importlib.import_module(f"assets.{stage.group}.defs")
    from assets.dedup.shingling import normalise
    from assets.documents import language
    from orchestration.config import recipe_models
    from orchestration.identity.code_version import code_version

    recipe_models()
    normalise("软件")
    language._model()
    language._converters()
    for stage in STAGES:
        code_version(stage)
    first = History(0, [Night(changes=[(s, 0, f"en {s}") for s in SOURCES], crawl=list(SOURCES))])
    _, used = in_child(_modules_used, first)
    for name in sorted(used - set(sys.modules)):
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def _modules_used(history: History) -> set[str]:
    with tempfile.TemporaryDirectory(dir=_memory()) as folder:
        home, config, sites = (Path(folder) / name for name in ("home", "config", "sites"))
        home.mkdir()
        _write_sites(sites, {source: {0: f"en {source}"} for source in SOURCES}, history.nights[0])
        building.write_config(config, sites, recipe_after(history), SOURCES, workers=1)
        _attempt(home, config, [f"{source}@20260101T000000Z" for source in SOURCES], 0, False)
    return set(sys.modules)
