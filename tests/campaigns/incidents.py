"""Real runs with planted faults: is the cause found, are the documents named, does the run recover by itself?

    make campaign-incidents                            writes docs/results/incidents.json and docs/pictures/incident-*.png
    python -m tests.campaigns.incidents --only garbage-fsdp2

Every run is the asset `base_checkpoints` (300 steps of a two-layer Llama on text that can be learned, tests/training/
planted.py) and then `loss_incidents`. The control has no fault; its end is what the others of its world are measured
against. Each world has other chains, documents and initial weights, and the fault at another step. The policy's numbers
were chosen on world 0, its scales after a look at worlds 1 to 3; 4 and 5 were never looked at for that. World 0 runs on
two ranks, too, cut in three ways.

    control             nothing planted
    garbage             documents of random tokens in three steps, some of them planned again 60 steps later
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
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from assets.build import Build, Segment
from assets.plots import lines
from assets.schemas import CORPUS
from assets.tables import write_table
from assets.training.defs import base_checkpoints, loss_incidents
from benchmarks.results import Goal, Result, finish, why
from orchestration.launch import program
from orchestration.launch.trainer import LocalTrainer
from tests.builds import make_build, segment_of
from tests.training import planted

REPOSITORY = Path(__file__).resolve().parents[2]
STEPS, REUSE_AFTER = 300, 60
CODE = ("training", "assets/training", "tests/campaigns/incidents.py", "tests/training/planted.py")
FAULT_BEGINS = (170, 93, 137, 214, 121, 231)
"""First of three steps, of each world; none is the step of a checkpoint."""
FAULT_STEPS = 3
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
LAYOUTS: dict[str, dict[str, int]] = {
    "one": {},
    "fsdp2": {"dp_shard": 2, "local_batch_size": 4},
    "tp2": {"tp": 2},
    "pp2": {"pp": 2},
}


@dataclass(frozen=True)
class Case:
    """One run of the campaign."""

    kind: str
    world: int = 0
    layout: str = "one"

    @property
    def name(self) -> str:
        """Unique; also the file name of its picture."""
        world = f"-world{self.world}" if self.world else ""
        return self.kind + world + (f"-{self.layout}" if self.layout != "one" else "")

    @property
    def fault(self) -> range:
        """Steps in which something is wrong."""
        return range(FAULT_BEGINS[self.world], FAULT_BEGINS[self.world] + FAULT_STEPS)


CASES = [Case(kind, world) for world in range(len(FAULT_BEGINS)) for kind in EXPECTED]
CASES += [Case(kind, layout=layout) for layout in LAYOUTS if layout != "one" for kind in EXPECTED]
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


def inputs_of(root: Path, case: Case) -> tuple[list[Segment], list[str]]:
    """Published inputs of a run, and the planted documents."""
    shards, order, tokenizer, corpus = (root / name for name in ("shards", "order", "tokenizer", "corpus"))
    for folder in (shards, order, tokenizer):
        folder.mkdir(parents=True)
    kind = case.kind if case.kind in ("garbage", "newlines") else "none"
    documents, bad = planted.write_world(
        *(shards, order, STEPS), kind=kind, planted_steps=case.fault, reuse_after=REUSE_AFTER, world=case.world
    )
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


def train(root: Path, case: Case) -> dict[str, Any]:
    """One run as the assets make it, and how it ended."""
    inputs, bad = inputs_of(root / "inputs", case)
    recipes = RECIPES | {"training": RECIPES["training"] | LAYOUTS[case.layout] | {"seed": 1 + case.world}}
    usual = program.PROGRAM
    if case.kind.endswith("_rate"):
        program.PROGRAM = "tests.training.faulty_main"
        hidden = int(case.kind == "hidden_rate")
        fault = {"FIRST": case.fault[0], "LAST": case.fault[-1], "FACTOR": FACTOR, "HIDDEN": hidden}
        os.environ |= {f"FAULT_{name}": str(value) for name, value in fault.items()}
    begin = time.monotonic()
    try:
        build = replace(make_build(root / "train", "base_checkpoints", inputs, recipes, RUN), trainer=LocalTrainer())
        base_checkpoints(build)
    finally:
        program.PROGRAM = usual
    seconds = time.monotonic() - begin
    published = segment_of(build.output, "base_checkpoints", RUN)
    incidents = make_build(root / "incidents", "loss_incidents", [*inputs, published], recipes, RUN)
    loss_incidents(incidents)
    described = _described(build, published, segment_of(incidents.output, "loss_incidents", RUN), bad)
    return {"run": case.name, **asdict(case)} | described | {"seconds": round(seconds, 1)}


def _described(build: Build, published: Segment, incidents: Segment, bad: list[str]) -> dict[str, Any]:
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
    controls = {result["world"]: result for result in results if result["run"] == Case("control", result["world"]).name}
    for result in results:
        expected = EXPECTED[result["kind"]]
        if set(result["causes"]) != ({expected} if expected else set()):
            wrong.append(f"{result['run']}: causes {result['causes']}, expected {expected or 'no incident'}")
        if result["planted_found"] != result["planted"] or result["innocent_accused"]:
            wrong.append(
                f"{result['run']}: {result['planted_found']} of {result['planted']} found, {result['innocent_accused']} innocent"
            )
        if control := controls.get(result["world"]):
            result["final_loss_over_control"] = result["final_loss"] / control["final_loss"]
            if abs(result["final_loss_over_control"] - 1) > WITHIN:
                wrong.append(f"{result['run']}: ends at {result['final_loss_over_control']:.4f} of the control's loss")
    return wrong


def draw(result: dict[str, Any], control: dict[str, Any]) -> bytes:
    """Loss from 50 steps before the fault to 90 after it: as seen before going back, as on record, and the control's."""
    begin = FAULT_BEGINS[result["world"]]
    steps = range(begin - 50, begin + 91)
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for number, entry in enumerate(result["timeline"], 1):
        seen = [(step, loss) for step, loss in entry["seen"] if step > entry["rollback_step"]]
        curves[f"seen, attempt {number}"] = ([float(step) for step, _ in seen], [loss for _, loss in seen])
    for name, run in (("on record", result), ("control", control)):
        curves[name] = ([float(step) for step in steps if step <= STEPS], run["curve"][begin - 51 : begin + 90])
    return lines("step", "loss (nats per token)", curves)


