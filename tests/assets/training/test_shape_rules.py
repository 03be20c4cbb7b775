"""What cannot train is refused with the reason; what is unwise is explained; the shapes we ship are what they say."""

from __future__ import annotations

from typing import Any

import pytest

from assets.training.parameters import count_parameters
from assets.training.pipeline import pipeline_parts, stage_layers
from assets.training.run_request import ModelRecipe, TrainingRecipe
from assets.training.shape_rules import even_pipelines, shape_advice, shape_problems
from orchestration.config import REPOSITORY, ConfigError, load_model
from training.contract.request import ModelShape

LLAMA_3_VOCABULARY = 128_256
MODELS = {  # parameters with Llama 3's vocabulary, in millions; 8B, 70B and 405B as published
    "llama-2m": 17.2,
    "llama-30m": 77.6,
    "llama-250m": 427.8,
    "llama-1b": 1498.5,
    "llama-8b": 8030.3,
    "llama-70b": 70553.7,
    "llama-405b": 405853.4,
}


@pytest.mark.parametrize("name", MODELS)
def test_a_shipped_model_has_the_parameters_that_torchtitan_builds(name: str) -> None:
    from training.model.llama import parameter_count

    model = load_model(name, REPOSITORY / "config")
    counted = count_parameters(model, LLAMA_3_VOCABULARY).total
    assert round(counted / 1e6, 1) == MODELS[name]
    assert counted == parameter_count(ModelShape(**model.model_dump(), vocab_size=LLAMA_3_VOCABULARY))


def test_every_shipped_model_is_listed() -> None:
    assert {path.stem for path in (REPOSITORY / "config/models").glob("*.toml")} == {*MODELS, "llama-demo"}
    with pytest.raises(ConfigError, match="known models: llama-1b, "):
        load_model("llama-7b", REPOSITORY / "config")


@pytest.mark.parametrize(
    ("model", "training", "rule"),
    [
        ({}, {"tp": 4}, "tp (4) must divide n_kv_heads (2)"),
        (
            {"n_kv_heads": 4, "sequence_length": 250},
            {"tp": 2},
            "sequence_length (250) must be a multiple of 2 * tp * cp (4)",
        ),
        ({"n_layers": 3}, {"pp": 4}, "= 4 stages, but n_layers is 3"),
        ({"n_layers": 6}, {"pp": 4, "pipeline_schedule": "Interleaved1F1B"}, "= 8 stages, but n_layers is 6"),
    ],
)
def test_a_layout_that_does_not_fit_the_shape_is_named(
    model: dict[str, Any], training: dict[str, Any], rule: str
) -> None:
    problems = shape_problems(ModelRecipe(**model), TrainingRecipe(**training), 8192)
    assert len(problems) == 1
    assert rule in problems[0]
    assert shape_problems(ModelRecipe(), TrainingRecipe(**training | {"tp": 1, "pp": 1}), 8192) == []


def test_unwise_shapes_are_explained() -> None:
    def unwise(**shape: Any) -> dict[str, str]:
        return {each.rule: each.found for each in shape_advice(ModelRecipe(**shape), 8150) if not each.kept}

    good = {"dim": 1024, "n_layers": 14, "n_heads": 16, "n_kv_heads": 8, "multiple_of": 256}
    assert unwise(**good) == {}
    assert unwise(**good | {"n_layers": 32}) == {
        "n_layers + 2 has many divisors": "32 + 2 = 34: even pipelines of 2, 17"
    }
    assert unwise(**good | {"n_heads": 4, "n_kv_heads": 4}) == {
        "n_heads is a multiple of 8": "4",
        "n_kv_heads is 8 or a multiple": "4: tp up to 4",
        "the head dimension is 64 or 128": "dim / n_heads = 256",
    }
    assert "8150 -> 8192" in {each.found for each in shape_advice(ModelRecipe(), 8150)}


@pytest.mark.parametrize(("n_layers", "stages"), [(4, 2), (6, 4), (7, 2), (32, 4), (126, 16), (14, 5)])
def test_layers_are_cut_as_torchtitan_cuts_them(n_layers: int, stages: int) -> None:
    from torchtitan.distributed.pipeline_parallel import generate_llm_fqn_per_model_part

    parts = generate_llm_fqn_per_model_part(stages, n_layers)
    real = [sum(name.startswith("layers.") for name in part) for part in parts]
    assert stage_layers(n_layers, stages) == real
    if stages in even_pipelines(n_layers):
        assert len({count + (number in (0, stages - 1)) for number, count in enumerate(real)}) == 1


@pytest.mark.parametrize("rank", range(4))
@pytest.mark.parametrize("schedule", ["1F1B", "Interleaved1F1B"])
@pytest.mark.parametrize("microbatches", [4, 8, 12])
def test_micro_batches_in_flight_are_those_of_torch(rank: int, schedule: str, microbatches: int) -> None:
    """Counted in the list of operations that torch's own schedule makes."""
    from torch.distributed.pipelining.schedules import _get_1f1b_rank_ops, _get_warmup_ops

    training = TrainingRecipe.model_validate(
        {
            "pp": 4,
            "pipeline_schedule": schedule,
            "local_batch_size": microbatches,
            "global_batch_size": microbatches,
        }
    )
    chunks = training.layout.stages_per_rank
    parts = pipeline_parts(ModelRecipe(n_layers=14), training)[rank]
    if schedule == "1F1B":
        assert [part.in_flight for part in parts] == [min(4 - rank, microbatches)]
        return
    each_round = microbatches // max(1, microbatches // 4)
    warmup = _get_warmup_ops(rank, 2, each_round, 4, microbatches, multiply_factor=2)
    steady = microbatches * chunks - warmup
    operations = _get_1f1b_rank_ops(
        2,
        4,
        warmup,
        steady,
        warmup,
        rank,
        lambda step: rank + step // each_round % chunks * 4,
        lambda step: rank + (chunks - 1 - (step - warmup) // each_round % chunks) * 4,
    )
    alive, most = dict.fromkeys((rank, rank + 4), 0), 0
    at_most: dict[int, int] = {}
    for operation in operations:
        if operation is not None:
            alive[operation.stage_index] += 1 if operation.computation_type.name == "FORWARD" else -1
            if sum(alive.values()) > most:
                most, at_most = sum(alive.values()), dict(alive)
    assert [part.in_flight for part in parts] == [at_most[rank], at_most[rank + 4]]
