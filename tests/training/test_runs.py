"""Real runs of the training program on CPU: reproducible, resumable, equal across layouts, never left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from assets.build import BuildError
from tests.training.running import STOPPING, exact, ranks_of, read_metrics, train, wait_until, weights
from tests.training.tiny import tiny_request, write_request
from training.contract.errors import RequestError, ResumeMismatchError
from training.contract.request import TrainRequest
from training.main import check_ranks


def test_a_run_leaves_whole_checkpoints_and_one_line_per_step(undisturbed: Path) -> None:
    lines = exact(undisturbed)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert lines[0]["learning_rate"] == 0.005
    for line in lines:
        assert min(line["channel_loss"].values()) <= line["loss"] <= max(line["channel_loss"].values())
    assert sorted(weights(undisturbed)) == ["step-00000001", "step-00000003", "step-00000006"]
    marker = json.loads((undisturbed / "checkpoints/step-00000003/complete.json").read_text())
    assert marker["sequences_seen"] == 12
    assert marker["tokens_seen"] == 12 * 32
    assert marker["order_fingerprint"] == "order-1"
    assert marker["tokenizer_version"] == "tokenizer-1"
    assert marker["environment"]["libraries"]["torchtitan"] == "0.2.2"
    assert str(undisturbed) not in json.dumps(marker)
    assert not list(undisturbed.rglob("*.log"))


@pytest.mark.slow
def test_killed_twice_and_resumed_equals_undisturbed(
    undisturbed: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL before the first checkpoint is not the interesting case: after step 2 (resumes at 1) and 5 (at 3)."""
    request = tiny_request(data, tmp_path / "out")
    for step in ("2", "5"):
        with pytest.raises(BuildError, match=r"rank 0 was killed by signal 9 \(SIGKILL\)"):
            train(tmp_path, request, monkeypatch, STOP_AFTER_STEP=step, STOP_HOW="kill")
        assert [line["step"] for line in exact(tmp_path / "out")][-1] == int(step)
    torn = tmp_path / "out/checkpoints/step-00000006/dcp"
    torn.mkdir(parents=True)  # the rest of a save that was interrupted
    train(tmp_path, request)
    assert exact(tmp_path / "out") == exact(undisturbed)
    assert weights(tmp_path / "out") == weights(undisturbed)


def test_two_fsdp_ranks_follow_one_process_and_resume_its_checkpoint(
    undisturbed: Path, data: Path, tmp_path: Path
) -> None:
    start = undisturbed / "checkpoints/step-00000003"
    layout = {"dp_shard": 2}
    train(tmp_path, tiny_request(data, tmp_path / "out", parallelism=layout, resume_from=str(start)))
    resumed = exact(tmp_path / "out")
    assert [line["step"] for line in resumed] == [4, 5, 6]
    for line, single in zip(resumed, exact(undisturbed)[3:], strict=True):
        assert line["loss"] == pytest.approx(single["loss"], abs=1e-4)
        assert line["gradient_norm"] == pytest.approx(single["gradient_norm"], abs=1e-4)
        assert line["channel_loss"] == pytest.approx(single["channel_loss"], abs=1e-4)


def test_pipeline_stages_report_the_true_loss_and_gradient_norm(undisturbed: Path, data: Path, tmp_path: Path) -> None:
    train(tmp_path, tiny_request(data, tmp_path / "out", parallelism={"pp": 2}))
    for line, single in zip(exact(tmp_path / "out"), exact(undisturbed), strict=True):
        assert line["loss"] == pytest.approx(single["loss"], abs=1e-4)
        assert line["gradient_norm"] == pytest.approx(single["gradient_norm"], abs=1e-4)


