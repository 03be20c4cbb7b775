"""Every n-th fsync, rename, write and connection of a re-crawl and its build fails once, or kills: nothing may come of it.

    make campaign-faults                              500 faults spread evenly; writes docs/results/faults.json
    python -m tests.campaigns.faults --points 20      fewer, for a look
    python -m tests.campaigns.faults --one write ENOSPC 17

A home with one crawl of a web site and one of a folder is built once. Each fault then gets a copy of it, in
which one of them is crawled again (the site for connections and the crawler's writes, else the folder) and
everything up to the token shards is built, while strace makes the n-th call of each process fail (processes
count for themselves: the crawler, the sandboxes of the extraction). The
same command is then run again, undisturbed: every data version must equal the undisturbed build's and the
store must be whole. The build runs without Dagster and without worker pools (tests/histories/building.py).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.results import Goal, Result, finish, why
from orchestration.store import open_store
from orchestration.store.git import ref_files
from tests.end_to_end.site import page
from tests.histories import building, replay
from tests.histories.world import page_name, render

REPOSITORY = Path(__file__).resolve().parents[2]
CALLS = {
    "fsync": (("fsync", "fdatasync"), ("EIO", "KILL")),
    "rename": (("rename", "renameat", "renameat2"), ("ENOSPC", "KILL")),
    "write": (("write", "pwrite64", "writev"), ("ENOSPC", "KILL")),
    "connect": (("connect",), ("ECONNREFUSED", "ETIMEDOUT", "KILL")),
    "crawler write": (("write", "pwrite64", "writev"), ("ENOSPC", "KILL")),
}
"""Kind -> (its system calls, what happens to them)."""

CRAWLER = ("connect", "crawler write")
"""Kinds met while the web site is crawled again, by a process of its own; the others while the folder is."""

CODE = (
    *("assets/sources", "assets/documents", "assets/dedup", "assets/tokenizer", "orchestration/publish/publisher.py"),
    *("orchestration/store", "orchestration/publish/scratch.py", "tests/campaigns/faults.py"),
)
POINTS = 500
LONGEST_S = 120.0
FORMATS = {"beta": "text"}
FIRST = ["site@20260101T000000Z", "beta@20260101T000000Z"]
SITE, FOLDER = ["site@20260102T000000Z"], ["beta@20260102T000000Z"]
_CALL = re.compile(r"(\d+) +(\w+)\(")
RETRIED = 'retries = 3\nretry_wait_s = 0.01\ndelay_s = 0\nallow_private_hosts = true\npath_prefixes = ["/"]\n'


@dataclass(frozen=True)
class Point:
    """The n-th call of a kind, in each process, has this effect."""

    call: str
    effect: str
    nth: int


@dataclass(frozen=True)
class Row:
    """What a fault did to the build, and what the re-run left wrong (nothing)."""

    call: str
    effect: str
    nth: int
    met: bool
    outcome: str
    problem: str


@dataclass
class Bench:
    """The home that every fault gets a copy of, and what must come out."""

    folder: Path
    versions: dict[str, dict[str, str]]
    """Crawl -> data versions of the undisturbed build after it."""

    @property
    def base(self) -> Path:
        """Built from the first crawls only."""
        return self.folder / "base"

    @property
    def config(self) -> Path:
        """Configuration of every build."""
        return self.folder / "config"


@contextlib.contextmanager
def bench(folder: Path) -> Iterator[Bench]:
    """Serve a site, build the base, change the site, build the second crawl undisturbed."""
    site, files = folder / "www", folder / "sites" / "beta"
    site.mkdir()
    files.mkdir(parents=True)
    with served(site) as port:
        write_site(site, {number: f"a{number}" for number in range(8)})
        for slot in range(8):
            (files / page_name("beta", slot)).write_bytes(render(f"en {slot}" if slot % 2 else f"zh {slot}", "text"))
        found = Bench(folder, {})
        building.write_config(found.config, folder / "sites", {}, FORMATS, workers=1)
        with (found.config / "sources.toml").open("a") as file:
            file.write(web_source(port))
        found.base.mkdir()
        replay.in_child(_build, found.base, found.config, FIRST)
        write_site(site, {0: "a0", 1: "changed", 2: "a2", 3: "a3", 4: "a4", 6: "a6", 7: "a7", 9: "new"})
        (files / page_name("beta", 3)).write_bytes(render("en 3 light 1", "text"))
        (files / page_name("beta", 4)).unlink()
        (files / page_name("beta", 9)).write_bytes(render("zh 8", "text"))
        for crawls in (SITE, FOLDER):
            undisturbed = folder / crawls[0]
            shutil.copytree(found.base, undisturbed)
            replay.in_child(_build, undisturbed, found.config, crawls)
            found.versions[crawls[0]] = building.versions(undisturbed)
        yield found


def crawls_of(kind: str) -> list[str]:
    """What is crawled again while calls of this kind fail."""
    return SITE if kind in CRAWLER else FOLDER


def web_source(port: int) -> str:
    """The site's lines of sources.toml."""
    web = ["[site]", 'kind = "web"', 'licence = "CC0-1.0"', 'domain = "documentation"', 'format = "html"']
    return "\n".join([*web, f'start_urls = ["http://127.0.0.1:{port}/index.html"]', RETRIED])


