"""Add the scores of a run's checkpoints, and references to their files, to its W&B run, once it is evaluated.

`python -m training.watching.add_scores` reads from standard input what board_scores.py of the orchestration writes. A program
of its own: W&B's client starts processes and threads, and may wait for a server longer than a stage should.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from training.contract.outputs import WANDB_RECORD
from training.watching.wandb_run import close_run, open_run, run_id

if TYPE_CHECKING:
    from wandb.sdk.wandb_run import Run


class ScoredCheckpoint(BaseModel):
    """One checkpoint: what it scores, and where its files are."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    step: int
    scores: dict[str, float]
    references: dict[str, str]
    """File name -> URI."""
    metadata: dict[str, Any]


class Scores(BaseModel):
    """What is added."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    run: str
    folder: Path
    """The run's, of its boards."""
    checkpoints: tuple[ScoredCheckpoint, ...]


def main() -> int:
    """Exit status 0: all of it is in the W&B run, or in its folder for `wandb sync`."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    scores = Scores.model_validate_json(sys.stdin.read())
    record = scores.folder / WANDB_RECORD
    known = json.loads(record.read_text("utf-8")) if record.is_file() else {"tags": [], "notes": None}
    run = open_run(scores.run, scores.folder, None, known["tags"], known["notes"])
    add(run, scores.checkpoints)
    close_run(run)
    return 0


def add(run: Run, checkpoints: Sequence[ScoredCheckpoint]) -> None:
    """Rows behind those of training, for W&B takes no row before its last: eval/step says which checkpoint one is of."""
    run.define_metric("eval/step", hidden=True)
    run.define_metric("eval/*", step_metric="eval/step")
    last = max(each.step for each in checkpoints)
    for number, each in enumerate(checkpoints, start=1):
        run.log(each.scores | {"eval/step": each.step}, step=max(run.step, last + number))
        _refer(run, each)


def _refer(run: Run, checkpoint: ScoredCheckpoint) -> None:
    import wandb

    artifact = wandb.Artifact(
        f"{run_id(run.id)}-checkpoint",
        type="model",
        description=f"Not uploaded: the files are where the references say. `headwater checkout {checkpoint.metadata['checkpoint']} "
        "FOLDER` writes them with tokenizer and card.",
        metadata=checkpoint.metadata,
    )
    for name, uri in checkpoint.references.items():
        artifact.add_reference(uri, name=name)
    run.log_artifact(artifact, aliases=["latest", f"step-{checkpoint.step}"])


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)  # no thread of W&B's keeps us
