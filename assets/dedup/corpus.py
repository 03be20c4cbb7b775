"""The corpus: the live, kept, unique, clean documents, and the fate of every document ever extracted.

Stages drop in graph order and the first one counts:
sources (the page is gone, or now says something else) -> extraction -> filters -> duplicate -> contamination.
A document extracted in several crawls (a page that went and came back) is described by the crawl that
is live, else by the latest one.

Joins run in DuckDB over the decision columns, never over texts: about 1 KB of memory per document.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from assets.build import BuildError, Segment
from assets.schemas import CORPUS, CORPUS_DECISIONS

EXTRACTED_COLUMNS = ("doc_id", "url", "source", "crawl", "licence", "domain", "format", "drop_reason")
FILTERED_COLUMNS = ("doc_id", "crawl", "language", "script", "quality", "characters", "utf8_bytes", "drop_reason")

_FATES = """
WITH described AS (
    SELECT e.* EXCLUDE (drop_reason), e.drop_reason AS extraction_drop,
           f.* EXCLUDE (doc_id, crawl), l.doc_id IS NOT NULL AS live
    FROM extracted e
    LEFT JOIN filtered f USING (doc_id, crawl)
    LEFT JOIN live l USING (doc_id, crawl)
    QUALIFY row_number() OVER (
        PARTITION BY e.doc_id ORDER BY (l.doc_id IS NOT NULL) DESC, split_part(e.crawl, '@', 2) DESC) = 1
)
SELECT d.*, u.url IS NOT NULL AS page_lives, c.doc_id IS NOT NULL AS clustered,
       c.kept AS representative, c.drop_reason AS duplicate_drop, c.matched_doc_id AS matched, c.cluster_id,
       t.drop_reason AS contamination_drop,
       CASE WHEN NOT d.live THEN 'sources'
            WHEN d.extraction_drop IS NOT NULL THEN 'extraction'
            WHEN d.drop_reason IS NOT NULL THEN 'filters'
            WHEN c.drop_reason IS NOT NULL THEN 'duplicate'
            WHEN t.drop_reason IS NOT NULL THEN 'contamination' END AS stage,
       CASE stage WHEN 'sources' THEN CASE WHEN page_lives THEN 'replaced' ELSE 'removed' END
                  WHEN 'extraction' THEN d.extraction_drop
                  WHEN 'filters' THEN d.drop_reason
                  WHEN 'duplicate' THEN c.drop_reason
                  WHEN 'contamination' THEN t.drop_reason END AS fate
