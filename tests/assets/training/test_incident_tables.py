"""What the training program wrote down becomes rows with URLs and sources."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from assets.build import Segment
from assets.schemas import CORPUS
from assets.tables import write_table
from assets.training.incident_tables import (
    amendment_rows,
    documents_of_steps,
    incident_curves,
    incident_rows,
    quarantine_rows,
)
from tests.builds import segment_of

WORST = {"step": 8, "kind": "loss_spike", "value": 9.0, "expected": 3.0, "sigmas": 20.0}


def decision(number: int, doc_ids: list[str], replaced: dict[str, int]) -> dict[str, Any]:
    suspects = [
        {
            "doc_id": d,
            "channel": "en",
            "sequence": 30,
            "loss": 9.0,
            "expected": 3.0,
            "sigmas": 20.0 - n,
            "weights": "good",
        }
        for n, d in enumerate(doc_ids)
    ]
    return {
        "number": number,
        "kind": "loss_spike",
        "first_step": 8,
        "rollback_step": 6,
        "cause": "data",
        "suspects": suspects,
        "amendment": {"action": "replace_sequences", "replaced": replaced},
    }


@pytest.fixture
def order(data: Path, tmp_path: Path) -> Segment:
    folder = tmp_path / "order"
    folder.mkdir()
    (folder / "order.parquet").write_bytes((data / "order.parquet").read_bytes())
    return segment_of(folder, "order_manifest")


@pytest.fixture
def pieces(data: Path) -> list[dict[str, Any]]:
    return pq.read_table(data / "order.parquet").to_pylist()


def checkpoints(folder: Path, doc_ids: list[str]) -> Segment:
    """A published run with one incident that was acted on and one that was let pass."""
    incident = folder / "incidents/0001"
    incident.mkdir(parents=True)
    window = {"first_step": 8, "last_step": 9}
    rows = [{"step": 7, "loss": 3.0}, {"step": 8, "loss": 9.0}]
    (incident / "detected.json").write_text(json.dumps({"worst": WORST, "window": window, "metrics": rows}))
    (incident / "decision.json").write_text(json.dumps(decision(1, doc_ids, {"30": 3})))
    worst = WORST | {"step": 3, "kind": "gradient_spike"}
    passed = [{"first_step": 3, "last_step": 4, "worst": worst}]
    (folder / "incidents.json").write_text(json.dumps(passed))
    return segment_of(folder, "base_checkpoints")


def corpus(folder: Path, doc_ids: list[str]) -> Segment:
    rows = [
        dict.fromkeys(CORPUS.names) | {"doc_id": d, "url": f"https://example.org/{d}", "source": f"site-{n % 2}"}
        for n, d in enumerate(sorted(doc_ids))
    ]
    write_table(folder, "documents", rows, CORPUS)
    return segment_of(folder, "corpus")


def test_an_incident_names_its_quarantined_documents_their_urls_and_sources(
    order: Segment, pieces: list[dict[str, Any]], tmp_path: Path
) -> None:
    everything = sorted({piece["doc_id"] for piece in pieces})
    guilty = everything[1], everything[0]
    rows = incident_rows(
        "run",
        checkpoints(tmp_path / "run", list(guilty)),
        order=order,
        corpus=corpus(tmp_path / "corpus", everything[1:]),  # the other one has left the corpus since
        global_batch_size=4,
    )
    recorded, acted = rows
    assert (acted["step"], acted["last_step"], acted["cause"], acted["action"]) == (8, 9, "data", "replace_sequences")
    assert (acted["rollback_step"], acted["doc_ids"]) == (6, list(guilty))
    assert (acted["urls"], acted["sources"]) == ([f"https://example.org/{guilty[0]}"], ["site-0"])
    # One that was let pass accuses all that its steps, and the one before, were reading.
    assert (recorded["step"], recorded["kind"], recorded["cause"]) == (3, "gradient_spike", None)
    assert recorded["action"] == "recorded"
    assert recorded["doc_ids"] == sorted({p["doc_id"] for p in pieces if 4 * (2 - 1) <= p["sequence"] < 4 * 4})


def test_a_run_that_was_not_watched_has_no_incident(order: Segment, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/metrics.jsonl").write_text("")
    run = segment_of(tmp_path / "run", "base_checkpoints")
    assert incident_rows("run", run, order=order, corpus=corpus(tmp_path / "corpus", ["a"]), global_batch_size=4) == []


def test_documents_of_steps_are_those_of_their_sequences(order: Segment, pieces: list[dict[str, Any]]) -> None:
    first, both = documents_of_steps(order, [(1, 1), (2, 3)], 4)
    assert first == sorted({p["doc_id"] for p in pieces if p["sequence"] < 4})
    assert both == sorted({p["doc_id"] for p in pieces if 4 <= p["sequence"] < 12})


def test_of_two_decisions_the_first_accuses_and_the_last_replaces() -> None:
    decisions = [decision(1, ["b", "a"], {"30": 3, "31": 4}), decision(2, ["b", "c"], {"31": 5})]
    rows = quarantine_rows("run", decisions)
    assert [(row["doc_id"], row["incident"], row["reason"]) for row in rows] == [
        ("a", 1, "loss_spike"),
        ("b", 1, "loss_spike"),
        ("c", 2, "loss_spike"),
    ]
    assert [(row["stage"], row["kept"], row["rollback_step"]) for row in rows[:1]] == [("training", False, 6)]
    assert amendment_rows(decisions) == [
        {"sequence": 30, "replaced_by": 3, "incident": 1},
        {"sequence": 31, "replaced_by": 5, "incident": 2},
    ]


def test_the_plot_shows_what_was_seen_and_what_is_on_record() -> None:
    detected = {"window": {"last_step": 8}, "metrics": [{"step": 7, "loss": 3.0}, {"step": 8, "loss": 9.0}]}
    metrics = [{"step": step, "loss": 3.0} for step in range(1, 100)]
    curves = incident_curves(detected, metrics)
    assert curves["seen"] == ([7.0, 8.0], [3.0, 9.0])
    assert (curves["after going back"][0][0], curves["after going back"][0][-1]) == (7.0, 72.0)
