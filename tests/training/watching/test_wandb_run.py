"""What W&B is told, read back from what its client writes: of a run, of one that was killed and goes on, of its scores."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from assets.build import BuildError
from tests.training import tiny
from tests.training.running import read_metrics, train
from tests.training.watching.wandb_file import history, records
from training.contract.request import Parallelism, TrainRequest
from training.watching import wandb_run
from training.watching.boards import catch_up, close_all, open_boards, scalars_of_heldout, write_all
from training.watching.wandb_run import layout_name, open_run, run_id

SECRET = "0123456789abcdef0123456789abcdef01234567"
URL = "http://ui.example.org/runs/4711"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """Environment as the launcher sets it."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HEADWATER_BOARDS_TAGS", '["model:llama-demo", "commit:0123456789ab+"]')
    monkeypatch.setenv("HEADWATER_RUN_URL", URL)
    return {"HEADWATER_BOARDS": "wandb", "HEADWATER_BOARDS_FOLDER": str(tmp_path / "boards")}


def request_of(data: Path, folder: Path, **changes: Any) -> TrainRequest:
    return TrainRequest.model_validate(tiny.tiny_request(data, folder / "out", run="tiny@20260101T000000Z", **changes))


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("boards/*/wandb/offline-run-*/*.wandb"))


def only(found: list[Any], kind: str) -> list[Any]:
    return [getattr(record, kind) for record in found if record.WhichOneof("record_type") == kind]


def test_a_run_says_what_it_is_and_where_dagster_shows_it(data: Path, tmp_path: Path, offline: dict[str, str]) -> None:
    boards = open_boards(request_of(data, tmp_path), offline)
    write_all(boards, 3, {"loss": 1.5})
    heldout = [{"step": 3, "channel": name, "loss": 2.0, "perplexity": 7.4, "tokens": 9} for name in ("zh", "all")]
    write_all(boards, 3, scalars_of_heldout(heldout))
    close_all(boards)
    (path,) = files(tmp_path)
    found = records(path)
    (run,) = only(found, "run")
    assert (run.run_id, run.display_name) == ("tiny-20260101T000000Z", "tiny@20260101T000000Z")
    assert list(run.tags) == ["recipe:tiny", "layout:one rank", "model:llama-demo", "commit:0123456789ab+"]
    assert run.notes == f"Dagster run: {URL}"
    config = {update.key: json.loads(update.value_json) for update in run.config.update}
    assert (config["dagster_run"], config["schedule"]["total_steps"]) == (URL, 6)
    (row,) = history(found)
    assert (row["_step"], row["loss"]) == (3, 1.5)
    assert {name for name in row if name.startswith("heldout/")} == {
        "heldout/loss",
        "heldout/loss/zh",
        "heldout/perplexity",
        "heldout/perplexity/zh",
    }
    assert only(found, "stats"), "no statistics of the system"
    record = json.loads((tmp_path / "boards/tiny@20260101T000000Z/wandb.json").read_text())
    assert (record["id"], record["url"]) == ("tiny-20260101T000000Z", None)


