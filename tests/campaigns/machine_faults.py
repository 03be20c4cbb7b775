"""Reads that fail, memory that is refused, children that are killed or stand still: no page may be judged by it.

    make campaign-machine-faults                               214 disturbed builds; writes docs/results/machine_faults.json
    python -m tests.campaigns.machine_faults --points 40       fewer, for a look
    python -m tests.campaigns.machine_faults --slice           one of each kind that needs neither training nor a freeze
    python -m tests.campaigns.machine_faults --rows FILE       keep each row there, and go on from those it holds
    python -m tests.campaigns.machine_faults --one read EIO 17
    python -m tests.campaigns.machine_faults --one sandbox FREEZE 2 0.5

A home with one crawl of a web site and one of a folder is built once. Each fault gets a copy in which both are
crawled again, with pages that came, changed and went, and everything up to the token shards is built. Meanwhile
strace makes the n-th read or mapping of memory of each process fail, or the n-th child of a kind (crawler, fork
server, worker, sandbox) is killed, or stands still for 32 s, longer than the 30 s that a page may take; `build`
is the whole process tree. Faults of `rank` and `agent` meet a whole `headwater run` that trains on two ranks.
The same command is then given again: every data version must be the undisturbed build's.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.results import Goal, Result, finish, why
from orchestration.store.git import ref_files
from tests.campaigns import children, faults
from tests.campaigns.children import Child, Watch
from tests.end_to_end.harness import STAMP, Home
from tests.end_to_end.site import make_site, page, serve
from tests.histories import building, replay

CODE = ("assets", "orchestration", "training", "tests/campaigns/machine_faults.py", "tests/campaigns/children.py")
CALLS = {"read": ("read", "pread64", "readv"), "mmap": ("mmap", "brk")}
"""Kind -> system calls that strace makes fail."""
PLAN = {
    ("read", "EIO"): 50,
    ("read", "ENOMEM"): 30,
    ("mmap", "ENOMEM"): 16,
    ("sandbox", "KILL"): 32,
    ("worker", "KILL"): 22,
    ("fork server", "KILL"): 6,
    ("crawler", "KILL"): 24,
    ("sandbox", "FREEZE"): 8,
    ("worker", "FREEZE"): 4,
    ("crawler", "FREEZE"): 4,
    ("build", "FREEZE"): 4,
    ("rank", "KILL"): 6,
    ("agent", "KILL"): 4,
    ("rank", "FREEZE"): 4,
}
"""(kind, effect) -> faults of the whole campaign."""
WANTED = 200
TRAINED = ("rank", "agent")
CRAWLS = [*faults.SITE, *faults.FOLDER]
FORMATS = {"beta": "html"}
PAGES = 96
LINKS = 1200
"""In the navigation of a page: its sandbox works long enough to be met, and its text does not repeat itself."""
RUN = ("run", "--at", STAMP, "--recipe", "tiny")


@dataclass(frozen=True)
class Point:
    """The n-th call of each process, or the n-th child of a kind once `share` of its undisturbed life has passed."""

    kind: str
    effect: str
    nth: int
    share: float = 0.0


@dataclass(frozen=True)
class Row:
    """What a fault did to the build, and what the re-run left wrong (nothing)."""

    kind: str
    effect: str
    nth: int
    share: float
    met: bool
    outcome: str
    problem: str


@dataclass
class Bench:
    """Homes that are copied for every fault, and what must come out of each."""

    folder: Path
    config: Path
    versions: dict[str, str]
    children: list[Child]
    """Of an undisturbed build, in order of appearance."""


@contextmanager
def bench(folder: Path) -> Iterator[Bench]:
    """Serve a site, build the base, change both sources, build undisturbed."""
    site, files = folder / "www", folder / "sites" / "beta"
    site.mkdir()
    files.mkdir(parents=True)
    with faults.served(site) as port:
        faults.write_site(site, {number: f"a{number}" for number in range(8)})
        _write_folder(files, {number: f"b{number}" for number in range(8)})
        config = folder / "config"
        recipe = {"extraction.captures_per_task": 40}  # long-lived sandboxes
        building.write_config(config, folder / "sites", recipe, FORMATS, workers=2)
        with (config / "sources.toml").open("a") as file:
            file.write(faults.web_source(port))
        base, undisturbed = folder / "base", folder / "undisturbed"
        base.mkdir()
        replay.in_child(building.bring_up_to_date, base, config, faults.FIRST)
        faults.write_site(site, {0: "a0", 1: "changed", 2: "a2", 3: "a3", 4: "a4", 6: "a6", 7: "a7", 9: "new"})
        _write_folder(files, {n: f"b{n}" if n < 3 else f"c{n}" for n in range(PAGES)})
        shutil.copytree(base, undisturbed)
        outcome, _, seen = children.disturbed(lambda: _build(undisturbed, config), undisturbed, Watch())
        if outcome != "finished":
            raise RuntimeError(f"the undisturbed build ended as {outcome}")
        yield Bench(folder, config, building.versions(undisturbed), seen)


def _write_folder(folder: Path, pages: dict[int, str]) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    links = "".join(f'<li><a href="/{number}.html">{number}</a></li>' for number in range(LINKS))
    for number, key in pages.items():
        html = page("en" if number % 2 else "zh", key).replace("<body>", f"<body><nav><ul>{links}</ul></nav>")
        (folder / f"page-{number:02d}.html").write_text(html)


def _build(home: Path, config: Path) -> None:
    building.bring_up_to_date(home, config, CRAWLS)


def _build_in_process(home: Path, config: Path) -> None:
    """Datatrove's tasks run in the traced process: strace then counts the calls of few, long-lived ones."""
    building.run_in_this_process(backwards=False)
    _build(home, config)


