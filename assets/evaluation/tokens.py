"""Reading documents' tokens out of the token shards, each proved by its SHA-256."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from assets.build import BuildError, Segment
from assets.key_set import KeySet


@dataclass(frozen=True)
class _Place:
    shard: str
    offset: int
    tokens: int
    token_sha256: str


class TokenReader:
    """Tokens by doc_id, for a known set of documents: the index in memory is bounded by that set."""

    def __init__(self, shards: Segment, doc_ids: Collection[str], dtype: np.dtype) -> None:
        wanted = sorted(set(doc_ids))
        wanted_ids = KeySet(pa.array(wanted, pa.string()))
        self._shards = shards
        self._places: dict[str, _Place] = {}
        for batch in shards.batches("index"):
            for row in batch.filter(wanted_ids.holds(batch.column("doc_id"))).to_pylist():
                self._places[row["doc_id"]] = _Place(row["shard"], row["offset"], row["tokens"], row["token_sha256"])
        lost = [doc_id for doc_id in wanted if doc_id not in self._places]
        if lost:
            raise BuildError(
                f"token_shards has no tokens for {len(lost)} of {len(wanted)} planned documents, first {lost[0]}: "
                "the run must read the token_shards version that its mixture_manifest pinned"
            )
        self._dtype = dtype
        self._memory: dict[str, np.ndarray] = {}
        self._proven: set[str] = set()

    def tokens(self, doc_id: str) -> np.ndarray:
        """All tokens of one document, the closing end-of-document token included."""
        place = self._places[doc_id]
        found = self._map(place.shard)[place.offset : place.offset + place.tokens]
        if doc_id not in self._proven:
            if hashlib.sha256(found.tobytes()).hexdigest() != place.token_sha256:
                raise BuildError(
                    f"token_shards: the tokens of document {doc_id} at {place.shard} offset {place.offset} do not have "
                    f"SHA-256 {place.token_sha256}: shard, index and tokenizer are not of one build, or it is damaged"
                )
            self._proven.add(doc_id)
        return found

    def _map(self, shard: str) -> np.ndarray:
        if shard not in self._memory:
            path = self._shards.path(_file_name(shard, self._shards))
            length = path.stat().st_size // self._dtype.itemsize
            self._memory[shard] = np.memmap(path, dtype=self._dtype, mode="r", shape=(length,))
        return self._memory[shard]


def _file_name(shard: str, segment: Segment) -> str:
    return shard if shard in segment.files or shard.endswith(".bin") else f"{shard}.bin"


def count_tokens(reader: TokenReader, order: Segment, vocabulary: int) -> np.ndarray:
    """How often each token id stands in the pieces of an order manifest; pieces used twice count twice."""
    counts = np.zeros(vocabulary, dtype=np.int64)
    for batch in order.batches("order", ["doc_id", "start", "length"]):
        columns = (batch.column(name).to_pylist() for name in ("doc_id", "start", "length"))
        pieces = [reader.tokens(doc_id)[start : start + length] for doc_id, start, length in zip(*columns, strict=True)]
        found = np.bincount(np.concatenate(pieces)) if pieces else counts
        if len(found) > vocabulary:
            raise BuildError(
                f"{order.asset}/{order.partition} plans token id {len(found) - 1}, but the model's vocabulary is "
                f"{vocabulary}: tokenizer and model do not belong together"
            )
        counts[: len(found)] += found
    return counts


def planned_documents(order: Segment) -> list[str]:
    """Distinct doc_ids of an order manifest, sorted."""
    found: set[str] = set()
    for batch in order.batches("order", ["doc_id"]):
        found.update(pc.unique(batch.column("doc_id")).to_pylist())
    return sorted(found)


def sequence_length(order: Segment) -> int:
    """Tokens that training predicts per sequence."""
    return int(json.loads(order.path("fingerprint.json").read_text(encoding="utf-8"))["sequence_length"])


def heldout_rows(mixture: Segment) -> list[dict[str, Any]]:
    """The held-out documents of a mixture, in its order; only they come into memory."""
    columns = ["doc_id", "language", "domain", "split", "tokens", "utf8_bytes"]
    return [
        row
        for batch in mixture.batches("documents", columns)
        for row in batch.filter(pc.equal(batch.column("split"), "heldout")).to_pylist()
    ]
