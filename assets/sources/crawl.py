"""Everything one crawl of one source holds: dispatches to the web crawler, the file reader or the bulk readers, and guards the result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

import assets
from assets.build import BuildError, Progress, Segment
from assets.sources.bulk.readers import capture_bulk
from assets.sources.bulk_config import BulkSource
from assets.sources.config import AnySource, FilesSource, WebSource, write_source
from assets.sources.files import capture_files
from assets.sources.history import history_files
from assets.sources.partition import parse_crawl
from assets.sources.variables import Variables

_LOG_TAIL_CHARACTERS = 1500


def capture_source(
    source: AnySource, crawl: str, output: Path, scratch: Path, progress: Progress, previous: Segment | None = None
) -> dict[str, Any]:
    """Fill `output` with WARC files, captures.parquet and source.json; returns numbers of the execution.

    `previous` is the source's preceding raw_crawl: a web crawl transfers only what changed since, a bulk source stores only that.
    """
    name, _ = parse_crawl(crawl)
    variables = Variables.of(name, vars(source))
    with variables.hidden():
        if isinstance(source, FilesSource):
            summary = capture_files(source, name, crawl, output, progress, variables)
        elif isinstance(source, BulkSource):
            summary = capture_bulk(source, name, crawl, output, scratch, progress, variables, previous)
        else:
            summary = _crawl_site(source, name, crawl, output, scratch, progress, previous)
    _refuse_empty(name, output / "captures.parquet")
    write_source(output, source)
    return summary


def _crawl_site(
    source: WebSource,
    name: str,
    crawl: str,
    output: Path,
    scratch: Path,
    progress: Progress,
    previous: Segment | None,
) -> dict[str, Any]:
    """Run the spider in a child process: a Twisted reactor cannot be started twice in one process."""
    scratch.mkdir(parents=True, exist_ok=True)
    job, log = scratch / "job.json", scratch / "crawl.log"
    task = {
        "name": name,
        "crawl": crawl,
        "output": str(output),
        "source": source.model_dump(mode="json"),
        "previous": history_files(previous) if previous else None,
    }
    job.write_text(json.dumps(task), encoding="utf-8")
    project = str(Path(assets.__file__).parent.parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [project, os.environ.get("PYTHONPATH")]))}
    last: dict[str, Any] = {}
    with log.open("wb") as stderr:
        child = subprocess.Popen(
            [sys.executable, "-m", "assets.sources.web.spider", "--job", str(job)],
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=environment,
            text=True,
            encoding="utf-8",
        )
        assert child.stdout is not None
        try:
            for line in child.stdout:
                last = json.loads(line)
                if last["event"] == "progress":
                    progress.update(last["done"], last["total"], last["note"])
        finally:
            child.kill()  # no-op when it has ended; an interrupted build leaves no crawler behind
            child.wait()
            child.stdout.close()
    if last.get("event") == "failed":
        raise BuildError(last["message"])
    if last.get("event") != "done":
        tail = log.read_text(encoding="utf-8", errors="replace")[-_LOG_TAIL_CHARACTERS:]
        raise BuildError(
            f"source {name!r}: the crawler ended with status {child.returncode} before it was done:\n{tail}"
        )
    return {key: value for key, value in last.items() if key != "event"}


def _refuse_empty(name: str, captures: Path) -> None:
    table = pq.read_table(captures, columns=["url", "status", "drop_reason", "opt_out"])
    if table["drop_reason"].null_count:
        return
    reasons = dict(Counter(table["drop_reason"].to_pylist()))
    raise BuildError(
        f"source {name!r}: the crawl kept nothing (dropped: {reasons or 'no URL at all'}; first {table.slice(0, 1).to_pylist()}). "
        f"An empty crawl is never published: {_remedy(reasons, table['opt_out'].to_pylist())}"
    )


def _remedy(reasons: dict[str, int], opt_outs: list[str | None]) -> str:
    """What to do about a crawl that kept nothing, by the commonest reason."""
    commonest = max(reasons, key=lambda reason: reasons[reason], default=None)
    if commonest == "opted_out":
        signals = ", ".join(sorted({signal for signal in opt_outs if signal}))
        return f"the owner keeps these pages from training by {signals}; ask for leave, or take the source out of sources.toml"
    if commonest == "robots_denied":
        return "robots.txt keeps us from them; ask the owner for leave, or set path_prefixes to what it allows"
    return "check start_urls, path_prefixes, include, paths or columns in sources.toml"
