"""The assets of dedup: inputs in, tables and report out.

Names are imported one by one: a stage's code version counts what it names, not the whole module.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel

from assets.build import Build, StageReport, UpdatedTables
from assets.dedup.clusters import (
    STATE,
    apply,
    arrivals,
    audit_update,
    live_rows,
    with_pages,
    yields_by_source,
)
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
from assets.dedup.corpus_update import CorpusUpdate, update_corpus
from assets.dedup.inputs import kept_ids, kept_texts, read_all, same_partition
from assets.dedup.live import read_live
from assets.dedup.recipe import DedupRecipe
from assets.dedup.reports import (
    ROWS,
    cluster_plots,
    cluster_samples,
    contamination_samples,
    corpus_samples,
    some_of_each,
    source_plot,
)
from assets.dedup.signatures import SignatureRecipe, SignatureStats, signature_parts
from assets.delta_table import Changes, difference
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
from assets.sources.partition import parse_crawl
from assets.tables import write_table

RECIPES: dict[str, type[BaseModel]] = {
    "signatures": SignatureRecipe,
    "dedup": DedupRecipe,
    "contamination": ContaminationRecipe,
}


ROWS_PER_GROUP = 256
"""Signatures that are read together: about 2 MB, so that those of a few documents cost little to find."""


def document_signatures(build: Build) -> StageReport:
    """Sign each kept document of one crawl."""
    kept = kept_ids(build.one("filtered_documents"))
    stats = SignatureStats()
    texts = kept_texts(build.one("extracted_documents"), kept)
    for number, part in enumerate(signature_parts(texts, build.recipe("signatures", SignatureRecipe), stats)):
        write_table(build.output, f"signatures-{number:05d}", part, SIGNATURES, rows_per_group=ROWS_PER_GROUP)
        build.progress.update(stats.documents, len(kept), "signed")
    return StageReport(
        documents_in=len(kept), documents_kept=stats.documents, stats=stats.as_json(), samples=stats.samples()
    )


def duplicate_clusters(build: Build) -> StageReport:
    """Cluster the live kept documents of all crawls; an update adds and removes those that came and went."""
    recipe = build.recipe("dedup", DedupRecipe)
    found = arrivals(build, recipe)
    update = apply(build, recipe, found)
    written = UpdatedTables(build.output, found.base)
    written.write("decisions", update.decisions, DUPLICATES)
    written.write("pairs", update.pairs, DUPLICATE_PAIRS)
    written.keep(update.kept_files)
    output = written.segment()
    reasons = ("exact_duplicate", "near_duplicate")
    dropped = {reason: n for reason in reasons if (n := update.stats[f"{reason}s"])}
    added, removed = (with_pages(build, found, rows) for rows in (update.decisions.added, update.decisions.removed))
    per_source = yields_by_source(found, added, removed)
    documents = sum(per_source["documents_by_source"].values())

    def urls(doc_ids: pa.Array) -> dict[str, str]:
        rows = live_rows(build.all("crawl_delta"), doc_ids)
        return dict(zip(rows["doc_id"].to_pylist(), rows["url"].to_pylist(), strict=True))

    return StageReport(
        documents_in=documents,
        documents_kept=documents - sum(dropped.values()),
        dropped=dropped,
        stats=update.stats
        | audit_update(build, found, update, output)
        | per_source
        | {
            "threshold": recipe.threshold,
            "documents_added": len(found.documents),
            "documents_removed": len(found.removed),
        },
        samples=cluster_samples(added, urls),
        plots=cluster_plots(output) | source_plot(per_source),
        volatile_files=(f"{STATE}*",),
        extends=written.extends,
    )


def contamination(build: Build) -> StageReport:
    """Search every kept document for evaluation items; in an update, those of the new crawls."""
    recipe = build.recipe("contamination", ContaminationRecipe)
    items = read_items(recipe)
    index = ItemIndex(items, recipe)
    new, texts = build.added("filtered_documents"), build.added("extracted_documents")
    base = build.base.segment if build.base and new is not None and texts is not None else None
    nothing: dict[str, Any] = {"documents_by_source": {}, "dropped_by_source": {}}
    before = base.manifest["report"]["stats"] if base else nothing
    searched: Counter[str] = Counter(before["documents_by_source"])
    hits: dict[str, Hit] = {}
    sources: dict[str, str] = {}
    for filtered in new if base and new is not None else build.all("filtered_documents"):
        kept = kept_ids(filtered)
        holding = find_contaminated(kept_texts(same_partition(build, "extracted_documents", filtered), kept), index)
        hits |= holding
        source, _ = parse_crawl(filtered.partition)
        sources |= dict.fromkeys(holding, source)
        searched[source] += len(kept)
        build.progress.update(searched.total(), note="searched for evaluation items")
    found = decision_table(hits)
    known = base.rows("decisions", "doc_id", found["doc_id"].combine_chunks()) if base else CONTAMINATION.empty_table()
    # A page that came back is the same document with the same text, and stays in the table when it goes.
    written = UpdatedTables(build.output, base)
    written.write("decisions", difference(known, found), CONTAMINATION)
    decisions = written.segment().table("decisions")
    for doc_id in known["doc_id"].to_pylist():
        del sources[doc_id]
    contaminated = Counter(sources.values())
    contaminated.update({source: n["contaminated"] for source, n in before["dropped_by_source"].items()})
    return StageReport(
        documents_in=searched.total(),
        documents_kept=searched.total() - len(decisions),
        dropped={"contaminated": len(decisions)} if len(decisions) else {},
        stats=index.stats(decisions)
        | {
            "items_sha256": items_sha256(items),
            "documents_by_source": dict(sorted(searched.items())),
            "dropped_by_source": {source: {"contaminated": n} for source, n in sorted(contaminated.items())},
        },
        samples=contamination_samples(*_shown(build, decisions, sources), index),
        extends=written.extends,
    )


def _shown(build: Build, decisions: pa.Table, new: dict[str, str]) -> tuple[pa.Table, dict[str, tuple[str, str]]]:
    """The worst decisions and some of the new ones (doc_id -> source) of each source, and all their sources and URLs."""
    worst = decisions.sort_by([("overlap", "descending"), ("doc_id", "ascending")]).slice(0, ROWS)
    rows = pa.table({"doc_id": pa.array(list(new), pa.string()), "source": pa.array(list(new.values()), pa.string())})
    chosen = pc.is_in(decisions["doc_id"], value_set=some_of_each(rows, ("source",))["doc_id"].combine_chunks())
    others = pc.and_not(chosen, pc.is_in(decisions["doc_id"], value_set=worst["doc_id"].combine_chunks()))
    shown = pa.concat_tables([worst, decisions.filter(others)])
    pages: dict[str, tuple[str, str]] = {}
    for filtered in build.all("filtered_documents") if len(shown) else ():
        found = filtered.rows("decisions", "doc_id", shown["doc_id"].combine_chunks(), ("doc_id", "source", "url"))
        pages |= {row["doc_id"]: (row["source"], row["url"]) for row in found.to_pylist()}
    return shown, pages


def corpus(build: Build) -> StageReport:
    """Assemble the snapshot and the fate of every document; in an update, of the documents concerned."""
    update = update_corpus(build)
    base = build.base.segment if build.base and update else None
    if base and update:
        everything = base.manifest["report"]["documents_in"] + update.new_documents
    else:
        live = read_live(build.all("crawl_delta"))
        extracted = read_all(build.all("extracted_documents"), "documents", EXTRACTED_COLUMNS, DOCUMENTS)
        filtered = read_all(build.all("filtered_documents"), "decisions", FILTERED_COLUMNS, FILTERED)
        found = build.one("duplicate_clusters").table("decisions")
        hits = build.one("contamination").table("decisions")
        documents, decisions = assemble(live, extracted, filtered, found, hits, threads=build.workers)
        everything = len(pc.unique(extracted["doc_id"]))
        update = CorpusUpdate(Changes.all_new(documents), Changes.all_new(decisions), everything)
    written = UpdatedTables(build.output, base)
    written.write("documents", update.documents, CORPUS)
    written.write("decisions", update.decisions, CORPUS_DECISIONS)
    stats = corpus_stats(written.segment(), everything)
    return StageReport(
        documents_in=everything,
        documents_kept=stats["documents_by_stage"].get("corpus", 0),
        dropped=stats.pop("dropped"),
        stats=stats,
        samples=corpus_samples(update.decisions.added),
        plots=source_plot(stats),
        extends=written.extends,
    )