def run_point(found: Bench, point: Point) -> Row:
    """One fault in a copy of the base, then the same build again."""
    home = found.folder / "home"
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(found.folder / "base", home)
    if point.kind in CALLS:
        outcome, met = _traced(found, home, point)
    else:
        outcome, met, _ = children.disturbed(lambda: _build(home, found.config), home, _watch(found, point))
    return Row(**asdict(point), met=met, outcome=outcome, problem=_problem(found, home, outcome))


def _traced(found: Bench, home: Path, point: Point) -> tuple[str, bool]:
    trace, calls = found.folder / "trace.txt", ",".join(CALLS[point.kind])
    injection = ["-e", f"trace={calls}", "-e", f"inject={calls}:error={point.effect}:when={point.nth}"]
    outcome = faults.traced(lambda: _build_in_process(home, found.config), home, injection, trace)
    return outcome, "INJECTED" in trace.read_text(errors="replace")


def _watch(found: Bench, point: Point) -> Watch:
    of_kind = [child for child in found.children if child.kind == point.kind]
    lived_s = of_kind[point.nth - 1].lived_s if len(of_kind) >= point.nth else 0.0
    return Watch(point.kind, point.nth, lived_s * point.share, point.effect)


def _problem(found: Bench, home: Path, outcome: str) -> str:
    """What is wrong after the same command; empty if nothing is."""
    try:
        status, _ = replay.in_child(_build_in_process, home, found.config)
    except replay.ChildFailedError as error:
        return f"the re-run fails: {str(error)[-800:]}"
    if status:
        return f"the re-run was ended by signal {-status}"
    return _difference(building.versions(home), found.versions) or ("the build hung" if outcome == "hung" else "")


def _difference(now: dict[str, str], wanted: dict[str, str]) -> str:
    different = sorted(key for key in now.keys() | wanted.keys() if now.get(key) != wanted.get(key))
    return f"differ from the undisturbed build: {', '.join(different)}" if different else ""


