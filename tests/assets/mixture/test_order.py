"""Laws of the order, over random corpora and runs."""

from __future__ import annotations

import hashlib
from collections import defaultdict

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assets.build import BuildError
from assets.mixture.measures import OrderMeasure
from assets.mixture.mixture import MixtureRecipe
from assets.mixture.order import plan_uses, update_digest
from tests.assets.mixture.worlds import Ordered, corpus_and_index, ordered, shape_of, shuffled

SHARES = {"zh": 0.5, "en": 0.3, "code": 0.2}
DOCUMENTS = st.lists(st.integers(1, 200), min_size=6, max_size=25)
SOME = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def digest(table: pa.Table) -> str:
    hasher = hashlib.sha256()
    update_digest(hasher, table)
    return hasher.hexdigest()


def recipe_of(**changes: object) -> MixtureRecipe:
    return MixtureRecipe.model_validate(
        {"shares": SHARES, "min_heldout_documents": 1, "min_heldout_tokens": 1, "max_uses": 4} | changes
    )


def try_ordered(
    sizes: dict[str, list[int]], recipe: MixtureRecipe, steps: int, decay: int, group: int = 8192
) -> Ordered | None:
    """None where the corpus is too small for the run, which the plan says itself."""
    try:
        return ordered(*corpus_and_index(sizes), recipe, shape_of(steps, decay), group=group)
    except BuildError as error:
        assert "max_uses" in str(error)
        return None


@SOME
@given(
    sizes=st.fixed_dictionaries({"zh": DOCUMENTS, "en": DOCUMENTS, "code": DOCUMENTS}),
    steps=st.integers(1, 40),
    decay_share=st.floats(0, 1),
    quality=st.sampled_from([0.0, 0.8]),
    max_uses=st.integers(1, 4),
    group=st.sampled_from([1, 7, 8192]),
)
def test_laws_of_the_order(
    sizes: dict[str, list[int]], steps: int, decay_share: float, quality: float, max_uses: int, group: int
) -> None:
    decay = round(decay_share * steps)
    run = try_ordered(sizes, recipe_of(decay_min_quality=quality, max_uses=max_uses), steps, decay, group)
    if run is None:
        return
    rows = run.table.to_pylist()
    assert_sequences_are_full(rows, steps * 4, 32)
    assert_targets_are_met(rows, run)
    assert_uses_are_contiguous_and_capped(rows, run, max_uses)
    phases = [row["phase"] for row in rows]
    assert phases == sorted(phases, reverse=True), "stable before decay"
    heldout = {d for d, held in zip(run.planned.doc_ids.to_pylist(), run.planned.heldout, strict=True) if held}
    assert heldout
    assert not heldout & {row["doc_id"] for row in rows}


def assert_sequences_are_full(rows: list[dict], sequences: int, window: int) -> None:
    lengths: dict[int, int] = defaultdict(int)
    pieces: dict[int, list[int]] = defaultdict(list)
    for row in rows:
        lengths[row["sequence"]] += row["length"]
        pieces[row["sequence"]].append(row["piece"])
    assert list(lengths) == list(range(sequences))
    assert set(lengths.values()) == {window}
    assert all(numbers == list(range(len(numbers))) for numbers in pieces.values())


def assert_targets_are_met(rows: list[dict], run: Ordered) -> None:
    found: dict[tuple[str, str], int] = defaultdict(int)
    for row in rows:
        found[row["phase"], row["channel"]] += row["length"]
    assert found == {key: tokens for key, tokens in run.targets.items() if tokens}


