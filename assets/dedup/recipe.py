"""The `[dedup]` recipe table."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class DedupRecipe(BaseModel):
    """`[dedup]`: which pairs are looked at, and from where on two texts are the same."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bands: int = Field(default=18, ge=1, le=64)
    """At most 64: the bands that propose a pair are one bit each in the state."""
    rows: int = Field(default=6, ge=1)
    """Slots per band. 18 x 6 puts the steep part of the S-curve at Jaccard 0.62, safely under the threshold."""
    threshold: float = Field(default=0.8, gt=0, le=1)
    """True Jaccard of the shingle sets; 0.8 is the value of FineWeb, RefinedWeb and most others."""
    minimum_agreement: float = Field(default=0.68, ge=0, le=1)
    """Share of equal MinHash slots under which a pair is not proven: three standard errors of 108 slots
    under the threshold, so it costs 1 in 700 of the pairs exactly at the threshold and spares hot buckets."""
