"""Mirrors of metrics.jsonl in TensorBoard and Weights & Biases, for those who watch there.

HEADWATER_BOARDS=tensorboard,wandb says which; a profile sets it, because where a run is watched is no part of what it is.
HEADWATER_BOARDS_FOLDER holds what they write, a folder per run. A board that fails is given up with a warning: no run is
lost to a dashboard.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

from training.contract import outputs
from training.contract.errors import RequestError
from training.contract.request import TrainRequest
from training.watching.wandb_run import close_run, open_run, tags_of

KNOWN = ("tensorboard", "wandb")
log = logging.getLogger(__name__)


class Board(Protocol):
    """Takes scalars by name."""

    def write(self, step: int, scalars: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files for `tensorboard --logdir`."""

    def __init__(self, folder: Path, request: TrainRequest) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """One point per scalar."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write out what is buffered."""
        self._writer.close()


class Wandb:
    """A W&B run; resumed attempts go on in it."""

    def __init__(self, folder: Path, request: TrainRequest) -> None:
        address = os.environ.get("HEADWATER_RUN_URL")
        self._run = open_run(
            request.run,
            folder,
            request.portable() | ({"dagster_run": address} if address else {}),
            tags_of(request, os.environ),
            f"Dagster run: {address}" if address else None,
        )

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """One row of the run's history."""
        self._run.log(dict(scalars), step=step)

    def catch_up(self, rows: Mapping[int, Mapping[str, float]]) -> None:
        """Write the rows (step -> scalars) that are not in it: a client that is killed loses what it has buffered."""
        for step, scalars in sorted(rows.items()):
            if step >= self._run.step:
                self.write(step, scalars)

    def close(self) -> None:
        """Write out what is buffered; what cannot be sent within two minutes stays in the folder."""
        close_run(self._run)


def open_boards(request: TrainRequest, environment: Mapping[str, str] = os.environ) -> list[Board]:
    """The boards that the environment asks for. Raises RequestError for one that is not known."""
    wanted = [name for name in environment.get("HEADWATER_BOARDS", "").split(",") if name]
    if unknown := sorted(set(wanted) - set(KNOWN)):
        raise RequestError(f"HEADWATER_BOARDS names {unknown[0]!r}; known are {', '.join(KNOWN)}")
    beside = request.output.with_name(f"{request.output.name}-boards")
    folder = Path(environment.get("HEADWATER_BOARDS_FOLDER", beside)) / request.run
    makers: dict[str, type[TensorBoard] | type[Wandb]] = {"tensorboard": TensorBoard, "wandb": Wandb}
    opened: list[Board] = []
    for name in wanted:
        try:
            opened.append(makers[name](folder, request))
        except Exception:
            log.warning("%s cannot be used; the run goes on without it", name, exc_info=True)
    return opened


def scalars_of(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a metrics row by flat names: loss/zh for one in a table."""
    flat: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            flat |= {f"{name.removeprefix('channel_')}/{inner}": number for inner, number in value.items()}
        elif isinstance(value, int | float) and name != "step":
            flat[name] = value
    return flat


def scalars_of_rows(rows: Sequence[Mapping[str, Any]], key: str) -> dict[str, float]:
    """Rows of one step that differ in `key`, as scalars: layers.3/gradient_norm."""
    return {
        f"{row[key]}/{name}": float(value)
        for row in rows
        for name, value in row.items()
        if name not in (key, "step") and isinstance(value, int | float)
    }


def scalars_of_heldout(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Held-out loss and perplexity by flat names: heldout/loss for all tokens, heldout/loss/zh for a channel."""
    return {
        f"heldout/{name}" + ("" if row["channel"] == "all" else f"/{row['channel']}"): float(row[name])
        for row in rows
        for name in ("loss", "perplexity")
    }


def recorded(output: Path) -> dict[int, dict[str, float]]:
    """Step -> what was written to the boards after it, from the record of the run."""
    rows = {row["step"]: scalars_of(row) for row in _lines(output / outputs.METRICS)}
    for name, scalars in (
        (outputs.LAYERS, lambda found: scalars_of_rows(found, "layer")),
        (outputs.HELDOUT, scalars_of_heldout),
    ):
        for step, found in groupby(_lines(output / name), key=lambda row: row["step"]):
            rows.setdefault(step, {}).update(scalars(list(found)))
    return rows


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.is_file() else []


def catch_up(boards: list[Board], output: Path) -> None:
    """Let those catch up that lose rows when an attempt is killed."""
    for board in list(boards):
        if isinstance(board, Wandb):
            try:
                board.catch_up(recorded(output))
            except Exception:
                log.warning("W&B lacks steps of an earlier attempt; the run goes on without it", exc_info=True)
                boards.remove(board)


def write_all(boards: list[Board], step: int, scalars: Mapping[str, float]) -> None:
    """Write to each board; one that fails is dropped from the list."""
    for board in list(boards):
        try:
            board.write(step, scalars)
        except Exception:
            log.warning("%s failed; the run goes on without it", type(board).__name__, exc_info=True)
            boards.remove(board)


def close_all(boards: list[Board]) -> None:
    """Write out what they have buffered; one that fails keeps nothing from ending."""
    for board in boards:
        try:
            board.close()
        except Exception:
            log.warning("%s could not be closed", type(board).__name__, exc_info=True)
    boards.clear()
