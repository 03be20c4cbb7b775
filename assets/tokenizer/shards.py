"""Tokens of each corpus document, end to end in binary shards, and the index that finds any document.

    shard-00000.bin   doc a | <|endoftext|> | doc b | <|endoftext|> | ...   little-endian uint16 or uint32
    index.parquet     doc_id -> shard, offset, tokens, SHA-256 of its tokens
    encoding.json     type and end id: what a reader needs beside the index

The content of this asset is each document's tokens; which shard holds them is physical. So an update
keeps every accepted shard whose documents are all still there with unchanged text, copies the tokens
of other unchanged documents, and encodes only what is new. A shard never holds tokens of a document
that left the corpus: a removed text is gone from the data with the next build.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from assets.build import BuildError, Progress, Segment, SilentProgress
from assets.tokenizer.encoding import encode_documents, encoder_threads, end_of_text_id, load_tokenizer, token_dtype
from assets.tokenizer.texts import group_by_crawl, read_texts

if TYPE_CHECKING:
    from tokenizers import Tokenizer

ENCODING_RULE = 1
"""Raise it when the same text and tokenizer should give other tokens: accepted shards are then not reused."""

SHARD_FILES = "shard-*.bin"
ENCODING_FILE = "encoding.json"
TEXT_VERSIONS_FILE = "text_versions.json"


class TokenShardsRecipe(BaseModel):
    """Recipe table [token_shards]. Neither value changes any document's tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    max_tokens_per_shard: int = Field(
        100_000_000, gt=0, description="200 MB of uint16: a shard is what an update may have to rewrite"
    )
    batch_characters: int = Field(4_000_000, gt=0, description="characters encoded at a time: bounds memory")


@dataclass(frozen=True)
class Wanted:
    """The corpus documents, sorted by doc_id."""

    doc_ids: list[str]
    crawls: list[str]
    channels: list[str]


@dataclass
class Entry:
    """One row of the index."""

    shard: str
    offset: int
    tokens: int
    token_sha256: str
    text_sha256: str
    crawl: str


@dataclass
class ShardsResult:
    """Index rows by doc_id, and how each document's tokens came about."""

    entries: dict[str, Entry] = field(default_factory=dict)
    encoded: int = 0
    copied: int = 0
    kept_in_place: int = 0
    encoded_characters: int = 0


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


def build_shards(
    wanted: Wanted,
    segments: Sequence[Segment],
    tokenizer_path: Path,
    previous: Segment | None,
    output: Path,
    recipe: TokenShardsRecipe,
    workers: int = 1,
    progress: Progress | None = None,
) -> ShardsResult:
    """Write the shards and encoding.json into `output`; the caller writes the index from the result."""
    progress = progress or SilentProgress()
    tokenizer = load_tokenizer(tokenizer_path)
    encoding = encoding_of(tokenizer, tokenizer_path)
    dtype = token_dtype(encoding["vocabulary_size"])
    (output / ENCODING_FILE).write_text(json.dumps(encoding, indent=2, sort_keys=True) + "\n")
    versions = {segment.partition: segment.version for segment in segments}
    (output / TEXT_VERSIONS_FILE).write_text(json.dumps(versions, indent=2, sort_keys=True) + "\n")

    accepted = _Accepted.read(previous, encoding)
    result = ShardsResult()
    unread = _known_without_reading(wanted, accepted, versions)
    unchanged = {doc_id: accepted.entries[doc_id] for doc_id in unread}
    fresh = group_by_crawl(*_without(wanted, unread))
    to_encode: dict[str, set[str]] = {}
    for crawl, doc_ids in fresh.items():
        suspects = {doc_id for doc_id in doc_ids if doc_id in accepted.entries}
        for _, doc_id, text in read_texts(segments, {crawl: suspects}) if suspects else ():
            entry = accepted.entries[doc_id]
            if entry.text_sha256 == _sha256(text.encode()):
                unchanged[doc_id] = Entry(**{**vars(entry), "crawl": crawl})
        to_encode[crawl] = doc_ids - unchanged.keys()

    writer = _ShardWriter(output, dtype, recipe.max_tokens_per_shard)
    _carry_over(unchanged, accepted, dtype, writer, result)
    texts = read_texts(segments, {crawl: doc_ids for crawl, doc_ids in to_encode.items() if doc_ids})
    with encoder_threads(workers):
        for batch in _batches(texts, recipe.batch_characters):
            arrays = encode_documents(tokenizer, [text for _, _, text in batch], dtype)
            for (crawl, doc_id, text), tokens in zip(batch, arrays, strict=True):
                shard, offset = writer.append(tokens.tobytes(), len(tokens))
                sha, text_sha = _sha256(tokens.tobytes()), _sha256(text.encode())
                result.entries[doc_id] = Entry(shard, offset, len(tokens), sha, text_sha, crawl)
                result.encoded += 1
                result.encoded_characters += len(text)
            progress.update(len(result.entries), len(wanted.doc_ids), "documents")
    writer.close()
    return result


