"""The plan of one run: which documents are held out, and how often each of the others is used.

A held-out document is chosen by a hash of its source and URL, not of its content: the next version
of a page stays on the side of the first, so that a continued run cannot train on what an earlier one
was measured on. Growing the corpus adds held-out documents and frees none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, model_validator

from assets.build import BuildError
from assets.hashing import TWO_TO_64, hash64
from assets.mixture.allocation import allocate
from assets.mixture.shape import DECAY, STABLE, RunShape

CORPUS_COLUMNS = ("doc_id", "url", "source", "language", "domain", "quality", "utf8_bytes")
INDEX_COLUMNS = ("doc_id", "tokens")
DEMO_SHARES = {"zh": 0.45, "en": 0.35, "code": 0.2}


class MixtureRecipe(BaseModel):
    """Recipe table [mixture]. A channel is the language of a document; "code" counts as one."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    shares: dict[str, float] = Field(DEMO_SHARES, description="channel -> share of the stable phase's tokens")
    decay_shares: dict[str, float] = Field(
        {}, description="the same for the decay phase; empty = the shares of the stable phase"
    )
    max_uses: int = Field(
        4, ge=1, description="uses of a document in the run; up to 4 are nearly as good as new text (Muennighoff 2023)"
    )
    decay_min_quality: float = Field(
        0.0, ge=0, le=1, description="the decay phase reads only documents of this quality, where there are enough"
    )
    heldout_fraction: float = Field(0.02, ge=0, lt=0.5, description="share of each channel's documents held out")
    min_heldout_documents: int = Field(
        8, ge=1, description="per channel, by which the fraction is raised in a small corpus"
    )
    max_heldout_fraction: float = Field(
        0.2, gt=0, lt=1, description="share of a channel's documents that raising may hold out at most"
    )
    min_heldout_tokens: int = Field(64, ge=1, description="a shorter document measures its beginning only")
    seed: int = Field(1, ge=0, description="another seed holds out other documents")

    @model_validator(mode="after")
    def _shares_add_up(self) -> Self:
        for name, shares in (("shares", self.shares), ("decay_shares", self.decay_shares or self.shares)):
            if any(share < 0 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-6:
                raise ValueError(f"{name} must be positive and add up to 1, found {shares} = {sum(shares.values()):g}")
        return self

    def phase_shares(self) -> dict[str, dict[str, float]]:
        """Phase -> channel -> share."""
        return {STABLE: self.shares, DECAY: self.decay_shares or self.shares}

    def channels(self) -> list[str]:
        """Channels that any phase reads."""
        return sorted({c for shares in self.phase_shares().values() for c, share in shares.items() if share > 0})


@dataclass
class Documents:
    """The corpus, sorted by doc_id, as aligned columns."""

    doc_ids: pa.Array
    pages: list[str]
    """Source and URL: the identity of the page over all its versions."""
    channels: np.ndarray
    domains: pa.Array
    quality: np.ndarray
    utf8_bytes: np.ndarray
    tokens: np.ndarray


@dataclass
class Mixture:
    """Split and uses of each document, and the targets they come from."""

    documents: Documents
    heldout: np.ndarray
    uses: dict[str, np.ndarray]
    """Phase -> planned uses of each document."""
    targets: dict[str, dict[str, int]]
    """Phase -> channel -> tokens, whole sequences."""
    available: dict[str, dict[str, int]] = field(default_factory=dict)
    """Phase -> channel -> tokens of the documents that the phase may read."""
    quality_relaxed: list[str] = field(default_factory=list)
    """Channels whose decay phase reads documents of any quality, because there are too few good ones."""


def join(corpus: pa.Table, index: pa.Table) -> Documents:
    """Corpus documents with their token counts. Raises BuildError when the two are not of one version."""
    corpus = corpus.select(list(CORPUS_COLUMNS)).sort_by("doc_id").combine_chunks()
    index = index.select(list(INDEX_COLUMNS)).sort_by("doc_id").combine_chunks()
    if not corpus["doc_id"].equals(index["doc_id"]):
        strange = set(corpus["doc_id"].to_pylist()) ^ set(index["doc_id"].to_pylist())
        raise BuildError(
            f"corpus ({corpus.num_rows} documents) and token_shards ({index.num_rows}) differ in {len(strange)} documents, "
            f"first {min(strange, default='none, but doc_id repeats')}; materialise token_shards for this corpus first"
        )
    return Documents(
        doc_ids=_one_chunk(corpus["doc_id"]),
        pages=[f"{s}\0{u}" for s, u in zip(corpus["source"].to_pylist(), corpus["url"].to_pylist(), strict=True)],
        channels=np.array(pc.fill_null(corpus["language"], "unknown").to_pylist(), dtype=object),
        domains=_one_chunk(corpus["domain"]),
        quality=pc.fill_null(corpus["quality"], 0.0).to_numpy(),
        utf8_bytes=corpus["utf8_bytes"].to_numpy(),
        tokens=index["tokens"].to_numpy(),
    )


def plan(documents: Documents, recipe: MixtureRecipe, shape: RunShape) -> Mixture:
    """Hold out, allot tokens to channels and phases, and spread them evenly over each channel's documents."""
    heldout = choose_heldout(documents, recipe)
    members = {c: np.flatnonzero((documents.channels == c) & ~heldout) for c in recipe.channels()}
    available = {channel: int(documents.tokens[rows].sum()) for channel, rows in members.items()}
    phase_sequences = {phase: sequences for phase, _, sequences in shape.phases()}
    sequences = allocate(recipe.phase_shares(), phase_sequences, available, recipe.max_uses, shape.window)
    targets = {phase: {c: n * shape.window for c, n in counts.items()} for phase, counts in sequences.items()}

    mixture = Mixture(
        documents, heldout, {phase: np.zeros(len(documents.tokens)) for phase in (STABLE, DECAY)}, targets
    )
    for phase, by_channel in targets.items():
        mixture.available[phase] = {}
        for channel, target in by_channel.items():
            rows = members[channel]
            if phase == DECAY and recipe.decay_min_quality and len(rows):
                stable_uses = targets.get(STABLE, {}).get(channel, 0) / available[channel]
                good = rows[documents.quality[rows] >= recipe.decay_min_quality]
                rows = _good_enough(mixture, channel, rows, good, stable_uses, target, recipe.max_uses)
            readable = int(documents.tokens[rows].sum())
            mixture.available[phase][channel] = readable
            if target:
                mixture.uses[phase][rows] = target / readable
    return mixture


def choose_heldout(documents: Documents, recipe: MixtureRecipe) -> np.ndarray:
    """Mask of the held-out documents: per channel, the pages of smallest hash."""
    draw = hash64(f"heldout/{recipe.seed}", documents.pages)
    heldout = np.zeros(len(documents.tokens), dtype=bool)
    for channel in recipe.channels():
        rows = np.flatnonzero((documents.channels == channel) & (documents.tokens >= recipe.min_heldout_tokens))
        rows = rows[np.argsort(draw[rows], kind="stable")]
        by_fraction = int((draw[rows] < recipe.heldout_fraction * TWO_TO_64).sum())
        most = int(recipe.max_heldout_fraction * len(rows))
        heldout[rows[: max(by_fraction, min(recipe.min_heldout_documents, most))]] = True
    return heldout


def _good_enough(
    mixture: Mixture,
    channel: str,
    rows: np.ndarray,
    good: np.ndarray,
    stable_uses: float,
    target: int,
    max_uses: int,
) -> np.ndarray:
    """The good documents, unless reading only them would use some more than max_uses times."""
    tokens = int(mixture.documents.tokens[good].sum())
    # The stable phase ends inside a round: a good document may be one whole use ahead of the average.
    if tokens and int(stable_uses) + 1 + target / tokens <= max_uses:
        return good
    mixture.quality_relaxed.append(channel)
    return rows


def documents_table(mixture: Mixture) -> pa.Table:
    """Rows of mixture_manifest/<run>/documents.parquet."""
    documents = mixture.documents
    channels = documents.channels.tolist()
    return pa.table(
        {
            "doc_id": documents.doc_ids,
            "channel": channels,
            "language": channels,
            "domain": documents.domains,
            "split": np.where(mixture.heldout, "heldout", "train").tolist(),
            "tokens": documents.tokens,
            "utf8_bytes": documents.utf8_bytes,
            "stable_uses": mixture.uses[STABLE],
            "decay_uses": mixture.uses[DECAY],
        }
    )


def plan_rows(mixture: Mixture, recipe: MixtureRecipe, shape: RunShape) -> list[dict[str, Any]]:
    """Rows of mixture_manifest/<run>/plan.parquet."""
    rows: list[dict[str, Any]] = []
    for phase, first, sequences in shape.phases():
        shares: Mapping[str, float] = recipe.phase_shares()[phase]
        for channel, tokens in sorted(mixture.targets[phase].items()):
            available = mixture.available[phase][channel]
            rows.append(
                {
                    "phase": phase,
                    "channel": channel,
                    "first_sequence": first,
                    "sequences": sequences,
                    "wanted_share": shares.get(channel, 0.0),
                    "share": tokens / (sequences * shape.window),
                    "tokens": tokens,
                    "available_tokens": available,
                    "uses": tokens / available if available else 0.0,
                }
            )
    return rows


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


def uses_by_channel(mixture: Mixture) -> dict[str, list[float]]:
    """Channel -> planned uses of each document that is not held out, over both phases."""
    total = mixture.uses[STABLE] + mixture.uses[DECAY]
    channels = mixture.documents.channels
    return {c: total[(channels == c) & ~mixture.heldout].tolist() for c in sorted(set(channels.tolist()))}
