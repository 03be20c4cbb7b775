"""Three documents and two runs by hand, and a way to plant errors in them.

sequence_length 3, so sequences of 4 tokens
run one (2 sequences a step): A[0:4] A[4:8] | A[8:10]+B[0:2] B[2:6]
run two (1 sequence a step):  A[0:4] | A[4:8] | A[8:10]+A'[0:2] | A'[2:6], B held out (A' = A again)
C was dropped as a near duplicate of A
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from assets import schemas
from assets.build import Segment
from assets.lineage import defs
from assets.mixture.order import update_digest
from assets.tables import write_table
from tests.builds import make_build, segment_of

A, B, C = ("a" * 32, "b" * 32, "c" * 32)
ONE, TWO = "demo@20260101T000000Z", "demo@20260102T000000Z"
URLS = {
    A: "https://example.org/zh/mofang.html",
    B: "https://example.org/en/mill.html",
    C: "https://example.org/en/copy",
}


@dataclass
class World:
    """Rows of all tables; tests change them before `segments` writes them."""

    decisions: list[dict[str, Any]] = field(default_factory=list)
    mixture: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    order: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    plan: dict[str, dict[str, Any]] = field(default_factory=dict)
    checkpoints: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    trained_on: dict[str, dict[str, str]] = field(default_factory=dict)
    quarantine: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    amendments: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Of runs that are not here nothing is written, as before there was either."""
    keep_digest: bool = False
    """Leave order_sha256 as the rows were before a test changed them."""

    def segments(self, root: Path) -> list[Segment]:
        """Write everything and return it as published."""
        write_table(root / "corpus", "decisions", self.decisions, schemas.CORPUS_DECISIONS)
        found = [segment_of(root / "corpus", "corpus")]
        for number, run in enumerate((ONE, TWO)):
            folder = root / f"run{number}"
            if not self.keep_digest or "order_sha256" not in self.plan[run]:
                self.plan[run]["order_sha256"] = digest(self.order[run])
            write_table(folder / "mixture", "documents", self.mixture[run], schemas.MIXTURE)
            orders = self._write_order(run, folder / "order")
            (folder / "order" / "fingerprint.json").write_text(json.dumps(self.plan[run]))
            write_table(folder / "base", "checkpoints", self.checkpoints[run], schemas.CHECKPOINTS)
            for name, rows in (("quarantine", self.quarantine.get(run)), ("amendments", self.amendments.get(run))):
                if rows is not None:
                    write_table(
                        folder / "base", name, rows, schemas.QUARANTINE if name == "quarantine" else schemas.AMENDMENTS
                    )
            for row in self.checkpoints[run]:
                place = folder / "base" / row["folder"]
                place.mkdir(parents=True)
                marker: dict[str, Any] = orders | self.trained_on.get(run, {})
                if row["step"] > 1 and self.amendments.get(run):
                    marker["amendments"] = [
                        {"incident": 1, "action": "replace_sequences", "first_step": 2, "digest": "d"}
                    ]
                if row["sequences_seen"] == 2:
                    marker["decay_order_fingerprint"] = "another decay that might have followed"
                (place / "complete.json").write_text(json.dumps(marker))
            write_table(folder / "perplexity", "perplexity", self._scores(run), schemas.PERPLEXITY)
            for name, asset in (
                ("mixture", "mixture_manifest"),
                ("order", "order_manifest"),
                ("base", "base_checkpoints"),
                ("perplexity", "perplexity"),
            ):
                found.append(segment_of(folder / name, asset, run))
        return found

    def _write_order(self, run: str, folder: Path) -> dict[str, str]:
        """Run two in phases, run one as they were published before there were any: under the version of segment_of."""
        if run == ONE:
            write_table(folder, "order", self.order[run], schemas.ORDER)
            return {"order_fingerprint": "v1"}
        phases = []
        for number, phase in enumerate(("stable", "decay")):
            rows = [row for row in self.order[run] if row["phase"] == phase]
            write_table(folder, f"order-{number:05d}", rows, schemas.ORDER)
            entry = {"phase": phase, "file": f"order-{number:05d}.parquet", "first_sequence": rows[0]["sequence"]}
            phases.append(entry | {"order_sha256": digest(rows)})
        if not self.keep_digest or "phases" not in self.plan[run]:
            self.plan[run]["phases"] = phases
        names = ("order_fingerprint", "decay_order_fingerprint")
        return {name: entry["order_sha256"] for name, entry in zip(names, phases, strict=True)}

    def _scores(self, run: str) -> list[dict[str, Any]]:
        counts = {"documents": 1, "tokens": 6, "utf8_bytes": 20, "perplexity": 1.0, "bits_per_byte": 1.0}
        return [
            {"run": run, "step": row["step"], "tokens_seen": row["tokens_seen"], "language": language, "domain": "all"}
            | counts
            | {"loss": 5.0 - row["step"], "unigram_loss": 6.0}
            for row in self.checkpoints[run]
            for language in ("all", "zh")
            if run == ONE
        ]