def index_table(result: ShardsResult) -> pa.Table:
    """The index, sorted by doc_id."""
    doc_ids = sorted(result.entries)
    entries = [result.entries[doc_id] for doc_id in doc_ids]
    columns = ("shard", "offset", "tokens", "token_sha256", "text_sha256", "crawl")
    return pa.table({"doc_id": doc_ids} | {name: [getattr(e, name) for e in entries] for name in columns})


def read_tokens(output: Path, entry: Entry, dtype: np.dtype) -> np.ndarray:
    """One document's tokens, read back from the shard file and proved by their SHA-256."""
    shard = output / entry.shard
    tokens = np.fromfile(shard, dtype=dtype, count=entry.tokens, offset=entry.offset * dtype.itemsize)
    if _sha256(tokens.tobytes()) != entry.token_sha256:
        raise BuildError(f"{entry.shard} at {entry.offset}: not the {entry.tokens} tokens that the index promises")
    return tokens


def decode_some(
    output: Path, result: ShardsResult, wanted: Wanted, tokenizer: Tokenizer, documents: int, characters: int
) -> tuple[tuple[Any, ...], ...]:
    """Documents read back from the written shards as text: the smallest doc_ids, which are a random choice."""
    dtype = token_dtype(tokenizer.get_vocab_size())
    rows = []
    for doc_id, channel in list(zip(wanted.doc_ids, wanted.channels, strict=True))[:documents]:
        entry = result.entries[doc_id]
        text = tokenizer.decode(read_tokens(output, entry, dtype).tolist(), skip_special_tokens=False)
        rows.append((doc_id, channel, entry.tokens, text[:characters], text[-40:]))
    return tuple(rows)


def lengths_by_channel(wanted: Wanted, result: ShardsResult) -> dict[str, list[int]]:
    """Channel -> tokens of each of its documents."""
    lengths: dict[str, list[int]] = defaultdict(list)
    for doc_id, channel in zip(wanted.doc_ids, wanted.channels, strict=True):
        lengths[channel].append(result.entries[doc_id].tokens)
    return dict(sorted(lengths.items()))


def summary(output: Path, result: ShardsResult, dtype: np.dtype) -> dict[str, Any]:
    """The statistics that checks see; tokens in shards are measured on the files, not taken from the index."""
    files = sorted(output.glob(SHARD_FILES))
    in_shards, stray = divmod(sum(path.stat().st_size for path in files), dtype.itemsize)
    in_index = sum(entry.tokens for entry in result.entries.values())
    return {
        "shards": len(files),
        "documents_encoded": result.encoded,
        "documents_copied": result.copied,
        "documents_kept_in_place": result.kept_in_place,
        "bytes_per_token_id": dtype.itemsize,
        "tokens_in_shards": in_shards,
        "tokens_in_index": in_index,
        "tokens_not_in_index": abs(in_shards - in_index) + stray,
        "documents_without_tokens": sum(entry.tokens < 1 for entry in result.entries.values()),
        "documents_with_only_the_end_token": sum(entry.tokens == 1 for entry in result.entries.values()),
        "longest_document_tokens": max((entry.tokens for entry in result.entries.values()), default=0),
    }


@dataclass
class _Accepted:
    """What the accepted version offers for reuse; empty when it was encoded otherwise."""

    entries: dict[str, Entry] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    text_versions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, previous: Segment | None, encoding: dict[str, Any]) -> _Accepted:
        if previous is None or not {ENCODING_FILE, TEXT_VERSIONS_FILE} <= set(previous.files):
            return cls()
        if json.loads(previous.path(ENCODING_FILE).read_text()) != encoding:
            return cls()
        entries = {row.pop("doc_id"): Entry(**row) for batch in previous.batches("index") for row in batch.to_pylist()}
        files = {name: path for name, path in previous.files.items() if name.endswith(".bin")}
        return cls(entries, files, json.loads(previous.path(TEXT_VERSIONS_FILE).read_text()))


