"""When something fails: a damaged checkpoint, a full disk, a rank that hangs, two runs in one folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from assets.build import BuildError
from orchestration.launch import watch
from tests.training.running import exact, ranks_of, train, wait_until, weights
from tests.training.tiny import tiny_request
from training.checkpoints.files import beside
from training.checkpoints.output_lock import held_by
from training.checkpoints.resume_rules import check_resumable
from training.contract.errors import ResumeMismatchError
from training.contract.request import TrainRequest

pytestmark = pytest.mark.slow


def flip_a_byte(path: Path) -> None:
    """In a copy: the file may be linked elsewhere."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    path.write_bytes(content)


def attempts(output: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (output / "attempts.jsonl").read_text().splitlines()]


def test_damaged_checkpoints_are_set_aside_and_the_run_falls_back_to_the_last_whole_one(
    undisturbed: Path, data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    shutil.copytree(undisturbed, output)
    truncated = output / "checkpoints/step-00000006/dcp/.metadata"
    truncated.write_bytes(truncated.read_bytes()[:-1])
    flip_a_byte(output / "checkpoints/step-00000003/hf/model.safetensors")
    train(tmp_path, tiny_request(data, output))
    assert exact(output) == exact(undisturbed)
    assert weights(output) == weights(undisturbed)
    last = attempts(output)[-1]
    assert (last["resumed_from"], last["step"]) == ("step-00000001", 1)
    assert [found["checkpoint"] for found in last["set_aside"]] == ["step-00000006", "step-00000003"]  # type: ignore[attr-defined]
    aside = beside(output, "damaged")
    assert "bytes, but" in (aside / "step-00000006/damage.txt").read_text()
    assert (
        "model.safetensors has the right size but not the SHA-256" in (aside / "step-00000003/damage.txt").read_text()
    )
    assert "is damaged" in (tmp_path / "logs/rank-0.log").read_text()


def test_a_damaged_start_of_another_run_is_refused(undisturbed: Path, data: Path, tmp_path: Path) -> None:
    start = tmp_path / "elsewhere/step-00000003"
    shutil.copytree(undisturbed / "checkpoints/step-00000003", start)
    (start / "dcp/__0_0.distcp").unlink()
    with pytest.raises(BuildError, match=r"CheckpointDamagedError: resume_from .* dcp/__0_0.distcp is missing"):
        train(tmp_path, tiny_request(data, tmp_path / "out", resume_from=str(start)))
    assert start.is_dir()  # it is not this run's to move


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that holds one checkpoint of the tiny run, but not two."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_while_saving_leaves_the_last_checkpoint_whole(
    data: Path, small_disk: Path, tmp_path: Path
) -> None:
    request = tiny_request(data, small_disk / "out")
    with pytest.raises(BuildError, match="CheckpointSaveError: the checkpoint of step 3 could not be saved") as caught:
        train(tmp_path, request)
    assert re.search(r"0\.\d MiB of its disk were free\. The last whole one is step-00000001", str(caught.value))
    assert sorted(folder.name for folder in (small_disk / "out/checkpoints").iterdir()) == ["step-00000001"]


def test_a_rank_that_hangs_ends_the_run_and_no_rank_stays_behind(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = tiny_request(data, tmp_path / "out", parallelism={"dp_shard": 2}, step_timeout_s=5)
    with pytest.raises(BuildError, match=r"StepTimeoutError: rank 0 waited for another rank at step 3"):
        train(tmp_path, request, monkeypatch, STOP_AFTER_STEP="2", STOP_HOW="hang-last")
    assert wait_until(lambda: not ranks_of(str(tmp_path / "request.json")))
    assert list(weights(tmp_path / "out")) == ["step-00000001"]


def test_a_run_that_hangs_alone_is_ended_by_its_launcher(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "HANG_GRACE_S", 0.0)
    request = tiny_request(data, tmp_path / "out", step_timeout_s=2)
    with pytest.raises(BuildError, match=r"recorded no step for 4 s, the last one was 2: it hangs, and was ended"):
        train(tmp_path, request, monkeypatch, STOP_AFTER_STEP="2", STOP_HOW="hang")
    assert not ranks_of(str(tmp_path / "request.json"))


def test_two_runs_on_one_folder_are_refused(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with held_by(tmp_path / "out", "first"):
        says = rf"OutputInUseError: the output folder .*/out is in use by run first, process {os.getpid()} on"
        with pytest.raises(BuildError, match=says):
            train(tmp_path, tiny_request(data, tmp_path / "out"))
    assert not (tmp_path / "out/metrics.jsonl").exists()


def test_another_tokenizer_is_refused_by_name(undisturbed: Path, data: Path) -> None:
    request = TrainRequest.model_validate(tiny_request(data, undisturbed, tokenizer_version="tokenizer-2"))
    with pytest.raises(ResumeMismatchError, match=r"tokenizer_version: 'tokenizer-1' -> 'tokenizer-2'\."):
        check_resumable(undisturbed / "checkpoints/step-00000003", request)


def test_random_numbers_are_a_function_of_the_step(data: Path) -> None:
    import torch

    from training.trainer import seed_step

    def drawn(seed: int, step: int) -> list[float]:
        seed_step(seed, step)
        return torch.rand(3).tolist()

    first = drawn(7, 4)
    drawn(7, 5)
    assert drawn(7, 4) == first
    assert len({tuple(drawn(seed, step)) for seed in (7, 8) for step in (4, 5)}) == 4
