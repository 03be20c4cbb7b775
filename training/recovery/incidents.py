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

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from training.contract.outputs import DECISION, DETECTED, INCIDENTS
from training.data.amendments import Amendment, Amendments
from training.machine.durable_files import write_durably

Cause = Literal["data", "optimiser", "unexplained"]


def incident_folders(output: Path) -> list[Path]:
    """Folders of the incidents that were detected, in order."""
    return sorted(path.parent for path in output.glob(f"{INCIDENTS}/*/{DETECTED}"))


def read_json(path: Path) -> dict[str, Any]:
    """One of the files above."""
    return json.loads(path.read_text("utf-8"))


def write_json(path: Path, content: Mapping[str, Any] | Sequence[Any]) -> None:
    """Whole or not at all."""
    write_durably(path, json.dumps(content, indent=1, sort_keys=True) + "\n")


def read_decisions(output: Path) -> list[dict[str, Any]]:
    """Decisions so far, in order."""
    return [read_json(path) for path in sorted(output.glob(f"{INCIDENTS}/*/{DECISION}"))]


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
    return next((folder for folder in incident_folders(output) if not (folder / DECISION).is_file()), None)


def muted(decisions: Sequence[Mapping[str, Any]], step: int) -> bool:
    """Whether a step lies in a window that was looked into and let pass."""
    return any(
        d["amendment"]["action"] == "go_on" and d["first_step"] <= step <= d["amendment"]["last_step"]
        for d in decisions
    )


def attempts_at(decisions: Sequence[Mapping[str, Any]], step: int) -> list[Mapping[str, Any]]:
    """Decisions about windows that reach from their checkpoint to at least this step: the trouble that came back."""
    return [d for d in decisions if d["rollback_step"] < step <= d["retried_until"]]
