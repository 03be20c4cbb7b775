"""The assets of mixture: inputs in, the run's plan and order out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from itertools import groupby

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel

from assets import plots, schemas
from assets.build import Build, Sample, StageReport
from assets.key_set import KeySet
from assets.mixture import mixture, order
from assets.mixture.measures import STRETCHES, OrderMeasure, mixture_stats
from assets.mixture.phases import FINGERPRINT
from assets.mixture.shape import RunShape
from assets.tables import write_table

RECIPES: dict[str, type[BaseModel]] = {"mixture": mixture.MixtureRecipe, "order": order.OrderRecipe}

SHOWN_SEQUENCES = 4


def mixture_manifest(build: Build) -> StageReport:
    """Held-out documents, and how often each other document is used in each phase."""
    recipe = build.recipe("mixture", mixture.MixtureRecipe)
    shape = RunShape.read(build.recipes)
    documents = mixture.join(
        build.one("corpus").table("documents", mixture.CORPUS_COLUMNS),
        build.one("token_shards").table("index", mixture.INDEX_COLUMNS),
    )
    planned = mixture.plan(documents, recipe, shape)
    rows = mixture.plan_rows(planned, recipe, shape)
    write_table(build.output, "documents", mixture.documents_table(planned), schemas.MIXTURE)
    write_table(build.output, "plan", rows, schemas.MIXTURE_PLAN)
    columns = ("phase", "channel", "wanted_share", "share", "tokens", "available_tokens", "uses")
    pages = [page.replace("\0", " ") for page in documents.pages]
    heldout = [i for i in range(len(pages)) if planned.heldout[i]][:20]
    shares = {
        title: {f"{row['phase']}/{row['channel']}": row[key] for row in rows}
        for title, key in (("recipe", "wanted_share"), ("given", "share"))
    }
    return StageReport(
        documents_in=len(pages),
        documents_kept=len(pages),
        tokens_in=int(documents.tokens.sum()),
        tokens_out=sum(row["tokens"] for row in rows),
        stats=mixture_stats(planned, recipe, rows, shape.window),
        samples=[
            Sample("Plan", columns, tuple(tuple(row[c] for c in columns) for row in rows)),
            Sample(
                "Held out",
                ("page", "channel", "tokens"),
                tuple((pages[i], documents.channels[i], int(documents.tokens[i])) for i in heldout),
            ),
        ],
        plots={
            "Share of each channel": plots.grouped_bars("share of the phase's tokens", shares),
            "Planned uses": plots.histogram(
                "uses of a document in the run",
                {c: u for c, u in mixture.uses_by_channel(planned).items() if len(u)},
            ),
        },
    )


def order_manifest(build: Build) -> StageReport:
    """The pieces of each training sequence."""
    recipe = build.recipe("order", order.OrderRecipe)
    shape = RunShape.read(build.recipes)
    manifest = build.one("mixture_manifest")
    documents = order.PlannedDocuments.of(manifest.table("documents"))
    plan = manifest.table("plan").to_pylist()
    targets = {(row["phase"], row["channel"]): row["tokens"] for row in plan}
    streams = order.plan_uses(documents, targets, shape, recipe.seed)

    measure = OrderMeasure(documents, shape)
    first = _write_order(build, shape, documents, order.cut_sequences(streams, shape, recipe.seed), measure)
    stretch = measure.stretch_shares()
    places = [(i + 0.5) * shape.sequences / STRETCHES for i in range(STRETCHES)]
    return StageReport(
        tokens_out=shape.sequences * shape.window,
        stats=measure.stats({f"{row['phase']}/{row['channel']}": row["share"] for row in plan if row["tokens"]}),
        samples=[_first_sequences(build, first)],
        plots={
            "Share of each channel over the run": plots.lines(
                "sequence", "share of tokens", {name: (places, shares) for name, shares in stretch.items()}
            ),
            "Uses of a document": plots.histogram(
                "uses begun in the run", {"documents": measure.repeats[~documents.heldout].tolist()}
            ),
        },
    )


def _write_order(
    build: Build,
    shape: RunShape,
    documents: order.PlannedDocuments,
    groups: Iterator[order.Pieces],
    measure: OrderMeasure,
) -> list[dict[str, object]]:
    """One file and one digest for each phase, and the digest of all; returns the pieces of the first sequences."""
    whole, phases = hashlib.sha256(), []
    first: list[dict[str, object]] = []
    places = {phase: (low, sequences) for phase, low, sequences in shape.phases()}
    for number, (phase, of_phase) in enumerate(groupby(groups, key=lambda pieces: pieces.phase)):
        name, hasher = f"order-{number:05d}.parquet", hashlib.sha256()
        with pq.ParquetWriter(build.output / name, schemas.ORDER, compression="zstd") as writer:
            for pieces in of_phase:
                table = order.pieces_table(pieces, documents).cast(schemas.ORDER)
                writer.write_table(table, row_group_size=max(table.num_rows, 1))
                measure.add(pieces)
                order.update_digest(whole, table)
                order.update_digest(hasher, table)
                first = first or table.filter(pc.less(table["sequence"], SHOWN_SEQUENCES)).to_pylist()
                build.progress.update(measure.sequences, shape.sequences, "sequences")
        low, sequences = places[phase]
        entry = {"phase": phase, "file": name, "order_sha256": hasher.hexdigest()}
        phases.append(entry | {"first_sequence": low, "sequences": sequences})
    fingerprint = {
        "order_sha256": whole.hexdigest(),
        "sequences": shape.sequences,
        "sequence_length": shape.sequence_length,
        "global_batch_size": shape.global_batch_size,
        "phases": phases,
    }
    (build.output / FINGERPRINT).write_text(json.dumps(fingerprint, indent=2, sort_keys=True) + "\n")
    return first


def _first_sequences(build: Build, pieces: list[dict[str, object]]) -> Sample:
    wanted = KeySet(pa.array(sorted({str(piece["doc_id"]) for piece in pieces}), pa.string()))
    urls: dict[str, str] = {}
    for batch in build.one("corpus").batches("documents", ["doc_id", "url"]):
        for row in batch.filter(wanted.holds(batch.column("doc_id"))).to_pylist():
            urls[row["doc_id"]] = row["url"]
    columns = ("sequence", "piece", "channel", "start", "length", "repeat", "doc_id")
    rows = tuple((*(piece[c] for c in columns), urls.get(str(piece["doc_id"]), "")) for piece in pieces[:40])
    return Sample(f"The first {SHOWN_SEQUENCES} sequences", (*columns, "url"), rows)