def count_calls(found: Bench) -> dict[str, int]:
    """Kind -> the most calls that one process makes in an undisturbed build."""
    home, trace = found.folder / "home", found.folder / "trace.txt"
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(found.folder / "base", home)
    every = ",".join(name for calls in CALLS.values() for name in calls)
    outcome = faults.traced(lambda: _build_in_process(home, found.config), home, ["-e", f"trace={every}"], trace)
    if outcome != "finished":
        raise RuntimeError(f"the undisturbed build under strace ended as {outcome}")
    met = faults.calls_in(trace)
    return {k: max(Counter(pid for pid, name in met if name in calls).values()) for k, calls in CALLS.items()}


def spread(kind: str, effect: str, wanted: int, calls: dict[str, int], seen: list[Child]) -> list[Point]:
    """Evenly over all calls, or over all children of the kind and three moments in the life of each."""
    if kind in CALLS:
        return [Point(kind, effect, nth) for nth in _evenly(calls[kind], wanted)]
    if kind in (*TRAINED, "build"):
        return [Point(kind, effect, 1, round((i + 0.5) / wanted, 2)) for i in range(wanted)]
    alive = sum(child.kind == kind for child in seen)
    moments = [(nth, share) for share in (0.5, 0.1, 0.9) for nth in range(1, alive + 1)]
    return [Point(kind, effect, *moments[i % len(moments)]) for i in range(wanted)]


def planned(points: int, *, slice_only: bool = False) -> dict[tuple[str, str], int]:
    """(kind, effect) -> faults, in the proportions of the whole campaign."""
    if slice_only:
        return {key: 1 for key in PLAN if key[0] not in TRAINED and key[1] != "FREEZE"}
    return {key: round(count * points / sum(PLAN.values())) for key, count in PLAN.items()}


def _evenly(total: int, wanted: int) -> list[int]:
    return sorted({1 + round((i + 0.5) * (total - 1) / wanted) for i in range(wanted)})


@contextmanager
def trained_bench(folder: Path) -> Iterator[Callable[[Point], Row]]:
    """A home that is built but for its training; the function disturbs the training in a copy of it."""
    site = make_site(folder / "site")
    with serve(site) as port:
        base = Home.create(folder / "built", port)
        base.edit_recipe("tiny", "local_batch_size = 8", "local_batch_size = 4\ndp_shard = 2")
        base.headwater(*RUN, "--no-train")
        undisturbed = base.copy(folder / "trained")
        seen = children.watched(undisturbed.popen(*RUN, **children.SILENT), Watch())[2]
        wanted = undisturbed.versions()

        def run(point: Point) -> Row:
            home = base.copy(folder / f"{point.kind}-{point.effect}-{point.share}")
            lived_s = next(child.lived_s for child in seen if child.kind == point.kind)
            watch = Watch(point.kind, point.nth, lived_s * point.share, point.effect)
            outcome, met, _ = children.watched(home.popen(*RUN, **children.SILENT), watch)
            again = home.headwater(*RUN, expect=None)
            problem = f"the re-run fails: {again.stderr[-800:]}" if again.returncode else ""
            row = Row(
                **asdict(point), met=met, outcome=outcome, problem=problem or _difference(home.versions(), wanted)
            )
            shutil.rmtree(home.root)
            return row

        yield run


def main() -> int:
    """Run the campaign; exit 1 if a re-run differs or a build hung."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--points", type=int, default=sum(PLAN.values()))
    parser.add_argument("--slice", action="store_true")
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--one", nargs="+", metavar="KIND EFFECT N [SHARE]")
    options = parser.parse_args()
    if not shutil.which("strace"):
        print("this campaign needs strace: install it (apt-get install strace)")
        return 1
    started = time.monotonic()
    ref_files.STALE_LOCK_S = 0.05  # a killed build may leave Git's lock; do not wait the usual 10 s
    replay.warm_up()
    plan, one = planned(options.points, slice_only=options.slice), None
    if options.one:
        kind, effect, nth, *share = options.one
        plan, one = {(kind, effect): 1}, Point(kind, effect, int(nth), float(share[0]) if share else 0.0)
    rows, calls = _run_all(plan, one, Journal(options.rows, started))
    if one:
        return int(any(row.problem for row in rows))
    return report(rows, calls, started)


class Journal:
    """The rows so far, on the screen and, if asked for, in a file: an hour's work is not lost with its last minute."""

    def __init__(self, file: Path | None, started: float) -> None:
        """Read what the file holds already; `started` on the monotonic clock."""
        self.file, self.started = file, started
        kept = file.read_text(encoding="utf-8").splitlines() if file and file.exists() else []
        self.rows = [Row(**json.loads(line)) for line in kept]

    def add(self, row: Row) -> None:
        """One more."""
        self.rows.append(row)
        print(f"{len(self.rows)} after {time.monotonic() - self.started:.0f} s: {row}", flush=True)
        if self.file:
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(row)) + "\n")

    def left(self, kind: str, effect: str, points: list[Point]) -> list[Point]:
        """The points after the rows that there are: the number of a call may differ a little from one bench to the next."""
        return points[sum((row.kind, row.effect) == (kind, effect) for row in self.rows) :]


