"""A request that breaks a rule is refused with the file, the key and the rule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.training.tiny import tiny_request, write_request
from training.errors import RequestError
from training.request import Schedule, TrainRequest, load_request


def test_a_valid_request_is_read(data: Path, tmp_path: Path) -> None:
    request = load_request(write_request(tmp_path, tiny_request(data, tmp_path / "out")))
    assert request.parallelism.ranks == 1
    assert request.sequences == 24
    assert request.tokens_seen(6) == 6 * 4 * 32


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"learning_rate": 1.0}, "learning_rate: Extra inputs are not permitted"),
        ({"global_batch_size": 5}, "global_batch_size (5) must be a multiple"),
        ({"checkpoint_steps": [1, 3]}, "the last checkpoint step (3) must be total_steps (6)"),
        ({"checkpoint_steps": [3, 1, 6]}, "ascending and distinct"),
        ({"parallelism": {"tp": 4}}, "tp (4) must divide n_kv_heads (2)"),
        ({"parallelism": {"pp": 3}}, "pp (3) cannot exceed n_layers (2)"),
        ({"parallelism": {"dp_replicate": 2, "tp": 2}}, "dp_replicate without dp_shard"),
        ({"seed": -1}, "seed: Input should be greater than or equal to 0"),
        ({"run": ""}, "run: String should have at least 1 character"),
    ],
)
def test_a_broken_rule_is_named(data: Path, tmp_path: Path, changes: dict[str, Any], rule: str) -> None:
    path = write_request(tmp_path, tiny_request(data, tmp_path / "out", **changes))
    with pytest.raises(RequestError) as caught:
        load_request(path)
    assert rule in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "rule"),
    [
        ({"n_heads": 5}, "dim (32) must be a multiple of n_heads (5)"),
        ({"n_kv_heads": 3}, "n_heads (4) must be a multiple of n_kv_heads (3)"),
        ({"dim": 12}, "must be even"),
    ],
)
def test_a_broken_shape_is_explained(data: Path, tmp_path: Path, shape: dict[str, int], rule: str) -> None:
    request = tiny_request(data, tmp_path / "out")
    request["model"] |= shape
    with pytest.raises(RequestError, match=rule.replace("(", r"\(").replace(")", r"\)")):
        load_request(write_request(tmp_path, request))


@pytest.mark.parametrize(("content", "reason"), [("{not json", "is not JSON"), (json.dumps([1]), "breaks 1 rule")])
def test_garbage_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "request.json"
    path.write_text(content)
    with pytest.raises(RequestError, match=reason):
        load_request(path)
    with pytest.raises(RequestError, match="cannot be read"):
        load_request(tmp_path / "absent.json")


def test_the_layout_is_not_part_of_the_identity(data: Path, tmp_path: Path) -> None:
    one = TrainRequest.model_validate(tiny_request(data, tmp_path / "a"))
    two = TrainRequest.model_validate(tiny_request(data, tmp_path / "b", parallelism={"dp_shard": 2}, threads=2))
    other = TrainRequest.model_validate(tiny_request(data, tmp_path / "a", seed=8))
    assert one.identity() == two.identity()
    assert one.identity() != other.identity()
    assert str(tmp_path) not in json.dumps(one.portable())


def test_warmup_stable_decay_is_what_the_optimiser_gets(data: Path, tmp_path: Path) -> None:
    import torch
    from torchtitan.components.lr_scheduler import build_lr_schedulers

    from training.job import job_config

    schedule = {"total_steps": 20, "warmup_steps": 4, "decay_steps": 7, "peak_lr": 0.01, "min_lr_ratio": 0.1}
    request = TrainRequest.model_validate(
        tiny_request(data, tmp_path / "out", schedule=schedule, checkpoint_steps=[20])
    )
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=request.schedule.peak_lr)
    config = job_config(request)
    scheduler = build_lr_schedulers([optimiser], config.lr_scheduler, config.training.steps)  # type: ignore[arg-type]
    given = []
    for _ in range(20):
        given.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    wanted = [request.schedule.learning_rate(step) for step in range(1, 21)]
    assert given == pytest.approx(wanted, rel=1e-12)
    assert wanted[:4] == pytest.approx([0.0025, 0.005, 0.0075, 0.01])
    assert wanted[13] == 0.01
    assert wanted[14] < 0.01
    assert wanted[-1] == pytest.approx(0.001 + 0.009 / 7)  # one notch above the floor


def test_a_schedule_without_a_stable_phase_is_refused() -> None:
    with pytest.raises(ValueError, match=r"warmup_steps \(4\) \+ decay_steps \(7\) exceed total_steps \(10\)"):
        Schedule(total_steps=10, warmup_steps=4, decay_steps=7, peak_lr=0.1)
