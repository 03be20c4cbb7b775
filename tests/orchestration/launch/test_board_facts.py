"""What the boards of a run are told of it besides its request."""

from __future__ import annotations

import json
from pathlib import Path

import pygit2
import pytest

from orchestration.config import load_config
from orchestration.launch import board_facts
from orchestration.training_place import TrainingPlace

RUN = "demo@20260101T000000Z"


def test_model_commit_and_address_are_told_where_there_is_a_board(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board_facts, "code_commit", lambda: "0123456789ab+")
    monkeypatch.setenv(board_facts.UI_URL, "https://ui.example.org/")
    watched = TrainingPlace.model_validate({"boards": ["wandb"]})
    told = board_facts.board_facts(watched, load_config(), RUN, "4711")
    assert json.loads(told["HEADWATER_BOARDS_TAGS"]) == ["model:llama-demo", "commit:0123456789ab+"]
    assert told["HEADWATER_RUN_URL"] == "https://ui.example.org/runs/4711"
    monkeypatch.delenv(board_facts.UI_URL)
    assert board_facts.run_url("4711") == "http://127.0.0.1:3000/runs/4711"
    assert board_facts.board_facts(TrainingPlace.model_validate({}), load_config(), RUN, "4711") == {}


def test_the_commit_says_whether_files_differ_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board_facts, "REPOSITORY", tmp_path)
    assert board_facts.code_commit() is None
    repository = pygit2.init_repository(tmp_path)
    assert board_facts.code_commit() is None, "no commit yet"
    (tmp_path / "code.py").write_text("a = 1\n")
    repository.index.add("code.py")
    repository.index.write()
    who = pygit2.Signature("a", "a@example.org")
    commit = repository.create_commit("HEAD", who, who, "One", repository.index.write_tree(), [])
    (tmp_path / "notes.txt").write_text("not code that is kept")
    assert board_facts.code_commit() == str(commit)[:12]
    (tmp_path / "code.py").write_text("a = 2\n")
    assert board_facts.code_commit() == f"{str(commit)[:12]}+"
