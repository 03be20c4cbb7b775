"""Real runs with planted faults: the cause is found, training goes back and on, no person involved."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from assets.build import BuildError, SilentProgress
from orchestration.launch import program
from orchestration.launch.trainer import LocalTrainer
from tests.training import planted
from tests.training.running import exact, ranks_of, wait_until, weights
from tests.training.tiny import write_request

pytestmark = pytest.mark.slow

STEPS, FAULT = 112, (90, 91)
FAULTY = "tests.training.faulty_main"
POLICY = {"window_steps": 64, "confirm_steps": 2, "look_ahead_steps": 4, "calm_steps": 6, "max_attempts": 1}


def request(folder: Path, output: Path) -> dict[str, Any]:
    return planted.planted_request(folder, output, STEPS, checkpoint_steps=[40, 80, STEPS], incidents=POLICY)


def decisions(output: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(output.glob("incidents/*/decision.json"))]


def metrics(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def recovered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run that garbage disturbed, and the planted documents."""
    folder = tmp_path_factory.mktemp("garbage")
    _, bad = planted.write_world(folder, folder, STEPS, kind="garbage", planted_steps=FAULT, reuse_after=12)
    LocalTrainer().run(write_request(folder, request(folder, folder / "out")), folder, SilentProgress())
    return folder, bad


def test_garbage_is_traced_to_its_documents_quarantined_and_passed(recovered: tuple[Path, list[str]]) -> None:
    folder, bad = recovered
    output = folder / "out"
    (decision,) = decisions(output)
    assert (decision["cause"], decision["kind"], decision["rollback_step"]) == ("data", "loss_spike", 80)
    assert decision["first_step"] in (*FAULT, FAULT[-1] + 1)
    assert {suspect["doc_id"] for suspect in decision["suspects"]} == set(bad)
    assert [row["step"] for row in metrics(output)] == list(range(1, STEPS + 1))
    assert max(row["loss"] for row in metrics(output)[80:]) < 3.5
    assert json.loads((output / "incidents.json").read_text()) == []
    marker = json.loads((output / f"checkpoints/step-{STEPS:08d}/complete.json").read_text())
    assert [entry["action"] for entry in marker["amendments"]] == ["replace_sequences"]
    assert json.loads((output / "checkpoints/step-00000080/complete.json").read_text())["amendments"] == []


START = (
    "import sys; from pathlib import Path; from assets.build import SilentProgress\n"
    "from orchestration.launch.trainer import LocalTrainer\n"
    "LocalTrainer().run(Path(sys.argv[1]), Path(sys.argv[1]).parent, SilentProgress())"
)


def test_a_recovery_that_is_killed_at_each_of_its_steps_ends_in_the_same_bits(
    recovered: tuple[Path, list[str]], tmp_path: Path
) -> None:
    data, output = recovered[0], tmp_path / "out"
    command = [sys.executable, "-c", START, str(write_request(tmp_path, request(data, output)))]
    launcher = subprocess.Popen(command)
    for written in ("detected.json", "losses-good.parquet", "decision.json"):
        while not (output / "incidents/0001" / written).exists():
            assert launcher.poll() is None
            time.sleep(0.02)
        launcher.kill()
        launcher.wait()
        assert wait_until(lambda: not ranks_of(str(tmp_path / "request.json")))
        launcher = subprocess.Popen(command)
    assert launcher.wait() == 0
    assert exact(output) == exact(data / "out")
    assert weights(output) == weights(data / "out")


def test_a_fault_of_the_optimiser_that_comes_back_ends_in_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted.write_world(tmp_path, tmp_path, STEPS)
    output = tmp_path / "out"
    monkeypatch.setattr(program, "PROGRAM", FAULTY)
    for name, value in {"FIRST": FAULT[0], "LAST": FAULT[1], "FACTOR": 300, "HIDDEN": 1}.items():
        monkeypatch.setitem(os.environ, f"FAULT_{name}", str(value))
    with pytest.raises(BuildError, match=r"came back after 1 attempts \(cause: optimiser\)"):
        LocalTrainer().run(write_request(tmp_path, request(tmp_path, output)), tmp_path, SilentProgress())
    (decision,) = decisions(output)
    assert decision["cause"] == "optimiser"
    assert decision["amendment"]["action"] in ("lower_learning_rate", "tighten_clipping")
    report = (output / "incidents/report.md").read_text()
    assert "# Run planted stopped at step" in report
    assert f"| 1 | {decision['first_step']} to {decision['last_step']} | optimiser |" in report
    assert (output / "checkpoints/step-00000080/complete.json").is_file()
