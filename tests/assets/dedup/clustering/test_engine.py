"""The law of incremental dedup: any history of updates ends where a run from scratch, or brute force, ends."""

from __future__ import annotations

import hashlib
import random
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assets.build import BuildError
from assets.dedup.clustering import arrivals, candidates, components, sorted_runs, state
from assets.dedup.clustering.engine import update_clusters
from assets.dedup.clustering.state import state_is_compatible
from assets.dedup.recipe import DedupRecipe
from tests.assets.dedup.histories import Collection, Doc, Signed, brute_force, document_table
from tests.assets.dedup.worlds import english, replace_words

SURE = DedupRecipe(bands=60, rows=1, minimum_agreement=0)
"""Every pair of the threshold is met (all but 0.2**60 of them), so that brute force must find the same."""

BASES = [english(seed, 60) for seed in range(3)]
EDITS = (10, 11, 13, 30, 31, 32, 50)
"""Of 60 words: one edit leaves Jaccard 0.84, two neighbouring ones 0.81, two distant ones 0.7: chains and bridges."""

SIGNED = Signed()


def variant(base: int, edits: frozenset[int], form: int) -> str:
    """A text; `form` changes nothing, the spaces (same normal form) or punctuation (same shingles)."""
    text = replace_words(BASES[base], sorted(edits))
    return (text, f"  {text.upper()}\n", text.replace(" ", ", ", 1))[form]


TEXTS = st.builds(
    variant, st.integers(0, 2), st.frozensets(st.sampled_from(EDITS), max_size=4), st.sampled_from((0, 0, 0, 1, 2))
)
DOCS = st.builds(
    Doc, TEXTS, st.sampled_from((0.2, 0.5, 0.5, 0.9)), st.sampled_from(("20260101T000000Z", "20260202T000000Z"))
)
UPDATES = st.dictionaries(st.integers(0, 25).map("{:02d}".format), st.none() | DOCS, max_size=12)


def play(collection: Collection, update: dict[str, Doc | None]) -> None:
    """One update: None removes where live, anything else adds or replaces."""
    removed = [doc_id for doc_id in update if doc_id in collection.docs]
    collection.update(removed, {doc_id: doc for doc_id, doc in update.items() if doc is not None})


