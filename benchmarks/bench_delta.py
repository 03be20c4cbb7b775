"""A re-crawl against a full build, the whole way from a source to corpus and token shards, in CPU seconds.

    python -m benchmarks.bench_delta [--sizes 50000 100000 200000] [--changed 0.01] [--fixed 500]

The source is a JSON Lines data set of HTML pages made of real Chinese and English sentences
(real_text.py). Per size: a full build; a second crawl in which a share of the pages was edited, removed
and added; a third with a fixed number of such changes. Every build is a process of its own with the
product's publisher and store, checks and plots included; its CPU time and that of all its descendants
counts, start-up too (per asset: of the process and the children it has waited for). The tokenizer is fitted once, before the first token shards, and not counted: deltas do
not refit it. Exits non-zero where a goal is missed, and writes docs/results/bench_delta.json.
"""

from __future__ import annotations

import argparse
import ctypes
import html
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measuring import cpu_s
from benchmarks.real_text import Sentences, document, read_sentences
from benchmarks.results import RESULTS, Goal, Result, finish, why

CODE = (
    *("assets/sources", "assets/documents", "assets/dedup", "assets/tokenizer", "orchestration/publish/publisher.py"),
    *("orchestration/store", "config/recipes/curation.toml", "benchmarks/bench_delta.py", "benchmarks/real_text.py"),
)
STAMPS = ("pages@20260101T000000Z", "pages@20260102T000000Z", "pages@20260103T000000Z")
FITTED = ("tokenizer_sample", "tokenizer", "tokenizer_report")

RATIO_GOAL = 1 / 20  # CPU of a re-crawl with 1% changed pages against the full build
BYTES_GOAL = 0.03  # bytes added to the store against what the full build stored
GROWTH_GOAL = 1.5  # CPU after raw_crawl of a fixed delta at the largest size against the smallest


def page(number: int, version: int, sentences: Sentences) -> str:
    """An HTML page; every version has another text."""
    text = document(number + 10_000_000 * version, sentences)
    body = "".join(f"<p>{html.escape(line)}</p>" for line in text.splitlines() or [text])
    return f"<html><head><title>{number}</title></head><body><nav><a href='/'>Home</a></nav><main>{body}</main></body></html>"


def write_pages(path: Path, size: int, changed: Sequence[int], sentences: Sentences) -> None:
    """The pages after `changed[i]` changes in crawl i: a third each edited, removed and added, of distinct pages."""
    version: dict[int, int] = {}
    gone: set[int] = set()
    new: list[int] = []
    at = 0
    for crawl, count in enumerate(changed, 1):
        for step in range(count):
            number = (at * 7919) % size  # spread over the whole corpus
            at += 1
            if step % 3 == 0:
                version[number] = crawl
            elif step % 3 == 1:
                gone.add(number)
            else:
                new.append(size + at)
    with path.open("w", encoding="utf-8") as lines:
        for number in (*range(size), *new):
            if number not in gone:
                row = {"id": f"{number:08d}", "text": page(number, version.get(number, 0), sentences)}
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")


def write_config(folder: Path, pages: Path) -> None:
    """One data set, the recipe of the repository, a small vocabulary."""
    for name in ("recipes", "profiles"):
        (folder / name).mkdir(parents=True)
    (folder / "profiles/local.toml").write_text("workers = 2\n")
    source = {"kind": "dataset", "licence": "CC0-1.0", "domain": "documentation", "content": "html", "format": "html"}
    lines = ["[pages]", *(f'{key} = "{value}"' for key, value in source.items()), f'paths = ["{pages}"]']
    (folder / "sources.toml").write_text("\n".join([*lines, 'columns = {text = "text", id = "id"}']) + "\n")
    recipe = Path("config/recipes/curation.toml").read_text(encoding="utf-8")
    (folder / "recipes/curation.toml").write_text(recipe, encoding="utf-8")


def build(home: Path, crawl: str) -> dict[str, float]:
    """Publish one crawl and all that follows up to token shards; CPU seconds per asset."""
    from assets.build import SilentProgress
    from orchestration.config import load_config
    from orchestration.identity.catalog import read_catalog
    from orchestration.publish.publisher import Publisher, publish
    from orchestration.stages import STAGES
    from orchestration.store import open_store

    publisher = Publisher(open_store(str(home / "store.git")), load_config(home / "config"), home, SilentProgress())
    spent: dict[str, float] = {}
    fitted = bool(read_catalog(publisher.store).keys("tokenizer"))
    for stage in STAGES:
        if stage.partition == "run" or stage.group == "lineage" or (fitted and stage.name in FITTED):
            continue
        before = cpu_s()
        publish(publisher, stage.name, crawl if stage.partition else None)
        spent[stage.name] = cpu_s() - before
    return spent