@contextlib.contextmanager
def served(site: Path) -> Iterator[int]:
    """The folder on localhost, by a process of its own: the caller must not have threads."""
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(site)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout
        match = re.search(r"port (\d+)", server.stdout.readline())
        assert match, "http.server did not say its port"
        yield int(match[1])
    finally:
        server.kill()
        server.wait()


def write_site(site: Path, pages: dict[int, str]) -> None:
    """Pages and a front page that links them; unchanged ones keep their modification time."""
    links = [f"/page-{number}.html" for number in pages]
    wanted = {f"page-{number}.html": page("en", key) for number, key in pages.items()}
    wanted["index.html"] = page("en", "front", links)
    for old in site.glob("*.html"):
        if old.name not in wanted:
            old.unlink()
    for name, text in wanted.items():
        if not (site / name).exists() or (site / name).read_text() != text:
            (site / name).write_text(text)


def _build(home: Path, config: Path, crawls: list[str]) -> int:
    building.run_in_this_process(backwards=False)
    return building.bring_up_to_date(home, config, crawls)


def disturbed(found: Bench, home: Path, crawls: list[str], strace: list[str], trace: Path) -> str:
    """Build these crawls in a child with strace attached; how it ended."""
    return traced(lambda: _build(home, found.config, crawls), home, strace, trace)


def traced(build: Callable[[], object], home: Path, strace: list[str], trace: Path) -> str:
    """Run a build in a child with strace attached; how it ended."""
    gate_out, gate_in = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        os.close(gate_in)
        os.read(gate_out, 1)  # until strace is attached
        status = 1
        try:
            from assets.child_process import end_forks_with_parent

            end_forks_with_parent()
            build()
            status = 0
        except BaseException as error:
            with contextlib.suppress(OSError):
                (home / "error.txt").write_text(f"{type(error).__name__}: {error}")
        os._exit(status)
    os.close(gate_out)
    watcher = subprocess.Popen(["strace", "-f", "-qq", "-o", str(trace), *strace, "-p", str(pid)])
    while _tracer(pid) == 0 and watcher.poll() is None:
        time.sleep(0.005)
    with contextlib.suppress(BrokenPipeError):
        os.write(gate_in, b"x")
    os.close(gate_in)
    state = _wait(pid)
    watcher.wait(30)
    if state is None:
        return "hung"
    if os.WIFSIGNALED(state):
        return "killed"
    if os.WEXITSTATUS(state) == 0:
        return "finished"
    error = home / "error.txt"
    return (error.read_text().split(":")[0] or "failed") if error.exists() else "failed"


def _tracer(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"TracerPid:\s+(\d+)", status)[1])  # type: ignore[index]


def _wait(pid: int) -> int | None:
    """Its wait status; None if it had to be ended because it hung."""
    deadline = time.monotonic() + LONGEST_S
    while time.monotonic() < deadline:
        ended, state = os.waitpid(pid, os.WNOHANG)
        if ended:
            return state
        time.sleep(0.02)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def run_point(found: Bench, point: Point) -> Row:
    """One fault in a copy of the base, then the same build again."""
    home, trace = found.folder / "home", found.folder / "trace.txt"
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(found.base, home)
    calls = CALLS[point.call][0]
    effect = "signal=KILL" if point.effect == "KILL" else f"error={point.effect}"
    injection = ["-e", f"trace={','.join(calls)}", "-e", f"inject={','.join(calls)}:{effect}:when={point.nth}"]
    crawls = crawls_of(point.call)
    outcome = disturbed(found, home, crawls, injection, trace)
    met = outcome == "killed" or "INJECTED" in trace.read_text(errors="replace") or "KILL" in trace.read_text()
    return Row(point.call, point.effect, point.nth, met, outcome, _problem(found, home, crawls, outcome))


def _problem(found: Bench, home: Path, crawls: list[str], outcome: str) -> str:
    """What is wrong after a plain re-run; empty if nothing is."""
    try:
        replay.in_child(_build, home, found.config, crawls)
    except replay.ChildFailedError as error:
        return f"the re-run fails: {str(error)[-800:]}"
    now, wanted = building.versions(home), found.versions[crawls[0]]
    different = sorted(key for key in now.keys() | wanted.keys() if now.get(key) != wanted.get(key))
    if different:
        return f"differ from the undisturbed build: {', '.join(different)}"
    if damage := open_store(str(home / "store.git")).verify().damage:
        return f"verify: {damage}"
    return "the build hung" if outcome == "hung" else ""


