"""What a person sees of dedup: pairs side by side, largest clusters, kept against dropped, per source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from assets.build import Sample, Segment
from assets.dedup.contamination import ItemIndex
from assets.dedup.corpus import count
from assets.plots import grouped_bars, histogram

ROWS = 12  # of each sample
KEPT = "kept"
"""Stands for the reason of a document that was not dropped."""


def source_plot(stats: dict[str, Any]) -> dict[str, bytes]:
    """Came in and stayed, per source."""
    series = {"in": stats["documents_by_source"], "kept": stats["kept_by_source"]}
    return {"Documents in and kept, per source": grouped_bars("documents", series)} if series["in"] else {}


def some_of_each(rows: pa.Table, by: Sequence[str], each: int = 3) -> pa.Table:
    """The rows with the smallest doc_ids of each combination of values: first one of each, then the next."""
    chosen = [rows.slice(0, 0)]
    for _ in range(each):
        smallest = rows.group_by(list(by)).aggregate([("doc_id", "min")])["doc_id_min"].combine_chunks()
        taken = pc.is_in(rows["doc_id"], value_set=smallest)
        chosen.append(rows.filter(taken).sort_by([(name, "ascending") for name in by]))
        rows = rows.filter(pc.invert(taken))
    return pa.concat_tables(chosen)


def cluster_samples(decisions: pa.Table, urls: Callable[[pa.Array], dict[str, str]]) -> list[Sample]:
    """The weakest and some exact pairs, the largest clusters, and some of each source's decisions, with their URLs, of
    these decisions (`with_pages`)."""
    dropped = decisions.filter(decisions["matched_doc_id"].is_valid())
    exact = pc.equal(dropped["method"], "exact_text")
    order = [("similarity", "ascending"), ("doc_id", "ascending")]
    near = dropped.filter(pc.invert(exact)).sort_by(order).slice(0, ROWS).to_pylist()
    same = dropped.filter(exact).sort_by(order).slice(0, ROWS).to_pylist()
    sizes = count(dropped, ("representative",))
    largest = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:ROWS]
    some = some_of_each(decisions, ("source", "drop_reason")).to_pylist()
    shown = {row["matched_doc_id"] for row in some if row["matched_doc_id"]}
    shown |= {row[name] for row in (*near, *same) for name in ("doc_id", "matched_doc_id", "representative")}
    url = urls(pa.array(sorted(shown | {doc_id for (doc_id,), _ in largest}), type=pa.string()))

    def pair(row: dict[str, Any]) -> tuple[Any, ...]:
        names = (url[row["doc_id"]], url[row["matched_doc_id"]], url[row["representative"]])
        return (round(row["similarity"], 4), row["method"], *names)

    columns = ("similarity", "method", "dropped", "matched", "kept")
    clusters = tuple((n + 1, url[doc_id]) for (doc_id,), n in largest)
    decided_columns = ("source", "reason", "doc_id", "url", "matched", "similarity")
    decided = tuple(
        (row["source"], row["drop_reason"] or KEPT, *_where(row), url.get(row["matched_doc_id"], ""), row["similarity"])
        for row in some
    )
    samples = [
        Sample("Near duplicates closest to the threshold", columns, tuple(map(pair, near))),
        Sample("Exact duplicates", columns, tuple(map(pair, same))),
        Sample("Largest clusters", ("documents", "kept"), clusters),
        Sample("New decisions, by source and reason", decided_columns, decided),
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


def contamination_samples(hits: pa.Table, pages: dict[str, tuple[str, str]], index: ItemIndex) -> list[Sample]:
    """Contaminated documents (in the order of `hits`) with the item they hold, and the items nobody searched for;
    `pages` gives the source and URL of each document."""
    texts = {(item.set, item.id): item.text[:80] for item in index.items}
    found = []
    for row in hits.to_pylist():
        item = (row["evaluation_set"], row["item_id"])
        source, url = pages[row["doc_id"]]
        found.append((source, row["drop_reason"], row["doc_id"], url, *item, round(row["overlap"], 3), texts[item]))
    columns = ("source", "reason", "doc_id", "url", "set", "item", "overlap", "item text")
    short = tuple((item.set, item.id, item.text) for item in index.too_short[:ROWS])
    samples = [
        Sample("Contaminated documents", columns, tuple(found)),
        Sample("Items too short to search for", ("set", "item", "text"), short),
    ]
    return [sample for sample in samples if sample.rows]


def corpus_samples(decisions: pa.Table) -> list[Sample]:
    """A few documents of each source and fate among these decisions."""
    some = some_of_each(decisions, ("source", "stage", "drop_reason")).to_pylist()
    columns = ("source", "stage", "reason", "doc_id", "url", "crawl", "matched")
    rows = tuple(
        (row["source"], row["stage"], row["drop_reason"] or KEPT, *_where(row), row["crawl"], row["matched_doc_id"])
        for row in some
    )
    return [Sample("New decisions, by source and reason", columns, rows)] if rows else []


def _where(row: dict[str, Any]) -> tuple[str, str]:
    return row["doc_id"], row["url"]
