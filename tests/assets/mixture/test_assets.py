"""Both mixture assets over published segments, and what training and lineage read of them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from assets import schemas
from assets.build import Segment, StageReport
from assets.mixture import defs
from assets.mixture.order import update_digest
from assets.mixture.phases import phase_orders
from assets.tables import write_table
from orchestration.identity.digest import data_version
from quality.mixture_checks import CHECKS
from quality.outcome import Evidence
from tests.assets.mixture.worlds import corpus_and_index
from tests.builds import make_build, segment_of

RUN = "demo@20240101T000000Z"
RECIPES: dict[str, Any] = {
    "mixture": {"shares": {"zh": 0.6, "en": 0.4}, "min_heldout_documents": 2},
    "training": {"total_steps": 30, "decay_steps": 6, "global_batch_size": 4, "peak_lr": 0.001},
    "model": {"sequence_length": 63, "dim": 64},
}


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Segment]:
    corpus, index = corpus_and_index({"zh": [100, 300] * 10, "en": [80, 200] * 12})
    corpus_rows = [dict.fromkeys(schemas.CORPUS.names) | row for row in corpus.sort_by("doc_id").to_pylist()]
    index_rows = [dict.fromkeys(schemas.TOKEN_INDEX.names) | row for row in index.sort_by("doc_id").to_pylist()]
    write_table(tmp_path / "corpus", "documents", corpus_rows, schemas.CORPUS)
    write_table(tmp_path / "shards", "index", index_rows, schemas.TOKEN_INDEX)
    return {
        "corpus": segment_of(tmp_path / "corpus", "corpus"),
        "token_shards": segment_of(tmp_path / "shards", "token_shards"),
    }


def built(
    folder: Path, asset: str, inputs: dict[str, Segment], recipes: dict[str, Any] = RECIPES
) -> tuple[Segment, StageReport]:
    build = make_build(folder, asset, inputs.values(), recipes, partition=RUN)
    report = getattr(defs, asset)(build)
    version, _ = data_version(build.output, report.volatile_files)
    return segment_of(build.output, asset, RUN, version, report), report


def test_a_run_is_planned_and_ordered(inputs: dict[str, Segment], tmp_path: Path) -> None:
    mixture, report = built(tmp_path / "mixture", "mixture_manifest", inputs)
    rows = mixture.table("documents").to_pylist()
    assert report.documents_in == report.documents_kept == len(rows) == 44
    assert {row["split"] for row in rows} == {"train", "heldout"}
    assert report.stats["fewest_heldout_documents"] == 2
    assert report.stats["tokens_planned"] == 30 * 4 * 64

    order, report = built(tmp_path / "order", "order_manifest", inputs | {"mixture_manifest": mixture})
    table = order.table("order")
    assert table.schema.names == schemas.ORDER.names
    assert json.loads(order.path("fingerprint.json").read_text()) == {
        "order_sha256": digest_of(table),
        "sequences": 120,
        "sequence_length": 63,
        "global_batch_size": 4,
        "phases": [
            {
                "phase": phase,
                "file": name,
                "first_sequence": first,
                "sequences": sequences,
                "order_sha256": digest_of(table.filter(pc.equal(table["phase"], phase))),
            }
            for phase, name, first, sequences in (
                ("stable", "order-00000.parquet", 0, 96),
                ("decay", "order-00001.parquet", 96, 24),
            )
        ],
    }
    assert report.stats["heldout_pieces"] == report.stats["sequences_not_full"] == 0
    assert report.samples[0].rows[0][-1].startswith("https://made.example/")
    assert all(png.startswith(b"\x89PNG") and len(png) < 40_000 for png in report.plots.values())
    for phase, low, high in zip(phase_orders(order), (0, 96), (95, 119), strict=True):
        (group,) = groups_of(phase.files[0])
        assert (group.min, group.max) == (low, high)


def digest_of(table: pa.Table) -> str:
    hasher = hashlib.sha256()
    update_digest(hasher, table)
    return hasher.hexdigest()


def groups_of(path: Path) -> list[Any]:
    """Statistics of `sequence` in each row group."""
    metadata = pq.ParquetFile(path).metadata
    return [metadata.row_group(number).column(0).statistics for number in range(metadata.num_row_groups)]


def test_runs_that_differ_in_their_decay_alone_share_the_order_of_the_stable_phase(
    inputs: dict[str, Segment], tmp_path: Path
) -> None:
    """Other shares, another length, another quality of the decay; another stable phase for comparison."""
    mixture = {"decay_shares": {"zh": 0.2, "en": 0.8}, "decay_min_quality": 0.6}
    orders = []
    for number, changes in enumerate(
        (
            {},
            {
                "mixture": RECIPES["mixture"] | mixture,
                "training": RECIPES["training"] | {"total_steps": 34, "decay_steps": 10},
            },
            {"training": RECIPES["training"] | {"decay_steps": 7}},
        )
    ):
        planned, _ = built(tmp_path / f"m{number}", "mixture_manifest", inputs, RECIPES | changes)
        given = inputs | {"mixture_manifest": planned}
        orders.append(phase_orders(built(tmp_path / f"o{number}", "order_manifest", given, RECIPES | changes)[0]))
    one, other, shorter = orders
    assert [phase.first_sequence for phase in other] == [0, 96]
    assert one[0].fingerprint == other[0].fingerprint
    assert one[1].fingerprint != other[1].fingerprint
    assert shorter[0].fingerprint != one[0].fingerprint
    decay = pq.ParquetFile(other[1].files[0]).read()
    tokens = {name: pc.sum(decay.filter(pc.equal(decay["channel"], name))["length"]).as_py() for name in ("zh", "en")}
    assert tokens == {"zh": 8 * 64, "en": 32 * 64}


def test_building_twice_gives_one_version(inputs: dict[str, Segment], tmp_path: Path) -> None:
    versions = set()
    for attempt in ("a", "b"):
        mixture, _ = built(tmp_path / attempt / "m", "mixture_manifest", inputs)
        order, _ = built(tmp_path / attempt / "o", "order_manifest", inputs | {"mixture_manifest": mixture})
        versions.add((mixture.version, order.version))
    assert len(versions) == 1


@pytest.mark.parametrize(
    ("asset", "check", "report", "rows"),
    [
        ("mixture_manifest", "plan_covers_the_corpus", {"documents_in": 3}, {"documents": 2}),
        ("mixture_manifest", "no_channel_is_used_up", {"stats": {"channels_at_max_uses": ["zh"]}}, {}),
        ("mixture_manifest", "decay_reads_good_documents", {"stats": {"channels_of_relaxed_quality": ["zh"]}}, {}),
        ("order_manifest", "rows_are_the_counted_pieces", {"stats": {"pieces": 5}}, {"order": 4}),
        ("order_manifest", "most_documents_are_read", {"stats": {"documents_by_uses": {"0": 9, "1": 1}}}, {}),
    ],
)
def test_checks_can_fail(asset: str, check: str, report: dict, rows: dict[str, int]) -> None:
    evidence = Evidence({"stats": {}} | report, None, rows, 0)
    assert not next(c for c in CHECKS[asset] if c.name == check).run(evidence).passed