def count_calls(found: Bench) -> dict[str, int]:
    """Kind -> the most calls that one process makes in an undisturbed build."""
    home, trace = found.folder / "home", found.folder / "trace.txt"
    every = sorted({name for calls, _ in CALLS.values() for name in calls})
    most: dict[str, int] = {}
    for crawls in (SITE, FOLDER):
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(found.base, home)
        outcome = disturbed(found, home, crawls, ["-e", f"trace={','.join(every)}"], trace)
        if outcome != "finished":
            raise RuntimeError(f"the undisturbed build under strace ended as {outcome}")
        met = calls_in(trace)
        builder = Counter(pid for pid, name in met if name == "fsync").most_common(1)[0][0]
        for kind, (calls, _) in CALLS.items():
            if crawls_of(kind) == crawls:
                # The crawler writes less than the build does: its calls are those of another process.
                mine = [pid for pid, name in met if name in calls and (kind != "crawler write" or pid != builder)]
                most[kind] = max(Counter(mine).values(), default=0)
    return most


def calls_in(trace: Path) -> list[tuple[str, ...]]:
    """(process, system call) of each line of strace's output."""
    return [m.groups() for m in map(_CALL.match, trace.read_text(errors="replace").splitlines()) if m]


def spread(calls: dict[str, int], points: int) -> list[Point]:
    """Every n of each kind and effect where that is few enough, else evenly spread ones."""
    pairs = sorted(
        ((kind, effect) for kind, (_, effects) in CALLS.items() for effect in effects), key=lambda p: calls[p[0]]
    )
    chosen: list[Point] = []
    for position, (kind, effect) in enumerate(pairs):
        share = (points - len(chosen)) // (len(pairs) - position)
        wanted = min(calls[kind], max(1, share))
        numbers = sorted({1 + round(i * (calls[kind] - 1) / max(1, wanted - 1)) for i in range(wanted)})
        chosen += [Point(kind, effect, nth) for nth in numbers]
    return chosen


def main() -> int:
    """Run the campaign; exit 1 if a re-run differs or a build hung."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--points", type=int, default=POINTS)
    parser.add_argument("--one", nargs=3, metavar=("CALL", "EFFECT", "N"))
    options = parser.parse_args()
    if not shutil.which("strace"):
        print("this campaign needs strace: install it (apt-get install strace)")
        return 1
    started = time.monotonic()
    ref_files.STALE_LOCK_S = 0.05  # a killed build may leave Git's lock; do not wait the usual 10 s
    replay.warm_up()
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory, prefix="faults-") as folder, bench(Path(folder)) as found:
        if options.one:
            row = run_point(found, Point(options.one[0], options.one[1], int(options.one[2])))
            print(row)
            return int(bool(row.problem))
        calls = count_calls(found)
        print(f"calls of the busiest process: {calls}", flush=True)
        rows = []
        points = spread(calls, options.points)
        for point in points:
            rows.append(run_point(found, point))
            if rows[-1].problem:
                print(f"PROBLEM {rows[-1]}", flush=True)
            elif len(rows) % 10 == 0 or len(points) <= 20:
                print(f"{len(rows)} of {len(points)} after {time.monotonic() - started:.0f} s: {rows[-1]}", flush=True)
    return report(rows, calls, len(found.versions[FOLDER[0]]), started)


def report(rows: list[Row], calls: dict[str, int], versions: int, started: float) -> int:
    """The table, on the terminal and (of at least half the campaign) in docs/results/faults.json."""
    table: list[dict[str, Any]] = []
    for kind, (_, effects) in CALLS.items():
        for effect in effects:
            mine = [row for row in rows if (row.call, row.effect) == (kind, effect)]
            outcomes = dict(sorted(Counter(row.outcome for row in mine).items()))
            entry = {"call": kind, "effect": effect, "calls_of_busiest_process": calls[kind], "faults": len(mine)}
            entry |= {"met": sum(row.met for row in mine), "outcomes": outcomes}
            table.append(entry | {"problems": sum(bool(row.problem) for row in mine)})
            print(f"{kind:<13} {effect:<13} {len(mine):4} of {calls[kind]:5} calls, {entry['met']:4} met  {outcomes}")
    figures = {
        "faults": len(rows),
        "faults_met": sum(row.met for row in rows),
        "data_versions_compared_each": versions,
        "problems": [asdict(row) for row in rows if row.problem],
        "seconds": round(time.monotonic() - started),
    }
    print(
        f"{len(rows)} faults, {figures['faults_met']} met, {len(figures['problems'])} problems, {figures['seconds']} s"
    )
    if len(rows) < POINTS // 2:  # a look is no result
        return int(bool(figures["problems"]) or not rows)
    return finish(result_of(table, figures))


def result_of(rows: list[dict[str, Any]], figures: dict[str, Any]) -> Result:
    """What was asked for and what was found."""
    equal = "after a plain re-run every data version equals the undisturbed build's and the store is whole: exceptions"
    goals = [
        Goal(equal, len(figures["problems"]), "<=", 0, ("problems",)),
        Goal("faults that the build met", figures["faults_met"], ">=", POINTS, ("faults", "faults_met", "met")),
    ]
    not_judged = (
        why("describes the build that is disturbed", "calls_of_busiest_process", "data_versions_compared_each")
        | why("how a disturbed build ended: any end is right that a plain re-run mends", "outcomes")
        | why("of this execution", "seconds")
    )
    return Result("faults", CODE, goals, rows, figures, not_judged)


if __name__ == "__main__":
    sys.exit(main())
