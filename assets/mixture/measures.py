"""What the written plan and order really contain, counted on the rows themselves."""

from __future__ import annotations

from typing import Any

import numpy as np

from assets.mixture.mixture import Mixture, MixtureRecipe
from assets.mixture.order import Pieces, PlannedDocuments
from assets.mixture.shape import DECAY, STABLE, RunShape

STRETCHES = 20
"""Equal parts of the run over which channel shares are compared with the plan."""


def mixture_stats(mixture: Mixture, recipe: MixtureRecipe, rows: list[dict[str, Any]], window: int) -> dict[str, Any]:
    """The statistics that checks see of a mixture."""
    documents = mixture.documents
    channels = recipe.channels()
    heldout = {c: int(((documents.channels == c) & mixture.heldout).sum()) for c in channels}
    total_uses = mixture.uses[STABLE] + mixture.uses[DECAY]
    in_channels = np.isin(documents.channels, channels)
    train_tokens = int(documents.tokens[in_channels & ~mixture.heldout].sum())
    heldout_tokens = int(documents.tokens[mixture.heldout].sum())
    wanted = {f"{r['phase']}/{r['channel']}": round(r["wanted_share"], 6) for r in rows}
    given = {f"{r['phase']}/{r['channel']}": round(r["share"], 6) for r in rows}
    return {
        "heldout_documents": heldout,
        "fewest_heldout_documents": min(heldout.values()),
        "heldout_tokens": heldout_tokens,
        "heldout_token_share": round(heldout_tokens / max(train_tokens + heldout_tokens, 1), 5),
        "heldout_with_uses": int((total_uses[mixture.heldout] > 0).sum()),
        "wanted_shares": wanted,
        "shares": given,
        "largest_share_shortfall": round(max((wanted[k] - given[k] for k in wanted), default=0.0), 6),
        "channels_at_max_uses": [c for c in channels if _at_limit(mixture, c, recipe.max_uses, window)],
        "channels_of_relaxed_quality": mixture.quality_relaxed,
        "largest_uses": round(float(total_uses.max(initial=0.0)), 6),
        "documents_without_channel": int((~in_channels).sum()),
        "train_tokens_available": train_tokens,
        "tokens_planned": sum(r["tokens"] for r in rows),
    }


def _at_limit(mixture: Mixture, channel: str, max_uses: int, window: int) -> bool:
    """Whether the channel could not give one more whole sequence."""
    rows = (mixture.documents.channels == channel) & ~mixture.heldout
    given = sum(by_channel.get(channel, 0) for by_channel in mixture.targets.values())
    return given + window > max_uses * int(mixture.documents.tokens[rows].sum())


class OrderMeasure:
    """Counts over the pieces as they are written, group by group."""

    def __init__(self, documents: PlannedDocuments, shape: RunShape) -> None:
        self._documents = documents
        self._shape = shape
        self._names = sorted(set(documents.channels.tolist()))
        self._channel = np.searchsorted(self._names, documents.channels.astype(str))
        self.tokens = {phase: np.zeros(len(self._names), np.int64) for phase, _, _ in shape.phases()}
        self.stretches = np.zeros((STRETCHES, len(self._names)), np.int64)
        self.repeats = np.zeros(len(documents.tokens), np.int64)
        self.pieces = 0
        self.sequences = 0
        self.sequences_not_full = 0
        self.heldout_pieces = 0
        self.pieces_beyond_document = 0

    def add(self, pieces: Pieces) -> None:
        """Count one group; groups hold whole sequences."""
        row, length = pieces.row, pieces.length
        channel = self._channel[row]
        self.tokens[pieces.phase] += np.bincount(channel, length, len(self._names)).astype(np.int64)
        stretch = pieces.sequence * STRETCHES // self._shape.sequences
        np.add.at(self.stretches, (stretch, channel), length)
        np.maximum.at(self.repeats, row, pieces.repeat.astype(np.int64) + 1)
        first = np.flatnonzero(np.diff(pieces.sequence, prepend=-1))
        self.pieces += len(row)
        self.sequences += len(first)
        self.sequences_not_full += int((np.add.reduceat(length, first) != self._shape.window).sum())
        self.heldout_pieces += int(self._documents.heldout[row].sum())
        beyond = (pieces.start < 0) | (length < 1) | (pieces.start + length > self._documents.tokens[row])
        self.pieces_beyond_document += int(beyond.sum())

    def shares(self) -> dict[str, float]:
        """phase/channel -> share of the phase's tokens, channels without tokens left out."""
        return {
            f"{phase}/{name}": int(tokens) / int(counts.sum())
            for phase, counts in self.tokens.items()
            for name, tokens in zip(self._names, counts, strict=True)
            if tokens
        }

    def stretch_shares(self) -> dict[str, list[float]]:
        """Channel -> its share in each stretch of the run."""
        totals = np.maximum(self.stretches.sum(axis=1, keepdims=True), 1)
        shares = self.stretches / totals
        return {name: shares[:, i].tolist() for i, name in enumerate(self._names) if self.stretches[:, i].any()}

    def stats(self, planned: dict[str, float]) -> dict[str, Any]:
        """The statistics that checks see; planned: phase/channel -> share."""
        shares = self.shares()
        off = {key: abs(shares.get(key, 0.0) - planned.get(key, 0.0)) for key in {*shares, *planned}}
        trained = self.repeats[~self._documents.heldout]
        reuse = np.bincount(trained, minlength=1)
        return {
            "sequences": self.sequences,
            "sequences_wanted": self._shape.sequences,
            "sequences_missing": self._shape.sequences - self.sequences,
            "sequences_not_full": self.sequences_not_full,
            "pieces": self.pieces,
            "pieces_per_sequence": round(self.pieces / max(self.sequences, 1), 2),
            "heldout_pieces": self.heldout_pieces,
            "pieces_beyond_document": self.pieces_beyond_document,
            "shares": {key: round(share, 6) for key, share in sorted(shares.items())},
            "largest_share_deviation": round(max(off.values(), default=0.0), 6),
            "largest_stretch_deviation": round(self._stretch_deviation(planned), 4),
            "most_uses": int(self.repeats.max(initial=0)),
            "documents_by_uses": {str(uses): int(count) for uses, count in enumerate(reuse) if count},
        }

    def _stretch_deviation(self, planned: dict[str, float]) -> float:
        """Largest distance from the plan of any channel in any stretch that lies within one phase."""
        edges = np.arange(STRETCHES + 1) * self._shape.sequences / STRETCHES
        worst = 0.0
        for phase, first, sequences in self._shape.phases():
            inside = (edges[:-1] >= first) & (edges[1:] <= first + sequences)
            for name, shares in self.stretch_shares().items():
                distance = np.abs(np.array(shares)[inside] - planned.get(f"{phase}/{name}", 0.0))
                worst = max(worst, float(distance.max(initial=0.0)))
        return worst
