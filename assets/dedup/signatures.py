"""Signatures: what dedup remembers of a document, computed once when the page arrives.

Per document: the SHA-256 of its normal form (exact duplicates share it), its sorted distinct shingle
hashes (true Jaccard is computed on them), their digest (documents with one digest are one node of
the duplicate graph) and a MinHash of them. Everything is a pure function of the text, so that a
document signed today can be compared with one signed a year ago.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from assets.dedup.shingling import Hashes, normalise, shingles
from assets.schemas import SIGNATURES

BATCH = 1024  # documents whose MinHash is computed in one call


class SignatureRecipe(BaseModel):
    """`[signatures]`: a change here recomputes every signature."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    word_ngram: int = Field(5, ge=1)
    """Words per shingle where words are written apart; 5 as in FineWeb and most published recipes."""
    character_ngram: int = Field(5, ge=1)
    """Characters per shingle in Chinese and its like; 5 characters are about 3 words."""
    permutations: int = Field(108, ge=1)
    """MinHash slots; 108 = 18 bands of 6 rows, which meets 99.6% of the pairs of Jaccard 0.8 and 6% of those of 0.4."""
    seed: int = Field(42, ge=0)
    """Seed of the MinHash; signatures of different seeds cannot be compared."""


@dataclass
class SignatureStats:
    """Counts for the report."""

    documents: int = 0
    short_documents: int = 0
    """Documents of a single shingle: too short for a near duplicate, they match only themselves."""
    shingles: int = 0
    nodes: set[str] = field(default_factory=set)


def sign(
    documents: Iterable[tuple[str, str]], recipe: SignatureRecipe, stats: SignatureStats | None = None
) -> pa.Table:
    """Signatures of `(doc_id, text)`, sorted by doc_id."""
    stats = stats if stats is not None else SignatureStats()
    parts: list[pa.Table] = []
    batch: list[tuple[str, str]] = []
    for document in documents:
        batch.append(document)
        if len(batch) == BATCH:
            parts.append(_sign_batch(batch, recipe, stats))
            batch = []
    if batch:
        parts.append(_sign_batch(batch, recipe, stats))
    return pa.concat_tables(parts).sort_by("doc_id") if parts else SIGNATURES.empty_table()


def _sign_batch(batch: list[tuple[str, str]], recipe: SignatureRecipe, stats: SignatureStats) -> pa.Table:
    normals = [normalise(text) for _, text in batch]
    sets = [shingles(normal, recipe.word_ngram, recipe.character_ngram) for normal in normals]
    signatures = minhash(sets, recipe.permutations, recipe.seed)
    digests = [hashlib.sha256(one.tobytes()).hexdigest() for one in sets]
    counts = np.array([len(one) for one in sets], dtype=np.int32)
    stats.documents += len(batch)
    stats.short_documents += int(np.count_nonzero(counts == 1))
    stats.shingles += int(counts.sum())
    stats.nodes.update(digests)
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
    from rensa import RMinHash

    ends = np.cumsum([len(one) for one in sets], dtype=np.uint64)
    offsets = np.concatenate([np.zeros(1, dtype=np.uint64), ends])
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(
        np.concatenate(sets), offsets, num_perm=permutations, seed=seed
    )
    return np.array(matrix.to_rows(), dtype=np.uint32)
