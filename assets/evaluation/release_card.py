"""The release card: what the model was made from, how, how well it does, and what it is not.

`collect` gathers facts from published tables and manifests only, so that every number on the card can
be looked up; card.json holds them all, card.md shows them. There are no dates on it: the same inputs
give the same card.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from assets.build import BuildError, Sample, Segment, StageReport
from assets.evaluation.card_page import SECTIONS, as_markdown
from assets.evaluation.scoring import list_checkpoints, model_config

CURVE_POINTS = 12
"""Rows of the training curve on the card: enough to see its shape."""

UNKNOWN_LICENCE = "not stated"

NOT_SCORES = ("compute_plan", "mixture_manifest", "base_checkpoints", "loss_incidents", "corpus", "perplexity")
"""Inputs that have a section, or a table, of their own. Any other is an evaluation: the card has its statistics."""


def collect(inputs: Mapping[str, Sequence[Segment]]) -> dict[str, Any]:
    """All facts of the card, JSON-ready, in the order of its sections."""
    mixture, checkpoints = _one(inputs, "mixture_manifest"), _one(inputs, "base_checkpoints")
    return {
        "run": mixture.partition,
        "model": _model(checkpoints),
        "data": _data(mixture, _one(inputs, "corpus")),
        "plan": _statistics(_one(inputs, "compute_plan")),
        "training": _training(checkpoints),
        "checkpoints": checkpoints.table("checkpoints").to_pylist(),
        "scores": {"perplexity": _perplexity(_one(inputs, "perplexity"))}
        | {asset: _statistics(_one(inputs, asset)) for asset in inputs if asset not in NOT_SCORES},
        "incidents": _incidents(_one(inputs, "loss_incidents")),
        "versions": _versions(inputs, mixture),
    }


def as_json(facts: Mapping[str, Any]) -> str:
    """card.json."""
    return json.dumps(facts, indent=1, sort_keys=True, ensure_ascii=False, default=str) + "\n"


def report(facts: Mapping[str, Any]) -> StageReport:
    """What the checks of the card look at."""
    data, scores = facts["data"], facts["scores"]["perplexity"]
    page = as_markdown(facts)
    versions = facts["versions"]
    rows = tuple((row["step"], row["tokens_seen"], row["loss"], row["bits_per_byte"]) for row in scores["trend"])
    return StageReport(
        stats={
            "missing_sections": sum(f"\n## {title}\n" not in page for title in SECTIONS),
            "unpinned_inputs": sum(not version for version in versions["inputs"].values()),
            "checkpoints": len(facts["checkpoints"]),
            "scored_checkpoints": len(rows),
            "unscored_checkpoints": len(facts["checkpoints"]) - len(rows),
            "incidents": len(facts["incidents"]),
            "train_documents": data["train_documents"],
            "train_documents_without_licence": data["train_documents_without_licence"],
            "unlicensed_share": round(data["train_documents_without_licence"] / max(data["train_documents"], 1), 4),
            "characters": len(page),
        },
        samples=[Sample("Held-out score of each checkpoint", ("step", "tokens_seen", "loss", "bits_per_byte"), rows)],
    )


def _one(inputs: Mapping[str, Sequence[Segment]], asset: str) -> Segment:
    found = inputs.get(asset, ())
    if len(found) != 1:
        raise BuildError(f"release_card needs exactly one version of {asset}, found {len(found)}")
    return found[0]


def _statistics(segment: Segment) -> dict[str, Any]:
    """The statistics that a stage published with its data."""
    return dict(segment.manifest.get("report", {}).get("stats", {}))


def _model(checkpoints: Segment) -> dict[str, Any]:
    final = list_checkpoints(checkpoints)[-1]
    config = model_config(final)
    keys = ("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    keys += ("num_attention_heads", "num_key_value_heads", "max_position_embeddings", "tie_word_embeddings")
    parameters = checkpoints.table("checkpoints", ["step", "parameters"]).to_pylist()
    return {key: config[key] for key in keys if key in config} | {
        "parameters": max(parameters, key=lambda row: row["step"])["parameters"],
        "final_step": final.step,
        "tokens_seen": final.tokens_seen,
        "weights_sha256": final.weights_sha256,
    }


def _data(mixture: Segment, corpus: Segment) -> dict[str, Any]:
    planned = mixture.table("documents")
    uses = pc.add(planned.column("stable_uses"), planned.column("decay_uses"))
    planned = planned.append_column(
        "planned_tokens", pc.multiply(uses, pc.cast(planned.column("tokens"), pa.float64()))
    )
    keys = ["split", "channel", "language", "domain"]
    channels = planned.group_by(keys).aggregate([([], "count_all"), ("tokens", "sum"), ("planned_tokens", "sum")])
    train = planned.filter(pc.equal(planned.column("split"), "train")).select(["doc_id", "tokens"])
    known = corpus.table("documents", ["doc_id", "source", "licence"])
    origin = train.join(known, "doc_id", join_type="left outer")
    licence = pc.fill_null(origin.column("licence"), UNKNOWN_LICENCE)
    origin = origin.set_column(origin.schema.get_field_index("licence"), "licence", licence)
    sources = origin.group_by(["source", "licence"]).aggregate([([], "count_all"), ("tokens", "sum")])
    fates = corpus.table("decisions", ["stage", "drop_reason"])
    dropped = fates.filter(pc.is_valid(fates.column("stage"))).group_by(["stage", "drop_reason"])
    return {
        "train_documents": train.num_rows,
        "train_documents_without_licence": pc.sum(pc.equal(licence, UNKNOWN_LICENCE)).as_py() or 0,
        "corpus_documents": known.num_rows,
        "documents_ever_extracted": fates.num_rows,
        "channels": _rows(channels, [*keys, "documents", "tokens", "planned_tokens"], keys),
        "sources": _rows(sources, ["source", "licence", "documents", "tokens"], ["source", "licence"]),
        "dropped": _rows(
            dropped.aggregate([([], "count_all")]), ["stage", "drop_reason", "documents"], ["stage", "drop_reason"]
        ),
    }


_SHORT = {"count_all": "documents", "tokens_sum": "tokens", "planned_tokens_sum": "planned_tokens"}


def _rows(table: pa.Table, columns: Sequence[str], order: Sequence[str]) -> list[dict[str, Any]]:
    table = table.rename_columns([_SHORT.get(name, name) for name in table.column_names])
    rows = table.select(list(columns)).to_pylist()
    for row in rows:
        if "planned_tokens" in row:
            row["planned_tokens"] = round(row["planned_tokens"])
    return sorted(rows, key=lambda row: tuple(row[key] or "" for key in order))


def _training(checkpoints: Segment) -> dict[str, Any]:
    columns = ["step", "loss", "gradient_norm", "learning_rate", "tokens_seen"]
    metrics = sorted(checkpoints.table("metrics", columns).to_pylist(), key=lambda row: row["step"])
    if not metrics:
        raise BuildError(
            f"base_checkpoints/{checkpoints.partition} has no metrics: a card without a curve is no record"
        )
    last = len(metrics) - 1
    points = sorted({round(i * last / (CURVE_POINTS - 1)) for i in range(CURVE_POINTS)})
    lowest = min(metrics, key=lambda row: (row["loss"], row["step"]))
    return {
        "steps": metrics[-1]["step"],
        "tokens_seen": metrics[-1]["tokens_seen"],
        "first_loss": metrics[0]["loss"],
        "final_loss": metrics[-1]["loss"],
        "lowest_loss": lowest["loss"],
        "lowest_loss_step": lowest["step"],
        "curve": [metrics[i] for i in points],
    }


def _perplexity(segment: Segment) -> dict[str, Any]:
    rows = segment.table("perplexity").to_pylist()
    final = max(row["step"] for row in rows)
    whole = sorted((row for row in rows if row["language"] == "all"), key=lambda row: row["step"])
    columns = ("language", "domain", "documents", "tokens", "loss", "perplexity", "bits_per_byte", "unigram_loss")
    return {
        "trend": [{key: row[key] for key in ("step", "tokens_seen", "loss", "bits_per_byte")} for row in whole],
        "unigram_loss": whole[-1]["unigram_loss"],
        "final": [{key: row[key] for key in columns} for row in rows if row["step"] == final],
    }


def _incidents(segment: Segment) -> list[dict[str, Any]]:
    rows = segment.table("incidents").to_pylist()
    return [
        {key: row[key] for key in ("step", "kind", "value", "expected", "deviation_sigma")}
        | {"documents": len(row["doc_ids"] or []), "first_url": next(iter(row["urls"] or []), None)}
        for row in rows
    ]


def _versions(inputs: Mapping[str, Sequence[Segment]], mixture: Segment) -> dict[str, Any]:
    """Data versions of what the card reads, and of what the run was planned on."""
    return {
        "inputs": {asset: segments[0].version for asset, segments in sorted(inputs.items()) if segments},
        "planned_on": {
            asset: versions if isinstance(versions, str) else dict(versions)
            for asset, versions in sorted(mixture.manifest.get("identity", {}).get("inputs", {}).items())
        },
    }