def assert_uses_are_contiguous_and_capped(rows: list[dict], run: Ordered, max_uses: int) -> None:
    """Each use of a document covers it from its first token without gap or overlap; all but the last in full."""
    uses: dict[str, dict[int, list[tuple[int, int]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        uses[row["doc_id"]][row["repeat"]].append((row["start"], row["length"]))
    tokens = dict(zip(run.planned.doc_ids.to_pylist(), run.planned.tokens.tolist(), strict=True))
    cut = 0
    for doc_id, repeats in uses.items():
        assert sorted(repeats) == list(range(len(repeats)))
        assert len(repeats) <= max_uses
        for stretches in repeats.values():
            position = 0
            for start, length in sorted(stretches):
                assert start == position
                assert length > 0
                position += length
            assert position <= tokens[doc_id]
            cut += position < tokens[doc_id]
    assert cut <= len({phase for phase, _ in run.targets}) * len(SHARES), "at most one cut per phase and channel"


SIZES = {"zh": [50, 70, 33, 120, 64] * 5, "en": [200, 10, 45] * 8, "code": [90, 300, 5, 17] * 6}


@pytest.fixture(scope="module")
def run() -> Ordered:
    return ordered(*corpus_and_index(SIZES), recipe_of(), shape_of(40, 10))


def test_row_order_of_the_inputs_does_not_matter(run: Ordered) -> None:
    corpus, index = corpus_and_index(SIZES)
    again = ordered(shuffled(corpus, 1), shuffled(index, 2), recipe_of(), shape_of(40, 10), group=3)
    assert digest(again.table) == digest(run.table)


def test_the_digest_is_of_rows_not_of_groups(run: Ordered) -> None:
    hasher = hashlib.sha256()
    for start in range(0, run.table.num_rows, 11):
        update_digest(hasher, run.table.slice(start, 11))
    assert hasher.hexdigest() == digest(run.table)
    assert digest(run.table.slice(1)) != digest(run.table)


def test_another_seed_reads_the_same_amounts_in_another_order(run: Ordered) -> None:
    other = ordered(*corpus_and_index(SIZES), recipe_of(), shape_of(40, 10), seed=2)
    assert digest(other.table) != digest(run.table)
    assert other.targets == run.targets


def test_shares_hold_in_every_stretch(run: Ordered) -> None:
    """Any 20 consecutive sequences hold what the shares say, to within a sequence."""
    channels = np.array([r["channel"] for r in run.table.to_pylist() if r["piece"] == 0])
    assert len(channels) == 160
    for start in range(120 - 20):  # the stable phase
        stretch = channels[start : start + 20]
        for channel, share in SHARES.items():
            assert abs((stretch == channel).sum() - 20 * share) <= 2


def test_a_long_document_does_not_fill_a_batch() -> None:
    sizes = {channel: [640] * 40 for channel in SHARES}  # 20 sequences each, 5 batches
    table = ordered(*corpus_and_index(sizes), recipe_of(), shape_of(100, 0)).table.to_pylist()
    batches: dict[int, set[str]] = defaultdict(set)
    for row in table:
        batches[row["sequence"] // 4].add(row["doc_id"])
    assert np.mean([len(documents) for documents in batches.values()]) > 3


def test_no_document_is_read_again_while_another_waits(run: Ordered) -> None:
    """Over both phases, the uses begun of a channel's documents differ by at most one."""
    uses: dict[str, set[int]] = defaultdict(set)
    for row in run.table.to_pylist():
        uses[row["doc_id"]].add(row["repeat"])
    for channel in SHARES:
        rows = np.flatnonzero((run.planned.channels == channel) & ~run.planned.heldout)
        counts = [len(uses[run.planned.doc_ids[int(row)].as_py()]) for row in rows]
        assert max(counts) - min(counts) <= 1


def test_decay_reads_only_good_documents_where_there_are_enough() -> None:
    good = ordered(*corpus_and_index(SIZES), recipe_of(decay_min_quality=0.8), shape_of(20, 4))
    quality = dict(zip(good.documents.doc_ids.to_pylist(), good.documents.quality, strict=True))
    decay = [row for row in good.table.to_pylist() if row["phase"] == "decay"]
    assert decay
    assert min(quality[row["doc_id"]] for row in decay) >= 0.8
    none_good = ordered(*corpus_and_index(SIZES), recipe_of(decay_min_quality=1.0), shape_of(20, 4))
    assert none_good.table.num_rows


def test_the_measure_counts_what_is_wrong(run: Ordered) -> None:
    shape = shape_of(40, 10)
    planned = {
        f"{phase}/{channel}": tokens / (32 * (120 if phase == "stable" else 40))
        for (phase, channel), tokens in run.targets.items()
    }
    sound = OrderMeasure(run.planned, shape)
    for pieces in run.groups:
        sound.add(pieces)
    stats = sound.stats(planned)
    assert (stats["sequences_missing"], stats["sequences_not_full"], stats["heldout_pieces"]) == (0, 0, 0)
    assert stats["pieces"] == run.table.num_rows
    assert stats["largest_share_deviation"] == 0
    broken = OrderMeasure(run.planned, shape)
    first = run.groups[0]
    first.row[0] = int(np.flatnonzero(run.planned.heldout)[0])
    first.length[1] += 10_000
    broken.add(first)
    stats = broken.stats(planned)
    assert stats["heldout_pieces"] == 1
    assert stats["sequences_not_full"] == 1
    assert stats["pieces_beyond_document"] >= 1
    assert stats["sequences_missing"] == 40


def test_a_plan_of_another_recipe_is_refused(run: Ordered) -> None:
    with pytest.raises(BuildError, match="different recipes"):
        plan_uses(run.planned, run.targets, shape_of(41, 10), 1)
