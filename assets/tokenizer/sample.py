"""Chooses the documents a tokenizer is fitted and audited on: the same bytes of each channel, in hash order.

Channels get equal budgets, not their natural shares: a tokenizer fitted on what the web has most of
spends its vocabulary there. The channel of a document is its language ("code" counts as one).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from assets.build import BuildError
from assets.hashing import hash64

CHOICE_COLUMNS = ("doc_id", "language", "domain", "crawl", "utf8_bytes")


class TokenizerSampleRecipe(BaseModel):
    """Recipe table [tokenizer_sample]."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    channels: tuple[str, ...] = Field(("zh", "en", "code"), min_length=1, description="languages that get a budget")
    max_bytes_per_channel: int = Field(
        4_000_000, gt=0, description="UTF-8 bytes; 8,192 tokens are stable from a few megabytes on"
    )
    max_document_bytes: int = Field(
        400_000, gt=0, description="longer documents are left out: one book must not set the merges"
    )
    audit_fraction: float = Field(
        0.1, gt=0, lt=1, description="share of the documents kept from fitting, to measure compression honestly"
    )
    seed: int = Field(1, ge=0, description="another seed is another sample")


@dataclass(frozen=True)
class Choice:
    """The chosen rows of the corpus, sorted by doc_id, and why the others were not chosen."""

    doc_ids: list[str]
    languages: list[str]
    domains: list[str]
    crawls: list[str]
    splits: list[str]
    dropped: dict[str, int]


def choose(corpus: pa.Table, recipe: TokenizerSampleRecipe) -> Choice:
    """Per channel: documents in hash order until the byte budget is spent, then fit or audit by a second hash."""
    corpus = corpus.select(list(CHOICE_COLUMNS)).sort_by("doc_id")
    doc_ids = corpus.column("doc_id").to_pylist()
    languages = np.array(corpus.column("language").to_pylist(), dtype=object)
    sizes = corpus.column("utf8_bytes").to_numpy()
    order = hash64(f"tokenizer_sample/{recipe.seed}", doc_ids)
    audit_order = hash64(f"tokenizer_audit/{recipe.seed}", doc_ids)

    split = np.full(len(doc_ids), "", dtype=object)
    fits = sizes <= recipe.max_document_bytes
    sampled = np.isin(languages, recipe.channels)
    over_budget = 0
    for channel in recipe.channels:
        rows = np.flatnonzero((languages == channel) & fits)
        rows = rows[np.argsort(order[rows], kind="stable")]
        within = np.cumsum(sizes[rows]) <= recipe.max_bytes_per_channel
        within[:1] = True  # a budget below the first document still gives one
        over_budget += int((~within).sum())
        split[_split(rows[within], audit_order, recipe.audit_fraction, audit=True)] = "audit"
        split[_split(rows[within], audit_order, recipe.audit_fraction, audit=False)] = "fit"
    chosen = np.flatnonzero(split != "")
    if not len(chosen):
        raise BuildError(
            f"no corpus document in channels {list(recipe.channels)} of at most {recipe.max_document_bytes} bytes; the "
            f"corpus has {len(doc_ids)} documents in {sorted(set(languages))}. Change [tokenizer_sample] or add sources"
        )
    reasons = {
        "channel_not_sampled": int((~sampled).sum()),
        "document_too_long": int((sampled & ~fits).sum()),
        "over_budget": over_budget,
    }
    taken = corpus.take(pa.array(chosen))
    return Choice(
        doc_ids=taken.column("doc_id").to_pylist(),
        languages=taken.column("language").to_pylist(),
        domains=taken.column("domain").to_pylist(),
        crawls=taken.column("crawl").to_pylist(),
        splits=split[chosen].tolist(),
        dropped={reason: count for reason, count in reasons.items() if count},
    )


def _split(rows: np.ndarray, audit_order: np.ndarray, fraction: float, *, audit: bool) -> np.ndarray:
    """The rows of one split; with two or more documents both splits have at least one."""
    count = min(max(round(fraction * len(rows)), 1), len(rows) - 1) if len(rows) > 1 else 0
    ranked = rows[np.argsort(audit_order[rows], kind="stable")]
    return ranked[:count] if audit else ranked[count:]