def _known_without_reading(wanted: Wanted, accepted: _Accepted, versions: dict[str | None, str]) -> set[str]:
    """Documents whose extraction segment is the very one their accepted tokens came from."""
    same = {crawl for crawl, version in accepted.text_versions.items() if versions.get(crawl) == version}
    return {
        doc_id
        for doc_id, crawl in zip(wanted.doc_ids, wanted.crawls, strict=True)
        if crawl in same and doc_id in accepted.entries and accepted.entries[doc_id].crawl == crawl
    }


def _without(wanted: Wanted, known: set[str]) -> tuple[list[str], list[str]]:
    rows = [pair for pair in zip(wanted.doc_ids, wanted.crawls, strict=True) if pair[0] not in known]
    return [doc_id for doc_id, _ in rows], [crawl for _, crawl in rows]


def _carry_over(
    unchanged: dict[str, Entry], accepted: _Accepted, dtype: np.dtype, writer: _ShardWriter, result: ShardsResult
) -> None:
    """Link whole shards that are all wanted and at least half full; copy single documents' tokens from the others.

    Half full: else the small shard of every night's delta would stay for ever.
    """
    held: dict[str, int] = defaultdict(int)
    for entry in accepted.entries.values():
        held[entry.shard] += entry.tokens
    by_shard: dict[str, list[tuple[str, Entry]]] = defaultdict(list)
    for doc_id, entry in sorted(unchanged.items(), key=lambda item: (item[1].shard, item[1].offset)):
        by_shard[entry.shard].append((doc_id, entry))
    loose = []
    for shard, documents in by_shard.items():
        alive = sum(entry.tokens for _, entry in documents)
        if alive == held[shard] and 2 * alive >= writer.max_tokens:
            writer.adopt(shard, accepted.files[shard])
            result.entries.update(documents)
            result.kept_in_place += len(documents)
        else:
            loose.append((shard, documents))
    for shard, documents in loose:
        tokens = np.memmap(accepted.files[shard], dtype=dtype, mode="r")
        for doc_id, entry in documents:
            content = tokens[entry.offset : entry.offset + entry.tokens].tobytes()
            if _sha256(content) != entry.token_sha256:
                raise BuildError(
                    f"accepted token_shards: {shard} at {entry.offset} does not hold the tokens of {doc_id} that its "
                    "index promises: verify the store, then build token_shards without the damaged version"
                )
            name, offset = writer.append(content, entry.tokens)
            result.entries[doc_id] = Entry(**{**vars(entry), "shard": name, "offset": offset})
            result.copied += 1


class _ShardWriter:
    """Appends documents to shard files of bounded size; names not taken by adopted shards, in order."""

    def __init__(self, output: Path, dtype: np.dtype, max_tokens: int) -> None:
        self._output = output
        self._width = dtype.itemsize
        self.max_tokens = max_tokens
        self._taken: set[str] = set()
        self._number = 0
        self._file: BinaryIO | None = None
        self._name = ""
        self._tokens = 0

    def adopt(self, name: str, path: Path) -> None:
        """Take over an accepted shard as it is: a hard link where the file system allows it."""
        self._taken.add(name)
        try:
            os.link(path.resolve(), self._output / name)
        except OSError:
            shutil.copyfile(path, self._output / name)

    def append(self, content: bytes, tokens: int) -> tuple[str, int]:
        """(shard, offset in tokens) of one document; a document larger than a shard gets its own."""
        file = self._file
        if file is None or (self._tokens and self._tokens + tokens > self.max_tokens):
            file = self._open_next()
        offset = self._tokens
        file.write(content)
        self._tokens += tokens
        return self._name, offset

    def _open_next(self) -> BinaryIO:
        self.close()
        while (name := f"shard-{self._number:05d}.bin") in self._taken:
            self._number += 1
        self._taken.add(name)
        self._name, self._tokens = name, 0
        self._file = (self._output / name).open("wb")
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


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
