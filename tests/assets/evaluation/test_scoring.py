"""Scorer against transformers' own loss, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from assets.build import BuildError, Segment, SilentProgress
from assets.evaluation.scoring import Scorer, for_each_checkpoint, list_checkpoints
from tests.assets.evaluation.conftest import POSITIONS, VOCABULARY

RANDOM = np.random.default_rng(7)
SEQUENCES = [RANDOM.integers(0, VOCABULARY, size=size).tolist() for size in (2, 90, 17, 64, 90, 200)]


@pytest.fixture(scope="module")
def scorer(world: dict[str, Segment]) -> Scorer:
    return Scorer.load(list_checkpoints(world["base_checkpoints"])[0], batch_tokens=256)


def test_loss_equals_that_of_transformers(scorer: Scorer) -> None:
    import torch

    for tokens, losses in zip(SEQUENCES, scorer.loss_of_tokens(SEQUENCES), strict=True):
        ids = torch.tensor([tokens])
        with torch.inference_mode():
            expected = float(scorer.model(input_ids=ids, labels=ids).loss)
        assert len(losses) == len(tokens) - 1
        assert losses.mean() == pytest.approx(expected, rel=1e-5)


def test_answers_after_a_shared_prefix_cost_what_the_whole_text_costs(scorer: Scorer) -> None:
    prefixes = [SEQUENCES[1][:40], SEQUENCES[3][:40], SEQUENCES[2][:5]]
    answers = [[[5, 6, 7], [9]], [[8], [1, 2]], [[3]]]
    scored = scorer.loss_of_answers(prefixes, answers)
    for prefix, many, losses in zip(prefixes, answers, scored, strict=True):
        for answer, loss in zip(many, losses, strict=True):
            whole = scorer.loss_of_tokens([prefix + answer])[0][len(prefix) - 1 :]
            np.testing.assert_allclose(loss, whole, rtol=1e-4)


def test_too_long_a_context_is_refused(scorer: Scorer) -> None:
    assert len(scorer.loss_of_tokens([[1] * (POSITIONS + 1)])[0]) == POSITIONS
    with pytest.raises(BuildError, match="257 tokens is longer than the model's 256"):
        scorer.loss_of_tokens([[1] * (POSITIONS + 2)])
    with pytest.raises(BuildError, match="longer than"):
        scorer.loss_of_answers([[1] * POSITIONS], [[[1, 2]]])


def test_weights_that_are_not_those_of_the_table_are_refused(world: dict[str, Segment]) -> None:
    checkpoint = list_checkpoints(world["base_checkpoints"])[0]
    with pytest.raises(BuildError, match="the weights were altered"):
        Scorer.load(replace(checkpoint, weights_sha256="0" * 64))


def test_weights_that_do_not_fit_their_configuration_are_refused(world: dict[str, Segment], tmp_path) -> None:
    checkpoint = list_checkpoints(world["base_checkpoints"])[0]
    config = tmp_path / "config.json"
    config.write_text(checkpoint.config.read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 1'))
    with pytest.raises(BuildError, match=r"unexpected \['model.layers.1"):
        Scorer.load(replace(checkpoint, config=config))


def test_not_a_number_is_an_error_and_no_score(world: dict[str, Segment]) -> None:
    scorer = Scorer.load(list_checkpoints(world["base_checkpoints"])[0])
    scorer.model.lm_head.weight.data[3, 3] = float("nan")
    with pytest.raises(BuildError, match="not finite"):
        scorer.loss_of_tokens([[1, 2, 3]])


def test_the_number_of_workers_does_not_change_a_bit(world: dict[str, Segment]) -> None:
    checkpoints = list_checkpoints(world["base_checkpoints"])

    def losses(workers: int) -> list[list[float]]:
        return for_each_checkpoint(
            checkpoints,
            lambda _, scorer: [float(x) for one in scorer.loss_of_tokens(SEQUENCES) for x in one],
            batch_tokens=512,
            workers=workers,
            progress=SilentProgress(),
        )

    one, two = losses(1), losses(2)
    assert one == two
    assert one[0] != one[1]
