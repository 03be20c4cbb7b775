"""Questions to the lineage index: a page, a document, a step, a checkpoint. Answers are plain dataclasses.

All of them are look-ups: documents are sorted by URL and uses by doc_id, so DuckDB skips the row
groups that cannot match.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assets.build import Segment
from assets.errors import HeadwaterError
from assets.lineage.index import amended_order, connect, has, literal, parquet, plan_of

if TYPE_CHECKING:
    import duckdb


class LineageNotFoundError(HeadwaterError):
    """The index holds nothing of that name. The message says what it holds."""


@dataclass(frozen=True)
class Use:
    """What one run did with a document."""

    run: str
    split: str  # train | heldout
    sequences: list[int]
    steps: list[int]
    first_step: int | None
    last_step: int | None
    tokens_used: int
    repeats: int
    first_checkpoint: int | None  # step of the first saved checkpoint whose weights had read a piece of it
    quarantined: str | None = None  # kind of the loss incident that it was traced to


@dataclass(frozen=True)
class DocumentHistory:
    """A document's fate and its uses."""

    doc_id: str
    url: str
    source: str
    crawl: str
    live: bool
    stage: str | None
    drop_reason: str | None
    matched_doc_id: str | None
    uses: list[Use]


@dataclass(frozen=True)
class StepDocument:
    """One document's part in a step."""

    doc_id: str
    url: str | None
    source: str | None
    channel: str
    sequences: list[int]
    tokens: int


@dataclass(frozen=True)
class StepContent:
    """What one optimiser step read."""

    run: str
    step: int
    sequences: list[int]
    tokens_by_channel: dict[str, int]
    documents: list[StepDocument]


@dataclass(frozen=True)
class Share:
    """Documents and tokens of one source or channel."""

    documents: int
    tokens: int


@dataclass(frozen=True)
class CheckpointContent:
    """What a checkpoint had read, and its score."""

    run: str
    step: int
    tokens_seen: int
    sequences_seen: int
    weights_sha256: str
    heldout_loss: float | None
    documents: int
    by_source: dict[str, Share]
    by_channel: dict[str, Share]


@dataclass(frozen=True)
class Matches:
    """Documents that were found: the first of them in order of URL, and how many there are."""

    total: int
    documents: list[DocumentHistory]


def by_url(index: Segment, text: str, limit: int | None = None) -> Matches:
    """Documents of exactly this URL; if there is none, those whose URL contains the text. At most `limit` of them."""
    for condition in ("url = $text", "contains(url, $text)"):
        found = _histories(index, condition, text, limit)
        if found.total:
            return found
    raise LineageNotFoundError(f"no document was ever extracted from a URL that contains {text!r}")


def by_doc_id(index: Segment, prefix: str, limit: int | None = None) -> Matches:
    """Documents whose doc_id begins with `prefix`, at most `limit` of them."""
    found = _histories(index, "starts_with(doc_id, lower($text))", prefix, limit)
    if not found.total:
        raise LineageNotFoundError(f"no document's doc_id begins with {prefix!r}")
    return found


def by_step(index: Segment, orders: Sequence[Segment], run: str, step: int) -> StepContent:
    """The sequences and documents of one step (1-based)."""
    order = _order_of(orders, run)
    plan = plan_of(order)
    batch, last = plan["global_batch_size"], plan["sequences"] // plan["global_batch_size"]
    if not 1 <= step <= last:
        raise LineageNotFoundError(f"run {run} has steps 1 to {last}, not {step}")
    with connect() as connection:
        rows = _rows(
            connection,
            f"""
            SELECT doc_id, any_value(url) AS url, any_value(source) AS source, channel,
                   list(DISTINCT sequence ORDER BY sequence) AS sequences, sum(length)::BIGINT AS tokens
            FROM (SELECT * FROM {_read_order(index, order)} WHERE sequence >= $first AND sequence < $end)
            LEFT JOIN {parquet(index, "documents")} USING (doc_id)
            GROUP BY doc_id, channel ORDER BY min(sequence), tokens DESC, doc_id, channel
            """,
            {"first": (step - 1) * batch, "end": step * batch},
        )
    documents = [StepDocument(**row) for row in rows]
    channels: dict[str, int] = {}
    for document in documents:
        channels[document.channel] = channels.get(document.channel, 0) + document.tokens
    return StepContent(
        run=run,
        step=step,
        sequences=list(range((step - 1) * batch, step * batch)),
        tokens_by_channel=dict(sorted(channels.items())),
        documents=documents,
    )