def _run_all(plan: dict[tuple[str, str], int], one: Point | None, journal: Journal) -> tuple[list[Row], dict[str, int]]:
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    calls: dict[str, int] = {}
    with tempfile.TemporaryDirectory(dir=memory, prefix="machine-") as folder, bench(Path(folder)) as found:
        if any(kind in CALLS for kind, _ in plan) and not one:
            calls = count_calls(found)
        for (kind, effect), wanted in plan.items():
            if kind not in TRAINED:
                points = [one] if one else spread(kind, effect, wanted, calls, found.children)
                for point in journal.left(kind, effect, points):
                    journal.add(run_point(found, point))
    trained = {key: wanted for key, wanted in plan.items() if key[0] in TRAINED and wanted}
    if trained:
        with tempfile.TemporaryDirectory(prefix="machine-") as folder, trained_bench(Path(folder)) as run:
            for (kind, effect), wanted in trained.items():
                points = [one] if one else spread(kind, effect, wanted, calls, [])
                for point in journal.left(kind, effect, points):
                    journal.add(run(point))
    return journal.rows, calls


def report(rows: list[Row], calls: dict[str, int], started: float) -> int:
    """The table, on the terminal and (of at least half the campaign) in docs/results/machine_faults.json."""
    table: list[dict[str, Any]] = []
    for kind, effect in PLAN:
        mine = [row for row in rows if (row.kind, row.effect) == (kind, effect)]
        entry = {"kind": kind, "effect": effect, "faults": len(mine), "met": sum(row.met for row in mine)}
        entry["outcomes"] = dict(sorted(Counter(row.outcome for row in mine).items()))
        table.append(entry | {"problems": sum(bool(row.problem) for row in mine)})
        print(f"{kind:<12} {effect:<8} {len(mine):4}, {entry['met']:4} met  {entry['outcomes']}")
    figures = {
        "faults": len(rows),
        "faults_met": sum(row.met for row in rows),
        "calls_of_busiest_process": calls,
        "problems": [asdict(row) for row in rows if row.problem],
        "seconds": round(time.monotonic() - started),
    }
    print(
        f"{len(rows)} faults, {figures['faults_met']} met, {len(figures['problems'])} problems, {figures['seconds']} s"
    )
    if len(rows) < WANTED // 2:  # a look is no result
        return int(bool(figures["problems"]) or not rows)
    return finish(result_of(table, figures))


def result_of(rows: list[dict[str, Any]], figures: dict[str, Any]) -> Result:
    """What was asked for and what was found."""
    equal = "after the same command every data version equals the undisturbed build's: exceptions"
    goals = [
        Goal(equal, len(figures["problems"]), "<=", 0, ("problems",)),
        Goal("faults that the build met", figures["faults_met"], ">=", WANTED, ("faults", "faults_met", "met")),
    ]
    not_judged = (
        why("describes the build that is disturbed", "calls_of_busiest_process")
        | why("how a disturbed build ended: any end is right that the same command mends", "outcomes")
        | why("of this execution", "seconds")
    )
    return Result("machine_faults", CODE, goals, rows, figures, not_judged)


if __name__ == "__main__":
    sys.exit(main())
