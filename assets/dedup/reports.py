"""What a person sees of dedup: pairs side by side, largest clusters, kept against dropped, per source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from assets.build import Sample, Segment
from assets.dedup.contamination import ItemIndex
from assets.dedup.corpus import count
from assets.plots import grouped_bars, histogram

ROWS = 12  # of each sample


def source_plot(stats: dict[str, Any]) -> dict[str, bytes]:
    """Came in and stayed, per source."""
    series = {"in": stats["documents_by_source"], "kept": stats["kept_by_source"]}
    return {"Documents in and kept, per source": grouped_bars("documents", series)} if series["in"] else {}


def cluster_samples(decisions: pa.Table, urls: Callable[[pa.Array], dict[str, str]]) -> list[Sample]:
    """The weakest and some exact pairs with their URLs, and the largest clusters, of these decisions."""
    dropped = decisions.filter(decisions["matched_doc_id"].is_valid())
    exact = pc.equal(dropped["method"], "exact_text")
    order = [("similarity", "ascending"), ("doc_id", "ascending")]
    near = dropped.filter(pc.invert(exact)).sort_by(order).slice(0, ROWS).to_pylist()
    same = dropped.filter(exact).sort_by(order).slice(0, ROWS).to_pylist()
    sizes = count(dropped, ("representative",))
    largest = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:ROWS]
    shown = {row[name] for row in (*near, *same) for name in ("doc_id", "matched_doc_id", "representative")}
    url = urls(pa.array(sorted(shown | {doc_id for (doc_id,), _ in largest}), type=pa.string()))

    def pair(row: dict[str, Any]) -> tuple[Any, ...]:
        names = (url[row["doc_id"]], url[row["matched_doc_id"]], url[row["representative"]])
        return (round(row["similarity"], 4), row["method"], *names)

    columns = ("similarity", "method", "dropped", "matched", "kept")
    clusters = tuple((n + 1, url[doc_id]) for (doc_id,), n in largest)
    samples = [
        Sample("Near duplicates closest to the threshold", columns, tuple(map(pair, near))),
        Sample("Exact duplicates", columns, tuple(map(pair, same))),
        Sample("Largest clusters", ("documents", "kept"), clusters),
    ]
    return [sample for sample in samples if sample.rows]


def cluster_plots(clusters: Segment) -> dict[str, bytes]:
    """Similarity of the proven pairs and sizes of the clusters."""
    pairs = clusters.table("pairs", ("similarity", "method"))
    if not len(pairs):
        return {}
    similarity = {
        name: pairs.filter(pc.equal(pairs["method"], name))["similarity"].to_numpy()
        for name in ("exact_text", "minhash_jaccard")
    }
    sizes = count(clusters.table("decisions", ("cluster_id",)), ("cluster_id",)).values()
    counts = Counter(_size_class(size) for size in sizes if size > 1)
    return {
        "Similarity of each duplicate with what it matched": histogram(
            "true Jaccard", {name: values for name, values in similarity.items() if len(values)}
        ),
        "Clusters by size": grouped_bars("clusters", {"clusters": dict(sorted(counts.items()))}),
    }


def _size_class(size: int) -> str:
    if size < 10:
        return f"{size:6d}"
    low = 10 ** (len(str(size)) - 1)
    return f"{low:6d}+"


def contamination_samples(hits: pa.Table, urls: dict[str, str], index: ItemIndex) -> list[Sample]:
    """Contaminated documents (the worst first, as in `hits`) with the item they hold, and the items nobody searched for."""
    texts = {(item.set, item.id): item.text[:80] for item in index.items}
    found = []
    for row in hits.to_pylist():
        item = (row["evaluation_set"], row["item_id"])
        found.append((urls[row["doc_id"]], *item, round(row["overlap"], 3), texts[item]))
    short = tuple((item.set, item.id, item.text) for item in index.too_short[:ROWS])
    samples = [
        Sample("Contaminated documents", ("url", "set", "item", "overlap", "item text"), tuple(found)),
        Sample("Items too short to search for", ("set", "item", "text"), short),
    ]
    return [sample for sample in samples if sample.rows]


def corpus_samples(documents: Segment) -> list[Sample]:
    """A few documents of each fate."""
    shown: dict[tuple[str, str], list[tuple[Any, ...]]] = {}
    columns = ("stage", "drop_reason", "url", "crawl", "matched_doc_id")
    for batch in documents.batches("decisions", columns, rows=65536):
        for stage, reason in count(pa.Table.from_batches([batch]), ("stage", "drop_reason")):
            rows = shown.setdefault((stage, reason), []) if stage else None
            if rows is not None and len(rows) < 3:
                same = pc.and_(pc.equal(batch.column("stage"), stage), pc.equal(batch.column("drop_reason"), reason))
                found = batch.filter(same).slice(0, 3 - len(rows)).to_pylist()
                rows.extend(tuple(row[name] for name in columns) for row in found)
    rows = sorted(row for found in shown.values() for row in found)
    title = "Dropped, by stage and reason"
    return [Sample(title, ("stage", "reason", "url", "crawl", "matched"), tuple(rows))] if rows else []
