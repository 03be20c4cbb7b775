from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from assets.build import BuildError
from assets.tokenizer.encoding import END_OF_TEXT, PAD, encode_documents, load_tokenizer, reserved_token, token_dtype
from assets.tokenizer.report import cut, inspect_vocabulary, specials_parsed_from_text
from assets.tokenizer.training import TokenizerRecipe, supported_size, token_bytes, train
from tests.assets.tokenizer.library import SENTENCES, library

RECIPE = TokenizerRecipe(vocab_size=1024, min_frequency=2, min_bytes_per_token=0, reserved_tokens=16)
TEXTS = [doc.text for doc in library()]
TRICKY = [
    "",
    " ",
    "9.11 and 9.9, １２３ ٣٤ Ⅷ ½",
    "你好，world！👩‍👩‍👧 🇨🇳",
    "\r\n\r\n\t  \t x\n\n\n",
    "    four\n        eight\n\ttab",
    "한국어 हिन्दी ไทย عربى",
    "\x00\x01\ufeff\ufffd\U0010ffff",
    "軟體—软件……《书名》「引号」",
    f"{END_OF_TEXT}{PAD}",
]


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("bpe") / "tokenizer.json"
    path.write_text(train(TEXTS, RECIPE).tokenizer_json, encoding="utf-8")
    return load_tokenizer(path)


@pytest.mark.parametrize("text", [*TRICKY, *(s for pool in SENTENCES.values() for s in pool)])
def test_text_survives_a_round_trip(bpe: Tokenizer, text: str) -> None:
    ids = bpe.encode(text, add_special_tokens=False).ids
    assert bpe.decode(ids, skip_special_tokens=False) == text


def test_special_tokens_spelt_in_text_stay_text(bpe: Tokenizer) -> None:
    assert specials_parsed_from_text(bpe) == 0
    text = f"a {END_OF_TEXT} b {reserved_token(3)}"
    tokens = encode_documents(bpe, [text], token_dtype(bpe.get_vocab_size()))[0]
    assert tokens.tolist().count(bpe.token_to_id(END_OF_TEXT)) == 1
    assert tokens[-1] == bpe.token_to_id(END_OF_TEXT)
    assert bpe.decode(tokens[:-1].tolist(), skip_special_tokens=False) == text


def test_fixed_ids_come_first_and_reserved_ones_last(bpe: Tokenizer) -> None:
    size = bpe.get_vocab_size()
    assert (bpe.token_to_id(END_OF_TEXT), bpe.token_to_id(PAD)) == (0, 1)
    assert sorted(token_bytes(bpe.id_to_token(i)) for i in range(2, 258)) == [bytes([b]) for b in range(256)]
    assert size % 64 == 0
    first = bpe.token_to_id(reserved_token(0))
    assert size - first >= 16, "the sample runs out of merges: more reserved ids fill up to a multiple of 64"
    assert [bpe.id_to_token(i) for i in range(first, size)] == [reserved_token(n) for n in range(size - first)]


def test_digits_never_merge_with_anything(bpe: Tokenizer) -> None:
    assert inspect_vocabulary(bpe, 1).merged_digit_tokens == []
    assert cut(bpe, "9.11") == "9|.|1|1"
    assert cut(bpe, "1949年") == "1|9|4|9|年"


def test_a_vocabulary_that_merges_digits_is_found_out(bpe: Tokenizer) -> None:
    content = json.loads(bpe.to_str())
    content["model"]["vocab"]["42"] = len(content["model"]["vocab"])
    content["model"]["merges"].append(["4", "2"])
    assert inspect_vocabulary(Tokenizer.from_str(json.dumps(content)), 1).merged_digit_tokens == ["42"]


