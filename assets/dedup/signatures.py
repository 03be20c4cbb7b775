"""Signatures: what dedup remembers of a document, computed once when the page arrives.

Per document: the SHA-256 of its normal form (exact duplicates share it), its sorted distinct shingle
hashes (true Jaccard is computed on them), their digest (documents with one digest are one node of
the duplicate graph) and a MinHash of them. Everything is a pure function of the text, so that a
document signed today can be compared with one signed a year ago.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field

from assets.build import Sample
from assets.dedup.shingling import Hashes, normalise, shingles
from assets.schemas import SIGNATURES

BATCH = 1024  # documents whose MinHash is computed in one call
PART = 65536  # documents per file: what is in memory at a time, about 8 bytes per word or Chinese character

SignatureReader = Callable[[Sequence[str]], Iterator[pa.RecordBatch]]
"""Columns -> batches of signature rows; may hold rows of documents that are not live."""


class SignatureRecipe(BaseModel):
    """`[signatures]`: a change here recomputes every signature."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    word_ngram: int = Field(default=5, ge=1)
    """Words per shingle where words are written apart; 5 as in FineWeb and most published recipes."""
    character_ngram: int = Field(default=5, ge=1)
    """Characters per shingle in Chinese and its like; 5 characters are about 3 words."""
    permutations: int = Field(default=108, ge=1)
    """MinHash slots; 108 = 18 bands of 6 rows, which meets 99.6% of the pairs of Jaccard 0.8 and 6% of those of 0.4."""
    seed: int = Field(default=42, ge=0)
    """Seed of the MinHash; signatures of different seeds cannot be compared."""


@dataclass
class SignatureStats:
    """Counts for the report, filled while signing."""

    documents: int = 0
    short_documents: int = 0
    """Documents of a single shingle: too short for a near duplicate, they match only themselves."""
    incomplete: int = 0
    """Signatures without shingles or with the wrong number of slots: none, or the stage has a bug."""
    shingles: int = 0
    nodes: set[bytes] = field(default_factory=set)
    fewest: list[tuple[int, str]] = field(default_factory=list)

    def add(self, table: pa.Table, permutations: int) -> None:
        """Count one part as it will be written."""
        counts = table["shingle_count"].to_numpy()
        slots = pc.list_value_length(table["signature"]).to_numpy()
        lengths = pc.list_value_length(table["shingles"]).to_numpy()
        self.documents += len(table)
        self.short_documents += int(np.count_nonzero(counts == 1))
        self.incomplete += int(np.count_nonzero((slots != permutations) | (lengths != counts) | (lengths < 1)))
        self.shingles += int(counts.sum())
        self.nodes.update(bytes.fromhex(digest)[:16] for digest in table["shingles_sha256"].to_pylist())
        rows = zip(counts.tolist(), table["doc_id"].to_pylist(), strict=True)
        self.fewest = heapq.nsmallest(12, [*self.fewest, *rows])

    def as_json(self) -> dict[str, Any]:
        """For the report."""
        return {
            "short_documents": self.short_documents,
            "short_share": self.short_documents / max(self.documents, 1),
            "incomplete_signatures": self.incomplete,
            "mean_shingles": self.shingles / max(self.documents, 1),
            "distinct_shingle_sets": len(self.nodes),
            "distinct_share": len(self.nodes) / self.documents if self.documents else 1.0,
        }

    def samples(self) -> list[Sample]:
        """The shortest documents: what dedup can say least about."""
        rows = tuple((doc_id, count) for count, doc_id in self.fewest)
        return [Sample("Documents of the fewest shingles", ("doc_id", "shingles"), rows)] if rows else []


def signature_parts(
    documents: Iterable[tuple[str, str]], recipe: SignatureRecipe, stats: SignatureStats | None = None
) -> Iterator[pa.Table]:
    """Signatures of `(doc_id, text)` in their order, in parts of PART documents; one empty part for none."""
    signed = signature_batches(documents, recipe)
    first = True
    while True:
        batches = []
        while sum(map(len, batches)) < PART and (batch := next(signed, None)) is not None:
            batches.append(batch)
        if not batches and not first:
            return
        table = pa.concat_tables(batches) if batches else SIGNATURES.empty_table()
        if stats is not None:
            stats.add(table, recipe.permutations)
        yield table
        first = False


def signature_batches(documents: Iterable[tuple[str, str]], recipe: SignatureRecipe) -> Iterator[pa.Table]:
    """Signatures of `(doc_id, text)` in their order, BATCH documents at a time."""
    documents = iter(documents)
    while batch := list(islice(documents, BATCH)):
        yield _sign_batch(batch, recipe)


def sign(documents: Iterable[tuple[str, str]], recipe: SignatureRecipe) -> pa.Table:
    """Signatures of `(doc_id, text)` as one table, sorted by doc_id."""
    return pa.concat_tables(signature_parts(documents, recipe)).sort_by("doc_id")


def _sign_batch(batch: list[tuple[str, str]], recipe: SignatureRecipe) -> pa.Table:
    normals = [normalise(text) for _, text in batch]
    sets = [shingles(normal, recipe.word_ngram, recipe.character_ngram) for normal in normals]
    signatures = minhash(sets, recipe.permutations, recipe.seed)
    digests = [hashlib.sha256(one.tobytes()).hexdigest() for one in sets]
    counts = np.array([len(one) for one in sets], dtype=np.int32)
    offsets = np.zeros(len(sets) + 1, dtype=np.int32)
    np.cumsum(counts, out=offsets[1:])
    rows = np.arange(0, signatures.size + 1, recipe.permutations, dtype=np.int32)
    return pa.table(
        {
            "doc_id": [doc_id for doc_id, _ in batch],
            "text_sha256": [hashlib.sha256(normal.encode()).hexdigest() for normal in normals],
            "shingles_sha256": digests,
            "shingle_count": counts,
            "shingles": pa.ListArray.from_arrays(offsets, np.concatenate(sets)),
            "signature": pa.ListArray.from_arrays(rows, signatures.ravel()),
        },
        schema=SIGNATURES,
    )


def minhash(sets: list[Hashes], permutations: int, seed: int) -> npt.NDArray[np.uint32]:
    """MinHash of each set, one row per set.

    rensa's full-set R-MinHash: the same for any order of the shingles. Its faster "rho" sketch
    samples by position and would make a signature depend on the order: not used.
    """
    from rensa import RMinHash  # pyright: ignore[reportAttributeAccessIssue]  (compiled, without stubs)

    ends = np.cumsum([len(one) for one in sets], dtype=np.uint64)
    offsets = np.concatenate([np.zeros(1, dtype=np.uint64), ends])
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(
        np.concatenate(sets), offsets, num_perm=permutations, seed=seed
    )
    return np.array(matrix.to_rows(), dtype=np.uint32)
