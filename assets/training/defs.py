"""Training: what a run will cost, the run itself, and what went wrong in it."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel

from assets.build import Build, BuildError, Sample, StageReport
from assets.schemas import AMENDMENTS, CHECKPOINTS, HELDOUT, INCIDENTS, LAYERS, METRICS, QUARANTINE
from assets.tables import write_table
from assets.training.branches import branch_folder
from assets.training.heldout_order import WatchRecipe, heldout_sample
from assets.training.incident_tables import (
    IncidentsRecipe,
    amendment_rows,
    incident_curves,
    incident_rows,
    incidents_on_record,
    quarantine_rows,
)
from assets.training.plan import compute_plan_of, learning_rates
from assets.training.results import (
    VOLATILE_FILES,
    attempts_of,
    channel_curves,
    checkpoint_rows,
    jsonl_rows,
    metric_rows,
    statistics,
)
from assets.training.run_request import (
    NOTHING_WATCHED,
    ModelRecipe,
    TrainingRecipe,
    check_order_covers,
    padded_vocabulary,
    train_request,
    vocabulary_size,
    write_request,
)
from assets.training.shape_rules import shape_advice, shape_problems
from assets.training.watched import add_watched
from training.contract import outputs
from training.contract.bands import IncidentPolicy
from training.contract.request import TrainRequest, Watch

RECIPES: dict[str, type[BaseModel]] = {
    "model": ModelRecipe,
    "training": TrainingRecipe,
    "incidents": IncidentsRecipe,
    "watch": WatchRecipe,
}


def compute_plan(build: Build) -> StageReport:
    """Parameters, tokens, FLOPs, memory and time, in plan.json."""
    import psutil

    from assets.plots import lines

    model, training = build.recipe("model", ModelRecipe), build.recipe("training", TrainingRecipe)
    order = build.one("order_manifest")
    check_order_covers(order, training)
    size = vocabulary_size(build.one("tokenizer"))
    problems = shape_problems(model, training, padded_vocabulary(size))
    if problems:
        raise BuildError(f"[model] and [training] do not fit together: {'; '.join(problems)}")
    plan = compute_plan_of(model, training, padded_vocabulary(size), size)
    (build.output / "plan.json").write_text(json.dumps(plan, indent=1, sort_keys=True) + "\n", "utf-8")
    steps = [float(step) for step in range(1, training.total_steps + 1)]
    memory = plan["memory_bytes_per_rank_cpu"] * training.layout.ranks
    advice = shape_advice(model, size)
    return StageReport(
        tokens_in=plan["tokens"],
        tokens_out=plan["tokens"],
        stats=plan
        | {
            "memory_gib_per_rank": plan["memory_bytes_per_rank"] / 2**30,
            "unwise_shape_rules": [each.rule for each in advice if not each.kept],
            "memory_share_of_this_machine": memory / psutil.virtual_memory().total,
        },
        samples=[
            Sample("Plan", ("quantity", "value"), tuple((name, str(value)) for name, value in plan.items())),
            Sample(
                "Shape",
                ("rule", "found", "kept", "why"),
                tuple((each.rule, each.found, "yes" if each.kept else "no", each.why) for each in advice),
            ),
        ],
        plots={"Learning rate": lines("step", "learning rate", {"planned": (steps, learning_rates(training))})},
    )


def base_checkpoints(build: Build) -> StageReport:
    """Train, or go on where an interrupted attempt left its last complete checkpoint; then read back what it left."""
    model = build.recipe("model", ModelRecipe)
    request = train_request(
        build.partition or build.asset,
        model,
        build.recipe("training", TrainingRecipe),
        order=build.one("order_manifest"),
        shards=build.one("token_shards"),
        tokenizer=build.one("tokenizer"),
        output=build.output,
        scratch=build.scratch,
        incidents=IncidentPolicy(**build.recipe("incidents", IncidentsRecipe).model_dump()),
        watch=_watch(build, model.sequence_length),
    )
    request = request.model_copy(update={"branch_from": branch_folder(build.others, request, build.scratch)})
    if build.trainer is None:
        raise BuildError("base_checkpoints needs a launcher of the training program; this build was given none")
    build.trainer.run(write_request(build.scratch, request), build.scratch, build.progress)
    metrics = metric_rows(build.output, request.schedule.total_steps)
    checkpoints = checkpoint_rows(build.output, request, metrics)
    decided = [
        json.loads(path.read_text("utf-8"))
        for path in sorted(build.output.glob(f"{outputs.INCIDENTS}/*/{outputs.DECISION}"))
    ]
    layers, heldout = (jsonl_rows(build.output / name) for name in (outputs.LAYERS, outputs.HELDOUT))
    quarantined = quarantine_rows(build.partition or build.asset, decided)
    for name, rows, schema in (
        ("metrics", metrics, METRICS),
        ("checkpoints", checkpoints, CHECKPOINTS),
        ("layers", layers, LAYERS),
        ("heldout", heldout, HELDOUT),
        ("quarantine", quarantined, QUARANTINE),
        ("amendments", amendment_rows(decided), AMENDMENTS),
    ):
        # A file of an earlier attempt may be linked into the store already: replace it, never write into it.
        (build.output / f"{name}.parquet").unlink(missing_ok=True)
        write_table(build.output, name, rows, schema)
    report = _training_report(request, metrics, checkpoints, attempts_of(build.output))
    add_watched(report, layers, heldout)
    report.stats |= {"incidents_acted_on": len(decided), "quarantined_documents": len(quarantined)}
    columns = ("doc_id", "reason", "step", "loss", "expected", "deviation_sigma")
    shown = tuple(tuple(row[name] for name in columns) for row in quarantined[:50])
    report.samples.append(Sample("Quarantined documents", columns, shown))
    return report


def _watch(build: Build, sequence_length: int) -> Watch:
    """What is measured besides each step's losses; nothing where no mixture says which documents are held out."""
    if not build.all("mixture_manifest"):
        return NOTHING_WATCHED
    recipe = build.recipe("watch", WatchRecipe)
    return heldout_sample(build.one("mixture_manifest"), recipe, sequence_length, build.scratch)


