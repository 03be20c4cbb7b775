"""Incidents of a run, on disk: what was seen, what was found to be the cause, what was done.

    incidents/0001/detected.json       the window, the deviation, the metrics of its steps (training goes back behind them)
    incidents/0001/losses-then.parquet losses of its documents and of their neighbours, with the weights of that moment
    incidents/0001/losses-good.parquet the same with the weights of the last good checkpoint
    incidents/0001/decision.json       cause, evidence, quarantined documents, amendment; written last
    incidents/report.md                written when the program gives up
    incidents.json                     what left the band in the finished record and was let pass

Each file is written under another name and renamed: a program that was killed in between does that step again.
The decisions, in order, are all that a resumed run needs to know: `Amendments` follows from them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from training.machine.durable_files import write_durably

Cause = Literal["data", "optimiser", "unexplained"]
Action = Literal["replace_sequences", "lower_learning_rate", "tighten_clipping", "go_on"]


@dataclass(frozen=True)
class Amendment:
    """What one decision changes, from which step on."""

    incident: int
    action: Action
    first_step: int
    """First step that is trained differently."""
    last_step: int | None = None
    """Last such step; None: for good."""
    factor: float = 1.0
    """Of the learning rate."""
    to_plan: bool = False
    """The learning rate is held at the planned one, whatever the schedule gives."""
    max_gradient_norm: float | None = None
    replaced: Mapping[int, int] = field(default_factory=dict)
    """Sequence -> the earlier sequence that is read in its place."""

    def covers(self, step: int) -> bool:
        """Whether a step is trained differently."""
        return self.first_step <= step and (self.last_step is None or step <= self.last_step)

    @property
    def digest(self) -> str:
        """SHA-256 of what it changes."""
        content = {"replaced": sorted(self.replaced.items())} | {
            name: getattr(self, name)
            for name in ("action", "first_step", "last_step", "factor", "to_plan", "max_gradient_norm")
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class Amendments:
    """What all decisions so far change."""

    def __init__(self, amendments: Sequence[Amendment] = ()) -> None:
        self.all = tuple(amendments)
        self.replaced: dict[int, int] = {}
        for amendment in self.all:
            self.replaced |= amendment.replaced

    def learning_rate_factor(self, step: int) -> float:
        """Product of the factors that hold at a step."""
        factor = 1.0
        for amendment in self.all:
            factor *= amendment.factor if amendment.covers(step) else 1.0
        return factor

    def holds_to_plan(self, step: int) -> bool:
        """Whether a step must not have more than its planned learning rate."""
        return any(a.to_plan and a.covers(step) for a in self.all)

    def max_gradient_norm(self, step: int, usual: float) -> float:
        """The tightest clipping that holds at a step."""
        tighter = [a.max_gradient_norm for a in self.all if a.max_gradient_norm is not None and a.covers(step)]
        return min([usual, *tighter])

    def until(self, step: int) -> list[dict[str, Any]]:
        """Those that a checkpoint of this step was trained with: must be equal for it to be continued."""
        return [
            {"incident": a.incident, "action": a.action, "first_step": a.first_step, "digest": a.digest}
            for a in self.all
            if a.action != "go_on" and a.first_step <= step
        ]


def incident_folders(output: Path) -> list[Path]:
    """Folders of the incidents that were detected, in order."""
    return sorted(path.parent for path in output.glob("incidents/*/detected.json"))


def read_json(path: Path) -> dict[str, Any]:
    """One of the files above."""
    return json.loads(path.read_text("utf-8"))


def write_json(path: Path, content: Mapping[str, Any] | Sequence[Any]) -> None:
    """Whole or not at all."""
    write_durably(path, json.dumps(content, indent=1, sort_keys=True) + "\n")


def read_decisions(output: Path) -> list[dict[str, Any]]:
    """Decisions so far, in order."""
    return [read_json(path) for path in sorted(output.glob("incidents/*/decision.json"))]


def amendments_of(decisions: Sequence[Mapping[str, Any]]) -> Amendments:
    """What decisions change."""
    found = []
    for decision in decisions:
        content = dict(decision["amendment"])
        content["replaced"] = {int(k): v for k, v in content["replaced"].items()}
        found.append(Amendment(**content))
    return Amendments(found)


def undecided(output: Path) -> Path | None:
    """Folder of an incident that was detected and not yet decided."""
    return next((folder for folder in incident_folders(output) if not (folder / "decision.json").is_file()), None)


def muted(decisions: Sequence[Mapping[str, Any]], step: int) -> bool:
    """Whether a step lies in a window that was looked into and let pass."""
    return any(
        d["amendment"]["action"] == "go_on" and d["first_step"] <= step <= d["amendment"]["last_step"]
        for d in decisions
    )


def attempts_at(decisions: Sequence[Mapping[str, Any]], step: int) -> list[Mapping[str, Any]]:
    """Decisions about windows that reach from their checkpoint to at least this step: the trouble that came back."""
    return [d for d in decisions if d["rollback_step"] < step <= d["retried_until"]]