def run_one(root: Path, case: Case) -> dict[str, Any]:
    """As `train`, in a process of its own; what a run says of itself goes to the terminal as it ends."""
    result = train(root / case.name, case)
    shown = {name: value for name, value in result.items() if name not in ("timeline", "curve")}
    print(json.dumps(shown), flush=True)
    return result


def main() -> int:
    """Exit status 0 if every run was judged rightly and recovered."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", choices=[case.name for case in CASES], help="one run; writes no results")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time")
    arguments = parser.parse_args()
    cases = [case for case in CASES if arguments.only in (None, case.name)]
    with tempfile.TemporaryDirectory(prefix="incidents-") as root, ProcessPoolExecutor(arguments.jobs) as pool:
        results = list(pool.map(run_one, [Path(root)] * len(cases), cases))
    wrong = judge(results)
    print("\n".join(wrong) or "every run was judged rightly and recovered")
    if arguments.only:
        return bool(wrong)
    for result in results[1 : len(EXPECTED)]:
        (REPOSITORY / f"docs/pictures/incident-{result['run']}.png").write_bytes(draw(result, results[0]))
    figures = {
        "steps": STEPS,
        "fault_begins": FAULT_BEGINS,
        "fault_steps": FAULT_STEPS,
        "factor": FACTOR,
        "wrong": wrong,
    }
    return finish(result_of(kept(results), figures))


def kept(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the result file has: curves of world 0 alone, on one process: they are what the pictures show."""
    rows = [
        result if result["run"] in EXPECTED else {name: value for name, value in result.items() if name != "curve"}
        for result in results
    ]
    for result in rows[len(EXPECTED) :]:
        for entry in result["timeline"]:
            del entry["seen"]
    return rows


def result_of(rows: list[dict[str, Any]], figures: dict[str, Any]) -> Result:
    """What was asked for and what was found."""
    of = ("planted", "planted_found", "innocent_accused", "final_loss", "final_loss_over_control")
    goals = [
        Goal("runs judged wrongly, or not recovered within 1% of the control's loss", len(judge(rows)), "<=", 0, of)
    ]
    not_judged = (
        why("the fault that was planted", "steps", "fault_begins", "fault_steps", "factor", "world")
        | why("what a reader is shown; causes and documents are judged", "urls_named", "timeline", "recorded_only")
        | why("drawn in docs/pictures; its end is judged", "curve")
        | why("of this execution", "seconds")
    )
    return Result("incidents", CODE, goals, rows, figures, not_judged)


if __name__ == "__main__":
    raise SystemExit(main())