def _training_report(
    request: TrainRequest,
    metrics: list[dict[str, Any]],
    checkpoints: list[dict[str, Any]],
    attempts: list[dict[str, Any]],
) -> StageReport:
    from assets.plots import lines

    stats = statistics(metrics, request)
    columns = ("step", "tokens_seen", "train_loss", "learning_rate", "weights_sha256", "folder")
    steps = [float(row["step"]) for row in metrics]
    return StageReport(
        tokens_in=stats["tokens_seen"],
        tokens_out=stats["tokens_seen"],
        stats=stats
        | {
            "parameters": checkpoints[-1]["parameters"],
            "attempts": len(attempts),
            "steps_taken_over": max((each["step"] for each in attempts if each["taken_over_from"]), default=0),
            "damaged_checkpoints": sum(len(attempt["set_aside"]) for attempt in attempts),
        },
        samples=[
            Sample("Checkpoints", columns, tuple(tuple(row[name] for name in columns) for row in checkpoints)),
            Sample("Attempts", ("at", "resumed_from", "set_aside"), tuple(_attempt(attempt) for attempt in attempts)),
        ],
        plots={
            "Loss per channel": lines("step", "loss (nats per token)", channel_curves(metrics)),
            "Learning rate and gradient norm": lines(
                "step",
                "share of the largest",
                {
                    "learning rate": (steps, _scaled([row["learning_rate"] for row in metrics])),
                    "gradient norm": (steps, _scaled([row["gradient_norm"] for row in metrics])),
                },
            ),
        },
        volatile_files=VOLATILE_FILES,
    )


def _attempt(attempt: dict[str, Any]) -> tuple[str, str, str]:
    aside = "; ".join(f"{found['checkpoint']}: {found['reason']}" for found in attempt["set_aside"])
    begun = attempt["resumed_from"] or "the start"
    if attempt["taken_over_from"]:
        begun += f" of {attempt['taken_over_from']}, the same until the decay"
    return attempt["at"], begun, aside or "nothing"


def _scaled(values: list[float]) -> list[float]:
    largest = max(values) or 1.0
    return [value / largest for value in values]


def loss_incidents(build: Build) -> StageReport:
    """What went wrong in the run, with the documents, URLs and sources it was traced to, and what was done about it."""
    from assets.plots import lines

    recipe = build.recipe("incidents", IncidentsRecipe)
    checkpoints, order = build.one("base_checkpoints"), build.one("order_manifest")
    metrics = checkpoints.table("metrics").to_pylist()
    last = checkpoints.table("checkpoints").to_pylist()[-1]
    rows = incident_rows(
        build.partition or build.asset,
        checkpoints,
        order=order,
        corpus=build.one("corpus"),
        global_batch_size=last["sequences_seen"] // last["step"],
        before_steps=recipe.documents_before_steps,
    )
    write_table(build.output, "incidents", rows, INCIDENTS)
    kinds = {kind: sum(row["kind"] == kind for row in rows) for kind in sorted({row["kind"] for row in rows})}
    causes = {cause: sum(row["cause"] == cause for row in rows) for cause in ("data", "optimiser", "unexplained")}
    columns = ("step", "kind", "value", "expected", "deviation_sigma", "cause", "action", "urls", "sources")
    return StageReport(
        stats={
            "steps": len(metrics),
            "judged_steps": sum(row["step"] > recipe.burn_in_steps for row in metrics),
            "incidents": len(rows),
            "incidents_per_1000_steps": 1000 * len(rows) / len(metrics),
            # The record no longer has those that were rolled back.
            "non_finite": sum(row["kind"] == "non_finite" and row["action"] == "recorded" for row in rows),
            "kinds": kinds,
            "causes": {cause: count for cause, count in causes.items() if count},
        },
        samples=[
            Sample("Incidents", columns, tuple(tuple(str(row[name])[:300] for name in columns) for row in rows[:50]))
        ],
        plots={
            f"Incident {decision['number']}, step {decision['first_step']}: {decision['cause']}": lines(
                "step", "loss (nats per token)", incident_curves(detected, metrics)
            )
            for detected, decision in list(incidents_on_record(checkpoints))[:5]
        },
    )
