"""Tokens of each corpus document, end to end in binary shards, and the index that finds any document.

    shard-00000.bin   doc a | <|endoftext|> | doc b | <|endoftext|> | ...   little-endian uint16 or uint32
    index-*.parquet   doc_id -> shard, offset, tokens, SHA-256 of its tokens: an updated table
    encoding.json     type and end id: what a reader needs beside the index
    shards.json       tokens of each shard, and how many of them no document of the index owns any more

The content of this asset is each document's tokens; which shard holds them is physical. An update
(shards_update.py) encodes the documents that came, keeps the accepted shards as they are, and
rewrites a shard only when more of it is dead than the recipe allows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field

from assets.build import BuildError, Progress, Segment
from assets.schemas import TOKEN_INDEX
from assets.tokenizer.encoding import encode_documents, encoder_threads, end_of_text_id, load_tokenizer, token_dtype

if TYPE_CHECKING:
    from tokenizers import Tokenizer

ENCODING_RULE = 1
"""Raise it when the same text and tokenizer should give other tokens: accepted shards are then not reused."""

SHARD_FILES = "shard-*.bin"
ENCODING_FILE = "encoding.json"
SHARDS_FILE = "shards.json"


class TokenShardsRecipe(BaseModel):
    """Recipe table [token_shards]. No value changes any document's tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    max_tokens_per_shard: int = Field(
        100_000_000, gt=0, description="200 MB of uint16: a shard is what an update may have to rewrite"
    )
    batch_characters: int = Field(4_000_000, gt=0, description="characters encoded at a time: bounds memory")
    max_dead_share: float = Field(
        0.25, ge=0, le=1, description="tokens of removed documents above which a shard is rewritten: 0 rewrites at once"
    )


@dataclass
class Shard:
    """Tokens in one shard file, and how many of them no document of the index owns."""

    tokens: int
    dead: int = 0


def encoding_of(tokenizer: Tokenizer, tokenizer_path: Path) -> dict[str, Any]:
    """What decides the tokens of a text, and what a reader of the shards must know."""
    size = tokenizer.get_vocab_size()
    return {
        "rule": ENCODING_RULE,
        "dtype": {2: "uint16", 4: "uint32"}[token_dtype(size).itemsize],
        "end_of_text_id": end_of_text_id(tokenizer),
        "vocabulary_size": size,
        "tokenizer_sha256": hashlib.sha256(tokenizer_path.read_bytes()).hexdigest(),
    }


def write_json(path: Path, value: Any) -> None:
    """A small file with a stable form."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def write_shards_file(output: Path, shards: Mapping[str, Shard]) -> None:
    """Record what each shard of the asset holds."""
    write_json(output / SHARDS_FILE, {name: vars(shard) for name, shard in sorted(shards.items())})


def read_shards_file(segment: Segment) -> dict[str, Shard]:
    """What each shard of an accepted version holds."""
    return {name: Shard(**entry) for name, entry in json.loads(segment.path(SHARDS_FILE).read_text()).items()}


def encode_into(
    writer: ShardWriter,
    texts: Iterable[tuple[str, str, str]],
    tokenizer_path: Path,
    recipe: TokenShardsRecipe,
    workers: int,
    progress: Progress,
    documents: int | None = None,
) -> pa.Table:
    """Append the tokens of each (crawl, doc_id, text); their rows of the index, in that order."""
    tokenizer = load_tokenizer(tokenizer_path)
    rows: dict[str, list[Any]] = {name: [] for name in TOKEN_INDEX.names}
    with encoder_threads(workers):
        for batch in _batches(texts, recipe.batch_characters):
            arrays = encode_documents(tokenizer, [text for _, _, text in batch], writer.dtype)
            for (crawl, doc_id, text), tokens in zip(batch, arrays, strict=True):
                content = tokens.tobytes()
                shard, offset = writer.append(content, len(tokens))
                row = (doc_id, shard, offset, len(tokens), sha256(content), sha256(text.encode()), crawl)
                for column, value in zip(rows.values(), row, strict=True):
                    column.append(value)
            progress.update(len(rows["doc_id"]), documents, "documents encoded")
    return pa.table(rows, schema=TOKEN_INDEX)


def read_tokens(shards: Segment, row: Mapping[str, Any], dtype: np.dtype) -> np.ndarray:
    """One document's tokens, read back from the shard file and proved by their SHA-256."""
    path = shards.path(row["shard"])
    tokens = np.fromfile(path, dtype=dtype, count=row["tokens"], offset=row["offset"] * dtype.itemsize)
    if sha256(tokens.tobytes()) != row["token_sha256"]:
        raise BuildError(
            f"{row['shard']} at {row['offset']} does not hold the {row['tokens']} tokens of {row['doc_id']} that the index "
            "promises: verify the store, then build token_shards without the damaged version"
        )
    return tokens


