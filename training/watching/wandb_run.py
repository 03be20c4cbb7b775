"""The W&B run of a training run: opened while it trains, and once more to add its scores (add_scores.py).

Offline unless WANDB_API_KEY is set, and when W&B does not answer: `wandb sync` sends it later. The launcher says by environment
what a request does not know: HEADWATER_BOARDS_TAGS (JSON list) and HEADWATER_RUN_URL, the address of the Dagster run.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.contract.outputs import WANDB_RECORD
from training.contract.request import Parallelism, TrainRequest
from training.machine.durable_files import write_durably

if TYPE_CHECKING:
    from wandb.sdk.wandb_run import Run

KEY = "WANDB_API_KEY"
INIT_TIMEOUT_S = 60.0
FINISH_TIMEOUT_S = 120.0
"""How long the end of a run waits for an upload. What was not sent is in the folder."""
MAX_TAG = 64
log = logging.getLogger(__name__)


def run_id(run: str) -> str:
    """The same for each attempt, so that a resumed one goes on in its W&B run; W&B allows no @ in it."""
    return "".join(character if character.isalnum() else "-" for character in run)


def tags_of(request: TrainRequest, environment: Mapping[str, str]) -> list[str]:
    """Recipe and layout, and what the launcher knows besides (model, commit)."""
    known = json.loads(environment.get("HEADWATER_BOARDS_TAGS", "[]"))
    found = [f"recipe:{request.run.partition('@')[0]}", f"layout:{layout_name(request.parallelism)}", *known]
    return [tag[:MAX_TAG] for tag in found]


def layout_name(layout: Parallelism) -> str:
    """`dp_shard=2 tp=4`, without the axes that are 1."""
    axes = [f"{name}={degree}" for name, degree in layout.model_dump().items() if degree > 1]
    return " ".join(axes) or "one rank"


def open_run(run: str, folder: Path, config: Mapping[str, Any] | None, tags: Sequence[str], notes: str | None) -> Run:
    """The W&B run of this name, begun or gone on with, online where that is wanted and W&B answers."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("WANDB_CACHE_DIR", str(folder / "wandb-cache"))  # not in a home that may be read-only
    if os.environ.get(KEY):
        import wandb

        try:
            return _init("online", run, folder, config, tags, notes)
        except Exception as error:
            log.warning("W&B cannot be used, the run is kept offline for `wandb sync`: %s", without_key(repr(error)))
            wandb.teardown()  # its service still holds the name
    return _init("offline", run, folder, config, tags, notes)


def without_key(text: str) -> str:
    """Somebody else's words without our key."""
    key = os.environ.get(KEY)
    return text.replace(key, "***") if key else text


def _init(
    mode: Any, run: str, folder: Path, config: Mapping[str, Any] | None, tags: Sequence[str], notes: str | None
) -> Run:
    import wandb

    opened = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "headwater"),
        name=run,
        id=run_id(run),
        resume="allow" if mode == "online" else None,
        mode=mode,
        dir=str(folder),
        config=dict(config) if config is not None else None,
        tags=list(tags),
        notes=notes,
        settings=wandb.Settings(
            console="off",
            silent=True,
            disable_git=True,  # W&B would send the remote's address and what is not committed; the commit is a tag
            init_timeout=INIT_TIMEOUT_S,
            finish_timeout=FINISH_TIMEOUT_S,
        ),
    )
    url = opened.url if mode == "online" else None
    record = {"id": opened.id, "url": url, "tags": list(tags), "notes": notes}
    write_durably(folder / WANDB_RECORD, json.dumps(record, indent=1) + "\n")
    return opened


def close_run(run: Run) -> None:
    """Write out what is buffered, and wait for it: W&B's writer is a process of its own."""
    import wandb

    run.finish()
    wandb.teardown()