def digest(rows: list[dict[str, Any]]) -> str:
    hasher = hashlib.sha256()
    update_digest(hasher, pa.Table.from_pylist(rows, schema=schemas.ORDER))
    return hasher.hexdigest()


def piece(sequence: int, number: int, doc_id: str, start: int, length: int, repeat: int = 0) -> dict[str, Any]:
    channel = "zh" if doc_id == A else "en"
    row = {"sequence": sequence, "piece": number, "doc_id": doc_id, "start": start, "length": length}
    return row | {"repeat": repeat, "channel": channel, "phase": "decay" if repeat else "stable"}


def planned(doc_id: str, tokens: int, split: str, stable: float, decay: float = 0.0) -> dict[str, Any]:
    language = "zh" if doc_id == A else "en"
    row = {"doc_id": doc_id, "channel": language, "language": language, "domain": "books", "split": split}
    return row | {"tokens": tokens, "utf8_bytes": tokens * 3, "stable_uses": stable, "decay_uses": decay}


def saved(run: str, step: int, batch: int) -> dict[str, Any]:
    row = {"run": run, "step": step, "tokens_seen": step * batch * 3, "sequences_seen": step * batch}
    row |= {"train_loss": 4.0, "learning_rate": 0.1, "folder": f"checkpoints/step-{step:08d}", "parameters": 1}
    return row | {"weights_sha256": hashlib.sha256(f"{run} {step}".encode()).hexdigest()}


def quarantined(doc_id: str, rollback_step: int) -> dict[str, Any]:
    row = {"doc_id": doc_id, "stage": "training", "kept": False, "reason": "loss_spike", "run": ONE, "incident": 1}
    row |= {"step": rollback_step + 1, "rollback_step": rollback_step, "loss": 9.0, "expected": 3.0}
    return row | {"deviation_sigma": 20.0}


def replaced(sequence: int, by: int) -> dict[str, Any]:
    return {"sequence": sequence, "replaced_by": by, "incident": 1}


def decision(doc_id: str, stage: str | None = None, reason: str | None = None) -> dict[str, Any]:
    row = {"doc_id": doc_id, "url": URLS[doc_id], "source": "library" if doc_id == A else "mill", "crawl": "c@1"}
    return row | {"live": True, "stage": stage, "drop_reason": reason, "matched_doc_id": A if reason else None}


@pytest.fixture
def world() -> World:
    return World(
        decisions=[decision(A), decision(B), decision(C, "duplicate_clusters", "near_duplicate")],
        mixture={
            ONE: [planned(A, 10, "train", 1.0), planned(B, 6, "train", 1.0)],
            TWO: [planned(A, 10, "train", 1.0, 0.6), planned(B, 6, "heldout", 0.0)],
        },
        order={
            ONE: [
                piece(0, 0, A, 0, 4),
                piece(1, 0, A, 4, 4),
                piece(2, 0, A, 8, 2),
                piece(2, 1, B, 0, 2),
                piece(3, 0, B, 2, 4),
            ],
            TWO: [
                piece(0, 0, A, 0, 4),
                piece(1, 0, A, 4, 4),
                piece(2, 0, A, 8, 2),
                piece(2, 1, A, 0, 2, 1),
                piece(3, 0, A, 2, 4, 1),
            ],
        },
        plan={
            ONE: {"sequences": 4, "sequence_length": 3, "global_batch_size": 2},
            TWO: {"sequences": 4, "sequence_length": 3, "global_batch_size": 1},
        },
        checkpoints={ONE: [saved(ONE, 1, 2), saved(ONE, 2, 2)], TWO: [saved(TWO, 2, 1), saved(TWO, 4, 1)]},
    )


def build_index(segments: list[Segment], root: Path) -> Segment:
    """lineage_index of these inputs, as published."""
    build = make_build(root / "index", "lineage_index", segments)
    report = defs.lineage_index(build)
    return segment_of(build.output, "lineage_index", report=report)
