"""What the boards of a training run show besides its numbers: model, commit, the address of the Dagster run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from orchestration.config import REPOSITORY, Config, read_toml
from orchestration.training_place import TrainingPlace
from training.contract.outputs import WANDB_RECORD

UI_URL = "HEADWATER_UI_URL"
"""Where people open the UI; `headwater ui` sets it for the runs that it starts."""
DEFAULT_UI_URL = "http://127.0.0.1:3000"


def board_facts(place: TrainingPlace, config: Config, run: str, dagster_run: str) -> dict[str, str]:
    """Environment of the training program for its boards; empty where it has none."""
    if not place.boards:
        return {}
    tags = [f"model:{model_name(config, run)}", *([f"commit:{found}"] if (found := code_commit()) else [])]
    return {"HEADWATER_BOARDS_TAGS": json.dumps(tags), "HEADWATER_RUN_URL": run_url(dagster_run)}


def run_url(dagster_run: str) -> str:
    """Address of a Dagster run in the UI."""
    return f"{os.environ.get(UI_URL, DEFAULT_UI_URL).rstrip('/')}/runs/{dagster_run}"


def model_name(config: Config, run: str) -> str:
    """The file of config/models/ that the recipe of a run names, or that it describes its model itself."""
    table = read_toml(config.folder / "recipes" / f"{run.partition('@')[0]}.toml").get("model", {})
    return str(table.get("file", "in the recipe"))


def code_commit() -> str | None:
    """Commit of this code, `+` behind it where files differ from it; None where the code is no Git checkout."""
    import pygit2

    try:
        repository = pygit2.Repository(str(REPOSITORY))
        changed = repository.status(untracked_files="no")
        return f"{str(repository.head.target)[:12]}{'+' if changed else ''}"
    except (pygit2.GitError, KeyError):
        return None


def board_folder(home: Path, run: str) -> Path:
    """What the boards of a run write."""
    return home / "boards" / run


def wandb_record(home: Path, run: str) -> dict[str, Any]:
    """What W&B's board wrote of its run; empty where there is none."""
    path = board_folder(home, run) / WANDB_RECORD
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}
