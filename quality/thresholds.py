"""Every limit of every check, with its reason and source. Change a number here and nowhere else.

These only gate: they are recorded with each publication but are not part of a data set's fingerprint.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limit:
    """`minimum <= statistic <= maximum`, checked by Great Expectations over the stage's statistics.

    `statistic` is looked up with `Evidence.statistic`.
    """

    asset: str
    check: str  # a true sentence in snake_case
    statistic: str
    minimum: float | None
    maximum: float | None
    blocking: bool
    reason: str


SOURCES: tuple[Limit, ...] = ()

DOCUMENTS: tuple[Limit, ...] = ()

DEDUP: tuple[Limit, ...] = ()

TOKENIZER: tuple[Limit, ...] = ()

MIXTURE: tuple[Limit, ...] = ()

TRAINING: tuple[Limit, ...] = ()

EVALUATION: tuple[Limit, ...] = ()

LINEAGE: tuple[Limit, ...] = ()

LIMITS: tuple[Limit, ...] = SOURCES + DOCUMENTS + DEDUP + TOKENIZER + MIXTURE + TRAINING + EVALUATION + LINEAGE
