"""Byte-level BPE of Headwater: what is split before merging, which ids are fixed, what may never be a token.

Ids: 0 <|endoftext|>, 1 <|pad|>, 2-257 the bytes, then merges in the order they were learned, then
reserved ids up to a multiple of 64 (so that a vocabulary-parallel embedding divides evenly).

The Rust trainer breaks ties by pair ids and its counts do not depend on threads; the text goes in
sorted by doc_id. tests/assets/tokenizer proves equal bytes over processes and thread counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from assets.build import BuildError
from assets.tokenizer.encoding import END_OF_TEXT, PAD, reserved_token

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.pre_tokenizers import PreTokenizer

VOCABULARY_MULTIPLE = 64
SMALLEST_VOCABULARY = 256 + 2
"""The bytes, <|endoftext|> and <|pad|>: always enough to encode any text."""

PRE_SPLITS: tuple[str, ...] = (
    # Each digit alone: 9.11 and 9.9 stay comparable, and numbers do not eat the vocabulary.
    r"\p{N}",
    # Chinese apart from letters, spaces and punctuation around it: no token "，我们" beside "我们".
    r"\p{Han}+",
    # Contractions; words with the one space or sign before them; runs of signs with the line end
    # after them; line ends with the blank space before; indentation, its last space left to the word.
    r"'(?i:[sdmt]|ll|ve|re)"
    r"|[^\r\n\p{L}\p{M}\p{N}]?[\p{L}\p{M}]+"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+",
)


class TokenizerRecipe(BaseModel):
    """Recipe table [tokenizer]."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    vocab_size: int = Field(
        8192, ge=512, multiple_of=VOCABULARY_MULTIPLE, description="all ids; a demo of a few million parameters"
    )
    min_frequency: int = Field(3, ge=1, description="occurrences in the sample below which a pair is not merged")
    min_bytes_per_token: int = Field(
        150, ge=0, description="sample bytes per vocabulary entry; a smaller sample gets a smaller vocabulary"
    )
    reserved_tokens: int = Field(64, ge=0, description="spare ids for alignment; more fill up to a multiple of 64")
    max_token_bytes: int = Field(48, ge=4, description="16 hanzi; longer tokens are boilerplate learned by heart")
    forbidden_tokens: tuple[str, ...] = Field(
        (r"https?:", r"www\.", r"[=\-_*#~]{17,}", "�"),
        description="regular expressions; a token that matches one anywhere is not learned",
    )


@dataclass(frozen=True)
class TrainedTokenizer:
    """tokenizer.json and tokenizer_config.json as text, with what there is to know about them."""

    tokenizer_json: str
    config_json: str
    stats: dict[str, Any]
    removed: list[str]
    """Dirty tokens the trainer wanted, as text."""


def train(texts: Sequence[str], recipe: TokenizerRecipe) -> TrainedTokenizer:
    """Fit on `texts`, which must be in a fixed order; raises BuildError for an empty sample."""
    sample_bytes = sum(len(text.encode()) for text in texts)
    if not sample_bytes:
        raise BuildError("the tokenizer sample has no text in split fit; check [tokenizer_sample] and its documents")
    size = supported_size(sample_bytes, recipe)
    learned = size - SMALLEST_VOCABULARY - recipe.reserved_tokens
    alphabet, merges, removed = _learn(texts, recipe, learned)
    tokens = [END_OF_TEXT, PAD, *alphabet, *dict.fromkeys(a + b for a, b in merges)]
    reserved = recipe.reserved_tokens
    reserved += -(len(tokens) + reserved) % VOCABULARY_MULTIPLE
    tokens += [reserved_token(number) for number in range(reserved)]
    tokenizer = _assemble(tokens, merges, [END_OF_TEXT, PAD, *map(reserved_token, range(reserved))])
    return TrainedTokenizer(
        tokenizer_json=tokenizer.to_str(pretty=False),
        config_json=json.dumps(_transformers_config(), indent=2, sort_keys=True) + "\n",
        stats={
            "vocabulary_size": len(tokens),
            "requested_vocabulary_size": recipe.vocab_size,
            "vocabulary_supported_by_sample": size,
            "merges": len(merges),
            "reserved_ids": reserved,
            "forbidden_tokens_removed": len(removed),
            "sample_documents": len(texts),
            "sample_bytes": sample_bytes,
            "sample_bytes_per_token": round(sample_bytes / len(tokens), 1),
        },
        removed=removed,
    )