def decode_some(
    shards: Segment, languages: Mapping[str, str], tokenizer: Tokenizer, documents: int, characters: int
) -> tuple[tuple[Any, ...], ...]:
    """Documents read back from the shards as text: the first of the index, which are a random choice."""
    dtype = token_dtype(tokenizer.get_vocab_size())
    rows = []
    for batch in shards.batches("index"):
        for row in batch.slice(0, documents - len(rows)).to_pylist():
            text = tokenizer.decode(read_tokens(shards, row, dtype).tolist(), skip_special_tokens=False)
            rows.append((row["doc_id"], languages.get(row["doc_id"], ""), row["tokens"], text[:characters], text[-40:]))
        if len(rows) == documents:
            break
    return tuple(rows)


def summary(output: Segment, shards: Mapping[str, Shard], index: pa.Table, dtype: np.dtype) -> dict[str, Any]:
    """The statistics that checks see; tokens in shards are measured on the files, not taken from the index."""
    in_shards, stray = divmod(sum(output.path(name).stat().st_size for name in shards), dtype.itemsize)
    in_index = pc.sum(index["tokens"]).as_py() or 0
    dead = sum(shard.dead for shard in shards.values())
    return {
        "shards": len(shards),
        "bytes_per_token_id": dtype.itemsize,
        "tokens_in_shards": in_shards,
        "tokens_in_index": in_index,
        "dead_tokens": dead,
        "dead_share": dead / in_shards if in_shards else 0.0,
        "tokens_not_in_index": abs(in_shards - in_index - dead) + stray,
        "documents_without_tokens": pc.sum(pc.less(index["tokens"], 1)).as_py() or 0,
        "documents_with_only_the_end_token": pc.sum(pc.equal(index["tokens"], 1)).as_py() or 0,
        "longest_document_tokens": pc.max(index["tokens"]).as_py() or 0,
    }


class ShardWriter:
    """Appends documents to shard files of bounded size, numbered from `first`."""

    def __init__(self, output: Path, dtype: np.dtype, max_tokens: int, first: int = 0) -> None:
        self._output = output
        self.dtype = dtype
        self._max_tokens = max_tokens
        self._number = first
        self._file: BinaryIO | None = None
        self._name = ""
        self.shards: dict[str, Shard] = {}
        """Every shard written."""

    def append(self, content: bytes, tokens: int) -> tuple[str, int]:
        """(shard, offset in tokens) of one document; a document larger than a shard gets its own."""
        file = self._file
        if file is None or (
            self.shards[self._name].tokens and self.shards[self._name].tokens + tokens > self._max_tokens
        ):
            file = self._open_next()
        shard = self.shards[self._name]
        offset = shard.tokens
        file.write(content)
        shard.tokens += tokens
        return self._name, offset

    def _open_next(self) -> BinaryIO:
        self.close()
        self._name = f"shard-{self._number:05d}.bin"
        self._number += 1
        self.shards[self._name] = Shard(0)
        self._file = (self._output / self._name).open("wb")
        return self._file

    def close(self) -> None:
        """Flush the open shard."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _batches(texts: Iterable[tuple[str, str, str]], characters: int) -> Iterator[list[tuple[str, str, str]]]:
    batch: list[tuple[str, str, str]] = []
    size = 0
    for item in texts:
        if batch and size + len(item[2]) > characters:
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += len(item[2])
    if batch:
        yield batch


def sha256(content: bytes) -> str:
    """Hex SHA-256."""
    return hashlib.sha256(content).hexdigest()
