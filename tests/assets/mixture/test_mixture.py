from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from assets.build import BuildError
from assets.mixture.allocation import allocate
from assets.mixture.mixture import MixtureRecipe, choose_heldout, join, plan
from assets.mixture.shape import RunShape
from tests.assets.mixture.worlds import corpus_and_index, shape_of

SHARES = {"zh": 0.5, "en": 0.3, "code": 0.2}
SIZES = {"zh": [100] * 200, "en": [100] * 120, "code": [100] * 20, "fr": [100] * 30}


def heldout_ids(corpus: pa.Table, index: pa.Table, recipe: MixtureRecipe) -> set[str]:
    documents = join(corpus, index)
    mask = choose_heldout(documents, recipe)
    return {doc_id for doc_id, held in zip(documents.doc_ids.to_pylist(), mask, strict=True) if held}


def test_held_out_documents_stay_held_out_while_the_corpus_grows() -> None:
    recipe = MixtureRecipe(shares=SHARES, heldout_fraction=0.1)
    corpus, index = corpus_and_index({"zh": [100] * 400, "en": [100] * 400, "code": [100] * 400})
    few = heldout_ids(corpus.slice(0, 300), index.slice(0, 300), recipe)
    assert few
    assert few <= heldout_ids(corpus, index, recipe)


def test_the_next_version_of_a_page_stays_on_its_side() -> None:
    recipe = MixtureRecipe(shares=SHARES, heldout_fraction=0.1)
    corpus, index = corpus_and_index(SIZES)
    renamed = [f"{doc_id[::-1]}" for doc_id in corpus["doc_id"].to_pylist()]
    new_corpus = corpus.set_column(0, "doc_id", pa.array(renamed))
    new_index = index.set_column(0, "doc_id", pa.array(renamed))
    before, after = heldout_ids(corpus, index, recipe), heldout_ids(new_corpus, new_index, recipe)
    assert after == {doc_id[::-1] for doc_id in before}


def test_each_read_channel_has_enough_held_out_documents_and_not_too_many() -> None:
    recipe = MixtureRecipe(shares=SHARES, heldout_fraction=0.0, min_heldout_documents=8, max_heldout_fraction=0.2)
    documents = join(*corpus_and_index(SIZES))
    mask = choose_heldout(documents, recipe)
    counts = {c: int(mask[documents.channels == c].sum()) for c in SIZES}
    assert counts == {"zh": 8, "en": 8, "code": 4, "fr": 0}


def test_short_documents_are_not_held_out() -> None:
    sizes = {"zh": [10] * 50, "en": [100] * 50, "code": [100] * 50}
    documents = join(*corpus_and_index(sizes))
    mask = choose_heldout(documents, MixtureRecipe(shares=SHARES, min_heldout_tokens=64))
    assert mask.any()
    assert not mask[documents.tokens < 64].any()


def test_uses_give_exactly_the_planned_tokens() -> None:
    sizes = SIZES | {"code": [100] * 60}
    mixture = plan(join(*corpus_and_index(sizes)), MixtureRecipe(shares=SHARES), shape_of(100, 20, length=99))
    documents = mixture.documents
    for phase, sequences in (("stable", 320), ("decay", 80)):
        for channel, share in SHARES.items():
            mine = documents.channels == channel
            given_tokens = float((mixture.uses[phase] * documents.tokens)[mine].sum())
            assert given_tokens == pytest.approx(share * sequences * 100, rel=1e-9)
    assert not mixture.uses["stable"][mixture.heldout].any()
    assert not mixture.uses["stable"][documents.channels == "fr"].any()


@settings(max_examples=150, deadline=None)
@given(
    weights=st.lists(st.integers(0, 10), min_size=3, max_size=3).filter(any),
    available=st.lists(st.integers(0, 3000), min_size=3, max_size=3),
    stable=st.integers(1, 60),
    decay=st.integers(0, 20),
    max_uses=st.integers(1, 4),
)
def test_allocation_adds_up_and_respects_the_cap(
    weights: list[int], available: list[int], stable: int, decay: int, max_uses: int
) -> None:
    window = 32
    shares = dict(zip("abc", (w / sum(weights) for w in weights), strict=True))
    tokens = {c: a for c, a in zip("abc", available, strict=True) if shares[c]}
    wanted = {"stable": stable, "decay": decay}
    capacity = {c: max_uses * a // window for c, a in tokens.items()}
    try:
        targets = allocate({"stable": shares, "decay": shares}, wanted, tokens, max_uses, window)
    except BuildError:
        assert sum(capacity.values()) < stable + decay
        return
    assert {phase: sum(by.values()) for phase, by in targets.items()} == wanted
    for channel in tokens:
        given_sequences = sum(by.get(channel, 0) for by in targets.values())
        assert given_sequences <= capacity[channel]
    if all(capacity[c] >= 2 + shares[c] * (stable + decay) for c in tokens):
        assert all(abs(targets["stable"][c] - shares[c] * stable) < 3 for c in tokens)


def test_what_a_small_channel_cannot_give_goes_to_the_others_by_their_shares() -> None:
    shares = {"zh": 0.5, "en": 0.25, "code": 0.25}
    available = {"zh": 100_000, "en": 100_000, "code": 100}
    targets = allocate({"stable": shares, "decay": shares}, {"stable": 800, "decay": 200}, available, 4, 10)
    assert targets["stable"]["code"] + targets["decay"]["code"] == 40
    assert targets["stable"]["code"] == 32, "the limited channel keeps its proportion between the phases"
    assert targets["stable"]["zh"] == pytest.approx(2 * targets["stable"]["en"], abs=2)


def test_a_run_that_is_too_long_says_how_long_it_may_be() -> None:
    with pytest.raises(
        BuildError, match=r"max_uses = 2 times what each channel has is .*'zh': 200.*Lower \[training\]"
    ):
        allocate({"stable": {"zh": 1.0}}, {"stable": 30}, {"zh": 100}, 2, 10)


def test_versions_that_do_not_belong_together_are_refused() -> None:
    corpus, index = corpus_and_index(SIZES)
    with pytest.raises(BuildError, match="differ in 1 documents"):
        join(corpus, index.slice(1))


def test_shares_must_add_up() -> None:
    with pytest.raises(ValidationError, match="add up to 1"):
        MixtureRecipe(shares={"zh": 0.5, "en": 0.4})


def test_shape_names_the_missing_key() -> None:
    with pytest.raises(BuildError, match="total_steps: Field required"):
        RunShape.read({"training": {"decay_steps": 1, "global_batch_size": 4}, "model": {"sequence_length": 8}})
    with pytest.raises(BuildError, match=r"decay_steps \(9\) exceed total_steps \(5\)"):
        RunShape.read(
            {"training": {"total_steps": 5, "decay_steps": 9, "global_batch_size": 4}, "model": {"sequence_length": 8}}
        )
