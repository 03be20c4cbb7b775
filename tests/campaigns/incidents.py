"""Real runs with planted faults: is the cause found, are the documents named, does the run recover by itself?

    make campaign-incidents                            writes docs/results/incidents.json and docs/pictures/incident-*.png
    python -m tests.campaigns.incidents --only garbage

Every run is the asset `base_checkpoints` (300 steps of a two-layer Llama on text that can be learned, tests/training/
planted.py) and then `loss_incidents`. The control has no fault; its end is what the others are measured against.

    control             nothing planted
    garbage             documents of random tokens in steps 170 to 172, some of them planned again 60 steps later
    newlines            documents of newlines only, at the same places
    learning_rate       20 times the planned learning rate in these steps, as a wrong schedule would
    hidden_rate         the same, but the recorded learning rate is the planned one, as a wrong optimiser would
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from assets.build import Build, Segment
from assets.plots import lines
from assets.schemas import CORPUS
from assets.tables import write_table
from assets.training.defs import base_checkpoints, loss_incidents
from orchestration.resources import trainer
from tests.builds import make_build, segment_of
from tests.training import planted

REPOSITORY = Path(__file__).resolve().parents[2]
STEPS, FAULT, REUSE_AFTER = 300, (170, 171, 172), 60
FACTOR = 20.0
RUN = "planted@20260101T000000Z"
EXPECTED: dict[str, str | None] = {
    "control": None,
    "garbage": "data",
    "newlines": "data",
    "learning_rate": "optimiser",
    "hidden_rate": "optimiser",
}
WITHIN = 0.01
"""Of the control's final loss."""
SOURCES = ("library", "forum", "mill")
RECIPES: dict[str, Any] = {
    "model": {"dim": 64, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "sequence_length": planted.SEQUENCE_LENGTH},
    "training": {
        "total_steps": STEPS,
        "warmup_steps": 10,
        "decay_steps": STEPS // 5,
        "peak_lr": 0.01,
        "global_batch_size": planted.BATCH,
        "local_batch_size": planted.BATCH,
        "checkpoint_every_steps": 40,
        "early_checkpoint_steps": [1],
        "threads": 1,
    },
    "incidents": {},
}


def inputs_of(root: Path, kind: str) -> tuple[list[Segment], list[str]]:
    """Published inputs of a run, and the planted documents."""
    shards, order, tokenizer, corpus = (root / name for name in ("shards", "order", "tokenizer", "corpus"))
    for folder in (shards, order, tokenizer):
        folder.mkdir(parents=True)
    world = kind if kind in ("garbage", "newlines") else "none"
    documents, bad = planted.write_world(shards, order, STEPS, kind=world, planted_steps=FAULT, reuse_after=REUSE_AFTER)
    encoding = {"dtype": "uint16", "end_of_text_id": 0, "vocabulary_size": planted.VOCABULARY}
    (shards / "encoding.json").write_text(json.dumps(encoding))
    phase = {"phase": "stable", "file": "order-00000.parquet", "first_sequence": 0, "order_sha256": "planted"}
    (order / "fingerprint.json").write_text(json.dumps({"phases": [phase]}))
    vocabulary = {str(number): number for number in range(planted.VOCABULARY)}
    (tokenizer / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}, "added_tokens": []}))
    rows = [
        dict.fromkeys(CORPUS.names)
        | {"doc_id": doc_id, "url": f"https://example.org/{doc_id}", "source": SOURCES[number % 3]}
        for number, doc_id in enumerate(documents)
    ]
    write_table(corpus, "documents", rows, CORPUS)
    segments = [segment_of(shards, "token_shards"), segment_of(order, "order_manifest", RUN, "order-v1")]
    return [*segments, segment_of(tokenizer, "tokenizer"), segment_of(corpus, "corpus")], bad


def train(root: Path, kind: str) -> dict[str, Any]:
    """One run as the assets make it, and what became of it."""
    inputs, bad = inputs_of(root / "inputs", kind)
    program = trainer.PROGRAM
    if kind.endswith("_rate"):
        trainer.PROGRAM = "tests.training.faulty_main"
        hidden = str(int(kind == "hidden_rate"))
        fault = {"FIRST": FAULT[0], "LAST": FAULT[-1], "FACTOR": FACTOR, "HIDDEN": hidden}
        os.environ |= {f"FAULT_{name}": str(value) for name, value in fault.items()}
    begin = time.monotonic()
    try:
        build = _build(root / "train", "base_checkpoints", inputs)
        base_checkpoints(build)
    finally:
        trainer.PROGRAM = program
    seconds = time.monotonic() - begin
    published = segment_of(build.output, "base_checkpoints", RUN)
    incidents = _build(root / "incidents", "loss_incidents", [*inputs, published])
    loss_incidents(incidents)
    return _described(kind, build, published, segment_of(incidents.output, "loss_incidents", RUN), bad) | {
        "seconds": round(seconds, 1)
    }


