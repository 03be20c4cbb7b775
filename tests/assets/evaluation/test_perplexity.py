"""Arithmetic of the held-out scores on hand cases, and the asset on the tiny run."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from assets.build import BuildError, Segment
from assets.evaluation import defs
from assets.evaluation.perplexity import (
    HeldoutDocument,
    PerplexityRecipe,
    bits_per_byte,
    choose_heldout,
    score_cells,
    unigram_losses,
    windows,
)
from assets.evaluation.tokens import TokenReader, count_tokens
from tests.assets.evaluation.conftest import TEXTS, VOCABULARY, doc_id
from tests.builds import make_build


def test_bits_per_byte_of_a_hand_case() -> None:
    # Two tokens at probability 1/4 each are 4 bits; over 4 bytes that is one bit per byte.
    assert bits_per_byte(2 * math.log(4), 4) == pytest.approx(1.0)


def test_unigram_of_a_hand_case() -> None:
    losses = unigram_losses(np.array([3, 0, 1]))
    assert np.exp(-losses) == pytest.approx([4 / 7, 1 / 7, 2 / 7])


def test_windows_predict_every_token_once_and_overlap_by_one() -> None:
    found = windows(np.array([10, 11, 12, 13, 14]), 2, 0)
    assert [w.tolist() for w in found] == [[0, 10, 11], [11, 12, 13], [13, 14]]


def test_cells_add_up() -> None:
    unigram = np.array([1.0, 2.0, 3.0])
    documents = [
        HeldoutDocument("a", "zh", "news", np.array([0, 1]), 6),
        HeldoutDocument("b", "zh", "books", np.array([2]), 3),
        HeldoutDocument("c", "en", "news", np.array([1, 1, 1]), 10),
    ]
    cells = score_cells(documents, [4.0, 1.0, 6.0], unigram)
    assert sorted(cells) == [
        ("all", "all"),
        ("en", "all"),
        ("en", "news"),
        ("zh", "all"),
        ("zh", "books"),
        ("zh", "news"),
    ]
    zh, whole = cells["zh", "all"], cells["all", "all"]
    assert (zh.documents, zh.tokens, zh.utf8_bytes, zh.loss_sum, zh.unigram_loss_sum) == (2, 3, 9, 5.0, 6.0)
    assert (whole.tokens, whole.loss_sum, whole.unigram_loss_sum) == (6, 11.0, 12.0)
    assert whole.loss == pytest.approx(11 / 6)
    assert whole.bits_per_byte == pytest.approx(11 / math.log(2) / 19)


def test_training_tokens_are_counted_as_often_as_they_are_used(world: dict[str, Segment]) -> None:
    reader = TokenReader(world["token_shards"], [doc_id(p) for p in ("c3", "d4", "e5")], np.dtype("<u2"))
    counts = count_tokens(reader, world["order_manifest"], VOCABULARY)
    assert counts.sum() == 3 * 129
    assert counts[0] == sum(int((reader.tokens(doc_id(p))[:129] == 0).sum()) for p in ("c3", "d4", "e5"))


def test_a_token_that_the_model_does_not_know_is_refused(world: dict[str, Segment]) -> None:
    reader = TokenReader(world["token_shards"], [doc_id(p) for p in ("c3", "d4", "e5")], np.dtype("<u2"))
    with pytest.raises(BuildError, match="the model's vocabulary is 100"):
        count_tokens(reader, world["order_manifest"], 100)


def test_tokens_of_another_width_are_refused(world: dict[str, Segment]) -> None:
    reader = TokenReader(world["token_shards"], [doc_id("a1")], np.dtype("<u4"))
    with pytest.raises(BuildError, match="do not have SHA-256"):
        reader.tokens(doc_id("a1"))


def test_a_document_without_tokens_is_named(world: dict[str, Segment]) -> None:
    with pytest.raises(BuildError, match=f"1 of 2 planned documents, first {doc_id('zz')}"):
        TokenReader(world["token_shards"], [doc_id("a1"), doc_id("zz")], np.dtype("<u2"))


def test_heldout_choice_is_capped_per_cell_and_never_trains(world: dict[str, Segment]) -> None:
    rows = choose_heldout(world["mixture_manifest"], PerplexityRecipe())
    assert [row["doc_id"][:2] for row in rows] == ["a1", "b2", "f6"]


def test_the_asset_scores_all_checkpoints_and_is_the_same_on_two_workers(
    world: dict[str, Segment], tmp_path: Path
) -> None:
    recipes = {"perplexity": {"max_tokens_per_document": 200}}
    one = make_build(tmp_path / "one", "perplexity", world.values(), recipes, workers=1)
    two = make_build(tmp_path / "two", "perplexity", world.values(), recipes, workers=2)
    report = defs.perplexity(one)
    defs.perplexity(two)
    table = pq.ParquetFile(one.output / "perplexity.parquet").read()
    assert table.equals(pq.ParquetFile(two.output / "perplexity.parquet").read())

    rows = table.to_pylist()
    assert [row["step"] for row in rows if row["language"] == "all"] == [1, 3]
    whole = rows[0]
    assert (whole["language"], whole["documents"], whole["tokens"]) == ("all", 3, 200 + 200 + (5 * 32 + 1))
    assert whole["perplexity"] == pytest.approx(math.exp(whole["loss"]), rel=1e-4)
    cut = next(row for row in rows if row["language"] == "zh" and row["domain"] == "all")
    whole_bytes = len(TEXTS["a1"][3].encode())  # one token per byte here, and the end token
    assert cut["utf8_bytes"] == round(whole_bytes * 200 / (whole_bytes + 1))
    # Random weights know less than the letter counts of the training text.
    assert report.stats["gain_over_unigram"] < 0
    assert report.plots["Held-out bits per byte"].startswith(b"\x89PNG")
    assert all(len(png) < 40_000 for png in report.plots.values())