def measured_build(home: Path, crawl: str) -> dict[str, Any]:
    """`build` in a process of its own: CPU, wall, peak memory and bytes that the store grew by."""
    before, used = _stored(home), cpu_s()
    started = time.monotonic()
    command = [sys.executable, "-m", "benchmarks.bench_delta", "--build", str(home), crawl]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        raise SystemExit(f"{crawl}: {process.stderr[-3000:]}")
    _wait_for_orphans()
    spent = cpu_s() - used
    found = json.loads(process.stdout.splitlines()[-1])
    fitted = sum(found["assets"].get(name, 0.0) for name in FITTED)
    return {
        "cpu_s": spent - fitted,
        "after_crawl_cpu_s": spent - fitted - found["assets"]["raw_crawl"],
        "wall_s": time.monotonic() - started,
        "peak_mb": found["peak_mb"],
        "bytes_added": _stored(home) - before,
        "assets": {name: round(value, 2) for name, value in found["assets"].items()},
    }


def _adopt_orphans() -> None:
    """Become the parent of what a build's pool leaves behind (PR_SET_CHILD_SUBREAPER, prctl(2)): else its CPU is lost."""
    ctypes.CDLL(None, use_errno=True).prctl(36, 1, 0, 0, 0)


def _wait_for_orphans() -> None:
    """Until every adopted process has ended, which they do with the build."""
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _stored(home: Path) -> int:
    return sum(path.stat().st_size for path in (home / "store.git").rglob("*") if path.is_file())


def measure(size: int, changed: Sequence[int], folder: Path, sentences: Sentences) -> list[dict[str, Any]]:
    """The full build and the re-crawls of one size."""
    home = folder / str(size)
    home.mkdir()
    write_config(home / "config", home / "pages.jsonl")
    rows = []
    for number, stamp in enumerate(STAMPS[: len(changed) + 1]):
        write_pages(home / "pages.jsonl", size, changed[:number], sentences)
        what = "full" if number == 0 else f"{changed[number - 1]} changed"
        row = {"pages": size, "build": what, "changed": changed[number - 1] if number else size}
        rows.append(row | measured_build(home, stamp))
        shown = {name: round(v, 1) if isinstance(v, float) else v for name, v in rows[-1].items()}
        print("  ".join(f"{name}={value}" for name, value in shown.items()), flush=True)
    return rows


def result_of(rows: list[dict[str, Any]], figures: dict[str, Any] | None = None) -> Result:
    """What was asked for and what was measured."""
    goals: list[Goal] = []
    for size in dict.fromkeys(row["pages"] for row in rows):
        full, share, _ = (row for row in rows if row["pages"] == size)
        ratio = share["cpu_s"] / full["cpu_s"]
        goals.append(Goal(f"{size}: CPU of 1% changed / full", ratio, "<=", RATIO_GOAL, ("cpu_s",)))
        grown = share["bytes_added"] / full["bytes_added"]
        name = f"{size}: bytes added / stored by the full build"
        goals.append(Goal(name, grown, "<=", BYTES_GOAL, ("bytes_added",)))
    fixed = [row["after_crawl_cpu_s"] for row in rows if row["build"] != "full"][1::2]
    growth, of = max(fixed) / fixed[0], ("after_crawl_cpu_s",)
    goals.append(Goal("fixed delta after raw_crawl, largest / smallest size", growth, "<=", GROWTH_GOAL, of))
    not_judged = (
        why("size of the input", "pages", "changed")
        | why("other work of the machine is in it; CPU seconds are judged", "wall_s")
        | why("parts of cpu_s, which is judged; of processes that a stage has waited for", "assets")
        | why("no limit was asked for", "peak_mb")
    )
    return Result("bench_delta", CODE, goals, rows, figures or {}, not_judged)


def main() -> int:
    """Run, print the tables, write the result, say whether the goals were met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[50_000, 100_000, 200_000])
    parser.add_argument("--changed", type=float, default=0.01, help="share of the pages that change")
    parser.add_argument("--fixed", type=int, default=500, help="pages that change in the third crawl")
    parser.add_argument("--folder", type=Path, help="where to work (default: the system's temporary folder)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result file")
    parser.add_argument("--build", nargs=2, metavar=("HOME", "CRAWL"), help="one build (used by the benchmark itself)")
    options = parser.parse_args()
    if options.build:
        assets = build(Path(options.build[0]), options.build[1])
        peak_kb = max(resource.getrusage(w).ru_maxrss for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        print(json.dumps({"peak_mb": peak_kb // 1024, "assets": assets}))
        return 0
    _adopt_orphans()
    sentences = read_sentences()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for size in options.sizes:
            rows += measure(size, (round(size * options.changed), options.fixed), Path(folder), sentences)
    return finish(result_of(rows), options.results)


if __name__ == "__main__":
    sys.exit(main())
