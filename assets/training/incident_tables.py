"""Loss incidents of a run: when a step is one, what is done about it, and whom the record accuses.

The training program (training/contract/bands.py, training/recovery) detects, decides and goes on by itself; what it wrote down is
published with the checkpoints. Here it is joined with what only the assets know: URLs and sources.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field

from assets.build import Segment
from assets.key_set import KeySet
from training.contract import outputs


class IncidentsRecipe(BaseModel):
    """When a step is an incident, and what the training program does about it without a person."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    window_steps: int = Field(128, ge=16, description="steps whose spread is the band's width (OLMo-core: 128)")
    level_steps: int = Field(
        16, ge=4, description="steps whose median is the expected value: short, to follow the trend"
    )
    sigmas: float = Field(6.0, gt=0, description="distance that makes an incident (OLMo-core: 6)")
    burn_in_steps: int = Field(
        50, ge=8, description="first steps are not judged: the curve is too steep to expect anything"
    )
    smallest_relative_change: float = Field(
        0.08, ge=0, description="of the loss, below which nothing is an incident however quiet the curve was"
    )
    smallest_gradient_ratio: float = Field(3.0, ge=1, description="of the gradient norm to the expected one, likewise")
    relearn_steps: int = Field(32, ge=4, description="a new level that lasts this long is the new normal")
    join_steps: int = Field(8, ge=0, description="deviations this close are one incident, reported at its first step")
    documents_before_steps: int = Field(
        1,
        ge=0,
        description="a batch changes the weights that the next step's loss is measured with: look back this far",
    )
    react: bool = Field(True, description="find the cause, go back and go on without it; false: only record incidents")
    confirm_steps: int = Field(
        4, ge=0, description="steps that go on after the first deviation, to see how far it reaches"
    )
    reference_steps: int = Field(16, ge=1, description="steps before the window whose documents are the reference")
    look_ahead_steps: int = Field(16, ge=0, description="steps after the window that are searched for more of the same")
    document_sigmas: float = Field(6.0, gt=0, description="distance from its channel's usual loss that makes a suspect")
    smallest_document_change: float = Field(0.25, ge=0, description="of the usual loss, below which none is a suspect")
    smallest_document_tokens: int = Field(16, ge=1, description="shorter pieces are too noisy to accuse")
    smallest_explained_share: float = Field(
        0.5, gt=0, le=1, description="of the deviation that suspects must carry for the data to be the cause"
    )
    learning_rate_factor: float = Field(
        0.3, gt=0, lt=1, description="of the learning rate after an optimiser's incident, again at each further attempt"
    )
    calm_steps: int = Field(8, ge=0, description="steps after the window for which that holds")
    max_attempts: int = Field(3, ge=1, description="remedies for one window before the run stops with a report")


def incidents_on_record(checkpoints: Segment) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(detected, decision) of each incident that the program acted on, in order."""
    for name in sorted(
        n for n in checkpoints.files if n.startswith(f"{outputs.INCIDENTS}/") and n.endswith(f"/{outputs.DECISION}")
    ):
        detected = checkpoints.path(name.replace(outputs.DECISION, outputs.DETECTED))
        yield json.loads(detected.read_text("utf-8")), json.loads(checkpoints.path(name).read_text("utf-8"))


def quarantine_rows(run: str, decisions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of quarantine.parquet: a document that two incidents accuse has the first one's row."""
    rows: dict[str, dict[str, Any]] = {}
    for decision in decisions:
        for suspect in decision["suspects"]:
            rows.setdefault(
                suspect["doc_id"],
                {
                    "doc_id": suspect["doc_id"],
                    "stage": "training",
                    "kept": False,
                    "reason": decision["kind"],
                    "run": run,
                    "incident": decision["number"],
                    "step": decision["first_step"],
                    "rollback_step": decision["rollback_step"],
                    "loss": suspect["loss"],
                    "expected": suspect["expected"],
                    "deviation_sigma": suspect["sigmas"],
                },
            )
    return [rows[doc_id] for doc_id in sorted(rows)]