def supported_size(sample_bytes: int, recipe: TokenizerRecipe) -> int:
    """The vocabulary the sample can feed: rare entries would stay untrained embeddings."""
    size = recipe.vocab_size
    if recipe.min_bytes_per_token:
        size = min(size, sample_bytes // recipe.min_bytes_per_token)
    smallest = SMALLEST_VOCABULARY + recipe.reserved_tokens
    smallest += -smallest % VOCABULARY_MULTIPLE
    return max(size - size % VOCABULARY_MULTIPLE, smallest)


def pre_tokenizer() -> PreTokenizer:
    """The splits of PRE_SPLITS in order, then bytes."""
    from tokenizers import Regex, pre_tokenizers

    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in PRE_SPLITS]
    return pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def token_text(token: str) -> str:
    """A byte-level token as text; bytes that are not whole characters show as the replacement character."""
    return token_bytes(token).decode(errors="replace")


def token_bytes(token: str) -> bytes:
    """The bytes a byte-level token stands for."""
    return bytes(_byte_of_character()[character] for character in token)


def _byte_of_character() -> dict[str, int]:
    """Inverse of the byte-level alphabet: printable Latin-1 stands for itself, the rest from U+0100 on."""
    if not _BYTES:
        printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
        others = [byte for byte in range(256) if byte not in set(printable)]
        _BYTES.update({chr(byte): byte for byte in printable})
        _BYTES.update({chr(0x100 + place): byte for place, byte in enumerate(others)})
    return _BYTES


_BYTES: dict[str, int] = {}


def _learn(
    texts: Sequence[str], recipe: TokenizerRecipe, wanted: int
) -> tuple[list[str], list[tuple[str, str]], list[str]]:
    """(byte alphabet, clean merges, dirty tokens). BPE is greedy, so the first n merges of a longer run are those
    of a run of n: learn more than wanted, leave dirty tokens and what is built on them, cut."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    forbidden = [re.compile(pattern) for pattern in recipe.forbidden_tokens]
    margin = wanted // 8 + 64 if forbidden else 0
    while True:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizer()
        trainer = trainers.BpeTrainer(
            vocab_size=len(alphabet) + wanted + margin,
            min_frequency=recipe.min_frequency,
            initial_alphabet=alphabet,
            max_token_length=recipe.max_token_bytes,
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer, length=len(texts))
        learned = [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
        merges, removed = _clean(alphabet, learned, forbidden, wanted)
        exhausted = tokenizer.get_vocab_size() < len(alphabet) + wanted + margin
        if exhausted or len({a + b for a, b in merges}) >= wanted:
            return alphabet, merges, removed
        margin = margin * 2 + 64


def _clean(
    alphabet: Sequence[str], learned: Sequence[tuple[str, str]], forbidden: Sequence[re.Pattern[str]], wanted: int
) -> tuple[list[tuple[str, str]], list[str]]:
    alive = set(alphabet)
    room = len(alive) + wanted
    kept: list[tuple[str, str]] = []
    removed: list[str] = []
    for left, right in learned:
        if left not in alive or right not in alive:
            continue
        joined = left + right
        if joined not in alive:
            text = token_text(joined)
            # An incomplete character shows as U+FFFD too; only a real one in the text is dirty.
            if any(p.search(text) for p in forbidden if p.pattern != "�" or "�".encode() in token_bytes(joined)):
                removed.append(text)
                continue
            if len(alive) == room:
                break
            alive.add(joined)
        kept.append((left, right))
    return kept, list(dict.fromkeys(removed))


def _assemble(tokens: Sequence[str], merges: Sequence[tuple[str, str]], special: Sequence[str]) -> Tokenizer:
    from tokenizers import AddedToken, Tokenizer, decoders, models

    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer


def _transformers_config() -> dict[str, Any]:
    """For transformers' PreTrainedTokenizerFast. A document starts after the <|endoftext|> of the one before,
    so that is also what stands for a beginning where a program wants one."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "pad_token": PAD,
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,
    }
