"""How text becomes token ids everywhere in Headwater: one way to load the tokenizer, one end rule.

No token is ever added at the start of a document; exactly one <|endoftext|> closes it. Text that
spells a special token is ordinary text: a web page must not be able to end a document or pad it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from assets.build import BuildError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END_OF_TEXT = "<|endoftext|>"
PAD = "<|pad|>"


def reserved_token(number: int) -> str:
    """Name of a spare id, kept for alignment (chat turns, tools) so that the embedding need not grow."""
    return f"<|reserved_{number}|>"


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a tokenizer.json, set so that special tokens spelt in text stay text."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.encode_special_tokens = True
    return tokenizer


def end_of_text_id(tokenizer: Tokenizer) -> int:
    """Id of <|endoftext|>. Raises BuildError when the tokenizer has none."""
    token_id = tokenizer.token_to_id(END_OF_TEXT)
    if token_id is None:
        raise BuildError(f"the tokenizer has no {END_OF_TEXT}: rebuild the tokenizer asset")
    return token_id


def token_dtype(vocabulary_size: int) -> np.dtype:
    """Little-endian uint16 while every id fits, uint32 above."""
    return np.dtype("<u2") if vocabulary_size < 65536 else np.dtype("<u4")


def encode_documents(tokenizer: Tokenizer, texts: Sequence[str], dtype: np.dtype) -> list[np.ndarray]:
    """Token ids of each text followed by <|endoftext|>."""
    end = end_of_text_id(tokenizer)
    encodings = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    return [np.array([*encoding.ids, end], dtype=dtype) for encoding in encodings]


@contextmanager
def encoder_threads(workers: int) -> Iterator[None]:
    """Let the Rust encoder use all cores, or one where one worker was asked for. The ids are the same."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if workers > 1 else "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before
