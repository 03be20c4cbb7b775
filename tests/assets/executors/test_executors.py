"""Where tasks run leaves no trace in the data, and what goes wrong there is one clear error."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from assets.build import BuildError, PipelineExecutor, Segment, SilentProgress
from assets.documents.engine import run_pipeline
from assets.executors import slurm as executor_slurm
from assets.executors.local import LocalProcesses
from assets.executors.placement import RayOptions, SlurmOptions
from assets.executors.ray import RayCluster
from assets.executors.slurm import SlurmCluster
from orchestration.config import ConfigError, Profile, load_profile, validate
from orchestration.identity.code_version import code_version
from orchestration.launch.curation import CurationExecutor
from orchestration.stages import BY_NAME
from tests.assets.documents.crawls import CHINESE, ENGLISH, crawl_of, page
from tests.assets.documents.test_stages import run_both
from tests.assets.executors.misbehaving import Misbehaving

pytestmark = pytest.mark.slow

PAGES = {f"https://s.example/{n}": page(f"{n}. {ENGLISH if n % 2 else CHINESE}") for n in range(14)}
RAY = RayOptions.model_validate({"memory_gb_per_task": 0.1, "retries": 0})


@pytest.fixture(scope="module")
def ray_is_up() -> Iterator[None]:
    """A Ray of this machine for the tests of this file."""
    import ray

    yield
    ray.shutdown()


EXECUTORS: dict[str, Callable[[float], PipelineExecutor]] = {
    "local": lambda stalled_after_s: LocalProcesses(2, stalled_after_s),
    "ray": lambda stalled_after_s: RayCluster(RAY, stalled_after_s),
}


@pytest.mark.usefixtures("ray_is_up")
@pytest.mark.parametrize(
    ("name", "how", "message"),
    [
        ("local", "raises", r"task 1 of 3 failed: ZeroDivisionError: a bug of a block; its log is .*task_00001\.log"),
        ("local", "refuses", "^page 7 is damaged: crawl again$"),
        ("local", "dies", r"a worker process was killed \(out of memory\?\) after \d of 3 tasks"),
        ("local", "hangs", "no task ended within 4 s, after 2 of 3"),
        ("ray", "raises", r"task 1 of 3 failed: ZeroDivisionError: a bug of a block; its log is .*task_00001\.log"),
        ("ray", "dies", r"a Ray worker was killed \(out of memory\?\) after \d of 3 tasks; task 1 was tried 1 times"),
    ],
)
def test_what_goes_wrong_is_one_clear_error(name: str, how: str, message: str, tmp_path: Path) -> None:
    """The other failures on Ray, and all of them on Slurm: make campaign-executors."""
    executor = EXECUTORS[name](4 if how == "hangs" else 100)
    with pytest.raises(BuildError, match=message):
        run_pipeline([Misbehaving(tmp_path, how)], 3, 2, tmp_path, tmp_path / "parts", SilentProgress(), executor)
    if how == "raises":
        log = next((tmp_path / "datatrove/logs").glob("task_00001.log"))
        assert "ZeroDivisionError" in log.read_text()


@pytest.mark.usefixtures("ray_is_up")
def test_ray_gives_the_same_data_and_repeats_no_finished_task(tmp_path: Path) -> None:
    crawl: tuple[Segment, Segment] = crawl_of(tmp_path / "crawl", PAGES)
    here = run_both(tmp_path / "local", crawl, workers=1)
    there = run_both(tmp_path / "ray", crawl, workers=1, executor=RayCluster(RAY))
    assert there["versions"] == here["versions"]
    assert there["filtered"].as_json() == here["filtered"].as_json()
    parts = {path: path.stat().st_mtime_ns for path in (tmp_path / "ray/extract/work/parts").iterdir()}
    assert len(parts) == 4
    run_both(tmp_path / "ray", crawl, workers=1, executor=RayCluster(RAY))
    assert {path: path.stat().st_mtime_ns for path in parts} == parts


def test_where_it_runs_is_no_part_of_the_code_version() -> None:
    for stage in ("extracted_documents", "filtered_documents"):
        version = code_version(BY_NAME[stage])
        assert not [name for name in version.modules if "executor" in name or "placement" in name]
        assert "assets.documents.engine" in version.modules
        assert "ray" not in version.libraries and "datatrove" in version.libraries


def test_profiles_choose_the_executor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_SLURM_PARTITION", "long")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    found: dict[str, Any] = {}
    for name in ("smoke", "local", "ray", "slurm", "cluster"):
        monkeypatch.setenv("HEADWATER_PROFILE", name)
        found[name] = CurationExecutor(load_profile())._place()
    assert found["smoke"] == LocalProcesses(1) and found["local"] == LocalProcesses(2)
    assert isinstance(found["ray"], RayCluster) and not found["ray"].options.address
    assert isinstance(found["cluster"], SlurmCluster) and found["cluster"].options.partition == "long"
    assert load_profile().with_workers(3).slurm == found["cluster"].options.model_copy(update={"workers": 3})
    assert isinstance(found["slurm"], SlurmCluster)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"executor": "slurm"}, r"needs a table \[slurm\] with at least `partition`"),
        ({"executor": "spark"}, "executor: Input should be 'local', 'ray' or 'slurm'"),
        ({"slurm": {"partition": "cpu", "tme": 3}}, "slurm.tme: unknown key; known keys here: cpus_per_task"),
    ],
)
def test_a_wrong_profile_is_named(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(Profile, table, Path("profile.toml"), "")


# --- Slurm as far as it goes without one: programs of our own under its names


SLURM = SlurmOptions.model_validate({"partition": "cpu", "poll_s": 0.05, "tasks_per_job": 1})


def commands(folder: Path, monkeypatch: pytest.MonkeyPatch, **scripts: str) -> None:
    """Shell scripts on PATH; each notes its arguments in `folder/calls`."""
    folder.mkdir()
    for name, script in scripts.items():
        path = folder / name
        path.write_text(f'#!/bin/bash\necho "{name} $*" >> {folder}/calls\n{script}\n')
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(executor_slurm, "_LATE_FILES_S", 0.2)


def run_on_slurm(tmp_path: Path, options: SlurmOptions = SLURM) -> None:
    run_pipeline(
        [Misbehaving(tmp_path, "well")],
        3,
        2,
        tmp_path,
        tmp_path / "parts",
        SilentProgress(),
        SlurmCluster(options),
    )


@pytest.mark.parametrize(
    ("scripts", "message"),
    [
        ({"sbatch": "exit 1"}, r"sbatch refused the job \(exit 1\)"),
        (
            {"sbatch": "echo Submitted batch job 7", "squeue": "echo '7_1|TIMEOUT'"},
            r"Slurm job 7_1 is TIMEOUT with 3 of 3 tasks not done; raise \[slurm\] time",
        ),
        (
            {"sbatch": "echo Submitted batch job 7", "squeue": "echo '7_0|COMPLETED'"},
            "Slurm job 7 is ended with 3 of 3 tasks not done; nodes must see HEADWATER_HOME .*7_0.out was not written",
        ),
        (
            {
                "sbatch": "echo Submitted batch job 7",
                "squeue": "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1",
            },
            "Slurm job 7 is ended with 3 of 3 tasks not done",
        ),
    ],
)
def test_a_slurm_job_that_ends_badly_is_named_and_the_rest_is_cancelled(
    scripts: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands(tmp_path / "bin", monkeypatch, scancel="", **scripts)
    with pytest.raises(BuildError, match=re.compile(message, re.DOTALL)):
        run_on_slurm(tmp_path)
    calls = (tmp_path / "bin/calls").read_text()
    assert re.match(r"scancel --name headwater-[0-9a-f]{12}\n", calls)
    assert calls.endswith("scancel 7\n") or "sbatch refused" in message


def test_a_machine_without_slurm_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(BuildError, match="executor = 'slurm', but this machine has no scancel"):
        run_on_slurm(tmp_path)