@pytest.mark.timeout(900)
@given(history=st.lists(UPDATES, min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_every_history_ends_where_brute_force_ends(history: list[dict]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        collection = Collection(Path(folder), SURE, SIGNED)
        for update in history:
            play(collection, update)
            assert collection.tables() == brute_force(collection.docs, SURE.threshold)
        assert collection.tables() == collection.from_scratch()


@pytest.mark.timeout(900)
@given(history=st.lists(UPDATES, min_size=2, max_size=8), order=st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_hot_buckets_and_small_steps_end_where_a_run_from_scratch_ends(
    history: list[dict], order: random.Random
) -> None:
    """Windows in all buckets of more than 3 nodes, and every bound on memory so low that all work is in parts."""
    small = {
        (candidates, "ALL_PAIRS"): 3,
        (candidates, "SMALLEST_WINDOW"): 1,
        (candidates, "PAIRS_PER_STEP"): 5,
        (candidates, "SHINGLES_PER_STEP"): 300,
        (arrivals, "ROWS_PER_RANGE"): 64,
        (components, "FRONTIER_NODES"): 2,
        (components, "CHUNK_NODES"): 3,
        (sorted_runs, "MERGE_ROWS"): 10,
        (state, "MERGED_SEGMENTS"): 2,
        (state, "COPY_NODES"): 3,
    }
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        for (module, name), value in small.items():
            patch.setattr(module, name, value)
        collection = Collection(Path(folder), DedupRecipe(bands=12, rows=3), SIGNED)
        for update in history:
            play(collection, update)
            assert collection.tables() == collection.from_scratch()
        shuffled = dict(order.sample(sorted(collection.docs.items()), len(collection.docs)))
        again = Collection(Path(folder) / "again", collection.recipe, SIGNED)
        again.update([], shuffled)
        assert again.tables() == collection.tables()


def test_bridges_and_representatives_come_and_go(tmp_path: Path) -> None:
    left, middle, right = (variant(0, frozenset(edits), 0) for edits in ((10,), (10, 30), (30,)))
    collection = Collection(tmp_path, SURE, SIGNED)
    collection.update([], {"a": Doc(left), "b": Doc(middle), "c": Doc(right, quality=0.9)})
    clusters = {row["doc_id"]: row["cluster_id"] for row in collection.decisions.values()}
    assert clusters == {"a": "a", "b": "a", "c": "a"} and collection.decisions["a"]["matched_doc_id"] == "b"
    collection.update(["b"], {})
    assert all(row["kept"] for row in collection.decisions.values()) and not collection.pairs
    collection.update([], {"z": Doc(middle)})
    assert collection.decisions["z"]["representative"] == collection.decisions["a"]["representative"] == "c"
    collection.update(["c"], {})
    assert collection.decisions["z"]["representative"] == "a"


def test_an_update_reports_only_what_changed(tmp_path: Path) -> None:
    docs = {f"{number:03d}": Doc(english(number, 60)) for number in range(50)}
    collection = Collection(tmp_path, DedupRecipe(), SIGNED)
    collection.update([], docs)
    found = collection.update(["007"], {"007": Doc(docs["007"].text, quality=0.9)})
    assert len(found.decisions.added) == len(found.decisions.removed) == 0, (
        "a single document's decision says no quality"
    )
    found = collection.update([], {"100": Doc(docs["007"].text, quality=1.0)})
    assert found.decisions.removed["doc_id"].to_pylist() == ["007"]
    assert found.decisions.added["doc_id"].to_pylist() == ["007", "100"]
    assert found.pairs.added.to_pylist() == [
        {"doc_id_a": "007", "doc_id_b": "100", "similarity": 1.0, "method": "exact_text"}
    ]
    assert collection.update([], {}).decisions.added.num_rows == 0


def test_many_small_updates_leave_few_files_and_the_state_of_one_build(tmp_path: Path) -> None:
    draw = random.Random(5)
    collection = Collection(tmp_path, DedupRecipe(), SIGNED)
    collection.update([], {f"{number:04d}": Doc(english(number, 30)) for number in range(300)})
    for number in range(60):
        removed = draw.sample(sorted(collection.docs), 2)
        added = {f"{1000 + 3 * number + i:04d}": Doc(english(draw.randrange(500), 30)) for i in range(3)}
        found = collection.update(removed, added)
        assert found.stats["state_segments"] <= 10
        assert "state/g000001/shingles.npy" in found.kept_files, "small updates do not rewrite what the first one wrote"
    assert collection.tables() == collection.from_scratch()
    once = Collection(tmp_path / "once", DedupRecipe(), SIGNED)
    once.update([], collection.docs)
    size, fresh = (sum(path.stat().st_size for path in one.state.values()) for one in (collection, once))
    assert size < 3 * fresh


def test_documents_of_the_graph_take_16_bytes(tmp_path: Path) -> None:
    names = [hashlib.md5(str(number).encode()).hexdigest() for number in range(40)]
    docs = {name: Doc(variant(number % 3, frozenset(EDITS[: number % 5]), 0)) for number, name in enumerate(names)}
    collection = Collection(tmp_path, SURE, SIGNED, ids="hash128")
    collection.update([], dict(list(docs.items())[:25]))
    collection.update(names[:5], dict(list(docs.items())[25:]))
    assert collection.tables() == brute_force(collection.docs, SURE.threshold)
    with pytest.raises(BuildError, match="32 hexadecimal digits is needed, found 'x'"):
        collection.update([], {"x": Doc("text")})


def test_input_that_contradicts_the_state_is_refused_and_leaves_it_as_it_was(tmp_path: Path) -> None:
    collection = Collection(tmp_path, DedupRecipe(), SIGNED)
    collection.update([], {"a": Doc(BASES[0]), "b": Doc(BASES[1])})
    kept = dict(collection.state), collection.tables()
    none = document_table({})
    cases = [
        (["c"], {}, "1 documents to remove are not in the dedup state, first c"),
        ([], {"a": Doc(BASES[2])}, "1 added documents are live already, first a"),
    ]
    for removed, added, message in cases:
        with pytest.raises(BuildError, match=message):
            collection.update(removed, added)
    unsigned = document_table({"d": Doc("x")})
    with pytest.raises(BuildError, match="1 live documents have no signature, first d"):
        update_clusters(
            collection.state, unsigned, [], lambda columns: iter(()), collection.recipe, tmp_path / "x", ids="text"
        )
    other = DedupRecipe(threshold=0.7)
    with pytest.raises(BuildError, match="made with other settings: threshold"):
        update_clusters(collection.state, none, [], lambda columns: iter(()), other, tmp_path / "y", ids="text")
    assert (collection.state, collection.tables()) == kept
    collection.update(["a"], {"c": Doc(BASES[1])})
    assert collection.tables() == brute_force(collection.docs, 0.8)


def test_compatibility_names_its_reason(tmp_path: Path) -> None:
    collection = Collection(tmp_path, DedupRecipe(), SIGNED)
    recipe = DedupRecipe().model_dump()
    assert state_is_compatible({}, recipe) is None
    collection.update([], {"a": Doc(BASES[0])})
    assert state_is_compatible(collection.state, recipe, "text") is None
    assert state_is_compatible(collection.state, recipe, "hash128") == "its ids are text, the documents have hash128"
    changed = recipe | {"threshold": 0.9}
    assert state_is_compatible(collection.state, changed, "text") == "it was made with other settings: threshold"
    lost = {name: path for name, path in collection.state.items() if not name.endswith("members.npy")}
    reason = state_is_compatible(lost, recipe, "text")
    assert reason is not None and reason.startswith("1 of its files are missing, first state/g000001/members.npy")
    name = next(name for name in collection.state if name.endswith("manifest.json"))
    old = tmp_path / "old.json"
    old.write_text(collection.state[name].read_text().replace('"format": 1', '"format": 0'))
    assert (
        state_is_compatible(collection.state | {name: old}, recipe, "text") == "its format is 0, this version writes 1"
    )
    shutil.copy(collection.state[name], tmp_path / "two.json")
    with pytest.raises(BuildError, match="has one manifest"):
        state_is_compatible(collection.state | {"state/g9/manifest.json": tmp_path / "two.json"}, recipe, "text")