FROM described d
LEFT JOIN (SELECT DISTINCT source, url FROM live) u USING (source, url)
LEFT JOIN clusters c ON c.doc_id = d.doc_id
LEFT JOIN contamination t ON t.doc_id = d.doc_id
"""


def assemble(
    live: pa.Table,
    extracted: pa.Table,
    filtered: pa.Table,
    clusters: pa.Table,
    contamination: pa.Table,
    threads: int = 1,
) -> tuple[pa.Table, pa.Table]:
    """(corpus, decisions), both sorted by doc_id. The inputs hold all partitions, in any order."""
    fates = _join(live, extracted, filtered, clusters, contamination, threads)
    corpus = fates.filter(fates["stage"].is_null()).select(CORPUS.names).cast(CORPUS)
    columns = {name: fates[name] for name in ("doc_id", "url", "source", "crawl", "live", "stage")}
    # Only a duplicate that was dropped as one names its match; a live page has no other.
    matched = pc.if_else(pc.equal(fates["stage"], "duplicate"), fates["matched"], pa.scalar(None, pa.string()))
    decisions = pa.table(columns | {"drop_reason": fates["fate"], "matched_doc_id": matched})
    return corpus, decisions.select(CORPUS_DECISIONS.names).cast(CORPUS_DECISIONS)


def _join(
    live: pa.Table, extracted: pa.Table, filtered: pa.Table, clusters: pa.Table, contamination: pa.Table, threads: int
) -> pa.Table:
    import duckdb

    with duckdb.connect(config={"threads": max(1, threads)}) as connection:
        tables = {
            "live": live,
            "extracted": extracted.select(EXTRACTED_COLUMNS),
            "filtered": filtered.select(FILTERED_COLUMNS),
            "clusters": clusters,
            "contamination": contamination,
        }
        for name, table in tables.items():
            connection.register(name, table)
        _refuse(connection, "SELECT doc_id, crawl FROM live ANTI JOIN extracted USING (doc_id, crawl)",
                "live documents have no row in extracted_documents of their crawl")  # fmt: skip
        _refuse(connection, "SELECT doc_id, crawl FROM extracted ANTI JOIN filtered USING (doc_id, crawl) WHERE drop_reason IS NULL",
                "extracted documents have no row in filtered_documents of their crawl")  # fmt: skip
        connection.execute(f"CREATE TABLE fates AS {_FATES}").fetchall()
        _refuse(connection, "SELECT doc_id, crawl FROM fates WHERE NOT clustered AND (stage IS NULL OR stage = 'contamination')",
                "live documents that the filters kept have no decision in duplicate_clusters")  # fmt: skip
        return connection.sql("SELECT * FROM fates ORDER BY doc_id").to_arrow_table()


def _refuse(connection: Any, query: str, rule: str) -> None:
    """Raise if the query finds rows: then the inputs are not of one state of the graph."""
    found = connection.execute(f"SELECT count(*), min(doc_id), min(crawl) FROM ({query})").fetchall()
    count, doc_id, crawl = found[0]
    if count:
        raise BuildError(f"{count} {rule}, first {doc_id} of {crawl}: materialise the stale input first")


def corpus_stats(documents: Segment, extracted_documents: int) -> dict[str, Any]:
    """Numbers for the checks and for a person, counted over the written tables a batch at a time."""
    fates: Counter[tuple[str | None, str | None]] = Counter()
    came: Counter[str] = Counter()
    dropped: dict[str, Counter[str]] = {}
    columns = ("source", "live", "stage", "drop_reason")
    for batch in documents.batches("decisions", columns, rows=65536):
        for (source, live, stage, reason), n in count(pa.Table.from_batches([batch]), columns).items():
            fates[stage, reason] += n
            if live:
                came[source] += n
                if reason is not None:
                    dropped.setdefault(source, Counter())[reason] += n
    stayed: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    sums: Counter[str] = Counter()
    for batch in documents.batches(
        "documents", ("source", "language", "licence", "characters", "utf8_bytes"), rows=65536
    ):
        table = pa.Table.from_batches([batch])
        stayed += Counter({source: n for (source,), n in count(table, ("source",)).items()})
        languages += Counter({language or "unknown": n for (language,), n in count(table, ("language",)).items()})
        sums["unlicensed"] += table["licence"].null_count
        for name in ("characters", "utf8_bytes"):
            sums[name] += pc.sum(table[name]).as_py() or 0
    stages: Counter[str] = Counter()
    for (stage, _), n in fates.items():
        stages[stage or "corpus"] += n
    kept = sum(stayed.values())
    return {
        "documents_by_source": dict(sorted(came.items())),
        "kept_by_source": {source: stayed[source] for source in sorted(came)},
        "dropped_by_source": {source: dict(sorted(dropped[source].items())) for source in sorted(dropped)},
        "live_documents": sum(came.values()),
        "documents_unaccounted": abs(extracted_documents - sum(fates.values())),
        "documents_by_stage": dict(sorted(stages.items())),
        "kept_by_language": dict(sorted(languages.items())),
        "characters": sums["characters"],
        "utf8_bytes": sums["utf8_bytes"],
        "unlicensed_share": sums["unlicensed"] / kept if kept else 0.0,
        "dropped": {reason: n for (_, reason), n in sorted(fates.items(), key=str) if reason},
    }


def count(table: pa.Table, columns: tuple[str, ...]) -> Counter[Any]:
    """Rows per combination of values."""
    groups = table.group_by(list(columns)).aggregate([([], "count_all")])
    return Counter(
        dict(
            zip(
                zip(*(groups[c].to_pylist() for c in columns), strict=True),
                groups["count_all"].to_pylist(),
                strict=True,
            )
        )
    )
