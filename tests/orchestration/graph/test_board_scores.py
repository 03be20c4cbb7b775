"""An evaluated run in W&B, and W&B in the UI: over a real build, with the program that writes it."""

from __future__ import annotations

import json
from pathlib import Path

import dagster as dg
import pytest

from assets.build import StageReport
from orchestration.graph import board_scores
from orchestration.graph.board_scores import board_metadata, send_scores
from orchestration.graph.ui_metadata import materialization_metadata
from orchestration.identity.catalog import read_catalog
from orchestration.launch.board_facts import wandb_record
from orchestration.process.workplace import Workplace
from orchestration.publish.publisher import Publication
from tests.end_to_end.harness import STAMP, Home
from tests.training.watching.wandb_file import history, records

RUN = f"tiny@{STAMP}"


@pytest.fixture
def evaluated(copy_of_built: Home, monkeypatch: pytest.MonkeyPatch) -> tuple[Workplace, Publication]:
    """A home whose profile has the board, and the release card of its run."""
    home = copy_of_built
    profile = home.config / "profiles/local.toml"
    profile.write_text(profile.read_text("utf-8") + '[training]\nboards = ["wandb"]\n', "utf-8")
    for name, value in home.env().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    workplace = Workplace(home.state)
    catalog = read_catalog(workplace.store)
    card = Publication(catalog.manifests["release_card", RUN], StageReport(), (), catalog.commit, already_done=False)
    return workplace, card


def test_scores_reach_the_run_once(evaluated: tuple[Workplace, Publication]) -> None:
    workplace, card = evaluated
    heard: list[str] = []
    send_scores(workplace, card, heard.append)
    assert heard == []
    send_scores(workplace, card, heard.append)  # as when the stage is asked for again
    (path,) = workplace.home.glob(f"boards/{RUN}/wandb/offline-run-*/*.wandb")
    found = records(path)
    rows = history(found)
    assert [row["eval/step"] for row in rows] == [1, 4, 8, 12]
    assert rows[-1]["eval/loss"] < rows[0]["eval/loss"]
    assert {"eval/loss/zh", "eval/probes/pass_rate", "eval/needles/found_rate"} <= set(rows[0])
    artifacts = [record.artifact for record in found if record.WhichOneof("record_type") == "artifact"]
    assert [sorted(each.aliases)[1] for each in artifacts] == ["step-1", "step-4", "step-8", "step-12"]
    for each in artifacts:
        weights = next(entry for entry in each.manifest.contents if entry.path == "model.safetensors")
        assert Path(weights.ref.removeprefix("file://")).name == json.loads(each.metadata)["weights_sha256"]


def test_a_home_without_the_board_sends_nothing(copy_of_built: Home, evaluated: tuple[Workplace, Publication]) -> None:
    profile = copy_of_built.config / "profiles/local.toml"
    profile.write_text(profile.read_text("utf-8").replace('"wandb"', '"tensorboard"'), "utf-8")
    send_scores(Workplace(copy_of_built.state), evaluated[1], pytest.fail)
    assert not (copy_of_built.state / "boards").exists()


def test_no_stage_fails_for_wandbs_sake(
    evaluated: tuple[Workplace, Publication], monkeypatch: pytest.MonkeyPatch
) -> None:
    workplace, card = evaluated
    heard: list[str] = []
    monkeypatch.setenv("WANDB_API_KEY", "nothing_of_this_name")  # a secret that the error happens to quote
    monkeypatch.setattr(board_scores, "PROGRAM", "training.watching.nothing_of_this_name")
    send_scores(workplace, card, heard.append)
    monkeypatch.setattr(board_scores, "PATIENCE_S", -1e6)
    send_scores(workplace, card, heard.append)
    assert heard[0].startswith(f"the scores of {RUN} did not reach W&B: ")
    assert "training.watching.***" in heard[0]
    assert heard[1].startswith(f"the scores of {RUN} did not reach W&B in ")
    assert wandb_record(workplace.home, RUN) == {}


def test_the_ui_says_where_a_run_is_watched(tmp_path: Path) -> None:
    assert board_metadata(tmp_path, RUN) == {}
    record = tmp_path / "boards" / RUN / "wandb.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"id": "tiny", "url": None}))
    told = board_metadata(tmp_path, RUN)["W&B run"]
    assert str(told.value).startswith(f"offline, in `boards/{RUN}/wandb/` of HEADWATER_HOME; ")
    record.write_text(json.dumps({"id": "tiny", "url": "https://wandb.example.org/runs/tiny"}))
    assert board_metadata(tmp_path, RUN) == {"W&B run": dg.MetadataValue.url("https://wandb.example.org/runs/tiny")}


def test_the_release_card_is_read_in_the_ui(evaluated: tuple[Workplace, Publication]) -> None:
    workplace, card = evaluated
    page = materialization_metadata(card, workplace.store)["card.md"]
    assert isinstance(page, dg.MarkdownMetadataValue)
    assert str(page.value).startswith(f"# {RUN}\n")
    assert "\n## What this model is not\n" in str(page.value)
