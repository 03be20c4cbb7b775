"""Builds a home with the publisher alone (no Dagster): what is stale or missing, in graph order, in one process.

Stages, publisher and store are the product's own. What differs is part of no data, and would be nine
tenths of the time: a home lies in memory, datatrove's tasks run in this process unless a pool is asked
for, plots are not drawn, and limits are compared without Great Expectations (every check still runs).
"""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from assets.build import Progress, SilentProgress
from orchestration.config import load_config
from orchestration.identity.catalog import read_catalog
from orchestration.identity.status import walk
from orchestration.publish.publisher import Publisher, publish
from orchestration.stages import STAGES
from orchestration.store import open_store

CRAWL = "raw_crawl"
UP_TO = [stage for stage in STAGES if stage.partition != "run" and stage.group != "lineage"]
"""raw_crawl to token_shards: what the equality law speaks of."""

FITTED = ("tokenizer_sample", "tokenizer", "tokenizer_report")
"""Made when the policy says so, not by every delta: the law gives them to the build from scratch."""


def write_config(folder: Path, sources: Path, recipe: dict[str, Any], formats: dict[str, str], workers: int) -> None:
    """A configuration of `files` sources; `recipe` maps "table.key" to a value."""
    (folder / "recipes").mkdir(parents=True, exist_ok=True)
    (folder / "profiles").mkdir(exist_ok=True)
    (folder / "profiles/local.toml").write_text(f"workers = {workers}\n", encoding="utf-8")
    lines = []
    for name, page_format in formats.items():
        lines += [f"[{name}]", 'kind = "files"', 'licence = "CC0-1.0"', 'domain = "documentation"']
        lines += [f'format = "{page_format}"', f'root = "{sources / name}"', 'include = ["*"]', ""]
    (folder / "sources.toml").write_text("\n".join(lines), encoding="utf-8")
    fixed = {"tokenizer.vocab_size": 512, "tokenizer.min_bytes_per_token": 1, "extraction.captures_per_task": 6}
    text = "".join(f"{key} = {value}\n" for key, value in sorted((fixed | recipe).items()))
    (folder / "recipes/curation.toml").write_text(text, encoding="utf-8")


def bring_up_to_date(home: Path, config_folder: Path, crawls: Iterable[str] = (), *, globals_too: bool = True) -> int:
    """Crawl, then build whatever is stale or missing, with or without the global stages; how many partitions were
    built."""
    store, config = open_store(str(home / "store.git")), load_config(config_folder)
    publisher = Publisher(store, config, home, SilentProgress())
    built = 0
    for key in crawls:
        built += not publish(publisher, CRAWL, key).already_done
    for stage in UP_TO[1:]:
        if stage.partition is None and not globals_too:
            continue
        items = walk(read_catalog(store), config).of(stage.name)
        for item in sorted(items, key=lambda item: (item.partition or "").partition("@")[2]):
            # A crawl's delta may become stale with the one before it: publish() looks at each again.
            built += not publish(publisher, stage.name, item.partition).already_done
    return built


def versions(home: Path) -> dict[str, str]:
    """`asset[partition]` -> data version of everything on main."""
    catalog = read_catalog(open_store(str(home / "store.git")))
    return {f"{asset}[{key or ''}]": manifest["version"] for (asset, key), manifest in catalog.manifests.items()}


def give(source: Path, target: Path) -> None:
    """Publish in another home exactly the raw crawls and the fitted assets of this one."""
    here, there = open_store(str(source / "store.git")), open_store(str(target / "store.git"))
    names = {CRAWL, *FITTED}
    prefixes = [f"{stage.group}/{stage.name}/" for stage in STAGES if stage.name in names]
    paths = [info.path for prefix in prefixes for info in here.list("main", prefix)]
    there.commit("main", {path: here.local_path("main", path) for path in paths}, message="The same raw crawls")


def run_in_this_process(*, backwards: bool) -> None:
    """Have datatrove's tasks run here, one after the other, in or against their order."""
    from multiprocessing import set_start_method

    from assets.executors.local import SILENT, LocalPipelineExecutor, LocalProcesses

    def run(self: LocalProcesses, pipeline: list[Any], tasks: int, logging_dir: Path, progress: Progress) -> None:
        executor = LocalPipelineExecutor(pipeline, tasks=tasks, workers=1, logging_dir=str(logging_dir))
        for rank in sorted(executor.get_incomplete_ranks(), reverse=backwards):
            executor._run_for_rank(rank, SILENT)

    set_start_method("fork", force=True)  # of the extraction's sandboxes
    LocalProcesses.run = run


class _Blank:
    """A figure that nothing is drawn on."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


def without_ornament() -> None:
    """No plots, limits by plain comparison, and loguru asks once where libraries lie, not for each task's log."""
    from loguru._better_exceptions import ExceptionFormatter

    from assets import plots
    from quality import expectations

    plots._figure = lambda: (_Blank(), _Blank())
    plots._png = lambda figure: b""
    expectations.validates = expectations.within
    ExceptionFormatter._get_lib_dirs = staticmethod(functools.cache(ExceptionFormatter._get_lib_dirs))


def kill_at(operation: int) -> None:
    """End this process, as kill -9 does, when it is about to do so many more operations on files."""
    left = operation

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        return wrapped

    for name in ("rename", "replace", "link", "unlink", "fsync", "mkdir", "rmdir"):
        setattr(os, name, counted(getattr(os, name)))
    for name in ("write_table", "close"):
        setattr(pq.ParquetWriter, name, counted(getattr(pq.ParquetWriter, name)))
