"""Training: what a run will cost, the run itself, and what went wrong in it."""

from __future__ import annotations

import json
from typing import Any

import pyarrow.compute as pc
from pydantic import BaseModel

from assets.build import Build, BuildError, Sample, Segment, StageReport
from assets.schemas import CHECKPOINTS, INCIDENTS, METRICS
from assets.tables import write_table
from assets.training.incidents import IncidentsRecipe, find_incidents, incident_rows
from assets.training.plan import compute_plan_of, learning_rates
from assets.training.request import (
    ModelRecipe,
    TrainingRecipe,
    check_order_covers,
    padded_vocabulary,
    train_request,
    vocabulary_size,
    write_request,
)
from assets.training.results import (
    VOLATILE_FILES,
    attempts_of,
    channel_curves,
    checkpoint_rows,
    metric_rows,
    statistics,
)
from assets.training.shape_rules import layout_problems, shape_advice

RECIPES: dict[str, type[BaseModel]] = {
    "model": ModelRecipe,
    "training": TrainingRecipe,
    "incidents": IncidentsRecipe,
}


def compute_plan(build: Build) -> StageReport:
    """Parameters, tokens, FLOPs, memory and time, in plan.json."""
    import psutil

    from assets.plots import lines

    model, training = build.recipe("model", ModelRecipe), build.recipe("training", TrainingRecipe)
    order = build.one("order_manifest")
    sequences = _sequences(order)
    check_order_covers(order, sequences, training)
    size = vocabulary_size(build.one("tokenizer"))
    problems = layout_problems(model, training, padded_vocabulary(size))
    if problems:
        raise BuildError(f"[model] and [training] do not fit together: {'; '.join(problems)}")
    plan = compute_plan_of(model, training, padded_vocabulary(size), size)
    (build.output / "plan.json").write_text(json.dumps(plan, indent=1, sort_keys=True) + "\n", "utf-8")
    steps = [float(step) for step in range(1, training.total_steps + 1)]
    memory = plan["memory_bytes_per_rank_cpu"] * training.ranks
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


def _sequences(order: Segment) -> list[int]:
    found: set[int] = set()
    for batch in order.batches("order", ["sequence"], rows=65536):
        found.update(pc.unique(batch.column("sequence")).to_pylist())
    return sorted(found)


def base_checkpoints(build: Build) -> StageReport:
    """Train, or go on where an interrupted attempt left its last complete checkpoint; then read back what it left."""
    request = train_request(
        build.partition or build.asset,
        build.recipe("model", ModelRecipe),
        build.recipe("training", TrainingRecipe),
        order=build.one("order_manifest"),
        shards=build.one("token_shards"),
        tokenizer=build.one("tokenizer"),
        output=build.output,
        scratch=build.scratch,
    )
    if build.trainer is None:
        raise BuildError("base_checkpoints needs a launcher of the training program; this build was given none")
    build.trainer.run(write_request(build.scratch, request), build.scratch, build.progress)
    metrics = metric_rows(build.output, request["schedule"]["total_steps"])
    checkpoints = checkpoint_rows(build.output, request, metrics)
    for name, rows, schema in (("metrics", metrics, METRICS), ("checkpoints", checkpoints, CHECKPOINTS)):
        # A file of an earlier attempt may be linked into the store already: replace it, never write into it.
        (build.output / f"{name}.parquet").unlink(missing_ok=True)
        write_table(build.output, name, rows, schema)
    return _training_report(request, metrics, checkpoints, attempts_of(build.output))


def _training_report(
    request: dict[str, Any],
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
    return attempt["at"], attempt["resumed_from"] or "the start", aside or "nothing"


def _scaled(values: list[float]) -> list[float]:
    largest = max(values) or 1.0
    return [value / largest for value in values]


def loss_incidents(build: Build) -> StageReport:
    """Steps outside the expected band, with the documents and URLs they were reading."""
    recipe = build.recipe("incidents", IncidentsRecipe)
    checkpoints, order = build.one("base_checkpoints"), build.one("order_manifest")
    metrics = checkpoints.table("metrics").to_pylist()
    last = checkpoints.table("checkpoints").to_pylist()[-1]
    rows = incident_rows(
        build.partition or build.asset,
        find_incidents(metrics, recipe),
        recipe,
        order=order,
        corpus=build.one("corpus"),
        global_batch_size=last["sequences_seen"] // last["step"],
    )
    write_table(build.output, "incidents", rows, INCIDENTS)
    kinds = {kind: sum(row["kind"] == kind for row in rows) for kind in sorted({row["kind"] for row in rows})}
    columns = ("step", "kind", "value", "expected", "deviation_sigma", "urls")
    return StageReport(
        stats={
            "steps": len(metrics),
            "judged_steps": sum(row["step"] > recipe.burn_in_steps for row in metrics),
            "incidents": len(rows),
            "incidents_per_1000_steps": 1000 * len(rows) / len(metrics),
            "non_finite": kinds.get("non_finite", 0),
            "kinds": kinds,
        },
        samples=[
            Sample("Incidents", columns, tuple(tuple(str(row[name])[:300] for name in columns) for row in rows[:50]))
        ],
    )
