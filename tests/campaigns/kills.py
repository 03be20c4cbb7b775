"""kill -9 at chosen moments of a whole build, then the same command again: the data must come out equal.

    make campaign-kills          at least 50 kills in 5 chains; prints the table, writes docs/results/kills.json

A chain is one home: the command is killed while a stage builds (after a share of the time that stage
took undisturbed), started again, killed in the next stage, and so on to the end; every data version is
then compared with an undisturbed build of the same site.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.results import Goal, Result, finish, why
from orchestration.stages import BY_NAME, GROUPS, STAGES
from tests.end_to_end.harness import STAMP, Home
from tests.end_to_end.site import make_site, serve

RUN = ("run", "--at", STAMP, "--recipe", "tiny")
WAIT_S = 200.0
CODE = ("assets", "orchestration", "training", "tests/campaigns/kills.py")
KILLS_WANTED = 50


@dataclass(frozen=True)
class KillPoint:
    """Kill once `asset` is being built and `share` of its undisturbed build time has passed."""

    asset: str
    share: float


@dataclass(frozen=True)
class KillRow:
    """What happened at one kill."""

    chain: int
    asset: str
    group: str
    share: float
    killed: bool
    orphans: int


def undisturbed(home: Home) -> tuple[dict[str, str], dict[str, float]]:
    """(data versions, build seconds per asset) of a build that nobody kills."""
    result = home.json(*RUN)
    return home.versions(), {row["asset"]: row["seconds"] / row["partitions"] for row in result["assets"]}


def kill_chain(home: Home, points: list[KillPoint], seconds: dict[str, float], chain: int = 0) -> list[KillRow]:
    """Kill the build at each point in turn, then let it end. Raises if the last run fails."""
    group_of = {stage.name: stage.group for stage in STAGES}
    rows = []
    for point in points:
        process = home.popen(*RUN, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        killed = _kill_when_building(process, home, point, seconds.get(point.asset, 0.0))
        rows.append(KillRow(chain, point.asset, group_of[point.asset], point.share, killed, orphans(home)))
    home.headwater(*RUN)
    return rows


def _kill_when_building(process: subprocess.Popen[str], home: Home, point: KillPoint, seconds: float) -> bool:
    before = _scratch(home, point.asset)
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline and process.poll() is None and not _scratch(home, point.asset) - before:
        time.sleep(0.005)
    time.sleep(seconds * point.share)
    if process.poll() is not None:
        return False
    process.send_signal(signal.SIGKILL)
    process.wait()
    return True


def _scratch(home: Home, asset: str) -> set[tuple[str, int]]:
    """Builds under way of `asset` or, should its moment be missed, of what comes after it: folder and time."""
    names = [stage.name for stage in STAGES]
    found = set()
    for name in names[names.index(asset) :]:
        for folder in (home.state / "scratch" / name).glob("*/*"):
            with contextlib.suppress(FileNotFoundError):
                found.add((str(folder), folder.stat().st_mtime_ns))
    return found


def orphans(home: Home, grace_s: float = 5.0) -> int:
    """Processes of this home that still live some seconds after their parent was killed."""
    deadline = time.monotonic() + grace_s
    while True:
        alive = [p for p in psutil.process_iter(["pid", "environ"]) if _belongs(p, home)]
        if not alive or time.monotonic() > deadline:
            return len(alive)
        time.sleep(0.1)


def _belongs(process: psutil.Process, home: Home) -> bool:
    try:
        ours = process.info["environ"] and process.info["environ"].get("HEADWATER_HOME") == str(home.state)
        return bool(ours) and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def one_per_group() -> list[KillPoint]:
    """One point in each group: the slice that `make test` runs."""
    points = {
        "raw_crawl": 0.0,
        "filtered_documents": 0.37,
        "corpus": 0.74,
        "token_shards": 0.11,
        "order_manifest": 0.48,
    }
    points |= {"base_checkpoints": 0.85, "release_card": 0.0, "lineage_index": 0.0}  # late kills would find these done
    assert {BY_NAME[name].group for name in points} == set(GROUPS)
    return [KillPoint(name, share) for name, share in points.items()]


def all_points(chains: int = 5, kills: int = 55) -> list[list[KillPoint]]:
    """`kills` points spread over all assets and build shares, in `chains` homes; a few kills come too late to land."""
    per_chain = kills // chains
    result = []
    for chain in range(chains):
        names = [STAGES[(chain + i * len(STAGES) // per_chain) % len(STAGES)] for i in range(per_chain)]
        ordered = sorted({stage.name: stage for stage in names}.values(), key=lambda stage: stage.sort_key)
        result.append([KillPoint(s.name, ((chain * 7 + i * 3) % 11) / 10) for i, s in enumerate(ordered)])
    return result


def main() -> int:
    """Run the campaign; exit 1 if a data version differs, a process was orphaned or a kill came too late."""
    started = time.monotonic()
    rows: list[KillRow] = []
    different: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        site = make_site(Path(folder) / "site")
        with serve(site) as port:
            base, seconds = undisturbed(Home.create(Path(folder) / "undisturbed", port))
            for chain, points in enumerate(all_points()):
                home = Home.create(Path(folder) / f"chain-{chain}", port)
                rows += kill_chain(home, points, seconds, chain)
                versions = home.versions()
                different += [f"chain {chain}: {k}" for k in base if versions.get(k) != base[k]]
                for row in rows[-len(points) :]:
                    print(
                        f"chain {row.chain}  {row.group:<11} {row.asset:<20} at {row.share:4.0%}  killed={row.killed}  orphans={row.orphans}",
                        flush=True,
                    )
    figures = {
        "data_versions_compared": len(base) * len(all_points()),
        "different": different,
        "seconds": round(time.monotonic() - started),
    }
    return finish(result_of([asdict(row) for row in rows], figures))


def result_of(rows: list[dict[str, Any]], figures: dict[str, Any]) -> Result:
    """What was asked for and what was found."""
    goals = [
        Goal("kills that landed", sum(row["killed"] for row in rows), ">=", KILLS_WANTED, ()),
        Goal("data versions that differ after a plain re-run", len(figures["different"]), "<=", 0, ("different",)),
        Goal("processes orphaned", sum(row["orphans"] for row in rows), "<=", 0, ("orphans",)),
    ]
    not_judged = (
        why("where the kill was aimed", "chain", "share")
        | why("size of the comparison", "data_versions_compared")
        | why("of this execution", "seconds")
    )
    return Result("kills", CODE, goals, rows, figures, not_judged)


if __name__ == "__main__":
    sys.exit(main())