def amendment_rows(decisions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of amendments.parquet: the last decision about a sequence holds."""
    rows: dict[int, dict[str, Any]] = {}
    for decision in decisions:
        for sequence, other in decision["amendment"]["replaced"].items():
            rows[int(sequence)] = {"sequence": int(sequence), "replaced_by": other, "incident": decision["number"]}
    return [rows[sequence] for sequence in sorted(rows)]


@dataclass(frozen=True)
class Recorded:
    """An incident that left the band in the finished record and was let pass."""

    first_step: int
    last_step: int
    kind: str
    value: float
    expected: float
    sigmas: float


def let_pass(checkpoints: Segment) -> list[Recorded]:
    """What the program found in the finished record; nothing for a run that was not watched."""
    if outputs.INCIDENTS_PASSED not in checkpoints.files:
        return []
    found = json.loads(checkpoints.path(outputs.INCIDENTS_PASSED).read_text("utf-8"))
    return [
        Recorded(
            row["first_step"],
            row["last_step"],
            *(row["worst"][name] for name in ("kind", "value", "expected", "sigmas")),
        )
        for row in found
    ]


def incident_rows(
    run: str,
    checkpoints: Segment,
    *,
    order: Segment,
    corpus: Segment,
    global_batch_size: int,
    before_steps: int = 1,
) -> list[dict[str, Any]]:
    """Rows of incidents.parquet. Accused are the quarantined documents, else all that the incident's steps were reading."""
    rows: list[dict[str, Any]] = []
    for detected, decision in incidents_on_record(checkpoints):
        worst, window = detected["worst"], detected["window"]
        rows.append(
            _row(run, window["first_step"], window["last_step"], worst["kind"], worst)
            | {
                "cause": decision["cause"],
                "action": decision["amendment"]["action"],
                "rollback_step": decision["rollback_step"],
                "doc_ids": [suspect["doc_id"] for suspect in decision["suspects"]],
            }
        )
    for incident in let_pass(checkpoints):
        worst = {"value": incident.value, "expected": incident.expected, "sigmas": incident.sigmas}
        rows.append(_row(run, incident.first_step, incident.last_step, incident.kind, worst))
    rows.sort(key=lambda row: (row["step"], row["kind"], row["action"]))
    unknown = [row for row in rows if not row["doc_ids"]]
    windows = [(max(1, row["step"] - before_steps), row["last_step"]) for row in unknown]
    for row, found in zip(unknown, documents_of_steps(order, windows, global_batch_size), strict=True):
        row["doc_ids"] = found
    known = pages_of(corpus, {doc_id for row in rows for doc_id in row["doc_ids"]})
    for row in rows:
        pages = [known[doc_id] for doc_id in row["doc_ids"] if doc_id in known]
        row["urls"] = sorted({url for url, _ in pages})
        row["sources"] = sorted({source for _, source in pages if source is not None})
    return rows


def _row(run: str, first: int, last: int, kind: str, worst: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "run": run,
        "step": first,
        "last_step": last,
        "kind": kind,
        "value": worst["value"],
        "expected": worst["expected"],
        "deviation_sigma": worst["sigmas"],
        "cause": None,
        "action": "recorded",
        "rollback_step": None,
        "doc_ids": [],
    }


def incident_curves(
    detected: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]
) -> dict[str, tuple[list[float], list[float]]]:
    """Loss around one incident: as it was seen, and as it is in the record after going back."""
    seen = [(row["step"], row["loss"]) for row in detected["metrics"]]
    last = detected["window"]["last_step"] + 64
    kept = [(row["step"], row["loss"]) for row in metrics if seen[0][0] <= row["step"] <= last]
    return {
        name: ([float(step) for step, _ in points], [loss for _, loss in points])
        for name, points in (("seen", seen), ("after going back", kept))
    }


def documents_of_steps(order: Segment, windows: Sequence[tuple[int, int]], global_batch_size: int) -> list[list[str]]:
    """For each window of steps (1-based, both ends included): the documents its sequences were cut from, sorted."""
    found: list[set[str]] = [set() for _ in windows]
    for batch in order.batches("order", ["sequence", "doc_id"], rows=65536) if windows else ():
        sequence = batch.column("sequence")
        for documents, (first, last) in zip(found, windows, strict=True):
            inside = pc.and_(
                pc.greater_equal(sequence, (first - 1) * global_batch_size), pc.less(sequence, last * global_batch_size)
            )
            documents.update(batch.column("doc_id").filter(inside).to_pylist())
    return [sorted(documents) for documents in found]


def pages_of(corpus: Segment, doc_ids: set[str]) -> dict[str, tuple[str, str | None]]:
    """(URL, source) of each document that the corpus still has."""
    wanted = KeySet(pa.array(sorted(doc_ids), pa.string()))
    found: dict[str, tuple[str, str | None]] = {}
    for batch in corpus.batches("documents", ["doc_id", "url", "source"]) if doc_ids else ():
        for row in batch.filter(wanted.holds(batch.column("doc_id"))).to_pylist():
            found[row["doc_id"]] = (row["url"], row["source"])
    return found
