"""Both mixture assets over published segments, and what training and lineage read of them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from assets import schemas
from assets.build import Segment, StageReport
from assets.mixture import defs
from assets.mixture.order import update_digest
from assets.tables import write_table
from orchestration.digest import data_version
from quality.mixture_checks import CHECKS
from quality.outcome import Evidence
from tests.builds import make_build, segment_of
from tests.mixture.worlds import corpus_and_index

RUN = "demo@20240101T000000Z"
RECIPES = {
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


def built(folder: Path, asset: str, inputs: dict[str, Segment]) -> tuple[Segment, StageReport]:
    build = make_build(folder, asset, inputs.values(), RECIPES, partition=RUN)
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
    hasher = hashlib.sha256()
    update_digest(hasher, table)
    assert json.loads(order.path("fingerprint.json").read_text()) == {
        "order_sha256": hasher.hexdigest(),
        "sequences": 120,
        "sequence_length": 63,
        "global_batch_size": 4,
    }
    assert report.stats["heldout_pieces"] == report.stats["sequences_not_full"] == 0
    assert report.samples[0].rows[0][-1].startswith("https://made.example/")
    assert all(png.startswith(b"\x89PNG") and len(png) < 40_000 for png in report.plots.values())
    metadata = pq.ParquetFile(order.path("order.parquet")).metadata
    groups = [metadata.row_group(number).column(0).statistics for number in range(metadata.num_row_groups)]
    assert [(group.min, group.max) for group in groups] == [(0, 95), (96, 119)], "groups hold whole sequences"


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
