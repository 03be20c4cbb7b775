"""Normal form, tokens and n-gram hashes."""

from __future__ import annotations

import random
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from assets.dedup import shingling
from assets.dedup.shingling import character_hashes, is_unspaced, normalise, shingles, window_hashes, word_hashes
from tests.assets.dedup.worlds import chinese, english


def test_normal_form_folds_width_case_whitespace_and_script() -> None:
    assert normalise("ＡＢＣ  Def\n\tghi") == "abc def ghi"
    assert normalise("資料庫與軟體") == normalise("数据库与软件")
    assert normalise("簡體　中文") == "简体 中文"


def test_kind_is_decided_by_the_text() -> None:
    assert is_unspaced(normalise("这是一个关于软件包管理的页面"))
    assert is_unspaced(normalise("用 apt-get install 安装软件包，然后用 systemctl restart 重启服务"))
    assert not is_unspaced(normalise("A page about 水 in English, with a single Chinese character"))


def test_shingles_are_the_n_grams() -> None:
    """Against a brute-force count of distinct n-grams."""
    text = english(1, 60) + " " + english(1, 60)
    words = text.split()
    grams = {tuple(words[i : i + 5]) for i in range(len(words) - 4)}
    assert len(shingles(normalise(text), 5, 5)) == len(grams)
    text = chinese(2) + chinese(2)
    assert len(shingles(text, 5, 5)) == len({text[i : i + 5] for i in range(len(text) - 4)})


def test_spaces_inside_chinese_do_not_count_but_word_order_does() -> None:
    text = chinese(3)
    wrapped = "\n".join(text[i : i + 30] for i in range(0, len(text), 30))
    assert (shingles(normalise(wrapped), 5, 5) == shingles(text, 5, 5)).all()
    assert shingles("a b c d e", 5, 5).tolist() != shingles("e d c b a", 5, 5).tolist()


@pytest.mark.parametrize("text", ["", "one", "two words", "a b c d", "短", "四个字符", "***", "!"])
def test_short_texts_have_one_shingle_of_their_own(text: str) -> None:
    assert len(shingles(normalise(text), 5, 5)) == 1
    others = ["one", "two words", "短", "***", "!", "words two", "two", "词"]
    for other in others:
        if other != text:
            assert not len(np.intersect1d(shingles(text, 5, 5), shingles(other, 5, 5)))


@given(st.text(max_size=60), st.integers(1, 20))
@settings(max_examples=100, deadline=None)
def test_a_window_hash_depends_only_on_its_window(text: str, size: int) -> None:
    """Also for its position: the prefix sums must cancel exactly modulo 2**64."""
    normal = normalise(text)
    for tokens in (word_hashes(normal), character_hashes(normal)):
        found = window_hashes(tokens, size)
        assert (found < 2**63).all()
        for at in range(max(1, len(tokens) - size + 1)):
            assert window_hashes(tokens[at : at + size], size)[0] == found[at]


def test_hashes_are_stable_for_ever() -> None:
    """Signatures of last year are compared with those of today: these numbers must never change."""
    assert shingles("the quick brown fox jumps over", 5, 5).tolist() == [7034509400036243696, 7412470041139073403]
    assert shingles("敏捷的棕色狐狸", 5, 5).tolist() == [2217442031841542289, 4577294428591916076, 5363296484472734691]


def test_the_fast_normal_form_is_that_of_unicodedata() -> None:
    """Random neighbours, among them combining marks, jamo, final sigma and characters beyond the basic plane."""
    draw = random.Random(1)
    plain = [code for low, high in shingling._PLAIN for code in range(low, high + 1)]
    awkward = [0x300, 0x301, 0x338, 0x3A3, 0x3099, 0x309A, 0x1100, 0x1161, 0x11A8, 0xAC00, 0xFF76, 0xFF9E, 0x130]
    awkward += [0x345, 0x1F600, 0x2F800, 0x20000, 0xFDFA, 0x2FE]
    for number in range(30_000):
        pool = plain if number % 3 else [*awkward, *draw.sample(plain, 20)]
        text = "".join(chr(draw.choice(pool)) for _ in range(draw.randrange(1, 12)))
        assert shingling._folded(text) == unicodedata.normalize("NFKC", text).lower(), ascii(text)
    for code in plain:
        for text in (f"{chr(code)}a", f"。{chr(code)}", f"{chr(code)}{chr(code)}"):
            assert shingling._folded(text) == unicodedata.normalize("NFKC", text).lower(), ascii(text)


def test_the_fast_words_are_those_of_the_expression() -> None:
    draw = random.Random(2)
    for _ in range(5_000):
        text = "".join(chr(draw.randrange(128)) for _ in range(draw.randrange(40)))
        expected = [xxh3_64_intdigest(word) for word in shingling._WORD.findall(text)]
        assert shingling.word_hashes(text).tolist() == expected, ascii(text)
