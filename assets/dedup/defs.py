"""The assets of dedup: inputs in, tables and report out.

Names are imported one by one: a stage's code version counts what it names, not the whole module.
"""

from __future__ import annotations

from collections import Counter

import pyarrow.compute as pc
from pydantic import BaseModel

from assets.build import Build, StageReport
from assets.dedup.audit import audit_clusters
from assets.dedup.clusters import DedupRecipe, cluster_documents
from assets.dedup.contamination import (
    ContaminationRecipe,
    Hit,
    ItemIndex,
    decision_table,
    find_contaminated,
    items_sha256,
    read_items,
)
from assets.dedup.corpus import EXTRACTED_COLUMNS, FILTERED_COLUMNS, assemble, corpus_stats
from assets.dedup.inputs import kept_ids, kept_texts, read_all, same_partition
from assets.dedup.live import live_kept, read_live, signature_reader
from assets.dedup.reports import (
    by_source,
    cluster_plots,
    cluster_samples,
    contamination_samples,
    corpus_samples,
    source_plot,
)
from assets.dedup.signatures import SignatureRecipe, SignatureStats, signature_parts
from assets.schemas import (
    CONTAMINATION,
    CORPUS,
    CORPUS_DECISIONS,
    DOCUMENTS,
    DUPLICATE_PAIRS,
    DUPLICATES,
    FILTERED,
    SIGNATURES,
)
from assets.tables import write_table

RECIPES: dict[str, type[BaseModel]] = {
    "signatures": SignatureRecipe,
    "dedup": DedupRecipe,
    "contamination": ContaminationRecipe,
}


def document_signatures(build: Build) -> StageReport:
    """Sign each kept document of one crawl."""
    kept = kept_ids(build.one("filtered_documents"))
    stats = SignatureStats()
    texts = kept_texts(build.one("extracted_documents"), kept)
    for number, part in enumerate(signature_parts(texts, build.recipe("signatures", SignatureRecipe), stats)):
        write_table(build.output, f"signatures-{number:05d}", part, SIGNATURES)
        build.progress.update(stats.documents, len(kept), "signed")
    return StageReport(
        documents_in=len(kept), documents_kept=stats.documents, stats=stats.as_json(), samples=stats.samples()
    )


def duplicate_clusters(build: Build) -> StageReport:
    """Cluster the live kept documents of all crawls."""
    recipe = build.recipe("dedup", DedupRecipe)
    columns = ("doc_id", "quality", "drop_reason")
    decided = {s.partition or "": s.table("decisions", columns) for s in build.all("filtered_documents")}
    documents = live_kept(read_live(build.all("crawl_delta")), decided)
    read = signature_reader(build.all("document_signatures"), documents)
    found = cluster_documents(documents, read, recipe)
    write_table(build.output, "decisions", found.decisions, DUPLICATES)
    write_table(build.output, "pairs", found.pairs, DUPLICATE_PAIRS)

    # Both tables are sorted by doc_id and hold the same documents: rows correspond.
    per_source = by_source(documents, documents.filter(found.decisions["kept"]))
    dropped = Counter(reason for reason in found.decisions["drop_reason"].to_pylist() if reason)
    audit = audit_clusters(documents, found.decisions, found.pairs, read)
    return StageReport(
        documents_in=len(documents),
        documents_kept=len(documents) - sum(dropped.values()),
        dropped=dict(dropped),
        stats=found.stats | audit | per_source | {"threshold": recipe.threshold},
        samples=cluster_samples(documents, found.decisions),
        plots=cluster_plots(found.decisions, found.pairs) | source_plot(per_source),
    )


def contamination(build: Build) -> StageReport:
    """Search every kept document for evaluation items."""
    recipe = build.recipe("contamination", ContaminationRecipe)
    items = read_items(recipe)
    index = ItemIndex(items, recipe)
    searched: set[str] = set()
    hits: dict[str, Hit] = {}
    for filtered in build.all("filtered_documents"):
        new = kept_ids(filtered) - searched  # a page that came back is the same document, with the same text
        hits |= find_contaminated(kept_texts(same_partition(build, "extracted_documents", filtered), new), index)
        searched |= new
        build.progress.update(len(searched), note="searched for evaluation items")
    write_table(build.output, "decisions", decision_table(hits), CONTAMINATION)

    columns = ("doc_id", "url")
    names = read_all(build.all("filtered_documents"), "decisions", columns, FILTERED)
    urls = dict(zip(names["doc_id"].to_pylist(), names["url"].to_pylist(), strict=True))
    return StageReport(
        documents_in=len(searched),
        documents_kept=len(searched) - len(hits),
        dropped={"contaminated": len(hits)} if hits else {},
        stats=index.stats(hits) | {"items_sha256": items_sha256(items)},
        samples=contamination_samples(hits, urls, index),
    )


def corpus(build: Build) -> StageReport:
    """Assemble the snapshot and the fate of every document."""
    live = read_live(build.all("crawl_delta"))
    extracted = read_all(build.all("extracted_documents"), "documents", EXTRACTED_COLUMNS, DOCUMENTS)
    filtered = read_all(build.all("filtered_documents"), "decisions", FILTERED_COLUMNS, FILTERED)
    found = build.one("duplicate_clusters").table("decisions")
    hits = build.one("contamination").table("decisions")
    documents, decisions = assemble(live, extracted, filtered, found, hits, threads=build.workers)
    write_table(build.output, "documents", documents, CORPUS)
    write_table(build.output, "decisions", decisions, CORPUS_DECISIONS)

    dropped = Counter(reason for reason in decisions["drop_reason"].to_pylist() if reason)
    per_source = by_source(decisions.filter(decisions["live"]), documents)
    everything = len(pc.unique(extracted["doc_id"]))
    return StageReport(
        documents_in=everything,
        documents_kept=len(documents),
        dropped=dict(dropped),
        stats=per_source | corpus_stats(documents, decisions, everything),
        samples=corpus_samples(decisions),
        plots=source_plot(per_source),
    )
