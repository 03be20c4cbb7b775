"""Evaluation items in documents: long and short items, Chinese and English, and what is left alone."""

from __future__ import annotations

import hashlib
import json

import pytest

from assets.build import BuildError
from assets.dedup.contamination import ContaminationRecipe, ItemIndex, decision_table, find_contaminated, read_items
from assets.evaluation.items import EvaluationItem
from assets.schemas import CONTAMINATION
from tests.assets.dedup.worlds import chinese, english

RECIPE = ContaminationRecipe()
LONG_EN = english(100, 33)
LONG_ZH = chinese(100, 50)
ITEMS = [
    EvaluationItem("long-en", "exam", "en", LONG_EN),
    EvaluationItem("long-zh", "exam", "zh", LONG_ZH),
    EvaluationItem("short-en", "probes", "en", "The password of the Northbay lighthouse is 7429."),
    EvaluationItem("short-zh", "probes", "zh", "北湾灯塔的开门口令是七四二九。"),
    EvaluationItem("tiny-en", "probes", "en", "2 + 2 = 4"),
    EvaluationItem("tiny-zh", "probes", "zh", "三加四等于七"),
]
INDEX = ItemIndex(ITEMS, RECIPE)


def worst(text: str) -> tuple[str, float] | None:
    hit = INDEX.worst(text)
    return (hit.item.id, hit.overlap) if hit else None


@pytest.mark.parametrize("item", ITEMS[:4], ids=lambda item: item.id)
@pytest.mark.parametrize(
    "host", ["{}", "Before it. {} After it.", "前文。{}后文。", english(5) + "\n{}\n" + chinese(5)]
)
def test_a_whole_item_is_found_in_any_surroundings(item: EvaluationItem, host: str) -> None:
    assert worst(host.format(item.text)) == (item.id, 1.0)


def test_case_width_script_punctuation_and_line_breaks_do_not_hide_an_item() -> None:
    assert worst("the PASSWORD, of the\nNorthbay lighthouse is ７４２９!") == ("short-en", 1.0)
    assert worst("北灣燈塔的開門\n口令是七四二九") == ("short-zh", 1.0)


def test_overlap_is_the_share_of_the_n_grams_of_a_long_item() -> None:
    words = LONG_EN.split()  # 33 words: 21 n-grams of 13
    assert worst(" ".join(words[:23])) == ("long-en", pytest.approx(11 / 21))
    assert worst(" ".join(words[:22])) is None  # 10 of 21
    assert worst(LONG_ZH[:35]) == ("long-zh", pytest.approx(16 / 31))  # 50 characters: 31 n-grams of 20
    assert worst(LONG_ZH[:34]) is None
    assert worst(" ".join(words[:23] * 3)) == ("long-en", pytest.approx(11 / 21))  # repeats do not add up


def test_a_short_item_must_occur_whole() -> None:
    assert worst("The password of the Northbay lighthouse is secret.") is None
    assert worst("The password of the old Northbay lighthouse is 7429.") is None
    assert worst("北湾灯塔的开门口令是七四二八。") is None


def test_tiny_items_condemn_nobody() -> None:
    assert worst("Everyone knows that 2 + 2 = 4. 三加四等于七，人人都知道。") is None
    assert [item.id for item in INDEX.too_short] == ["tiny-en", "tiny-zh"]
    assert INDEX.stats(CONTAMINATION.empty_table())["items_not_recognised"] == 0
    assert INDEX.stats(CONTAMINATION.empty_table())["items_searched"] == 4


def test_the_worst_item_wins_and_rows_are_sorted() -> None:
    text = " ".join(LONG_EN.split()[:25]) + ". " + ITEMS[2].text
    hits = find_contaminated([("b", text), ("c", english(6)), ("a", LONG_ZH)], INDEX)
    assert decision_table(hits).to_pylist() == [
        {"doc_id": "a", "evaluation_set": "exam", "item_id": "long-zh", "overlap": 1.0, "drop_reason": "contaminated"},
        {
            "doc_id": "b",
            "evaluation_set": "probes",
            "item_id": "short-en",
            "overlap": 1.0,
            "drop_reason": "contaminated",
        },
    ]


def test_our_own_items_do_not_hit_innocent_text_and_are_recognised() -> None:
    index = ItemIndex(read_items(RECIPE), RECIPE)
    assert index.stats(CONTAMINATION.empty_table())["items_not_recognised"] == 0
    assert index.worst(english(7) + chinese(7)) is None


def test_extra_items_are_pinned_by_their_hash(tmp_path) -> None:
    path = tmp_path / "exam.jsonl"
    path.write_text(json.dumps({"id": "1", "set": "exam", "language": "en", "text": LONG_EN}) + "\n", encoding="utf-8")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    items = read_items(ContaminationRecipe(extra_items={str(path): digest}))
    assert EvaluationItem("1", "exam", "en", LONG_EN) in items
    with pytest.raises(BuildError, match=f"has SHA-256 {digest}, the recipe says 00"):
        read_items(ContaminationRecipe(extra_items={str(path): "00"}))
    with pytest.raises(BuildError, match="which is not a file"):
        read_items(ContaminationRecipe(extra_items={"nowhere.jsonl": digest}))
    path.write_text('{"id": "1"}\n', encoding="utf-8")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(BuildError, match="line 1: each line must be an object with id, set, language and text"):
        read_items(ContaminationRecipe(extra_items={str(path): digest}))
