"""Needle mechanics: an oracle that reads its context finds all, one that guesses finds nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from assets.build import BuildError, Segment
from assets.evaluation import defs
from assets.evaluation.items import load_needles
from assets.evaluation.needles import NeedlesRecipe, build_trials, needle_rows, usable_lengths
from assets.evaluation.scoring import list_checkpoints
from tests.builds import make_build

HAY = [np.arange(2, 200), np.arange(50, 120)]


class Oracle:
    """Finds an answer probable when the same tokens stand in the context before it."""

    max_tokens = 256

    def loss_of_answers(
        self, prefixes: Sequence[Sequence[int]], answers: Sequence[Sequence[Sequence[int]]]
    ) -> list[list[np.ndarray]]:
        def holds(prefix: Sequence[int], answer: Sequence[int]) -> bool:
            return any(list(prefix[i : i + len(answer)]) == list(answer) for i in range(len(prefix)))

        return [
            [np.full(len(a), 0.1 if holds(prefix, a) else 5.0) for a in many]
            for prefix, many in zip(prefixes, answers, strict=True)
        ]


def test_question_and_longest_answer_end_at_the_context_length(encode: Callable[[str], list[int]]) -> None:
    for needle in load_needles():
        for trial in build_trials(needle, HAY, encode, 0, 200, (0.0, 0.5, 1.0)):
            assert trial.prefix[0] == 0
            assert len(trial.prefix) + max(len(answer) for answer in trial.answers) == 200


def test_depth_places_the_needle(encode: Callable[[str], list[int]]) -> None:
    needle = load_needles()[0]
    sentence = encode(f"\n{needle.needle}\n")

    def place(prefix: list[int]) -> int | None:
        return next((i for i in range(len(prefix)) if prefix[i : i + len(sentence)] == sentence), None)

    control, *trials = build_trials(needle, HAY, encode, 0, 256, (0.0, 0.5, 1.0))
    places = [place(trial.prefix) for trial in trials]
    last = 256 - len(sentence) - len(encode(f"\n{needle.question}")) - len(encode(needle.answer))
    assert places == [1, 1 + round((last - 1) / 2), last]
    assert place(control.prefix) is None


def test_an_oracle_finds_every_needle_and_no_control(
    world: dict[str, Segment], encode: Callable[[str], list[int]]
) -> None:
    depths = NeedlesRecipe().depths
    trials = [t for needle in load_needles() for t in build_trials(needle, HAY, encode, 0, 256, depths)]
    rows, control = needle_rows(list_checkpoints(world["base_checkpoints"])[0], Oracle(), trials)
    assert len(rows) == len(load_needles()) * len(depths)
    assert all(row["found"] for row in rows)
    assert control == 0.0


def test_a_context_too_short_for_the_needle_is_refused(encode: Callable[[str], list[int]]) -> None:
    with pytest.raises(BuildError, match="no haystack fits into 64 tokens"):
        build_trials(load_needles()[0], HAY, encode, 0, 64, (0.5,))


def test_lengths_beyond_the_model_are_left_out_but_not_all_of_them() -> None:
    assert usable_lengths(NeedlesRecipe(context_tokens=(512, 128, 256)), 256) == [128, 256]
    with pytest.raises(BuildError, match="all beyond the model's 256 positions"):
        usable_lengths(NeedlesRecipe(context_tokens=(512,)), 256)


def test_a_language_without_heldout_documents_is_refused(world: dict[str, Segment], tmp_path: Path) -> None:
    build = make_build(tmp_path, "needle_in_haystack", world.values(), {"needles": {"languages": ("zh", "fr")}})
    with pytest.raises(BuildError, match="holds out no 'fr' document"):
        defs.needle_in_haystack(build)


def test_the_asset_tries_every_length_and_depth(world: dict[str, Segment], tmp_path: Path) -> None:
    build = make_build(tmp_path, "needle_in_haystack", world.values(), workers=2)
    report = defs.needle_in_haystack(build)
    rows = pq.ParquetFile(build.output / "needles.parquet").read().to_pylist()
    cells = {(row["step"], row["language"], row["context_tokens"], row["depth"]) for row in rows}
    assert len(cells) == 2 * 2 * 2 * 5
    assert len(rows) == 2 * 2 * 5 * len(load_needles())
    assert report.stats["chance"] == 0.25
    assert report.plots["Needles found at step 3"].startswith(b"\x89PNG")
