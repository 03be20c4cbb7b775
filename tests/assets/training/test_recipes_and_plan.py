"""Recipes refuse what cannot train; the plan counts what the model really has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from assets.build import BuildError, Segment
from assets.training.parameters import count_parameters, flops_per_token
from assets.training.plan import compute_plan_of, learning_rates
from assets.training.run_request import (
    ModelRecipe,
    TrainingRecipe,
    check_order_covers,
    padded_vocabulary,
    vocabulary_size,
)
from training.contract.request import ModelShape, Schedule


@pytest.mark.parametrize(
    ("recipe", "keys", "rule"),
    [
        (ModelRecipe, {"dim": 100, "n_heads": 3}, "dim (100) must be a multiple of n_heads (3)"),
        (ModelRecipe, {"n_heads": 4, "n_kv_heads": 3}, "n_heads (4) must be a multiple of n_kv_heads (3)"),
        (ModelRecipe, {"dim": 12, "n_heads": 4}, "dim / n_heads = 3 must be even"),
        (ModelRecipe, {"width": 12}, "Extra inputs are not permitted"),
        (TrainingRecipe, {"warmup_steps": 700}, "warmup_steps (700) + decay_steps (150) exceed total_steps (750)"),
        (TrainingRecipe, {"dp_shard": 2}, "global_batch_size (8) must be a multiple of local_batch_size"),
        (TrainingRecipe, {"early_checkpoint_steps": [0]}, "must lie in 1..750"),
        (TrainingRecipe, {"tp": 3}, "tp (3) must be 1, 2, 4 or 8"),
        (TrainingRecipe, {"tp": 2, "dp_replicate": 2, "local_batch_size": 4}, "dp_replicate without dp_shard"),
        (TrainingRecipe, {"tp": 2, "precision": "bfloat16"}, "torchtitan 0.2.2 would train in float32"),
        (TrainingRecipe, {"cp": 2, "mask_documents": True}, "the mask is not cut along the sequence"),
        (TrainingRecipe, {"pp": 2, "local_batch_size": 1}, "must be at least pp (2) micro-batches"),
        (
            TrainingRecipe,
            {"pp": 3, "pipeline_schedule": "Interleaved1F1B"},
            "local_batch_size / microbatch_size (8) must be a multiple of pp (3)",
        ),
    ],
)
def test_a_broken_recipe_is_explained(recipe: Any, keys: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValidationError) as caught:
        recipe.model_validate(keys)
    assert rule in str(caught.value)


def test_states_are_kept_where_decays_branch_off_and_at_the_end() -> None:
    recipe = {"total_steps": 100, "decay_steps": 30, "warmup_steps": 1, "checkpoint_every_steps": 20}
    assert TrainingRecipe.model_validate(recipe).state_steps is None
    assert TrainingRecipe.model_validate(recipe | {"keep_states": "ends"}).state_steps == [60, 100]


def test_checkpoints_are_early_regular_and_last() -> None:
    assert TrainingRecipe().checkpoint_steps == [1, 250, 500, 750]
    short = TrainingRecipe(total_steps=12, warmup_steps=2, decay_steps=4, early_checkpoint_steps=(1, 5))
    assert short.checkpoint_steps == [1, 5, 12]


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"dim": 96, "n_layers": 2, "n_heads": 6, "n_kv_heads": 6, "ffn_dim_multiplier": 1.3, "multiple_of": 32},
        {"dim": 256, "n_layers": 3, "n_heads": 8, "n_kv_heads": 1, "multiple_of": 256},
    ],
)
def test_the_plan_counts_the_parameters_that_torchtitan_builds(shape: dict[str, Any]) -> None:
    from training.model.llama import parameter_count

    recipe = ModelRecipe(**shape)
    real = parameter_count(ModelShape.model_validate(recipe.model_dump() | {"vocab_size": 640}))
    assert count_parameters(recipe, 640).total == real


def test_the_plan_of_the_demo() -> None:
    model, training = ModelRecipe(), TrainingRecipe()
    plan = compute_plan_of(model, training, 8192, 8150)
    assert 3.0e6 < plan["parameters"] < 3.5e6
    assert plan["tokens"] == 750 * 8 * 256
    assert plan["flops_6nd"] == 6 * plan["parameters"] * plan["tokens"]
    parameters = count_parameters(model, 8192)
    assert plan["flops"] == flops_per_token(model, parameters) * plan["tokens"]
    assert 60 < plan["seconds_estimate"] < 400
    assert plan["tokens_per_s_source"] == "measured CPU constant"
    told = compute_plan_of(model, training.model_copy(update={"tokens_per_s_estimate": 1000.0}), 8192, 8150)
    assert told["seconds_estimate"] == pytest.approx(plan["tokens"] / 1000, rel=0.01)
    assert told["tokens_per_s_source"] == "recipe"
    assert plan["memory_bytes_per_rank"] < plan["memory_bytes_per_rank_cpu"] < 2**30


def test_the_planned_learning_rate_is_the_one_that_is_trained_with() -> None:
    training = TrainingRecipe(total_steps=30, warmup_steps=5, decay_steps=10)
    names = ("total_steps", "warmup_steps", "decay_steps", "peak_lr", "min_lr_ratio")
    schedule = Schedule(**{name: getattr(training, name) for name in names})
    wanted = [schedule.learning_rate(step) for step in range(1, 31)]
    assert learning_rates(training) == pytest.approx(wanted, rel=1e-12)


def test_the_vocabulary_is_read_from_the_tokenizer_and_padded(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": [{"id": 2}]}))
    tokenizer = Segment("tokenizer", None, "v1", {"tokenizer.json": path})
    assert vocabulary_size(tokenizer) == 3
    assert [padded_vocabulary(size) for size in (3, 128, 129)] == [128, 128, 256]
    path.write_text(json.dumps({"model": {"vocab": {}}}))
    with pytest.raises(BuildError, match="empty vocabulary"):
        vocabulary_size(tokenizer)


def test_an_order_of_another_length_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "order.parquet"
    training = TrainingRecipe(total_steps=3, warmup_steps=0, decay_steps=0, early_checkpoint_steps=())

    def check(sequences: list[int]) -> None:
        pq.write_table(pa.table({"sequence": pa.array(sequences, pa.int64())}), path, row_group_size=5)
        check_order_covers(Segment("order_manifest", "demo@20260101T000000Z", "v1", {path.name: path}), training)

    check(sorted([*range(24), *range(24)]))  # a row per piece
    for sequences in (list(range(23)), list(range(25))):
        with pytest.raises(BuildError, match="= 24 are read"):
            check(sequences)
    for sequences, says in (
        ([*range(23), 99], "sequence 99 comes after 22"),
        ([1, *range(24)], "sequence 1 comes after -1"),
        ([*range(12), *range(24)], "sequence 0 comes after 11"),
    ):
        with pytest.raises(BuildError, match=says):
            check(sequences)
