"""The ladder: data parallel first, then recomputation, then the other axes; each with its reason and memory."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from assets.build import BuildError
from assets.training.layout import GIB, Hardware, LayoutAdvice, advise
from assets.training.memory import memory_per_rank
from assets.training.run_request import ModelRecipe, TrainingRecipe
from assets.training.shape_rules import shape_problems
from orchestration.config import REPOSITORY, load_model

VOCABULARY = 128_256


def asked(name: str, gpus: int, gib: float = 80.0, batch: int | None = None, length: int = 8192) -> LayoutAdvice:
    model = load_model(name, REPOSITORY / "config").model_copy(update={"sequence_length": length})
    return advise(model, Hardware(gpus, int(gib * GIB)), VOCABULARY, batch)


@pytest.mark.parametrize(
    ("name", "gpus", "gib", "batch", "layout"),
    [
        ("llama-1b", 1, 80, None, "one GPU"),
        ("llama-8b", 8, 80, None, "dp_shard 8"),
        ("llama-8b", 64, 80, None, "dp_shard 8, dp_replicate 8"),
        ("llama-8b", 8, 64, None, "dp_shard 8, selective checkpointing"),
        ("llama-8b", 8, 40, None, "dp_shard 8, full checkpointing"),
        ("llama-70b", 64, 80, None, "dp_shard 64, full checkpointing"),
        ("llama-70b", 256, 80, 64, "dp_shard 64, tp 4, selective checkpointing"),
        ("llama-405b", 512, 64, None, "dp_shard 256, tp 2, full checkpointing"),
    ],
)
def test_the_first_rung_that_fits_is_taken(name: str, gpus: int, gib: float, batch: int | None, layout: str) -> None:
    advice = asked(name, gpus, gib, batch)
    assert advice.chosen.name == layout
    recipe = advice.recipe
    assert recipe["dp_shard"] * recipe["dp_replicate"] * recipe["tp"] * recipe["cp"] * recipe["pp"] == gpus
    assert advice.memory.total <= 0.9 * gib * GIB
    assert all(rung.memory is None or rung.memory.total > 0.9 * gib * GIB for rung in advice.tried)


def test_the_advice_is_a_recipe_that_can_be_trained() -> None:
    for gpus, batch in ((8, None), (256, 64), (1024, 128)):
        advice = asked("llama-8b", gpus, 80, batch)
        recipe = TrainingRecipe(**advice.recipe)
        assert shape_problems(load_model("llama-8b", REPOSITORY / "config"), recipe, VOCABULARY) == []
        assert recipe.layout.ranks == gpus


def test_reasons_say_why_this_and_not_less() -> None:
    assert asked("llama-8b", 8).reasons[0] == "data parallel alone fits: no other axis, and nothing is computed twice"
    replicas = " ".join(asked("llama-8b", 64).reasons)
    assert "only gradients cross the network between 8 replicas" in replicas
    full = asked("llama-70b", 64)
    assert "full activation checkpointing costs about a third more work" in " ".join(full.reasons)
    assert [rung.verdict.split(":")[0] for rung in full.tried] == ["too large"] * 5
    few = " ".join(asked("llama-8b", 256, batch=64).reasons)
    assert "a step has 64 sequences for 256 GPUs: at least 4 of them must share a sequence" in few
    assert "too few: raise local_batch_size" in " ".join(asked("llama-405b", 512).reasons)


def test_long_sequences_are_cut_when_no_tensor_parallel_suffices() -> None:
    advice = asked("llama-8b", 64, length=262_144)
    assert advice.recipe["cp"] > 1
    assert any("no machine that this was built on could run context parallel" in reason for reason in advice.reasons)


def test_what_cannot_fit_or_divide_says_what_would_help() -> None:
    with pytest.raises(
        BuildError, match=r"no layout of 8 GPUs of 80 GiB fits: the smallest, .* needs 1\d\d\.\d GiB of the 72\.0"
    ):
        asked("llama-70b", 8)
    with pytest.raises(BuildError, match="no number of data-parallel ranks divides the batch"):
        asked("llama-8b", 7, batch=512)


def test_each_lever_lowers_the_estimate() -> None:
    model = load_model("llama-8b", REPOSITORY / "config")
    alone = {"global_batch_size": 512, "local_batch_size": 1, "dp_shard": 8, "precision": "bfloat16"}

    def total(**changes: object) -> int:
        recipe = TrainingRecipe.model_validate(alone | changes)
        return max(rank.total for rank in memory_per_rank(model, recipe, VOCABULARY))

    for change in (
        {"dp_shard": 64},
        {"activation_checkpointing": "selective"},
        {"activation_checkpointing": "full"},
        {"tp": 2},
        {"cp": 2},
    ):
        assert total(**change) < total(), change
    assert total(activation_checkpointing="full") < total(activation_checkpointing="selective")
    assert total(local_batch_size=2) > total()
    assert total(dp_replicate=8) == total(dp_shard=8)


def test_the_first_and_the_last_stage_of_a_pipeline_hold_different_things() -> None:
    training = TrainingRecipe(pp=2, local_batch_size=4, global_batch_size=4)
    first, last = memory_per_rank(ModelRecipe(), training, 8192, "cpu")
    assert (first.loss, last.loss > 0) == (0, True)
    assert first.pipeline == last.pipeline == 4 * 4 * 256 * 128


def test_the_command_prints_a_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestration.cli.app import app

    monkeypatch.setenv("HEADWATER_CONFIG", str(REPOSITORY / "config"))
    done = CliRunner().invoke(app, ["layout", "llama-8b", "--gpus", "8", "--vocabulary", "128256", "--json"])
    said = json.loads(done.stdout)
    assert (said["recipe"]["dp_shard"], said["considered"][-1]["verdict"]) == (8, "fits")
    assert done.exit_code == 0
    table = CliRunner().invoke(app, ["layout", "llama-8b", "--gpus", "8", "--vocabulary", "128256"])
    assert "dp_shard = 8" in table.stdout
    assert "even pipelines of 2, 17" in table.stdout
    none = CliRunner().invoke(app, ["layout", "llama-70b", "--gpus", "1"])
    assert none.exit_code == 1
