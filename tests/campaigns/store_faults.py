"""Every system call that writes the Git store, and every request to a lakeFS store, fails once: both must stay whole.

    python -m tests.campaigns.store_faults     about 180 runs, 2 minutes, and 490 runs, 10 minutes;
                                               writes docs/results/store_faults.json

lakeFS: lakefs_faults.py. Git: a child makes a branch, a commit of two files (one by path), a merge and a tag; strace makes its n-th
fsync, write, rename, mkdir, link, unlink or flock fail, for every n until the child gets through, so
libgit2's own calls are met too. After each run: every ref reads as the old content or the new, verify and
`git fsck --full --strict` find nothing, and the next commit works.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.results import Goal, Result, finish, why
from orchestration.store.contract import StoreUnavailableError
from orchestration.store.git import ref_files
from orchestration.store.git.store import GitStore

ROOT = Path(__file__).resolve().parents[2]
CODE = ("orchestration/store", "tests/campaigns/store_faults.py", "tests/campaigns/lakefs_faults.py")
CALLS = {
    "fsync": ("EIO", "KILL"),
    "write": ("ENOSPC", "KILL"),
    "rename": ("ENOSPC", "KILL"),
    "mkdir": ("ENOSPC", "KILL"),
    "link": ("EIO", "KILL"),
    "unlink": ("KILL",),
    "flock": ("KILL",),
}
MOST_CALLS = 150
TYPED_ERROR = 3  # exit status of a child that met StoreUnavailableError


@dataclass(frozen=True)
class Fault:
    """The n-th system call of one kind fails with an error, or kills (KILL)."""

    call: str
    effect: str
    nth: int

    def __str__(self) -> str:
        return f"{self.call}-{self.effect}-{self.nth}"


@dataclass(frozen=True)
class Row:
    """What one fault did. `met`: the child came as far as that call. `problem`: empty, or what was broken."""

    call: str
    effect: str
    nth: int
    met: bool
    outcome: str
    problem: str


def child(folder: Path) -> int:
    """The work that is disturbed."""
    store = GitStore.at(folder / "store.git")
    try:
        store.create_branch("build")
        store.commit("build", {"a/1": b"new", "c/d": folder / "source"}, message="staged")
        store.merge("build", message="published")
        store.tag("v1", "main")
    except StoreUnavailableError:
        return TYPED_ERROR
    return 0


def _content(store: GitStore, ref: str) -> dict[str, bytes]:
    return {info.path: store.read_bytes(ref, info.path) for info in store.list(ref)}


def inject(folder: Path, fault: Fault) -> Row:
    """One run in an empty folder."""
    (folder / "source").write_bytes(b"by path")
    store = GitStore.at(folder / "store.git")
    store.commit("main", {"a/1": b"1", "b": b"2"}, message="base")
    effect = "signal=KILL" if fault.effect == "KILL" else f"error={fault.effect}"
    injection = ["-e", f"trace={fault.call}", "-e", f"inject={fault.call}:{effect}:when={fault.nth}"]
    trace = folder / "trace.txt"
    command = [
        "strace",
        "-f",
        "-qq",
        "-o",
        str(trace),
        *injection,
        sys.executable,
        "-m",
        "tests.campaigns.store_faults",
        str(folder),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    met = done.returncode != 0 or "INJECTED" in trace.read_text(errors="replace")
    outcome = {0: "done", TYPED_ERROR: "typed error", -9: "killed"}.get(done.returncode, "crashed")
    problem = done.stderr[-500:] if outcome == "crashed" else _examine(folder)
    if met and outcome == "done" and fault.call == "fsync":
        problem = problem or "the disk reported an error, the store success"
    return Row(fault.call, fault.effect, fault.nth, met, outcome, problem)


def _examine(folder: Path) -> str:
    """What is wrong with the store after a fault; empty if nothing is."""
    old = {"a/1": b"1", "b": b"2"}
    new = {**old, "a/1": b"new", "c/d": b"by path"}
    store = GitStore.at(folder / "store.git")
    for name in [*store.branches(), *store.tags()]:
        if _content(store, name) not in (old, new):
            return f"{name} is neither the old content nor the new"
    if damage := store.verify().damage:
        return f"verify: {damage}"
    fsck = subprocess.run(["git", "fsck", "--full", "--strict"], cwd=store.folder, capture_output=True, text=True)
    if fsck.returncode != 0 or "error" in fsck.stderr:
        return f"git fsck: {fsck.stdout}{fsck.stderr}"
    ref_files.STALE_LOCK_S = 0.05  # a killed child may leave Git's lock; do not wait the usual 10 s
    store.commit("main", {"next": b"3"}, message="next")
    return "" if _content(store, "main")["next"] == b"3" else "the next commit is not readable"


def sweep() -> tuple[list[Row], list[dict[str, Any]]]:
    """Every fault at every system call of the Git store; rows, and a table by call and effect."""
    rows: list[Row] = []
    table: list[dict[str, Any]] = []
    for call, effects in CALLS.items():
        for effect in effects:
            for nth in range(1, MOST_CALLS):
                with tempfile.TemporaryDirectory() as folder:
                    row = inject(Path(folder), Fault(call, effect, nth))
                if not row.met:
                    break
                rows.append(row)
            mine = [row for row in rows if (row.call, row.effect) == (call, effect)]
            counts = {name: sum(row.outcome == name for row in mine) for name in sorted({row.outcome for row in mine})}
            table.append({"call": call, "effect": effect, "faults": len(mine), "outcomes": counts})
            print(f"{call:<8} {effect:<8} {len(mine):4} faults  {counts}", flush=True)
    return rows, table


def main(every: int) -> int:
    """Both sweeps; exits 1 if any run left a problem. `every`: only each n-th request to the lakeFS store."""
    from tests.campaigns import lakefs_faults  # its servers cost a second, for which a child has no use

    if not shutil.which("strace"):
        print("this campaign needs strace: install it (apt-get install strace)")
        return 1
    figures: dict[str, Any] = {"problems": []}
    found: list[dict[str, Any]] = []
    for backend, run in (("git", sweep), ("lakefs", lambda: lakefs_faults.sweep(every))):
        rows, table = run()
        problems = [row for row in rows if row.problem]
        for row in problems:
            print(f"PROBLEM {row}")
        print(f"{backend}: {len(rows)} faults, {len(problems)} problems (goal: 0)")
        figures[f"{backend}_faults"] = len(rows)
        figures["problems"] += [str(row) for row in problems]
        found += [{"store": backend} | row for row in table]
    figures["lakefs_requests"] = f"every {every}th" if every > 1 else "all"
    return finish(result_of(found, figures))


def result_of(rows: list[dict[str, Any]], figures: dict[str, Any]) -> Result:
    """What was asked for and what was found."""
    goals = [Goal("faults after which a store is not whole", len(figures["problems"]), "<=", 0, ("problems",))]
    not_judged = why(
        "system calls and requests of the work that is disturbed", "faults", "git_faults", "lakefs_faults"
    ) | why("how the disturbed work ended: any end is right that leaves the store whole", "outcomes")
    return Result("store_faults", CODE, goals, rows, figures, not_judged)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("child", nargs="?", type=Path, help="only the disturbed work, in this folder")
    parser.add_argument("--every", type=int, default=1, help="only each n-th request to the lakeFS store")
    arguments = parser.parse_args()
    sys.exit(child(arguments.child) if arguments.child else main(arguments.every))