@pytest.mark.slow
def test_a_killed_run_goes_on_in_the_same_run_and_nothing_is_lost(
    data: Path, tmp_path: Path, offline: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client of a killed process leaves what it has not written yet: the next attempt has it from metrics.jsonl."""
    request = tiny.tiny_request(data, tmp_path / "out", run="tiny@20260101T000000Z")
    for name, value in offline.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BuildError):
        train(tmp_path, request, monkeypatch, STOP_AFTER_STEP="5", STOP_HOW="kill")
    for name, value in offline.items():
        monkeypatch.setenv(name, value)
    train(tmp_path, request)
    first, last = (records(path) for path in files(tmp_path))
    assert {run.run_id for found in (first, last) for run in only(found, "run")} == {"tiny-20260101T000000Z"}
    losses = {row["step"]: row["loss"] for row in read_metrics(tmp_path / "out")}
    assert {row["_step"]: row["loss"] for row in history(last)} == pytest.approx(losses)
    assert sorted(losses) == [1, 2, 3, 4, 5, 6]


def test_a_board_catches_up_with_the_record(data: Path, tmp_path: Path, offline: dict[str, str]) -> None:
    lines = {
        "metrics.jsonl": [{"step": step, "loss": 9.0 - step, "channel_loss": {"zh": 1.0}} for step in (1, 2, 3)],
        "layers.jsonl": [{"step": 2, "layer": "norm", "gradient_norm": 0.5}],
        "heldout.jsonl": [{"step": 2, "channel": "all", "loss": 4.0, "perplexity": 50.0}],
    }
    for name, rows in lines.items():
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    boards = open_boards(request_of(data, tmp_path), offline)
    write_all(boards, 1, {"loss": 8.0})
    catch_up(boards, tmp_path)
    write_all(boards, 4, {"loss": 5.0})
    close_all(boards)
    (path,) = files(tmp_path)
    rows = history(records(path))
    assert [(row["_step"], row["loss"]) for row in rows] == [(1, 8), (2, 7), (3, 6), (4, 5)]
    assert (rows[1]["norm/gradient_norm"], rows[1]["heldout/loss"], rows[2]["loss/zh"]) == (0.5, 4, 1)


def test_with_a_key_the_same_run_is_resumed_on_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    asked: list[dict[str, Any]] = []

    class Answer:
        id, url = "tiny-1", "https://wandb.example.org/team/headwater/runs/tiny-1"

    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    monkeypatch.setattr(wandb, "init", lambda **said: asked.append(said) or Answer())
    for _ in range(2):
        open_run("tiny@1", tmp_path, {}, [], None)
    assert [(said["id"], said["mode"], said["resume"]) for said in asked] == [("tiny-1", "online", "allow")] * 2
    assert json.loads((tmp_path / "wandb.json").read_text())["url"] == Answer.url


def test_training_goes_on_when_wandb_does_not_answer_and_no_key_is_told(
    data: Path,
    tmp_path: Path,
    offline: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr(wandb_run, "INIT_TIMEOUT_S", 2.0)
    with caplog.at_level(logging.DEBUG):
        boards = open_boards(request_of(data, tmp_path), offline)
        write_all(boards, 1, {"loss": 1.5})
        close_all(boards)
    assert "W&B cannot be used, the run is kept offline" in caplog.text
    (path,) = files(tmp_path)
    assert history(records(path))[0]["loss"] == 1.5
    assert SECRET not in caplog.text
    written = [path for path in (tmp_path / "boards").rglob("*") if path.is_file()]
    assert not [path for path in written if SECRET.encode() in path.read_bytes()]


def test_a_board_that_cannot_be_closed_keeps_no_run_from_ending(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def write(self, step: int, scalars: Any) -> None: ...

        def close(self) -> None:
            raise OSError("no server")

    boards: list[Any] = [Broken()]
    close_all(boards)
    assert "Broken could not be closed" in caplog.text


def test_names_that_wandb_takes() -> None:
    assert run_id("tiny@20260101T000000Z") == "tiny-20260101T000000Z"
    assert layout_name(Parallelism(dp_shard=2, tp=4)) == "dp_shard=2 tp=4"
    assert layout_name(Parallelism()) == "one rank"


def test_scores_and_references_are_added_to_the_run(data: Path, tmp_path: Path, offline: dict[str, str]) -> None:
    boards = open_boards(request_of(data, tmp_path), offline)
    write_all(boards, 6, {"loss": 1.5})
    close_all(boards)
    weights = tmp_path / "0a1b2c"
    weights.write_bytes(b"weights")
    content = {
        "run": "tiny@20260101T000000Z",
        "folder": str(tmp_path / "boards/tiny@20260101T000000Z"),
        "checkpoints": [
            {
                "step": step,
                "scores": {"eval/loss": 7.0 - step},
                "references": {"model.safetensors": uri},
                "metadata": {"checkpoint": f"tiny@20260101T000000Z/{step}", "weights_sha256": "0a1b2c"},
            }
            for step, uri in ((3, weights.as_uri()), (6, "lakefs://lake/c0ffee/training/model.safetensors"))
        ],
    }
    command = [sys.executable, "-m", "training.watching.add_scores"]
    done = subprocess.run(command, input=json.dumps(content), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    trained, scored = (records(path) for path in files(tmp_path))
    (before,), (after,) = only(trained, "run"), only(scored, "run")
    assert (after.run_id, list(after.tags), after.notes) == (before.run_id, list(before.tags), before.notes)
    rows = history(scored)
    assert [(row["eval/step"], row["eval/loss"]) for row in rows] == [(3, 4.0), (6, 1.0)]
    assert min(row["_step"] for row in rows) > 6, "W&B drops rows before the last of training"
    assert [(each.glob_name, each.step_metric) for each in only(scored, "metric")][1] == ("eval/*", "eval/step")
    artifacts = only(scored, "artifact")
    assert [sorted(each.aliases) for each in artifacts] == [["latest", "step-3"], ["latest", "step-6"]]
    for each, checkpoint in zip(artifacts, content["checkpoints"], strict=True):
        assert (each.name, each.type) == ("tiny-20260101T000000Z-checkpoint", "model")
        (entry,) = each.manifest.contents
        assert (entry.path, entry.ref) == ("model.safetensors", checkpoint["references"]["model.safetensors"])
        assert not entry.local_path, "it would be uploaded"
        assert json.loads(each.metadata)["weights_sha256"] == "0a1b2c"
