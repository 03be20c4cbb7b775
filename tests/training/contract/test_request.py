"""A request that breaks a rule is refused with the file, the key and the rule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.training.tiny import tiny_request, write_request
from training.contract.errors import HardwareError, RequestError
from training.contract.request import Schedule, TrainRequest, load_request


def test_a_valid_request_is_read(data: Path, tmp_path: Path) -> None:
    request = load_request(write_request(tmp_path, tiny_request(data, tmp_path / "out")))
    assert request.layout.ranks == 1
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
        ({"parallelism": {"tp": 3}}, "tp (3) must be 1, 2, 4 or 8"),
        ({"parallelism": {"tp": 16}}, "needs the fast links inside a node"),
        ({"parallelism": {"cp": 32}}, "sequence_length (32) must be a multiple of 2 * tp * cp (64)"),
        (
            {"parallelism": {"pp": 2}, "local_batch_size": 1},
            "must be at least pp (2) micro-batches of microbatch_size (1)",
        ),
        (
            {"parallelism": {"pp": 2}, "pipeline": {"schedule": "Interleaved1F1B"}},
            "pp (2) * stages per rank (2) = 4 stages, but n_layers is 2",
        ),
        ({"parallelism": {"tp": 2}, "precision": "bfloat16"}, "torchtitan 0.2.2 would train in float32"),
        ({"parallelism": {"cp": 2}, "mask_documents": True}, "the mask is not cut along the sequence"),
        ({"float8": "rows"}, "float8: Input should be 'tensorwise', 'rowwise' or 'rowwise_with_gw_hp'"),
        ({"execution": {"offload": True}}, "execution.offload: Extra inputs are not permitted"),
        ({"parallelism": {"pp": 3}, "local_batch_size": 4}, "= 3 stages, but n_layers is 2"),
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
    execution = {"activation_checkpointing": "full", "compile": True}
    layout = {"parallelism": {"dp_shard": 2}, "pipeline": {"microbatch_size": 2}, "execution": execution, "threads": 2}
    two = TrainRequest.model_validate(tiny_request(data, tmp_path / "b", **layout))
    assert one.identity() == two.identity()
    for change in ({"seed": 8}, {"precision": "bfloat16"}, {"precision": "bfloat16", "float8": "rowwise"}):
        assert one.identity() != TrainRequest.model_validate(tiny_request(data, tmp_path / "a", **change)).identity()
    assert str(tmp_path) not in json.dumps(one.portable())


def test_the_layout_reaches_torchtitan(data: Path, tmp_path: Path) -> None:
    from training.job import job_config

    request = tiny_request(
        data,
        tmp_path / "out",
        parallelism={"dp_shard": 2, "dp_replicate": 2, "pp": 2, "cp": 2, "tp": 2},
        pipeline={"microbatch_size": 2},
        execution={"activation_checkpointing": "selective", "compile": True},
        precision="bfloat16",
        float8="tensorwise",
        global_batch_size=16,
        local_batch_size=4,
    )
    config = job_config(TrainRequest.model_validate(request))
    layout = config.parallelism
    assert (layout.data_parallel_shard_degree, layout.data_parallel_replicate_degree) == (2, 2)
    assert (layout.pipeline_parallel_degree, layout.context_parallel_degree, layout.tensor_parallel_degree) == (2, 2, 2)
    assert (layout.pipeline_parallel_schedule, layout.pipeline_parallel_microbatch_size) == ("1F1B", 2)
    assert (config.activation_checkpoint.mode, config.compile.enable, config.compile.components) == (
        "selective",
        True,
        ["model"],
    )
    assert config.training.mixed_precision_param == "bfloat16"
    assert config.model.converters == ["quantize.linear.float8"]
    assert config.quantize.linear.float8.recipe_name == "tensorwise"


def test_what_the_machine_lacks_is_named(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from training.machine import hardware

    def asks(**changes: Any) -> None:
        hardware.check_hardware(TrainRequest.model_validate(tiny_request(data, tmp_path / "out", **changes)))

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(HardwareError, match=r"cp is 2, but this machine has no CUDA device.* Set cp = 1"):
        asks(parallelism={"cp": 2})
    monkeypatch.setattr(hardware, "find_spec", lambda name: None)
    with pytest.raises(HardwareError, match="torchao, which converts the layers, is not installed"):
        asks(float8="rowwise", precision="bfloat16")
    monkeypatch.setattr(hardware, "find_spec", lambda name: name)
    with pytest.raises(HardwareError, match=r"this machine has no CUDA device\. Leave float8 out"):
        asks(float8="rowwise", precision="bfloat16")
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(HardwareError, match="nor the C\\+\\+ compiler 'no-such-compiler'"):
        asks(execution={"compile": True})
    asks()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    with pytest.raises(HardwareError, match=r"a GPU of compute capability 8\.0"):
        asks(float8="rowwise", precision="bfloat16")
    asks(parallelism={"cp": 2}, execution={"compile": True})


def test_names_of_wrapped_parameters_are_those_of_the_plain_model() -> None:
    from training.model.llama import plain_name

    wrapped = "layers.1._checkpoint_wrapped_module._orig_mod.attention.wq.weight"
    assert plain_name(wrapped) == "layers.1.attention.wq.weight"


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
