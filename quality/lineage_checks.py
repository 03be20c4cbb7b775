"""Rules of the lineage assets that are not plain limits."""

from __future__ import annotations

from quality.outcome import Check, CheckOutcome, Evidence


def _every_rule_looked_at_every_run(evidence: Evidence) -> CheckOutcome:
    runs, rules = evidence.statistic("runs"), evidence.statistic("rules")
    blind = evidence.statistic("runs_without_pieces")
    found = evidence.rows["findings"]
    return CheckOutcome(
        passed=found == runs * rules and blind == 0,
        description=f"{found} findings for {runs} runs x {rules} rules; {blind} runs whose order has no piece",
        metadata={"runs": runs, "rules": rules, "findings": found, "runs_without_pieces": blind},
    )


def _documents_do_not_vanish(evidence: Evidence) -> CheckOutcome:
    documents = evidence.statistic("documents")
    before = evidence.previous["stats"]["documents"] if evidence.previous else 0
    return CheckOutcome(
        passed=documents >= before,
        description=f"{documents} documents in the index, {before} in the accepted one",
        metadata={"documents": documents, "previous_documents": before},
    )


CHECKS: dict[str, tuple[Check, ...]] = {
    "lineage_index": (
        Check(
            name="documents_do_not_vanish",
            blocking=False,
            description="Fates are never deleted, not even of removed documents; fewer rows mean that history was lost "
            "or that an extraction recipe changed.",
            run=_documents_do_not_vanish,
        ),
    ),
    "lineage_audit": (
        Check(
            name="every_rule_looked_at_every_run",
            blocking=True,
            description="An audit that looked at nothing finds nothing.",
            run=_every_rule_looked_at_every_run,
        ),
    ),
}
