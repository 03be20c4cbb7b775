"""A trainer that fails, is killed, or whose Dagster run ends: the asset says why, and no rank lives on."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.campaigns.kills import orphans
from tests.end_to_end.harness import STAMP, Home

pytestmark = pytest.mark.slow

TRAIN = ("run", "--recipe", "tiny", "--at", "20260301T000000Z", "--new-run")


def training(home: Home, module: str) -> psutil.Process:
    """The process of this home that runs `module`, as soon as there is one."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for process in psutil.process_iter(["cmdline", "environ"]):
            command, environment = process.info["cmdline"] or [], process.info["environ"] or {}
            if environment.get("HEADWATER_HOME") == str(home.state) and f"-m {module} " in " ".join(command):
                return process
        time.sleep(0.05)
    raise AssertionError(f"no process ran {module}")


def slow(home: Home) -> None:
    """A run long enough to be interrupted."""
    home.edit_recipe("tiny", "total_steps = 12", "total_steps = 400")
    home.edit_recipe("tiny", "checkpoint_every_steps = 4", "checkpoint_every_steps = 100")


def test_a_diverging_trainer_fails_the_asset_with_its_own_last_error(copy_of_built: Home) -> None:
    home = copy_of_built
    home.edit_recipe("tiny", "decay_steps = 4", "decay_steps = 4\nweight_decay = 1e38")
    home.edit_recipe("tiny", "[incidents]", "[incidents]\nreact = false")  # else it goes back and tries: tests/training
    result = home.headwater(*TRAIN, expect=1)
    assert "base_checkpoints" in result.stderr
    assert "loss" in result.stderr
    assert "nan" in result.stderr.lower() or "not finite" in result.stderr.lower()
    assert "base_checkpoints[tiny@20260301T000000Z]" not in home.versions()
    assert orphans(home) == 0


def test_a_killed_rank_fails_the_asset_and_the_next_run_goes_on(copy_of_built: Home) -> None:
    home = copy_of_built
    slow(home)
    with (home.config / "profiles/local.toml").open("a", encoding="utf-8") as profile:
        profile.write(
            "[training]\nrestarts = 0\n"
        )  # else the run goes on by itself: tests/orchestration/launch/test_launchers.py
    process = home.popen(*TRAIN, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    rank = training(home, "training.main")
    time.sleep(6)
    rank.kill()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    assert "base_checkpoints" in err
    assert "killed by signal 9 (SIGKILL)" in err
    assert orphans(home) == 0


def test_ending_the_run_ends_every_rank(copy_of_built: Home) -> None:
    home = copy_of_built
    slow(home)
    for number in (signal.SIGTERM, signal.SIGINT):
        process = home.popen(*TRAIN, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        training(home, "training.main")
        time.sleep(3)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err.count("error:")) == (1, 1), err
        assert "interrupted; the same command continues" in err
        assert "Traceback" not in err
        assert orphans(home, grace_s=15) == 0


def test_step_loss_and_speed_stream_into_the_event_log(copy_of_built: Home) -> None:
    from dagster import AssetKey, DagsterInstance

    instance = DagsterInstance.from_config(str(copy_of_built.state / "dagster"))
    records = instance.fetch_observations(AssetKey("base_checkpoints"), limit=100).records
    assert records
    metadata = records[0].asset_observation.metadata
    assert {"step", "loss", "tokens_per_s"} <= set(metadata)
    assert records[0].asset_observation.partition == f"tiny@{STAMP}"
    assert Path(copy_of_built.root).exists()
