"""Document -> sequence -> step -> checkpoint -> score, for every run, as three sorted tables.

    documents.parquet    the fate of each document, by URL
    uses.parquet         which sequences and steps of which run read it, or that it was held out
    checkpoints.parquet  what each checkpoint had read, its weights and its held-out score

Steps are those of the plan, with what loss incidents amended in it: a replaced sequence counts as the earlier one
that was read in its place. What a checkpoint had really read ends at its `sequences_seen`. DuckDB
groups the order manifests one run at a time and spills to the scratch folder, so the memory needed
is the result of one run: about 100 bytes per document and 8 per piece.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from assets import schemas
from assets.build import BuildError, Sample, Segment, StageReport
from assets.plots import grouped_bars

if TYPE_CHECKING:
    import duckdb

SAMPLE_ROWS = 10


def connect(scratch: Path | None = None, threads: int = 1) -> duckdb.DuckDBPyConnection:
    """A private in-memory DuckDB. Everything read is given by path: it has no state of its own."""
    import duckdb

    connection = duckdb.connect(":memory:")
    connection.execute(f"SET threads = {max(1, threads)}")
    if scratch is not None:
        connection.execute(f"SET temp_directory = {literal(str(scratch))}")
    return connection


def literal(text: str) -> str:
    """A string as SQL, for places where DuckDB takes no parameter."""
    return "'" + text.replace("'", "''") + "'"


def parquet(segment: Segment, table: str) -> str:
    """A table of a segment as a FROM clause. Its files need not be called .parquet."""
    return "read_parquet([" + ", ".join(literal(str(path)) for path in segment.parts(table)) + "])"


def has(segment: Segment | None, table: str) -> bool:
    """Whether a segment has a table: runs of before loss incidents were acted on have no quarantine."""
    return segment is not None and f"{table}.parquet" in segment.files


def read_order(order: Segment, checkpoints: Segment | None) -> str:
    """The order as the run reads it, as a FROM clause: that of the manifest, with `replayed` for replaced sequences."""
    if checkpoints is None or not has(checkpoints, "amendments"):
        return amended_order(parquet(order, "order"), None)
    return amended_order(parquet(order, "order"), parquet(checkpoints, "amendments"))


def amended_order(planned: str, amended: str | None) -> str:
    """FROM clauses of an order and of its amendments as that of the order with replaced sequences; `replayed` marks them."""
    if amended is None:
        return f"(SELECT *, false AS replayed FROM {planned})"
    return f"""(
        SELECT *, false AS replayed FROM {planned} WHERE sequence NOT IN (SELECT sequence FROM {amended})
        UNION ALL BY NAME
        SELECT * EXCLUDE (sequence, replaced), replaced AS sequence, true AS replayed
        FROM (SELECT * FROM {planned})
        JOIN (SELECT sequence AS replaced, replaced_by AS sequence FROM {amended}) USING (sequence)
    )"""


def plan_of(order: Segment) -> dict[str, Any]:
    """sequences, sequence_length, global_batch_size and order_sha256 of an order manifest."""
    return json.loads(order.path("fingerprint.json").read_text(encoding="utf-8"))


def documents_table(corpus: Segment) -> pa.Table:
    """LINEAGE_DOCUMENTS."""
    decisions = corpus.table("decisions", schemas.LINEAGE_DOCUMENTS.names)
    return decisions.sort_by([("url", "ascending"), ("doc_id", "ascending")])


def uses_table(
    orders: Sequence[Segment],
    mixtures: Sequence[Segment],
    checkpoints: Sequence[Segment],
    connection: duckdb.DuckDBPyConnection,
) -> pa.Table:
    """LINEAGE_USES of all runs; a document that was quarantined before it was read has a row without steps."""
    trained = {segment.partition: segment for segment in checkpoints}
    found = [schemas.LINEAGE_USES.empty_table()]
    for order in orders:
        found.append(_train_uses(order, trained.get(order.partition), connection).cast(schemas.LINEAGE_USES))
    found += [_heldout_uses(mixture, connection).cast(schemas.LINEAGE_USES) for mixture in mixtures]
    table = pa.concat_tables(found)
    return table.sort_by([("doc_id", "ascending"), ("run", "ascending"), ("split", "ascending")])


def _train_uses(order: Segment, trained: Segment | None, connection: duckdb.DuckDBPyConnection) -> pa.Table:
    quarantine = "(SELECT NULL::VARCHAR AS doc_id, NULL::VARCHAR AS reason WHERE false)"
    if trained is not None and has(trained, "quarantine"):
        quarantine = parquet(trained, "quarantine")
    return connection.sql(
        f"""
        SELECT doc_id, $run AS run, 'train' AS split,
               coalesce(list_sort(list(DISTINCT sequence) FILTER (sequence IS NOT NULL)), []) AS sequences,
               coalesce(list_sort(list(DISTINCT step) FILTER (step IS NOT NULL)), []) AS steps,
               min(step) AS first_step, max(step) AS last_step,
               coalesce(sum(length), 0)::BIGINT AS tokens_used,
               count(DISTINCT (repeat, replayed)) FILTER (step IS NOT NULL) AS repeats,
               any_value(reason) AS quarantined
        FROM (SELECT *, sequence // $batch + 1 AS step FROM {read_order(order, trained)})
        FULL JOIN (SELECT doc_id, reason FROM {quarantine}) USING (doc_id)
        GROUP BY doc_id
        """,
        params={"run": order.partition, "batch": plan_of(order)["global_batch_size"]},
    ).to_arrow_table()


def _heldout_uses(mixture: Segment, connection: duckdb.DuckDBPyConnection) -> pa.Table:
    return connection.sql(
        f"""
        SELECT doc_id, $run AS run, split, []::BIGINT[] AS sequences, []::BIGINT[] AS steps,
               NULL::BIGINT AS first_step, NULL::BIGINT AS last_step, 0::BIGINT AS tokens_used, 0::BIGINT AS repeats,
               NULL::VARCHAR AS quarantined
        FROM {parquet(mixture, "documents")} WHERE split = 'heldout'
        """,
        params={"run": mixture.partition},
    ).to_arrow_table()


def checkpoints_table(checkpoints: Sequence[Segment], scores: Sequence[Segment]) -> pa.Table:
    """LINEAGE_CHECKPOINTS of all runs; `heldout_loss` is null where the run has not been evaluated."""
    losses = {
        (row["run"], row["step"]): row["loss"]
        for segment in scores
        for row in segment.table("perplexity", ["run", "step", "language", "domain", "loss"]).to_pylist()
        if row["language"] == row["domain"] == "all"
    }
    names = [name for name in schemas.LINEAGE_CHECKPOINTS.names if name != "heldout_loss"]
    rows = [row for segment in checkpoints for row in segment.table("checkpoints", names).to_pylist()]
    for row in rows:
        row["heldout_loss"] = losses.get((row["run"], row["step"]))
    rows.sort(key=lambda row: (row["run"], row["step"]))
    return pa.Table.from_pylist(rows, schema=schemas.LINEAGE_CHECKPOINTS)


def amendments_table(checkpoints: Sequence[Segment]) -> pa.Table:
    """LINEAGE_AMENDMENTS of all runs."""
    rows = [
        {"run": segment.partition, "sequence": row["sequence"], "replaced_by": row["replaced_by"]}
        for segment in checkpoints
        if has(segment, "amendments")
        for row in segment.table("amendments").to_pylist()
    ]
    rows.sort(key=lambda row: (row["run"], row["sequence"]))
    return pa.Table.from_pylist(rows, schema=schemas.LINEAGE_AMENDMENTS)


def refuse_two_of_a_run(inputs: Mapping[str, Sequence[Segment]]) -> None:
    """A run's tables must be its own: `run` inside a table is the partition that holds it."""
    for segment in inputs.get("base_checkpoints", ()):
        runs = set(segment.table("checkpoints", ["run"]).column("run").to_pylist())
        if runs - {segment.partition}:
            raise BuildError(
                f"base_checkpoints/{segment.partition}/checkpoints.parquet has rows of run {sorted(runs)}; "
                "checkpoints must name the run they are published under"
            )


def report(documents: pa.Table, uses: pa.Table, checkpoints: pa.Table) -> StageReport:
    """Counts, links that lead nowhere, and the documents that were read most."""
    known = documents.column("doc_id").combine_chunks()
    unknown = pc.invert(pc.is_in(uses.column("doc_id"), value_set=known))
    dropped = pc.value_counts(documents.column("stage")).to_pylist()
    fates = {entry["values"] or "in corpus": entry["counts"] for entry in dropped}
    train = uses.filter(pc.equal(uses.column("split"), "train"))
    most_read = train.sort_by([("tokens_used", "descending"), ("doc_id", "ascending"), ("run", "ascending")])
    columns = ("doc_id", "run", "first_step", "last_step", "tokens_used", "repeats")
    lost = uses.filter(unknown).select(["doc_id", "run", "split"]).slice(0, SAMPLE_ROWS)
    return StageReport(
        stats={
            "documents": documents.num_rows,
            "live_documents": pc.sum(documents.column("live")).as_py() or 0,
            "runs": len(pc.unique(uses.column("run"))),
            "uses": uses.num_rows,
            "train_uses": train.num_rows,
            "heldout_uses": uses.num_rows - train.num_rows,
            "tokens_used": pc.sum(train.column("tokens_used")).as_py() or 0,
            "quarantined_uses": uses.num_rows - uses.column("quarantined").null_count,
            "uses_without_document": pc.sum(unknown).as_py() or 0,
            "checkpoints": checkpoints.num_rows,
            "checkpoints_without_score": checkpoints.column("heldout_loss").null_count,
            "documents_by_fate": dict(sorted(fates.items())),
        },
        samples=[
            Sample("Documents read most", columns, _tuples(most_read.select(columns).slice(0, SAMPLE_ROWS))),
            Sample("Uses without a document", ("doc_id", "run", "split"), _tuples(lost)),
        ],
        plots={"Documents by fate": grouped_bars("documents", {"documents": fates})},
    )


def _tuples(table: pa.Table) -> tuple[tuple[Any, ...], ...]:
    return tuple(tuple(row.values()) for row in table.to_pylist())