def _build(folder: Path, asset: str, inputs: list[Segment]) -> Build:
    return replace(make_build(folder, asset, inputs, RECIPES, RUN), trainer=trainer.LocalTrainer())


def _described(kind: str, build: Build, published: Segment, incidents: Segment, bad: list[str]) -> dict[str, Any]:
    metrics = published.table("metrics").to_pylist()
    quarantined = set(published.table("quarantine")["doc_id"].to_pylist())
    timeline = []
    for path in sorted(build.output.glob("incidents/*/decision.json")):
        decision = json.loads(path.read_text())
        detected = json.loads(path.with_name("detected.json").read_text())
        amendment = decision["amendment"]
        timeline.append(
            {name: decision[name] for name in ("kind", "first_step", "last_step", "rollback_step", "attempt", "cause")}
            | {name: detected["worst"][name] for name in ("step", "value", "expected", "sigmas")}
            | {name: amendment[name] for name in ("action", "factor", "to_plan", "max_gradient_norm")}
            | {"sequences_replaced": len(amendment["replaced"]), "evidence": decision["evidence"]}
            | {"seen": [[row["step"], round(row["loss"], 4)] for row in detected["metrics"]]}
        )
    rows = incidents.table("incidents").to_pylist()
    acted = [row for row in rows if row["action"] != "recorded"]
    return {
        "run": kind,
        "causes": [entry["cause"] for entry in timeline],
        "recorded_only": [(row["step"], row["kind"]) for row in rows if row["action"] == "recorded"],
        "planted": len(bad),
        "planted_found": len(quarantined & set(bad)),
        "innocent_accused": len(quarantined - set(bad)),
        "urls_named": sum(len(row["urls"]) for row in acted),
        "sources_named": sorted({source for row in acted if row["cause"] == "data" for source in row["sources"]}),
        "final_loss": sum(row["loss"] for row in metrics[-30:]) / 30,
        "timeline": timeline,
        "curve": [round(row["loss"], 4) for row in metrics],
    }


def judge(results: list[dict[str, Any]]) -> list[str]:
    """What is not as it should be; also fills in `final_loss_over_control`."""
    wrong = []
    control = next((result for result in results if result["run"] == "control"), None)
    for result in results:
        expected = EXPECTED[result["run"]]
        if set(result["causes"]) != ({expected} if expected else set()):
            wrong.append(f"{result['run']}: causes {result['causes']}, expected {expected or 'no incident'}")
        if result["planted_found"] != result["planted"] or result["innocent_accused"]:
            wrong.append(
                f"{result['run']}: {result['planted_found']} of {result['planted']} found, {result['innocent_accused']} innocent"
            )
        if control is not None:
            result["final_loss_over_control"] = result["final_loss"] / control["final_loss"]
            if abs(result["final_loss_over_control"] - 1) > WITHIN:
                wrong.append(f"{result['run']}: ends at {result['final_loss_over_control']:.4f} of the control's loss")
    return wrong


def draw(result: dict[str, Any], control: dict[str, Any] | None) -> bytes:
    """Loss from step 120 to 260: as it was seen before going back, as it is on record, and the control's."""
    steps = range(120, 261)
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for number, entry in enumerate(result["timeline"], 1):
        seen = [(step, loss) for step, loss in entry["seen"] if step > entry["rollback_step"]]
        curves[f"seen, attempt {number}"] = ([float(step) for step, _ in seen], [loss for _, loss in seen])
    curves["on record"] = ([float(step) for step in steps], [result["curve"][step - 1] for step in steps])
    if control is not None and control is not result:
        curves["control"] = ([float(step) for step in steps], [control["curve"][step - 1] for step in steps])
    return lines("step", "loss (nats per token)", curves)


def main() -> int:
    """Exit status 0 if every run was judged rightly and recovered."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", choices=EXPECTED, help="one run; writes no results")
    only = parser.parse_args().only
    results = []
    with tempfile.TemporaryDirectory(prefix="incidents-") as root:
        for kind in [only] if only else EXPECTED:
            results.append(train(Path(root) / kind, kind))
            shown = {name: value for name, value in results[-1].items() if name not in ("timeline", "curve")}
            print(json.dumps(shown), flush=True)
    wrong = judge(results)
    print("\n".join(wrong) or "every run was judged rightly and recovered")
    if only:
        return bool(wrong)
    control = results[0]
    for result in results[1:]:
        (REPOSITORY / f"docs/pictures/incident-{result['run']}.png").write_bytes(draw(result, control))
    content = {"steps": STEPS, "fault_steps": FAULT, "factor": FACTOR, "wrong": wrong, "runs": results}
    text = json.dumps(content, indent=1).replace("\n    ", "\n   ")
    (REPOSITORY / "docs/results/incidents.json").write_text(text + "\n", "utf-8")
    return bool(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
