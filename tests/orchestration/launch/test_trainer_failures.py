"""What a failed training program is said to have died of: its own error, the signal that ended it, or its output."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestration.launch.training_failure import failure

TORCHRUN = "E torch/distributed failed (exitcode: {code}) local_rank: {rank} (pid: 4711) of binary: python\n"


def described(folder: Path, output: str, status: int = 1) -> str:
    (folder / "torchrun.log").write_text(output, encoding="utf-8")
    return str(failure(status, folder / "error.json", folder / "torchrun.log"))


@pytest.mark.parametrize(
    ("code", "rank", "said"),
    [
        (-9, 1, "rank 1 was killed by signal 9 (SIGKILL), often for want of memory: lower local_batch_size"),
        (-11, 0, "rank 0 was killed by signal 11 (SIGSEGV)"),
        (-15, 3, "rank 3 was killed by signal 15 (SIGTERM)"),
    ],
)
def test_the_killed_rank_and_the_signal_are_named(code: int, rank: int, said: str, tmp_path: Path) -> None:
    text = described(tmp_path, "step 1\n" + TORCHRUN.format(code=code, rank=rank))
    assert f"training ended without an error of its own: {said}. End of its output:" in text
    assert "step 1" in text


def test_the_signal_is_found_although_much_was_said_after_it(tmp_path: Path) -> None:
    assert "signal 9 (SIGKILL)" in described(tmp_path, TORCHRUN.format(code=-9, rank=0) + "frame\n" * 2000)


def test_torchrun_itself_may_have_been_killed(tmp_path: Path) -> None:
    assert "torchrun was killed by signal 9 (SIGKILL)" in described(tmp_path, "", status=-9)


def test_an_ordinary_end_is_its_status(tmp_path: Path) -> None:
    assert "exit status 3" in described(tmp_path, TORCHRUN.format(code=1, rank=0), status=3)


def test_its_own_error_comes_first(tmp_path: Path) -> None:
    error = {"rank": 1, "type": "NonFiniteLossError", "message": "loss is nan", "expected": True, "traceback": "..."}
    error["worth_a_restart"] = False
    (tmp_path / "error.json").write_text(json.dumps(error), encoding="utf-8")
    text = described(tmp_path, TORCHRUN.format(code=-9, rank=0))
    assert text == "training stopped on rank 1: NonFiniteLossError: loss is nan"
