"""What commands cost when there is nothing, or one small thing, to do, as users type them.

    python -m benchmarks.bench_commands [--crawls 13 203 1503] [--folder DIR]

Made homes of 13, 203 and 1,503 nights of one source (made_home.py), everything fresh. Each command is a process of its
own, measured in CPU seconds with its children, the best of three; the first command after a change of code, which parses
the project once, is a row of its own. `publish` is a fresh process that publishes the delta of a crawl of three pages,
without Dagster, in a home that exists. Writes docs/results/bench_commands.json; exits non-zero where a goal is missed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.made_home import add_document, environment, make_home, url_of, write_source
from benchmarks.results import ROOT, Goal, Result, finish, why

CODE = (
    *("orchestration", "quality", "assets/lineage/queries.py"),
    *("benchmarks/bench_commands.py", "benchmarks/made_home.py"),
)
REPEATS = 3
GOAL_CPU_S = 3.0
CRAWL = "web@20260101T000000Z"
PUBLISH = """
import sys
from assets.build import SilentProgress
from orchestration.publish import Publisher, publish
from orchestration.workplace import open_workplace
if __name__ == "__main__":
    place = open_workplace()
    done = publish(Publisher(place.store, place.config, place.home, SilentProgress()), sys.argv[1], sys.argv[2])
    sys.exit(done.already_done)
"""


def main() -> int:
    """Make the homes, time the commands, print the table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crawls", type=int, nargs="+", default=[13, 203, 1503])
    parser.add_argument("--folder", type=Path, help="where to make the homes (default: the temporary folder)")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        for crawls in options.crawls:
            rows += commands(Path(name) / str(crawls), crawls)
        rows.append(publication(Path(name) / "small"))
    return finish(result_of(rows, options.crawls[-1]))


def commands(folder: Path, crawls: int) -> list[dict[str, Any]]:
    """The rows of one home."""
    make_home(folder, crawls)
    page, text = add_document(folder)
    out = folder / "out"
    read, written = ["--input", str(text)], ["--output", str(out)]
    shutil.rmtree(folder / "home" / "scratch", ignore_errors=True)
    rows = [best("first status", folder, crawls, ["status"], repeats=1)]
    for name, arguments in {
        "run": ["run"],
        "status": ["status"],
        "plan": ["plan"],
        "lineage": ["lineage", url_of(7)],
        "stage extract": ["stage", "extract", "--input", str(page), *written],
        "stage filter": ["stage", "filter", *read, *written],
        "stage dedup": ["stage", "dedup", *read, *written],
        "stage tokenize": ["stage", "tokenize", *read, *written],
    }.items():
        rows.append(best(name, folder, crawls, arguments))
    return rows


def best(name: str, folder: Path, crawls: int, arguments: Sequence[str], repeats: int = REPEATS) -> dict[str, Any]:
    """A row: the cheapest of several executions of `headwater ARGUMENTS`."""
    runs = []
    for _ in range(repeats):
        shutil.rmtree(folder / "out", ignore_errors=True)
        runs.append(timed([sys.executable, "-m", "orchestration.cli", *arguments], folder))
    row = {"command": name, "crawls": crawls} | min(runs, key=lambda run: run["cpu_s"])
    print("  ".join(f"{key}={value}" for key, value in row.items()), flush=True)
    return row


def timed(command: Sequence[str], folder: Path) -> dict[str, Any]:
    """CPU seconds, seconds and memory of one command, which must end well."""
    started = time.monotonic()
    with (folder / "output.txt").open("w+") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment(folder), stdout=output, stderr=output)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise SystemExit(f"{' '.join(command)}: exit {process.returncode}\n{output.read()}")
    seconds = time.monotonic() - started
    found = {"cpu_s": used.ru_utime + used.ru_stime, "seconds": seconds, "peak_mb": used.ru_maxrss / 1024}
    return {key: round(value, 2) for key, value in found.items()}


def publication(folder: Path) -> dict[str, Any]:
    """The row of a process that publishes one small thing: the delta of a crawl of three pages."""
    write_source(folder)
    for number in range(3):
        (folder / "pages" / f"{number}.txt").write_text(f"Page {number} of a small source.\n" * 20, encoding="utf-8")
    (folder / "home").mkdir()
    timed([sys.executable, "-c", PUBLISH, "raw_crawl", CRAWL], folder)
    runs = []
    for number in range(REPEATS):
        whole = shutil.copytree(folder, folder.with_name(f"small{number}"), symlinks=True)
        runs.append(timed([sys.executable, "-c", PUBLISH, "crawl_delta", CRAWL], whole))
    row = {"command": "publish", "crawls": 1} | min(runs, key=lambda run: run["cpu_s"])
    print("  ".join(f"{key}={value}" for key, value in row.items()), flush=True)
    return row


def result_of(rows: list[dict[str, Any]], largest: int) -> Result:
    """What was asked for and what was measured."""

    def cpu_s(command: str) -> float:
        return [row["cpu_s"] for row in rows if row["command"] == command][-1]

    goals = [
        Goal(f"CPU seconds of `run` with nothing to do at {largest} crawls", cpu_s("run"), "<=", GOAL_CPU_S, ("cpu_s",)),
        Goal(f"CPU seconds of `status` at {largest} crawls", cpu_s("status"), "<=", GOAL_CPU_S, ("cpu_s",)),
        Goal("CPU seconds of a fresh process that publishes one small thing", cpu_s("publish"), "<=", GOAL_CPU_S, ("cpu_s",)),
    ]  # fmt: skip
    not_judged = (
        why("size of the home", "crawls")
        | why("depends on what else the machine does; cpu_s is judged", "seconds")
        | why("no limit was asked for", "peak_mb")
    )
    return Result("bench_commands", CODE, goals, rows, {}, not_judged)


if __name__ == "__main__":
    sys.exit(main())
