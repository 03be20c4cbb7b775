"""Which checkpoints are whole, and what becomes of those that are not. No torch, no run."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from training.checkpoints import output_lock
from training.checkpoints.files import (
    MARKER,
    beside,
    complete_checkpoints,
    damage_of,
    drop_old_rolling,
    drop_state,
    file_sums,
    remove_incomplete,
    resumable_checkpoints,
    rolling_folder,
    set_aside,
    step_folder,
)
from training.checkpoints.output_lock import held_by
from training.contract.errors import OutputInUseError


def checkpoint(folder: Path, content: bytes = b"weights") -> Path:
    """A complete checkpoint of two files."""
    (folder / "dcp").mkdir(parents=True)
    (folder / "dcp/__0_0.distcp").write_bytes(content)
    (folder / "dcp/.metadata").write_bytes(b"where what is")
    sums = file_sums(folder, [folder / "dcp/__0_0.distcp", folder / "dcp/.metadata"])
    (folder / MARKER).write_text(json.dumps({"step": int(folder.name[5:]), "files": sums}))
    return folder


def test_the_damage_of_a_file_is_named(tmp_path: Path) -> None:
    folder = checkpoint(step_folder(tmp_path, 3))
    data = folder / "dcp/__0_0.distcp"
    assert damage_of(folder) is None
    data.write_bytes(b"weightz")
    assert damage_of(folder) == "dcp/__0_0.distcp has the right size but not the SHA-256 that was saved"
    data.write_bytes(b"weig")
    assert damage_of(folder) == "dcp/__0_0.distcp has 4 bytes, but 7 were saved"
    data.unlink()
    assert damage_of(folder) == "dcp/__0_0.distcp is missing"
    (folder / MARKER).write_text('{"step": 3, "fil')
    assert "complete.json cannot be read: JSONDecodeError" in str(damage_of(folder))
    (folder / MARKER).write_text('{"step": 3}')
    assert "KeyError 'files'" in str(damage_of(folder))


def test_ranks_share_the_reading_and_together_see_every_file(tmp_path: Path) -> None:
    folder = checkpoint(step_folder(tmp_path, 3))
    (folder / "dcp/.metadata").write_bytes(b"where what if")
    found = [damage_of(folder, part, 2) for part in range(2)]
    assert found == ["dcp/.metadata has the right size but not the SHA-256 that was saved", None]


def test_a_run_does_not_go_on_behind_a_requested_checkpoint_that_is_gone(tmp_path: Path) -> None:
    steps = [checkpoint(step_folder(tmp_path, step)) for step in (1, 3, 6)]
    rolling = [checkpoint(rolling_folder(tmp_path, step)) for step in (2, 7)]
    assert complete_checkpoints(tmp_path) == [steps[0], rolling[0], steps[1], steps[2], rolling[1]]
    assert resumable_checkpoints(tmp_path, [1, 3, 6], 0)[0] == rolling[1]
    (steps[1] / MARKER).unlink()
    assert resumable_checkpoints(tmp_path, [1, 3, 6], 0) == [rolling[0], steps[0]]
    assert resumable_checkpoints(tmp_path, [1, 3, 6], 4)[0] == rolling[1]  # the run itself began after step 4
    remove_incomplete(tmp_path)
    assert not steps[1].exists()
    assert steps[0].exists()


def test_what_is_set_aside_is_kept_and_says_why(tmp_path: Path) -> None:
    output = tmp_path / "out"
    for content in (b"one", b"two"):
        set_aside(checkpoint(step_folder(output, 3), content), output, "a byte flipped")
    kept = sorted(beside(output, "damaged").iterdir())
    assert [folder.name for folder in kept] == ["step-00000003", "step-00000003-2"]
    assert [(folder / "dcp/__0_0.distcp").read_bytes() for folder in kept] == [b"one", b"two"]
    assert (kept[0] / "damage.txt").read_text() == "a byte flipped\n"
    assert complete_checkpoints(output) == []


def test_rolling_checkpoints_give_way_to_newer_ones(tmp_path: Path) -> None:
    output = tmp_path / "out"
    for step in (2, 4, 6, 8):
        checkpoint(rolling_folder(output, step))
    checkpoint(step_folder(output, 1))
    drop_old_rolling(output)
    assert [folder.name[-1] for folder in complete_checkpoints(output)] == ["1", "6", "8"]
    drop_old_rolling(output, 0)
    assert [folder.name[-1] for folder in complete_checkpoints(output)] == ["1"]
    assert not beside(output, "rolling").exists()


def test_a_checkpoint_whose_state_was_dropped_is_whole_but_not_resumable(tmp_path: Path) -> None:
    first, last = checkpoint(step_folder(tmp_path, 3)), checkpoint(step_folder(tmp_path, 6))
    drop_state(last)
    assert not (last / "dcp").exists()
    assert damage_of(last) is None
    assert complete_checkpoints(tmp_path) == [first, last]
    assert resumable_checkpoints(tmp_path, [3, 6], 0) == [first]


def _hold(output: Path, held: multiprocessing.synchronize.Event, let_go: multiprocessing.synchronize.Event) -> None:
    with held_by(output, "first"):
        held.set()
        let_go.wait(30)


def test_one_run_writes_into_a_folder_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_lock, "PATIENCE_S", 0.5)
    context = multiprocessing.get_context("fork")
    held, let_go = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path / "out", held, let_go))
    other.start()
    try:
        assert held.wait(30)
        says = rf"in use by run first, process {other.pid} on \S+, since 20"
        with pytest.raises(OutputInUseError, match=says), held_by(tmp_path / "out", "second"):
            pass
    finally:
        other.kill()
        other.join(10)
    with held_by(tmp_path / "out", "second"):  # the kernel has let go of it
        assert json.loads((tmp_path / "out-lock").read_text())["run"] == "second"
