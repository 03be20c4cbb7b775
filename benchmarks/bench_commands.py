"""What commands cost when there is nothing, or one small thing, to do, as users type them.

    python -m benchmarks.bench_commands [--crawls 13 203 1503] [--folder DIR]

Made homes of 13, 203 and 1,503 nights of one source (made_home.py), everything fresh. Each command is a process of its
own, measured in CPU seconds with its children, the best of three; the first command after a change of code, which parses
the project once, is a row of its own. `publish` is a fresh process that publishes the delta of a crawl of three pages,
without Dagster, in the same home. `peak_mb` is of the largest process of a command. Writes docs/results/bench_commands.json; exits non-zero where a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.made_home import add_document, add_source, environment, make_home, url_of
from benchmarks.measuring import apart
from benchmarks.results import ROOT, Goal, Result, finish, why

CODE = (
    *("orchestration", "quality", "assets/lineage/queries.py"),
    *("benchmarks/bench_commands.py", "benchmarks/made_home.py"),
)
REPEATS = 3
GOAL_CPU_S = 3.0
STAMP = "20260101T000000Z"
NOTHING_TO_DO = "Everything is up to date"
WATCHED = """
import json, resource, subprocess, sys, time
started = time.monotonic()
code = subprocess.run(sys.argv[2:]).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
found = {"cpu_s": used.ru_utime + used.ru_stime, "seconds": time.monotonic() - started, "peak_mb": used.ru_maxrss / 1024}
open(sys.argv[1], "w").write(json.dumps({name: round(value, 2) for name, value in found.items()}))
sys.exit(code)
"""
"""A small process between: a child counts the memory of what it was forked from as its own."""
PUBLISH = """
import sys
from assets.build import SilentProgress
from orchestration.publish.publisher import Publisher, publish
from orchestration.process.workplace import open_workplace
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
    return finish(result_of(rows, {}))


def commands(folder: Path, crawls: int) -> list[dict[str, Any]]:
    """The rows of one home."""
    apart(make_home, folder, crawls)
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
    return [*rows, publication(folder, crawls)]


def best(name: str, folder: Path, crawls: int, arguments: Sequence[str], repeats: int = REPEATS) -> dict[str, Any]:
    """A row: the cheapest of several executions of `headwater ARGUMENTS`."""
    runs = []
    for _ in range(repeats):
        shutil.rmtree(folder / "out", ignore_errors=True)
        runs.append(timed([sys.executable, "-m", "orchestration.cli", *arguments], folder))
        if name == "run" and NOTHING_TO_DO not in (folder / "output.txt").read_text():
            raise SystemExit(f"there was something to do: {(folder / 'output.txt').read_text()}")
    row = {"command": name, "crawls": crawls} | min(runs, key=lambda run: run["cpu_s"])
    print("  ".join(f"{key}={value}" for key, value in row.items()), flush=True)
    return row


def timed(command: Sequence[str], folder: Path) -> dict[str, float]:
    """CPU seconds, seconds and memory of one command, which must end well."""
    used = folder / "used.json"
    watched = [sys.executable, "-S", "-c", WATCHED, str(used), *command]
    with (folder / "output.txt").open("w+") as output:
        done = subprocess.run(watched, cwd=ROOT, env=environment(folder), stdout=output, stderr=output, check=False)
        if done.returncode:
            output.seek(0)
            raise SystemExit(f"{' '.join(command)}: exit {done.returncode}\n{output.read()}")
    return json.loads(used.read_text())


def publication(folder: Path, crawls: int) -> dict[str, Any]:
    """The row of a process that publishes one small thing: the delta of a crawl of three pages, of a source of its own."""
    runs = []
    for number in range(REPEATS):
        source = f"small-{number}"
        add_source(folder, source, [f"Page {page} of a small source.\n" * 20 for page in range(3)])
        timed([sys.executable, "-c", PUBLISH, "raw_crawl", f"{source}@{STAMP}"], folder)
        runs.append(timed([sys.executable, "-c", PUBLISH, "crawl_delta", f"{source}@{STAMP}"], folder))
    row = {"command": "publish", "crawls": crawls} | min(runs, key=lambda run: run["cpu_s"])
    print("  ".join(f"{key}={value}" for key, value in row.items()), flush=True)
    return row


def result_of(rows: list[dict[str, Any]], figures: dict[str, Any]) -> Result:
    """What was asked for and what was measured."""
    largest = rows[-1]["crawls"]

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
    return Result("bench_commands", CODE, goals, rows, figures, not_judged)


if __name__ == "__main__":
    sys.exit(main())
