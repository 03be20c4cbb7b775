"""A stable phase that another run has trained: taken over when it would come out the same, else left alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.training.running import exact, read_metrics, train, weights
from tests.training.tiny import tiny_request
from training.checkpoints.branching import shared_checkpoints, take_over
from training.contract.request import TrainRequest


def decaying(data: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """The tiny request with another decay, one step longer."""
    request = tiny_request(data, output, run="other-decay", checkpoint_steps=[1, 3, 5, 7], **changes)
    request["schedule"] |= {"total_steps": 7, "decay_steps": 3}
    request["data"]["decay"] = {"order": [str(data / "other-decay.parquet")], "order_fingerprint": "other-decay"}
    return request


def attempts(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "attempts.jsonl").read_text().splitlines()]


def test_a_run_that_takes_over_is_the_run_that_trains_it_all(undisturbed: Path, data: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in sorted(undisturbed.rglob("*")) if path.is_file()}
    train(tmp_path / "branch", decaying(data, tmp_path / "branch/out", branch_from=str(undisturbed)))
    train(tmp_path / "whole", decaying(data, tmp_path / "whole/out"))
    branch, whole = tmp_path / "branch/out", tmp_path / "whole/out"
    assert exact(branch) == exact(whole)
    assert weights(branch) == weights(whole)
    assert [(each["step"], each["taken_over_from"]) for each in attempts(branch)] == [(3, "tiny")]
    assert read_metrics(branch)[2]["step_s"] == read_metrics(undisturbed)[2]["step_s"]  # nothing was computed again
    marker = json.loads((branch / "checkpoints/step-00000003/complete.json").read_text())
    assert (marker["run"], marker["taken_over_from"]) == ("other-decay", "tiny")
    assert {path: path.read_bytes() for path in before} == before


def request_of(data: Path, output: Path, **changes: Any) -> TrainRequest:
    return TrainRequest.model_validate(decaying(data, output) | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 8},
        {"threads": 2},
        {"local_batch_size": 4},
        {"tokenizer_version": "tokenizer-2"},
        {"incidents": {}},
        {"watch": {"layers_every_steps": 1}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_would_not_come_out_the_same_is_left_alone(
    undisturbed: Path, data: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    assert shared_checkpoints(undisturbed, request_of(data, tmp_path))
    assert shared_checkpoints(undisturbed, request_of(data, tmp_path, **changes)) == []


def test_a_checkpoint_trained_past_an_incident_or_without_its_state_is_no_trunk(
    undisturbed: Path, data: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(undisturbed, other)
    request = request_of(data, tmp_path / "out")

    def steps() -> list[int]:
        return [int(folder.name[-8:]) for folder in shared_checkpoints(other, request)]

    def say(step: int, **changes: Any) -> None:
        path = other / f"checkpoints/step-{step:08d}/complete.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    assert steps() == [1, 3]
    say(3, keeps_state=False)
    assert steps() == [1]
    say(3, keeps_state=True, amendments=[{"action": "replace"}])
    assert steps() == [1]
    (other / "checkpoints/step-00000001/complete.json").unlink()
    say(3, amendments=[])
    assert steps() == [], "step 1 is wanted, and would never be made"


def test_a_step_that_is_not_wanted_serves_to_go_on_from(undisturbed: Path, data: Path, tmp_path: Path) -> None:
    request = request_of(data, tmp_path / "out", checkpoint_steps=[1, 7], branch_from=undisturbed)
    assert take_over(request) == "tiny"
    assert [path.name for path in (tmp_path / "out/checkpoints").iterdir()] == ["step-00000001"]
    assert [path.name for path in (tmp_path / "out-rolling").iterdir()] == ["step-00000003"]


def test_a_run_that_acted_on_an_incident_keeps_to_its_own(undisturbed: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "out/incidents").mkdir(parents=True)
    assert take_over(request_of(data, tmp_path / "out", branch_from=undisturbed)) is None
