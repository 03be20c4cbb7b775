"""How many sequences each channel gives to each phase, when no document may be used too often.

    share * sequences of the phase, channel by channel
    a channel that would be read more than max_uses times gives max_uses times what it has,
    in the same proportion in both phases; what it cannot give goes to the others by their shares

Channels give whole sequences: shares then hold in every batch, not only on average.
"""

from __future__ import annotations

from collections.abc import Mapping

from assets.build import BuildError

Targets = dict[str, dict[str, int]]
"""Phase -> channel -> sequences."""


def allocate(
    shares: Mapping[str, Mapping[str, float]],
    phase_sequences: Mapping[str, int],
    available: Mapping[str, int],
    max_uses: int,
    window: int,
) -> Targets:
    """Sequences of `window` tokens that add up to each phase exactly; available: channel -> tokens.

    Raises BuildError when the corpus is too small for the run.
    """
    capacity = {channel: max_uses * tokens // window for channel, tokens in available.items()}
    limited: dict[str, dict[str, float]] = {}
    while True:
        demand = {
            phase: _demand(shares[phase], sequences, {c: wants[phase] for c, wants in limited.items()})
            for phase, sequences in phase_sequences.items()
        }
        totals = {c: sum(wants.get(c, 0.0) for wants in demand.values()) for c in sorted(capacity)}
        over = [c for c, total in totals.items() if c not in limited and total > capacity[c]]
        if not over:
            break
        for channel in over:
            scale = capacity[channel] / totals[channel]
            limited[channel] = {phase: wants.get(channel, 0.0) * scale for phase, wants in demand.items()}
    targets = {phase: {channel: int(want) for channel, want in wants.items()} for phase, wants in demand.items()}
    for phase, sequences in phase_sequences.items():
        _add_missing(targets, phase, demand[phase], sequences, capacity)
        missing = sequences - sum(targets[phase].values())
        if missing:
            most = {channel: count * window for channel, count in sorted(capacity.items())}
            raise BuildError(
                f"the run wants {sum(phase_sequences.values()) * window} tokens, but {missing * window} of phase {phase} "
                f"cannot be had: max_uses = {max_uses} times what each channel has is {most}. Lower [training] "
                "total_steps, give a share to channels with more documents, raise [mixture] max_uses, or add sources"
            )
    return targets


def _demand(shares: Mapping[str, float], sequences: int, limited: Mapping[str, float]) -> dict[str, float]:
    free = {channel: share for channel, share in sorted(shares.items()) if channel not in limited and share > 0}
    rest = max(sequences - sum(limited.values()), 0.0)
    weight = sum(free.values())
    return {**limited, **{channel: rest * share / weight for channel, share in free.items()}}


def _add_missing(
    targets: Targets, phase: str, wants: Mapping[str, float], sequences: int, capacity: Mapping[str, int]
) -> None:
    """What rounding down left over, one sequence each to the channels with the largest remainder and with room."""
    missing = sequences - sum(targets[phase].values())
    ranked = sorted(wants, key=lambda channel: (targets[phase][channel] - wants[channel], channel))
    for _ in range(2):  # a second turn where a channel of the first had no room
        for channel in ranked:
            used = sum(by_channel.get(channel, 0) for by_channel in targets.values())
            if 0 < missing <= len(wants) and used < capacity[channel]:
                targets[phase][channel] += 1
                missing -= 1