def test_whole_replicas_follow_one_process_over_several_micro_batches(
    undisturbed: Path, data: Path, tmp_path: Path
) -> None:
    """DDP sums into gradients that an earlier micro-batch has already summed over the replicas."""
    train(tmp_path, tiny_request(data, tmp_path / "out", parallelism={"dp_replicate": 2}, local_batch_size=1))
    for line, single in zip(exact(tmp_path / "out"), exact(undisturbed), strict=True):
        assert line["loss"] == pytest.approx(single["loss"], rel=1e-5)
        assert line["gradient_norm"] == pytest.approx(single["gradient_norm"], rel=1e-4)


def test_tensor_parallel_ranks_that_compute_twice_follow_one_process(
    undisturbed: Path, data: Path, tmp_path: Path
) -> None:
    """TP with sequence parallel, and full activation checkpointing, from a checkpoint of one process that did neither."""
    start = undisturbed / "checkpoints/step-00000003"
    changes = {"parallelism": {"tp": 2}, "execution": {"activation_checkpointing": "full"}, "resume_from": str(start)}
    train(tmp_path, tiny_request(data, tmp_path / "out", **changes))
    for line, single in zip(exact(tmp_path / "out"), exact(undisturbed)[3:], strict=True):
        assert line["loss"] == pytest.approx(single["loss"], rel=1e-5)
        assert line["gradient_norm"] == pytest.approx(single["gradient_norm"], rel=1e-4)


