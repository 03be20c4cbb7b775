"""Rules of training that are more than a limit on one number."""

from __future__ import annotations

from quality.outcome import Check, CheckOutcome, Evidence

WORSE_THAN_BEFORE = 1.02
"""A run again on other data or code may end this much higher: the noise between seeds of small models is about 1%."""


def every_channel_learned(evidence: Evidence) -> CheckOutcome:
    """Each channel's loss at the end, against knowing nothing."""
    uniform = evidence.statistic("uniform_loss")
    losses = {name: loss for name, loss in evidence.statistic("final_channel_loss").items() if loss is not None}
    stuck = {name: round(loss, 3) for name, loss in losses.items() if loss >= uniform}
    shown = ", ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
    return CheckOutcome(
        not stuck and bool(losses),
        f"final loss per channel: {shown or 'none'}; uniform guessing: {uniform:.3f}"
        + (f"; not learned: {stuck}" if stuck else ""),
        {"uniform_loss": uniform, **{f"loss_{name}": loss for name, loss in losses.items()}},
    )


def final_loss_is_not_worse(evidence: Evidence) -> CheckOutcome:
    """The end of this run against the accepted one before it."""
    final = evidence.statistic("final_loss")
    before = (evidence.previous or {}).get("stats", {}).get("final_loss")
    if before is None:
        return CheckOutcome(True, f"final loss {final:.4f}; no accepted version to compare with", {"final_loss": final})
    return CheckOutcome(
        final <= before * WORSE_THAN_BEFORE,
        f"final loss {final:.4f}, accepted version {before:.4f} (at most {WORSE_THAN_BEFORE} times that)",
        {"final_loss": final, "previous_final_loss": before},
    )


CHECKS: dict[str, tuple[Check, ...]] = {
    "base_checkpoints": (
        Check(
            "every_channel_learned",
            False,
            "Each channel ends below uniform guessing: a channel that does not is starved, or its tokens are garbage.",
            every_channel_learned,
        ),
        Check(
            "final_loss_is_not_worse_than_accepted",
            False,
            "A run again must not end clearly worse than the version it replaces.",
            final_loss_is_not_worse,
        ),
    ),
}
