"""Signatures: stable, order-independent, honest estimates of Jaccard."""

from __future__ import annotations

import hashlib

import numpy as np

from assets.dedup import signatures
from assets.dedup.shingling import normalise, shingles
from assets.dedup.signatures import SignatureRecipe, SignatureStats, minhash, sign, signature_parts
from tests.assets.dedup.worlds import chinese, english, replace_words

RECIPE = SignatureRecipe()


def test_minhash_is_stable_for_ever() -> None:
    """A new rensa that signs differently must be noticed: old and new signatures could not be compared."""
    found = minhash([shingles(english(1), 5, 5), shingles(chinese(1), 5, 5)], 108, 42)
    assert hashlib.sha256(found.astype("<u4").tobytes()).hexdigest()[:16] == "a2c9ee997b0a0368"


def test_minhash_estimates_jaccard_and_ignores_neighbours_in_the_batch() -> None:
    base = english(5, 400)
    sets = [shingles(replace_words(base, range(changed)), 5, 5) for changed in (0, 20, 60, 120, 200)]
    together = minhash(sets, 108, 42)
    for number, one in enumerate(sets):
        assert (minhash([one[::-1].copy()], 108, 42)[0] == together[number]).all()
        shared = len(np.intersect1d(one, sets[0]))
        true = shared / (len(one) + len(sets[0]) - shared)
        assert abs((together[number] == together[0]).mean() - true) < 0.15


def test_table_is_sorted_and_does_not_depend_on_order_or_batches(monkeypatch) -> None:
    documents = [(f"{number:03d}", english(number, 30 + number)) for number in range(40)]
    documents += [(f"{number:03d}", chinese(number, 60)) for number in range(40, 60)]
    expected = sign(documents, RECIPE)
    assert expected["doc_id"].to_pylist() == sorted(doc_id for doc_id, _ in documents)
    monkeypatch.setattr(signatures, "BATCH", 7)
    monkeypatch.setattr(signatures, "PART", 14)
    assert sign(documents[::-1], RECIPE).equals(expected)
    stats = SignatureStats()
    parts = list(signature_parts(documents, RECIPE, stats))
    assert [len(part) for part in parts] == [14, 14, 14, 14, 4]
    assert stats.as_json()["distinct_shingle_sets"] == stats.documents == 60
    assert stats.incomplete == 0


def test_exact_duplicates_share_the_hash_of_the_normal_form() -> None:
    table = sign(
        [("a", "Hello,  World of pages"), ("b", "hello, world\nof pages"), ("c", "hello world of pages")], RECIPE
    )
    a, b, c = table["text_sha256"].to_pylist()
    assert a == b == hashlib.sha256(normalise("hello, world of pages").encode()).hexdigest()
    assert a != c
    assert len(set(table["shingles_sha256"].to_pylist())) == 1  # punctuation is no word


def test_no_documents_make_one_empty_part() -> None:
    assert [len(part) for part in signature_parts([], RECIPE)] == [0]