@pytest.mark.slow
def test_a_nan_stops_the_run_and_leaves_the_last_checkpoint_whole(
    undisturbed: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = tiny_request(data, tmp_path / "out")
    with pytest.raises(BuildError, match="NonFiniteLossError: loss became nan at step 3"):
        train(tmp_path, request, monkeypatch, STOP_AFTER_STEP="3", STOP_HOW="nan")
    assert sorted(weights(tmp_path / "out")) == ["step-00000001"]
    assert [line["step"] for line in exact(tmp_path / "out")] == [1, 2]


def test_a_checkpoint_of_another_run_is_refused_field_by_field(undisturbed: Path, data: Path) -> None:
    from training.checkpoints.resume_rules import check_resumable

    folder = undisturbed / "checkpoints/step-00000003"
    request = tiny_request(data, undisturbed)
    check_resumable(folder, TrainRequest.model_validate(request | {"threads": 2, "parallelism": {"tp": 2}}))
    request["schedule"]["peak_lr"] = 0.02
    request["data"]["order_fingerprint"] = "order-2"
    with pytest.raises(ResumeMismatchError) as caught:
        check_resumable(folder, TrainRequest.model_validate(request))
    assert "data.order_fingerprint: 'order-1' -> 'order-2'; schedule.peak_lr: 0.01 -> 0.02." in str(caught.value)


def with_decay(data: Path, output: Path, name: str, steps: int, decay: int, **changes: Any) -> dict[str, Any]:
    """The tiny request with a decay phase of its own after step 4."""
    request = tiny_request(data, output, run=name, checkpoint_steps=[5, steps], **changes)
    request["schedule"] |= {"total_steps": steps, "decay_steps": decay}
    request["data"]["decay"] = {"order": [str(data / f"{name}.parquet")], "order_fingerprint": name}
    return request


@pytest.mark.slow
def test_a_decay_that_branches_off_a_stable_phase_is_the_run_that_had_it_from_the_start(
    undisturbed: Path, data: Path, tmp_path: Path
) -> None:
    """Step 3 of the undisturbed run, whose own decay would have begun after step 4, goes on with another decay."""
    trunk = undisturbed / "checkpoints/step-00000003"
    train(tmp_path / "branch", with_decay(data, tmp_path / "branch/out", "other-decay", 7, 3, resume_from=str(trunk)))
    train(tmp_path / "whole", with_decay(data, tmp_path / "whole/out", "other-decay", 7, 3))
    branch, whole = exact(tmp_path / "branch/out"), exact(tmp_path / "whole/out")
    assert [line["step"] for line in branch] == [4, 5, 6, 7]
    assert branch == whole[3:]
    assert weights(tmp_path / "branch/out") == weights(tmp_path / "whole/out")
    assert branch[0]["loss"] == exact(undisturbed)[3]["loss"]
    assert branch[1]["loss"] != exact(undisturbed)[4]["loss"]
    marker = json.loads((tmp_path / "branch/out/checkpoints/step-00000005/complete.json").read_text())
    assert (marker["order_fingerprint"], marker["decay_order_fingerprint"]) == ("order-1", "other-decay")


def test_only_its_own_decay_continues_a_decay_that_has_begun(undisturbed: Path, data: Path) -> None:
    from training.checkpoints.resume_rules import check_resumable

    def asks(step: int, **changes: Any) -> None:
        folder = undisturbed / f"checkpoints/step-{step:08d}"
        request = with_decay(data, undisturbed, "decay", 7, 3, resume_from=str(folder))
        request["schedule"] |= changes
        check_resumable(folder, TrainRequest.model_validate(request))

    asks(3)
    with pytest.raises(ResumeMismatchError, match=r"schedule\.peak_lr: 0\.01 -> 0\.02\."):
        asks(3, peak_lr=0.02)
    with pytest.raises(ResumeMismatchError) as caught:
        asks(6)
    assert "decay phase, or that of the request, begins after step 4" in str(caught.value)
    assert "data.decay_order_fingerprint: 'order-1' -> 'decay'" in str(caught.value)
    with pytest.raises(ResumeMismatchError, match="begins after step 2"):
        asks(3, decay_steps=5)


def test_another_run_in_the_same_folder_is_refused(undisturbed: Path, data: Path) -> None:
    from training.checkpoints.resume_rules import check_resumable

    request = TrainRequest.model_validate(tiny_request(data, undisturbed, run="other"))
    with pytest.raises(ResumeMismatchError, match="run: 'tiny' -> 'other'"):
        check_resumable(undisturbed / "checkpoints/step-00000003", request)


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_no_rank_outlives_its_launcher(data: Path, tmp_path: Path, ending: signal.Signals) -> None:
    request = write_request(tmp_path, tiny_request(data, tmp_path / "out", parallelism={"dp_shard": 2}))
    code = (
        "import signal, sys; from pathlib import Path; from assets.build import SilentProgress\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it\n"
        "from orchestration.launch import program\n"
        "from orchestration.launch.trainer import LocalTrainer\n"
        f"program.PROGRAM = {STOPPING!r}\n"
        "LocalTrainer().run(Path(sys.argv[1]), Path(sys.argv[1]).parent, SilentProgress())"
    )
    environment = os.environ | {"STOP_AFTER_STEP": "2", "STOP_HOW": "hang"}
    launcher = subprocess.Popen([sys.executable, "-c", code, str(request)], env=environment)
    try:
        assert wait_until(lambda: len(read_metrics(tmp_path / "out")) == 2, 120)
        assert len(ranks_of(str(request))) == 4  # launcher, agent, two ranks
    finally:
        launcher.send_signal(ending)
        launcher.wait(30)
    assert wait_until(lambda: not ranks_of(str(request))), ranks_of(str(request))


def test_a_refused_request_and_a_wrong_number_of_ranks_say_why(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BuildError, match=r"training cannot start: request .* breaks 1 rule"):
        train(tmp_path, tiny_request(data, tmp_path / "out", optimizer={}))
    with pytest.raises(BuildError, match="HardwareError: float8 is 'rowwise'"):
        train(tmp_path, tiny_request(data, tmp_path / "out", precision="bfloat16", float8="rowwise"))
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(RequestError, match="start this program with torchrun"):
        check_ranks(TrainRequest.model_validate(tiny_request(data, tmp_path / "out")))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RequestError, match="needs 1 ranks, torchrun started 2"):
        check_ranks(TrainRequest.model_validate(tiny_request(data, tmp_path / "out")))
