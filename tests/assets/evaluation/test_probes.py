"""Probe mechanics: where the answer begins, what passes, the asset on the tiny run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from assets.build import BuildError, Segment
from assets.evaluation import defs
from assets.evaluation.items import Probe, load_probes
from assets.evaluation.probes import ProbesRecipe, choose_probes, probe_rows, question_tokens, report
from assets.evaluation.scoring import list_checkpoints
from tests.builds import make_build


class OneByteScorer:
    """Knows one byte token: answers made of it cost 1 nat per token, others 3."""

    max_tokens = 256

    def __init__(self, known: int) -> None:
        self.known = known

    def loss_of_answers(
        self, prefixes: Sequence[Sequence[int]], answers: Sequence[Sequence[Sequence[int]]]
    ) -> list[list[np.ndarray]]:
        return [[np.where(np.array(a) == self.known, 1.0, 3.0) for a in many] for many in answers]


def test_an_answer_begins_where_prompt_and_whole_part() -> None:
    # A tokenizer that merges "b" and "c": the prompt's last token is not in the whole text.
    merged = {"ab": [1, 2], "abc": [1, 9], "abd": [1, 2, 4]}
    assert question_tokens(lambda text: merged[text], "ab", ["c", "d"], 0) == ([0, 1], [[9], [2, 4]])


def test_a_sentence_is_scored_from_its_first_token() -> None:
    assert question_tokens(lambda text: [ord(c) for c in text], "", ["xy", "xz"], 0) == ([0], [[120, 121], [120, 122]])


def test_passed_means_more_probable_than_the_contrast(
    world: dict[str, Segment], encode: Callable[[str], list[int]]
) -> None:
    def probe(identity: str, target: str, contrast: str | None) -> Probe:
        return Probe(id=identity, language="en", kind="contrast", prompt="say ", target=target, contrast=contrast)

    probes = [probe("right", "aa", "b"), probe("wrong", "bb", "a"), probe("tie", "b", "c"), probe("alone", "ab", None)]
    checkpoint = list_checkpoints(world["base_checkpoints"])[0]
    rows = {row["probe_id"]: row for row in probe_rows(checkpoint, OneByteScorer(encode("a")[0]), probes, encode, 0)}
    assert {name: row["passed"] for name, row in rows.items()} == {
        "right": True,
        "wrong": False,
        "tie": False,
        "alone": None,
    }
    assert rows["right"]["log_probability"] == -1.0
    assert rows["alone"]["log_probability"] == -2.0
    assert rows["alone"]["contrast_log_probability"] is None


def test_a_recipe_that_selects_nothing_is_refused() -> None:
    with pytest.raises(BuildError, match="selects none"):
        choose_probes(load_probes(), ProbesRecipe(kinds=("riddle",)))


def test_the_asset_scores_every_probe_at_every_checkpoint(world: dict[str, Segment], tmp_path: Path) -> None:
    build = make_build(tmp_path, "probability_probes", world.values(), workers=2)
    report = defs.probability_probes(build)
    rows = pq.ParquetFile(build.output / "probes.parquet").read().to_pylist()
    assert len(rows) == 2 * len(load_probes())
    assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)
    assert all(row["log_probability"] < 0 for row in rows)
    assert set(report.stats["passed"]) == {"1", "3"}
    assert set(report.stats["final_by_group"]) >= {"zh sentence", "en continuation"}
    assert max(len(png) for png in report.plots.values()) < 40_000


def test_a_single_checkpoint_is_compared_with_a_model_that_knows_nothing() -> None:
    row = {
        "step": 5,
        "tokens_seen": 9,
        "probe_id": "a",
        "language": "zh",
        "kind": "sentence",
        "prompt": "",
        "target": "雪",
    }
    row |= {"log_probability": -2.0, "contrast_log_probability": None, "passed": None}
    stats = report([row], vocabulary=8192).stats
    assert stats["start_log_probability"] == round(-math.log(8192), 6)
    assert stats["log_probability_rise"] == round(math.log(8192) - 2, 6)
