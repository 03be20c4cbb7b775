"""Proof from the manifests alone that training read what was planned, all of it, and nothing else.

Each rule is a query that returns one sentence per violation. Views that rules may use, for one run:

    planned      mixture_manifest documents      pieces       order_manifest order
    read         the order as the run read it    quarantine, amendments    what its loss incidents took out and replaced
    plan         one row: sequences, sequence_length, global_batch_size
    saved        base_checkpoints checkpoints    uses, documents, indexed    the lineage index
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from assets.build import BuildError, Sample, Segment, StageReport
from assets.lineage.index import has, literal, parquet, plan_of, read_order
from assets.mixture.order import update_digest
from assets.mixture.phases import phase_orders

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True)
class Rule:
    """A true sentence about a run, what it looks at, and the query that finds where it is false."""

    name: str
    checked: str  # SQL: how many things the rule looks at
    violations: str  # SQL: one column, one row per violation
    found_later: bool = False
    """True for what a finished run could not have known: reported, but it does not block the audit."""


RULES: tuple[Rule, ...] = (
    Rule(
        "heldout_documents_are_in_no_sequence",
        "SELECT count(*) FROM planned WHERE split = 'heldout'",
        """SELECT 'held-out document ' || doc_id || ' is in sequence ' || min(sequence)
           FROM pieces JOIN planned USING (doc_id) WHERE split = 'heldout' GROUP BY doc_id""",
    ),
    Rule(
        "sequences_hold_only_planned_training_documents",
        "SELECT count(DISTINCT doc_id) FROM pieces",
        """SELECT 'document ' || doc_id || ' in sequence ' || min(sequence) || ' is not in the mixture'
           FROM pieces ANTI JOIN planned USING (doc_id) GROUP BY doc_id
           UNION ALL
           SELECT 'document ' || doc_id || ' is planned for no use but is in sequence ' || min(sequence)
           FROM pieces JOIN planned USING (doc_id)
           WHERE split = 'train' AND stable_uses + decay_uses <= 0 GROUP BY doc_id""",
    ),
    Rule(
        "sequences_are_numbered_without_gap",
        "SELECT sequences FROM plan",
        """SELECT 'sequence ' || number || ' is missing'
           FROM (SELECT unnest(range(sequences)) AS number FROM plan)
           ANTI JOIN (SELECT DISTINCT sequence AS number FROM pieces) USING (number)
           UNION ALL
           SELECT 'sequence ' || sequence || ' is outside 0..' || (sequences - 1)
           FROM (SELECT DISTINCT sequence FROM pieces), plan WHERE sequence < 0 OR sequence >= sequences""",
    ),
    Rule(
        "sequences_have_their_exact_length",
        "SELECT count(DISTINCT sequence) FROM pieces",
        """SELECT 'sequence ' || sequence || ' has ' || sum(length) || ' tokens, not ' || (any_value(sequence_length) + 1)
           FROM pieces, plan GROUP BY sequence HAVING sum(length) <> any_value(sequence_length) + 1""",
    ),
    Rule(
        "pieces_are_numbered_without_gap",
        "SELECT count(*) FROM pieces",
        """SELECT 'sequence ' || sequence || ' has pieces ' || list(piece ORDER BY piece)::VARCHAR
           FROM pieces GROUP BY sequence
           HAVING min(piece) <> 0 OR max(piece) <> count(*) - 1 OR count(DISTINCT piece) <> count(*)""",
    ),
    Rule(
        "pieces_lie_inside_their_documents",
        "SELECT count(*) FROM pieces",
        """SELECT 'sequence ' || sequence || ' reads tokens ' || start || ' to ' || (start + length) ||
                  ' of document ' || doc_id || ', which has ' || tokens
           FROM pieces JOIN planned USING (doc_id) WHERE start < 0 OR length < 1 OR start + length > tokens""",
    ),
    Rule(
        "documents_are_used_no_more_than_planned",
        "SELECT count(DISTINCT doc_id) FROM pieces",
        # A fractional use is a whole one for some of the documents, so each phase may round up.
        """SELECT 'document ' || doc_id || ' is used ' || (max(repeat) + 1) || ' times, planned ' ||
                  any_value(stable_uses) || ' + ' || any_value(decay_uses)
           FROM pieces JOIN planned USING (doc_id) GROUP BY doc_id
           HAVING min(repeat) < 0 OR max(repeat) + 1 > ceil(any_value(stable_uses)) + ceil(any_value(decay_uses))""",
    ),
    Rule(
        "no_token_is_read_twice_in_one_use",
        "SELECT count(*) FROM pieces",
        """SELECT 'sequence ' || sequence || ' reads document ' || doc_id || ' (use ' || repeat || ') again from ' || start
           FROM (SELECT *, max(start + length) OVER (PARTITION BY doc_id, repeat ORDER BY start, sequence, piece
                 ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS read_until FROM pieces)
           WHERE start < read_until""",
    ),
    Rule(
        "checkpoints_have_read_whole_steps",
        "SELECT count(*) FROM saved",
        """SELECT 'checkpoint ' || step || ' has read ' || sequences_seen || ' sequences and ' || tokens_seen ||
                  ' tokens; the plan is ' || step * global_batch_size || ' of ' || sequences || ' sequences'
           FROM saved, plan
           WHERE sequences_seen <> step * global_batch_size OR sequences_seen > sequences
              OR tokens_seen <> sequences_seen * sequence_length""",
    ),
    Rule(
        "index_accounts_for_every_token_read",
        "SELECT sum(length)::BIGINT FROM read",
        """SELECT 'document ' || doc_id || ': order ' || coalesce(planned_tokens, 0) || ' tokens, index ' ||
                  coalesce(indexed_tokens, 0)
           FROM (SELECT doc_id, sum(length) AS planned_tokens FROM read GROUP BY doc_id)
           FULL JOIN (SELECT doc_id, sum(tokens_used) AS indexed_tokens FROM uses
                      WHERE split = 'train' AND tokens_used > 0 GROUP BY doc_id)
           USING (doc_id) WHERE planned_tokens IS DISTINCT FROM indexed_tokens""",
    ),
    Rule(
        "index_lists_every_checkpoint",
        "SELECT count(*) FROM saved",
        """SELECT 'checkpoint ' || step || ' with weights ' || weights_sha256[:12] || ' is not in the index'
           FROM saved ANTI JOIN indexed USING (step, weights_sha256)""",
    ),
    Rule(
        "quarantined_documents_are_in_no_sequence_after_their_rollback",
        "SELECT count(*) FROM quarantine",
        """SELECT 'document ' || doc_id || ' was quarantined (' || any_value(reason) || '), yet sequence ' || min(sequence) ||
                  ' reads it after step ' || any_value(rollback_step)
           FROM read JOIN quarantine USING (doc_id), plan
           WHERE sequence >= rollback_step * global_batch_size GROUP BY doc_id""",
    ),
    Rule(
        "replaced_sequences_read_earlier_planned_ones",
        "SELECT count(*) FROM amendments",
        """SELECT 'sequence ' || a.sequence || ' is replaced by ' || a.replaced_by
           FROM amendments a LEFT JOIN amendments b ON b.sequence = a.replaced_by, plan
           WHERE a.replaced_by >= a.sequence OR a.replaced_by < 0 OR a.sequence >= sequences OR b.sequence IS NOT NULL""",
    ),
    Rule(
        "no_document_read_was_found_contaminated_later",
        "SELECT count(DISTINCT doc_id) FROM pieces",
        """SELECT 'document ' || doc_id || ' holds an evaluation item and is in sequence ' || min(sequence)
           FROM pieces JOIN documents USING (doc_id) WHERE drop_reason = 'contaminated' GROUP BY doc_id""",
        found_later=True,
    ),
)


def order_has_its_digest(order: Segment, saved: Segment | None) -> tuple[int, list[str]]:
    """The pieces are those that the fingerprint was taken of: (pieces, violations)."""
    plan = plan_of(order)
    wanted = {"all phases": plan["order_sha256"]}
    wanted |= {f"phase {entry['phase']}": entry["order_sha256"] for entry in plan.get("phases", ())}
    hashers = {name: hashlib.sha256() for name in wanted}
    pieces = 0
    for batch in order.batches("order", rows=65536):
        rows = pa.Table.from_batches([batch])
        update_digest(hashers["all phases"], rows)
        for phase in pc.unique(batch.column("phase")).to_pylist():
            if hasher := hashers.get(f"phase {phase}"):
                update_digest(hasher, rows.filter(pc.equal(rows["phase"], phase)))
        pieces += batch.num_rows
    found = {name: hasher.hexdigest() for name, hasher in hashers.items()}
    return pieces, [
        f"the order of {name} has digest {found[name]}, fingerprint.json says {wanted[name]}"
        for name in wanted
        if found[name] != wanted[name]
    ]


def checkpoints_were_trained_on_this_order(order: Segment, saved: Segment | None) -> tuple[int, list[str]]:
    """What the training program wrote beside each checkpoint: (checkpoints, violations).

    The decay's order counts for checkpoints that have read of it; others may be continued by any decay.
    """
    rows = saved.table("checkpoints", ["step", "folder", "sequences_seen"]).to_pylist() if saved else []
    names = ("order_fingerprint", "decay_order_fingerprint")
    phases = list(zip(names, phase_orders(order), strict=False))
    violations = []
    for row in rows:
        marker = saved.files.get(f"{row['folder']}/complete.json") if saved else None
        said = json.loads(marker.read_text(encoding="utf-8")) if marker else {}
        for name, phase in phases:
            found = said.get(name) if marker else "no complete.json"
            if row["sequences_seen"] > phase.first_sequence and found != phase.fingerprint:
                violations.append(
                    f"checkpoint {row['step']} was trained on {phase.phase} order {found}, the manifest is {phase.fingerprint}"
                )
    return len(rows), violations


def checkpoints_were_trained_with_these_amendments(order: Segment, saved: Segment | None) -> tuple[int, list[str]]:
    """Each checkpoint names the amendments that had changed a sequence it read: (checkpoints, violations)."""
    if saved is None or not has(saved, "amendments"):
        return 0, []
    batch = plan_of(order)["global_batch_size"]
    published = saved.table("amendments").to_pylist()
    rows = saved.table("checkpoints", ["step", "folder"]).to_pylist()
    violations = []
    for row in rows:
        said = json.loads(saved.path(f"{row['folder']}/complete.json").read_text(encoding="utf-8")).get(
            "amendments", []
        )
        found = {entry["incident"] for entry in said if entry["action"] == "replace_sequences"}
        wanted = {entry["incident"] for entry in published if entry["sequence"] < row["step"] * batch}
        if wanted - found:
            violations.append(
                f"checkpoint {row['step']} was trained with the amendments of incidents {sorted(found)}, amendments.parquet "
                f"has those of {sorted(wanted)} until then"
            )
    return len(rows), violations


PROOFS: tuple[Callable[[Segment, Segment | None], tuple[int, list[str]]], ...] = (
    order_has_its_digest,
    checkpoints_were_trained_on_this_order,
    checkpoints_were_trained_with_these_amendments,
)
"""Rules that need more than tables; each is named after its function."""


def audit(
    inputs: Mapping[str, Sequence[Segment]], connection: duckdb.DuckDBPyConnection
) -> tuple[list[dict[str, Any]], StageReport]:
    """AUDIT rows of every run, sorted by rule and run, and their summary."""
    (index,) = inputs["lineage_index"]
    mixtures, orders, checkpoints = (
        {segment.partition: segment for segment in inputs.get(asset, ())}
        for asset in ("mixture_manifest", "order_manifest", "base_checkpoints")
    )
    lost = sorted(str(run) for run in (orders.keys() - mixtures.keys()) | (checkpoints.keys() - orders.keys()))
    if lost:
        raise BuildError(
            f"run {lost[0]} has an order or checkpoints but not the mixture and order they were made from: "
            "the audit cannot be done; restore the missing manifests from the store's history"
        )
    findings: list[dict[str, Any]] = []
    for run in sorted(orders, key=str):
        _create_views(connection, index, mixtures[run], orders[run], checkpoints.get(run))
        findings += [_find(connection, rule, str(run)) for rule in RULES]
        findings += [_prove(proof, orders[run], checkpoints.get(run)) for proof in PROOFS]
    findings.sort(key=lambda row: (row["rule"], row["run"]))
    return findings, _report(findings, len(orders))


def _create_views(
    connection: duckdb.DuckDBPyConnection, index: Segment, mixture: Segment, order: Segment, saved: Segment | None
) -> None:
    run, plan = literal(str(order.partition)), plan_of(order)
    numbers = ", ".join(
        f"{int(plan[name])} AS {name}" for name in ("sequences", "sequence_length", "global_batch_size")
    )
    nothing = "(SELECT NULL::BIGINT step, NULL::BIGINT sequences_seen, NULL::BIGINT tokens_seen, "
    nothing += "NULL::VARCHAR weights_sha256 WHERE false)"
    no_quarantine = "(SELECT NULL::VARCHAR doc_id, NULL::VARCHAR reason, NULL::BIGINT rollback_step WHERE false)"
    no_amendments = "(SELECT NULL::BIGINT sequence, NULL::BIGINT replaced_by WHERE false)"
    views = {
        "planned": parquet(mixture, "documents"),
        "pieces": parquet(order, "order"),
        "read": read_order(order, saved),
        "quarantine": parquet(saved, "quarantine") if saved and has(saved, "quarantine") else no_quarantine,
        "amendments": parquet(saved, "amendments") if saved and has(saved, "amendments") else no_amendments,
        "plan": f"(SELECT {numbers})",
        "saved": parquet(saved, "checkpoints") if saved else nothing,
        "uses": f"{parquet(index, 'uses')} WHERE run = {run}",
        "indexed": f"{parquet(index, 'checkpoints')} WHERE run = {run}",
        "documents": parquet(index, "documents"),
    }
    for name, source in views.items():
        connection.execute(f"CREATE OR REPLACE TEMP VIEW {name} AS SELECT * FROM {source}")


def _find(connection: duckdb.DuckDBPyConnection, rule: Rule, run: str) -> dict[str, Any]:
    checked = connection.execute(rule.checked).fetchone()
    counted = connection.execute(f"SELECT count(*), min(v) FROM ({rule.violations}) found(v)").fetchone()
    assert checked is not None and counted is not None  # an aggregate returns a row
    return {
        "rule": rule.name,
        "run": run,
        "checked": checked[0] or 0,
        "violations": counted[0],
        "example": counted[1],
    }


def _prove(
    proof: Callable[[Segment, Segment | None], tuple[int, list[str]]], order: Segment, saved: Segment | None
) -> dict[str, Any]:
    checked, violations = proof(order, saved)
    return {
        "rule": proof.__name__,
        "run": str(order.partition),
        "checked": checked,
        "violations": len(violations),
        "example": min(violations, default=None),
    }


def _report(findings: Sequence[Mapping[str, Any]], runs: int) -> StageReport:
    later = {rule.name for rule in RULES if rule.found_later}
    columns = ("rule", "run", "checked", "violations", "example")
    broken = [row for row in findings if row["violations"]]
    return StageReport(
        stats={
            "runs": runs,
            "rules": len(RULES) + len(PROOFS),
            "findings": len(findings),
            "checked": sum(row["checked"] for row in findings),
            "violations": _sum(row for row in findings if row["rule"] not in later),
            "found_later": _sum(row for row in findings if row["rule"] in later),
            "runs_without_pieces": sum(
                row["checked"] == 0 for row in findings if row["rule"] == "pieces_are_numbered_without_gap"
            ),
            "violations_by_rule": {
                name: _sum(row for row in findings if row["rule"] == name)
                for name in sorted({row["rule"] for row in findings})
            },
        },
        samples=[
            Sample("Violations", columns, tuple(tuple(row[c] for c in columns) for row in broken)),
            Sample("All rules", columns, tuple(tuple(row[c] for c in columns) for row in findings)),
        ],
    )


def _sum(rows: Iterable[Mapping[str, Any]]) -> int:
    return sum(row["violations"] for row in rows)
