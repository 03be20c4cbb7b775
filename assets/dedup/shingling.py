"""From a text to the numbers that the dedup stages compare: normal form, tokens, hashed n-grams.

Normal form: NFKC, lower case, Traditional folded to Simplified, whitespace runs collapsed to one
space. So a page converted mechanically from zh-CN to zh-TW has (nearly) the normal form of its twin.
The folding is OpenCC's tw2sp, which also folds Taiwan's vocabulary: of 60 handbook pages converted
with vocabulary (s2twp) it brings 60 over Jaccard 0.8, plain t2s 42; pages converted without keep 0.91 or more.

Tokens: words (runs of letters, digits and _) where words are written apart, single characters without whitespace
where they are not (Chinese, Japanese, Thai, ...). Which of the two is decided by the text alone, not by the
detected language: equal texts always have equal shingles, whatever a classifier said of each.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]

_NOT_SPACED = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x3040, 0x30FF),
    (0x3400, 0x9FFF),
    (0x20000, 0x3FFFF),
)
"""Thai and Lao, Burmese, Khmer, kana, Han, Han extensions: scripts that do not separate words."""

_UNSPACED_CLASS = "".join(f"{chr(low)}-{chr(high)}" for low, high in _NOT_SPACED)
_WORD = re.compile(rf"[^\W{_UNSPACED_CLASS}]+|[{_UNSPACED_CLASS}]")

UNSPACED_SHARE = 0.1
"""From this share of such characters on, a text is cut into characters. Low, because characters also
serve mixed text (Chinese prose around code), which words would cut too coarsely."""

_MULTIPLIER = 0x9E3779B97F4A7C15  # odd, hence invertible modulo 2**64
_INVERSE = pow(_MULTIPLIER, -1, 2**64)


@lru_cache(maxsize=1)
def _simplified() -> Any:
    from opencc import OpenCC

    return OpenCC("tw2sp")


def normalise(text: str) -> str:
    """The normal form. Two texts with one normal form are exact duplicates."""
    text = text.lower() if text.isascii() else _simplified().convert(_folded(text))
    return " ".join(text.split())


_PLAIN = ((0x20, 0x7E), (0x09, 0x0D), (0xA0, 0xFF), (0x391, 0x3A1), (0x3A4, 0x3C9), (0x410, 0x44F), (0x2000, 0x200A))
_PLAIN += ((0x2010, 0x205E), (0x2100, 0x22FF), (0x2460, 0x27BF), (0x2E80, 0x2FDF), (0x3000, 0x3029), (0x3041, 0x3096))
_PLAIN += ((0x30A1, 0x30FA), (0x3200, 0x4DBF), (0x4E00, 0x9FFF), (0xFF01, 0xFF60), (0xFFE0, 0xFFE6))
"""Characters of Latin, Greek, Cyrillic, Chinese and Japanese text that cannot combine with their neighbours among themselves
(no combining marks, no half-width kana, no final sigma): NFKC and lower case of a text of them are those of each character."""


@lru_cache(maxsize=1)
def _fold_table() -> tuple[npt.NDArray[np.uint32], dict[int, str]]:
    """(what each character of the basic plane folds to, by its code; the few that become several characters).

    In the first, 0 says that a character's fold depends on its neighbours, and 1 that it is in the second.
    """
    table, longer = np.zeros(0x10000, dtype=np.uint32), {}
    plain = {code for low, high in _PLAIN for code in range(low, high + 1)}
    for code in plain:
        folded = unicodedata.normalize("NFKC", chr(code)).lower()
        if len(folded) == 1:
            table[code] = ord(folded)
        elif all(ord(character) in plain for character in folded):
            table[code], longer[code] = 1, folded
    return table, longer


def _folded(text: str) -> str:
    """NFKC and lower case. Five times faster than unicodedata where no character can combine with its neighbours."""
    table, longer = _fold_table()
    codes = _code_points(text)
    if codes.max() < len(table):
        folds = table[codes]
        if (folds == 1).any():
            for code in np.unique(codes[folds == 1]).tolist():
                text = text.replace(chr(code), longer[code])
            folds = table[_code_points(text)]
        if folds.all():
            return folds.tobytes().decode("utf-32-le")
    return unicodedata.normalize("NFKC", text).lower()


def is_unspaced(normal: str) -> bool:
    """Whether the text is cut into characters rather than words."""
    if normal.isascii():
        return False
    codes = _code_points(normal)
    table = _unspaced_table()
    found = int(np.count_nonzero(table[np.minimum(codes, len(table) - 1)]))
    return found >= UNSPACED_SHARE * len(codes)


@lru_cache(maxsize=1)
def _unspaced_table() -> npt.NDArray[np.bool_]:
    """By code: whether a character is of a script without spaces; the last entry stands for all codes after."""
    table = np.zeros(_NOT_SPACED[-1][1] + 2, dtype=bool)
    for low, high in _NOT_SPACED:
        table[low : high + 1] = True
    return table


def character_hashes(normal: str) -> Hashes:
    """One hash per character, whitespace left out: a line break inside a Chinese sentence means nothing."""
    return _mix(_code_points(normal.replace(" ", "")).astype(np.uint64) + np.uint64(1))


def word_hashes(normal: str) -> Hashes:
    """One hash per word, and per character of the scripts without words; punctuation is left out."""
    words = normal.translate(_ASCII_WORDS).split() if normal.isascii() else _WORD.findall(normal)
    if len(_WORD_HASHES) > WORDS_REMEMBERED:
        _WORD_HASHES.clear()
    return np.fromiter(map(_WORD_HASHES.__getitem__, words), dtype=np.uint64, count=len(words))


class _WordHashes(dict[str, int]):
    """Word -> its hash, remembered: a text has few words that were never seen."""

    def __missing__(self, word: str) -> int:
        from xxhash import xxh3_64_intdigest

        value = self[word] = xxh3_64_intdigest(word)
        return value


WORDS_REMEMBERED = 1 << 17  # some 20 MB
_WORD_HASHES = _WordHashes()
_ASCII_WORDS = {code: " " for code in range(128) if not (chr(code).isalnum() or chr(code) == "_")}


def window_hashes(tokens: Hashes, size: int) -> Hashes:
    """A 63-bit hash of each run of `size` tokens, in order.

    Fewer tokens than `size` make one run of them all, so that short texts equal only themselves.
    63 bits: the hashes are then also valid signed integers (sparse matrices, BIGINT in SQL).
    """
    count = len(tokens)
    size = max(1, min(size, count))
    if count == 0:
        return np.zeros(1, dtype=np.uint64)
    powers, inverses = _powers(1 << count.bit_length())
    # Sum of token[i+j] * M**j over the run, from one prefix sum: any size costs the same.
    prefix = np.zeros(count + 1, dtype=np.uint64)
    np.cumsum(tokens * powers[:count], out=prefix[1:])
    return _mix((prefix[size:] - prefix[:-size]) * inverses[: count - size + 1]) >> np.uint64(1)


def shingles(normal: str, words: int, characters: int) -> Hashes:
    """Sorted distinct n-gram hashes of a text in normal form; never empty.

    A text without any word ("* * *") is compared by its characters.
    """
    if not is_unspaced(normal):
        tokens = word_hashes(normal)
        if len(tokens):
            return _sorted_distinct(window_hashes(tokens, words))
    return _sorted_distinct(window_hashes(character_hashes(normal), characters))


def _sorted_distinct(hashes: Hashes) -> Hashes:
    hashes = np.sort(hashes)  # np.unique goes through a hash table: four times slower here
    return hashes[np.concatenate([[True], hashes[1:] != hashes[:-1]])]


def _code_points(text: str) -> npt.NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")


def _mix(values: Hashes) -> Hashes:
    """The SplitMix64 finaliser: every input bit reaches every output bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@lru_cache(maxsize=32)
def _powers(count: int) -> tuple[Hashes, Hashes]:
    """Powers of the multiplier and of its inverse, modulo 2**64."""
    result = []
    for base in (_MULTIPLIER, _INVERSE):
        factors = np.full(count, base, dtype=np.uint64)
        factors[0] = 1
        result.append(np.cumprod(factors))
    return result[0], result[1]