def test_hanzi_merge_but_not_with_the_punctuation_before_them(bpe: Tokenizer) -> None:
    assert cut(bpe, "，图书馆").startswith("，|")
    assert len(cut(bpe, "河边的柳树").split("|")) < len("河边的柳树".encode()) / 2
    texts = [token_bytes(t).decode(errors="replace") for t in bpe.get_vocab() if not t.startswith("<|")]
    assert not [t for t in texts if t.startswith("，") and len(t) > 1]


def test_indentation_leaves_its_last_space_to_the_word(bpe: Tokenizer) -> None:
    assert cut(bpe, "    return width").split("|")[0] == "   "


PROGRAM = """
import hashlib
from assets.tokenizer.training import TokenizerRecipe, train
from tests.assets.tokenizer.test_training import RECIPE, TEXTS
print(hashlib.sha256(train(TEXTS, RECIPE).tokenizer_json.encode()).hexdigest())
"""


@pytest.mark.parametrize(
    "settings",
    [
        {"TOKENIZERS_PARALLELISM": "false", "PYTHONHASHSEED": "1"},
        {"TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": "3", "PYTHONHASHSEED": "2"},
    ],
)
def test_another_process_gives_the_same_bytes(settings: dict[str, str]) -> None:
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=root, env=os.environ | settings, capture_output=True, text=True, check=True
    )
    here = hashlib.sha256(train(TEXTS, RECIPE).tokenizer_json.encode()).hexdigest()
    assert done.stdout.strip() == here


def test_leaving_out_dirty_tokens_gives_the_room_to_others() -> None:
    clean = train(TEXTS, RECIPE)
    dirty = train(TEXTS, RECIPE.model_copy(update={"forbidden_tokens": ("图书",)}))
    vocabulary = [
        token_bytes(t).decode(errors="replace") for t in _tokens(dirty.tokenizer_json) if not t.startswith("<|")
    ]
    assert dirty.removed
    assert all("图书" in text for text in dirty.removed)
    assert not [token for token in vocabulary if "图书" in token]
    assert any(
        "图书" in token_bytes(t).decode(errors="replace") for t in _tokens(clean.tokenizer_json) if "<|" not in t
    )
    assert dirty.stats["vocabulary_size"] == clean.stats["vocabulary_size"] == 1024


def test_cutting_a_longer_run_equals_a_shorter_run() -> None:
    no_margin = train(TEXTS, RECIPE.model_copy(update={"forbidden_tokens": ()}))
    with_margin = train(TEXTS, RECIPE.model_copy(update={"forbidden_tokens": ("nothing matches this",)}))
    assert no_margin.tokenizer_json == with_margin.tokenizer_json


def test_a_small_sample_gets_a_small_vocabulary() -> None:
    recipe = TokenizerRecipe(vocab_size=8192, min_bytes_per_token=100)
    assert supported_size(10_000_000, recipe) == 8192
    assert supported_size(100_000, recipe) == 960  # 1,000 rounded down to a multiple of 64
    assert supported_size(10, recipe) == 384  # bytes, special and reserved ids
    stats = train(TEXTS[:1], recipe).stats
    assert (stats["vocabulary_size"], stats["requested_vocabulary_size"]) == (384, 8192)


def test_an_empty_sample_is_an_error() -> None:
    with pytest.raises(BuildError, match="no text in split fit"):
        train([], RECIPE)


def test_transformers_reads_it(tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    trained = train(TEXTS, RECIPE)
    (tmp_path / "tokenizer.json").write_text(trained.tokenizer_json, encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(trained.config_json, encoding="utf-8")
    theirs = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    ours = load_tokenizer(tmp_path / "tokenizer.json")
    for text in [*TRICKY, *TEXTS[:3]]:
        assert theirs.encode(text) == ours.encode(text, add_special_tokens=False).ids
        assert theirs.decode(theirs.encode(text)) == text
    assert (theirs.eos_token, theirs.pad_token, theirs.eos_token_id) == (END_OF_TEXT, PAD, 0)


def _tokens(tokenizer_json: str) -> list[str]:
    return list(json.loads(tokenizer_json)["model"]["vocab"])
