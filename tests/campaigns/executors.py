"""The same crawl to token shards on every executor: are the digests equal, and is every failure a clear error?

    python -m tests.campaigns.executors     some minutes; writes docs/results/executors.json

Builds the tiny graph (tests/end_to_end/config) with 1 and 2 local workers, on a Ray of this machine and on a
real single-node Slurm (root, and Debian's slurm-wlm and munge), and compares the data version of every
asset up to token_shards. Then a pipeline whose second task raises, dies or hangs runs on each of them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from assets.build import BuildError, PipelineExecutor, SilentProgress
from assets.documents.engine import run_pipeline
from assets.executors.local import LocalProcesses
from assets.executors.placement import RayOptions, SlurmOptions
from assets.executors.ray import RayCluster
from assets.executors.slurm import SlurmCluster
from benchmarks.results import Goal, Result, finish, why
from orchestration.stages import BY_NAME, GROUPS
from tests.assets.executors.misbehaving import Misbehaving
from tests.campaigns.slurm import slurm
from tests.end_to_end.harness import REPOSITORY, STAMP, Home
from tests.end_to_end.site import make_site, serve

CODE = (
    *("assets/documents/engine.py", "assets/executors/local.py", "assets/executors/ray.py"),
    *("assets/executors/slurm.py", "assets/executors/placement.py", "tests/campaigns/executors.py"),
)
RUNS = {"local, 1 worker": "smoke", "local, 2 workers": "local", "ray": "ray", "slurm": "slurm"}
"""Name -> profile of config/profiles."""
BUILD_WITHIN_S = 1800  # a minute on a quiet machine
CAPTURES_PER_TASK = 5  # several tasks on the tiny site
FAILURES = {
    "raises": ("ZeroDivisionError: a bug of a block",) * 3,
    "refuses": ("page 7 is damaged: crawl again",) * 3,
    "dies": ("was killed", "was killed", "is FAILED"),
    "hangs": ("no task ended within", "no task ended within", "is TIMEOUT"),
}
"""What the second task does -> what the error must say on local, Ray, Slurm."""


@dataclass
class Run:
    """One build."""

    name: str
    seconds: float
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """One failing pipeline."""

    executor: str
    what: str
    seconds: float
    message: str
    clear: bool


def main() -> int:
    """All builds, then all failures; exits 1 where a digest differs or an error is not the expected one."""
    with tempfile.TemporaryDirectory(prefix="executors-") as name:
        folder = Path(name)
        site = make_site(folder / "site")
        with serve(site) as port, slurm(folder / "slurm") as environment:
            runs = [build(folder / profile, port, title, profile, environment) for title, profile in RUNS.items()]
            failures = [*fail_everywhere(folder / "failures", environment)]
    first = runs[0].versions
    assets = sorted({asset for run in runs for asset in run.versions})
    rows = {asset: len({run.versions.get(asset) for run in runs}) == 1 for asset in assets}
    for run in runs:
        print(f"{run.name:<18} {run.seconds:7.1f} s   {len(run.versions)} data versions", flush=True)
    for asset, equal in rows.items():
        print(f"{asset:<60} {first.get(asset, 'none')[:12]}   {'equal' if equal else 'DIFFERS'}")
    for failure in failures:
        print(
            f"{failure.executor:<6} {failure.what:<8} {failure.seconds:6.1f} s   {'clear' if failure.clear else 'UNCLEAR'}"
        )
    different = [asset for asset, equal in rows.items() if not equal]
    print(f"{len(rows)} data versions on {len(runs)} executors: {len(different)} differ (goal: 0)")
    figures = {"different": different, "versions": first, "failures": [asdict(failure) for failure in failures]}
    return finish(result_of([{"executor": run.name, "seconds": round(run.seconds, 1)} for run in runs], figures))


def result_of(rows: list[dict[str, Any]], figures: dict[str, Any]) -> Result:
    """What was asked for and what was found."""
    unclear = sum(not failure["clear"] for failure in figures["failures"])
    goals = [
        Goal("data versions that differ between executors", len(figures["different"]), "<=", 0, ("different",)),
        Goal("failures that are no clear error", unclear, "<=", 0, ("failures",)),
        Goal("executors", len(rows), ">=", len(RUNS), ()),
    ]
    not_judged = why("start-up of a cluster beside seconds of work; the data are judged", "seconds")
    return Result("executors", CODE, goals, rows, figures, not_judged)


def build(folder: Path, port: int, title: str, profile: str, environment: dict[str, str]) -> Run:
    """Crawl to token shards with one profile."""
    home = Home.create(folder, port)
    shutil.rmtree(home.config / "profiles")
    shutil.copytree(REPOSITORY / "config" / "profiles", home.config / "profiles")
    home.edit_recipe("curation", "[extraction]\n", f"[extraction]\ncaptures_per_task = {CAPTURES_PER_TASK}\n")
    modules = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    home.environment |= {"HEADWATER_PROFILE": profile, "SLURM_CONF": environment["SLURM_CONF"], "PYTHONPATH": modules}
    started = time.monotonic()
    arguments = ("run", "--recipe", "tiny", "--no-train", "--at", STAMP)
    process = home.popen(*arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said, _ = process.communicate(timeout=BUILD_WITHIN_S)
    if process.returncode:
        raise SystemExit(f"{title}: the build failed\n{said}")
    seconds = time.monotonic() - started
    curation = GROUPS[: GROUPS.index("tokenizer") + 1]
    versions = {key: v for key, v in home.versions().items() if BY_NAME[key.partition("[")[0]].group in curation}
    return Run(title, seconds, versions)


def fail_everywhere(folder: Path, environment: dict[str, str]) -> Iterator[Failure]:
    """Each failure on each executor."""
    for what, expected in FAILURES.items():
        limit_s = 20.0 if what == "hangs" else 600.0
        executors: dict[str, PipelineExecutor] = {
            "local": LocalProcesses(2, limit_s),
            "ray": RayCluster(RayOptions.model_validate({"memory_gb_per_task": 0.5, "retries": 1}), limit_s),
            "slurm": SlurmCluster(
                SlurmOptions.model_validate({"partition": "cpu", "time": "1", "tasks_per_job": 1, "poll_s": 0.5})
            ),
        }
        for (name, executor), says in zip(executors.items(), expected, strict=True):
            here = folder / what / name
            here.mkdir(parents=True)
            with _environment(environment):
                yield _fail(here, name, what, executor, says)


def _fail(here: Path, name: str, what: str, executor: PipelineExecutor, says: str) -> Failure:
    started = time.monotonic()
    try:
        run_pipeline([Misbehaving(here / "parts", what)], 3, 2, here, here / "parts", SilentProgress(), executor)
        message = "no error"
    except BuildError as error:
        message = str(error).replace(str(here), "SCRATCH")
    except Exception as error:
        message = f"untyped {type(error).__name__}: {error}"
    return Failure(name, what, round(time.monotonic() - started, 1), _shortened(message, says), says in message)


def _shortened(message: str, says: str) -> str:
    """The first line, and the one that says why; a traceback between them names folders of this machine."""
    first, *rest = message.splitlines()
    return "\n".join([first, *(line for line in rest[-6:] if says in line)])


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    with patch.dict(os.environ, values):
        yield


if __name__ == "__main__":
    sys.exit(main())