def by_checkpoint(index: Segment, orders: Sequence[Segment], run: str, step: int) -> CheckpointContent:
    """What the checkpoint of a step had read until then."""
    saved = [row for row in index.table("checkpoints").to_pylist() if row["run"] == run]
    row = next((row for row in saved if row["step"] == step), None)
    if row is None:
        steps = ", ".join(str(row["step"]) for row in saved) or "none"
        raise LineageNotFoundError(f"run {run} has no checkpoint of step {step}; it has: {steps}")
    read = f"(SELECT * FROM {_read_order(index, _order_of(orders, run))} WHERE sequence < $end)"
    joined = f"{read} LEFT JOIN {parquet(index, 'documents')} USING (doc_id)"
    parameters = {"end": row["sequences_seen"]}
    with connect() as connection:
        shares = {
            column: {
                found["name"]: Share(found["documents"], found["tokens"])
                for found in _rows(
                    connection,
                    f"""SELECT coalesce({column}, 'unknown') AS name, count(DISTINCT doc_id) AS documents,
                               sum(length)::BIGINT AS tokens FROM {joined} GROUP BY name ORDER BY name""",
                    parameters,
                )
            }
            for column in ("source", "channel")
        }
        (total,) = _rows(connection, f"SELECT count(DISTINCT doc_id) AS documents FROM {read}", parameters)
    return CheckpointContent(
        **row, documents=total["documents"], by_source=shares["source"], by_channel=shares["channel"]
    )


def _histories(index: Segment, condition: str, text: str, limit: int | None) -> Matches:
    matching = f"FROM {parquet(index, 'documents')} WHERE {condition}"
    most = "" if limit is None else f"LIMIT {int(limit)}"
    with connect() as connection:
        (count,) = _rows(connection, f"SELECT count(*) AS total {matching}", {"text": text})
        documents = _rows(connection, f"SELECT * {matching} ORDER BY url, doc_id {most}", {"text": text})
        uses = _rows(
            connection,
            f"""
            SELECT u.*, min(c.step) AS first_checkpoint
            FROM {parquet(index, "uses")} u
            LEFT JOIN {parquet(index, "checkpoints")} c ON c.run = u.run AND c.step >= u.first_step
            WHERE list_contains($doc_ids, u.doc_id)
            GROUP BY ALL ORDER BY u.doc_id, u.run, u.split
            """,
            {"doc_ids": [document["doc_id"] for document in documents]},
        )
    by_document: dict[str, list[Use]] = {document["doc_id"]: [] for document in documents}
    for use in uses:
        by_document[use.pop("doc_id")].append(Use(**use))
    histories = [DocumentHistory(**document, uses=by_document[document["doc_id"]]) for document in documents]
    return Matches(count["total"], histories)


def _read_order(index: Segment, order: Segment) -> str:
    """The order as its run read it, as a FROM clause."""
    run = literal(str(order.partition))
    if not has(index, "amendments"):  # written before runs had amendments
        return amended_order(parquet(order, "order"), None)
    amended = f"(SELECT sequence, replaced_by FROM {parquet(index, 'amendments')} WHERE run = {run})"
    return amended_order(parquet(order, "order"), amended)


def _order_of(orders: Sequence[Segment], run: str) -> Segment:
    for order in orders:
        if order.partition == run:
            return order
    known = ", ".join(str(order.partition) for order in orders) or "none"
    raise LineageNotFoundError(f"no order_manifest of run {run}; known runs: {known}")


def _rows(connection: duckdb.DuckDBPyConnection, query: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    return connection.sql(query, params=parameters).to_arrow_table().to_pylist()
