"""Rules of the evaluation assets that are not plain limits."""

from __future__ import annotations

from quality.outcome import Check, CheckOutcome, Evidence

WORSE_BY_NATS = 0.05
"""Rise of the final held-out loss against the accepted version of the same run that is worth a look."""


def _every_checkpoint_has_every_row(table: str, per_checkpoint: str) -> Check:
    def run(evidence: Evidence) -> CheckOutcome:
        expected = evidence.statistic("checkpoints") * evidence.statistic(per_checkpoint)
        found = evidence.rows[table]
        return CheckOutcome(
            passed=found == expected > 0,
            description=f"{found} rows of {table}, {expected} expected "
            f"({evidence.statistic('checkpoints')} checkpoints x {evidence.statistic(per_checkpoint)} {per_checkpoint})",
            metadata={"found": found, "expected": expected},
        )

    return Check(
        name="every_checkpoint_has_every_row",
        blocking=True,
        description="A trend with holes shows a change of questions as a change of the model.",
        run=run,
    )


def _loss_is_not_worse_than_before(evidence: Evidence) -> CheckOutcome:
    final = evidence.statistic("final_loss")
    if evidence.previous is None:
        return CheckOutcome(True, f"first version of this run: held-out loss {final:.4f}")
    before = evidence.previous["stats"]["final_loss"]
    return CheckOutcome(
        passed=final <= before + WORSE_BY_NATS,
        description=f"held-out loss {final:.4f}, accepted version {before:.4f}, allowed rise {WORSE_BY_NATS}",
        metadata={"final_loss": final, "previous_loss": before},
    )


CHECKS: dict[str, tuple[Check, ...]] = {
    "perplexity": (
        Check(
            name="loss_is_not_worse_than_before",
            blocking=False,
            description="A rebuilt run should score like the run it replaces.",
            run=_loss_is_not_worse_than_before,
        ),
    ),
    "probability_probes": (_every_checkpoint_has_every_row("probes", "probes"),),
    "needle_in_haystack": (_every_checkpoint_has_every_row("needles", "trials"),),
}
