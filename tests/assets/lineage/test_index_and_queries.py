"""Document to step to checkpoint to score, and back, on three documents and two runs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from assets.build import BuildError, Segment
from assets.lineage import defs
from assets.lineage.queries import LineageNotFoundError, by_checkpoint, by_doc_id, by_step, by_url
from tests.assets.lineage.conftest import (
    ONE,
    TWO,
    URLS,
    A,
    B,
    C,
    World,
    build_index,
    piece,
    quarantined,
    replaced,
    saved,
)
from tests.builds import make_build


@pytest.fixture
def lineage(world: World, tmp_path: Path) -> tuple[Segment, list[Segment]]:
    """The index and the order manifests."""
    segments = world.segments(tmp_path)
    return build_index(segments, tmp_path), [s for s in segments if s.asset == "order_manifest"]


def test_uses_name_sequences_and_steps(lineage: tuple[Segment, list[Segment]]) -> None:
    uses = {(row["doc_id"][0], row["run"]): row for row in lineage[0].table("uses").to_pylist()}
    assert list(uses) == [("a", ONE), ("a", TWO), ("b", ONE), ("b", TWO)]
    one = uses["a", ONE]
    assert (one["sequences"], one["steps"]) == ([0, 1, 2], [1, 2])
    assert (one["first_step"], one["last_step"], one["tokens_used"], one["repeats"]) == (1, 2, 10, 1)
    two = uses["a", TWO]
    assert (two["sequences"], two["steps"], two["tokens_used"], two["repeats"]) == ([0, 1, 2, 3], [1, 2, 3, 4], 16, 2)
    held = uses["b", TWO]
    assert (held["split"], held["sequences"], held["first_step"], held["tokens_used"]) == ("heldout", [], None, 0)


def test_checkpoints_carry_their_score_or_none(lineage: tuple[Segment, list[Segment]]) -> None:
    rows = lineage[0].table("checkpoints").to_pylist()
    found = [(row["run"], row["step"], row["heldout_loss"]) for row in rows]
    assert found == [(ONE, 1, 4.0), (ONE, 2, 3.0), (TWO, 2, None), (TWO, 4, None)]


def test_statistics_of_the_index(lineage: tuple[Segment, list[Segment]]) -> None:
    stats = lineage[0].manifest["report"]["stats"]
    assert stats["documents_by_fate"] == {"duplicate_clusters": 1, "in corpus": 2}
    assert (stats["runs"], stats["train_uses"], stats["heldout_uses"]) == (2, 3, 1)
    assert (stats["tokens_used"], stats["uses_without_document"]) == (32, 0)
    assert stats["checkpoints_without_score"] == 2


def test_an_index_without_runs_has_only_fates(world: World, tmp_path: Path) -> None:
    corpus = [segment for segment in world.segments(tmp_path) if segment.asset == "corpus"]
    index = build_index(corpus, tmp_path)
    assert index.table("documents").num_rows == 3
    assert index.table("uses").num_rows == index.table("checkpoints").num_rows == 0


def test_a_use_without_a_document_is_counted(world: World, tmp_path: Path) -> None:
    world.decisions = [row for row in world.decisions if row["doc_id"] != B]
    index = build_index(world.segments(tmp_path), tmp_path)
    assert index.manifest["report"]["stats"]["uses_without_document"] == 2


def test_checkpoints_of_another_run_are_refused(world: World, tmp_path: Path) -> None:
    world.checkpoints[ONE].append(saved(TWO, 9, 1))
    with pytest.raises(BuildError, match="must name the run they are published under"):
        build_index(world.segments(tmp_path), tmp_path)


def test_workers_do_not_change_the_index(world: World, tmp_path: Path) -> None:
    segments = world.segments(tmp_path)
    tables = []
    for workers in (1, 2):
        build = make_build(tmp_path / str(workers), "lineage_index", segments, workers=workers)
        defs.lineage_index(build)
        tables.append(
            [(build.output / f"{name}.parquet").read_bytes() for name in ("documents", "uses", "checkpoints")]
        )
    assert tables[0] == tables[1]


def test_a_page_tells_who_read_it_and_when(lineage: tuple[Segment, list[Segment]]) -> None:
    (found,) = by_url(lineage[0], URLS[A]).documents
    assert (found.doc_id, found.stage) == (A, None)
    assert [(use.run, use.first_step, use.first_checkpoint) for use in found.uses] == [(ONE, 1, 1), (TWO, 1, 2)]
    (held,) = by_url(lineage[0], URLS[B]).documents
    assert [(use.run, use.split, use.first_checkpoint) for use in held.uses] == [
        (ONE, "train", 2),
        (TWO, "heldout", None),
    ]


def test_part_of_a_url_finds_all_its_pages(lineage: tuple[Segment, list[Segment]]) -> None:
    assert [found.doc_id for found in by_url(lineage[0], "example.org/en/").documents] == [C, B]
    few = by_url(lineage[0], "example.org", limit=2)
    assert len(few.documents) == 2 < few.total == len(by_url(lineage[0], "example.org").documents)
    with pytest.raises(LineageNotFoundError, match="contains 'nowhere'"):
        by_url(lineage[0], "nowhere")


def test_a_dropped_document_names_its_match(lineage: tuple[Segment, list[Segment]]) -> None:
    (found,) = by_doc_id(lineage[0], "CCC").documents
    assert (found.stage, found.drop_reason, found.matched_doc_id) == ("duplicate_clusters", "near_duplicate", A)
    assert found.uses == []
    with pytest.raises(LineageNotFoundError):
        by_doc_id(lineage[0], "dddd")


def test_a_step_tells_what_it_read(lineage: tuple[Segment, list[Segment]]) -> None:
    found = by_step(*lineage, ONE, 2)
    assert found.sequences == [2, 3]
    assert found.tokens_by_channel == {"en": 6, "zh": 2}
    assert [(d.doc_id, d.url, d.sequences, d.tokens) for d in found.documents] == [
        (B, URLS[B], [2, 3], 6),
        (A, URLS[A], [2], 2),
    ]
    json.dumps(asdict(found))


@pytest.mark.parametrize(
    ("run", "step", "message"), [(ONE, 3, "steps 1 to 2, not 3"), (ONE, 0, "not 0"), ("x", 1, "known runs")]
)
def test_a_step_that_is_not_planned_is_not_found(
    lineage: tuple[Segment, list[Segment]], run: str, step: int, message: str
) -> None:
    with pytest.raises(LineageNotFoundError, match=message):
        by_step(*lineage, run, step)


def test_a_checkpoint_has_read_what_stands_before_it(lineage: tuple[Segment, list[Segment]]) -> None:
    first, last = by_checkpoint(*lineage, ONE, 1), by_checkpoint(*lineage, ONE, 2)
    assert (first.documents, first.heldout_loss) == (1, 4.0)
    assert {name: (share.documents, share.tokens) for name, share in first.by_source.items()} == {"library": (1, 8)}
    assert {name: (share.documents, share.tokens) for name, share in last.by_source.items()} == {
        "library": (1, 10),
        "mill": (1, 6),
    }
    assert list(last.by_channel) == ["en", "zh"]
    json.dumps(asdict(last))
    with pytest.raises(LineageNotFoundError, match="no checkpoint of step 7; it has: 1, 2"):
        by_checkpoint(*lineage, ONE, 7)


def test_a_document_unknown_to_the_index_still_shows_in_its_step(world: World, tmp_path: Path) -> None:
    world.order[ONE][0] = piece(0, 0, "d" * 32, 0, 4)
    segments = world.segments(tmp_path)
    index = build_index(segments, tmp_path)
    found = by_step(index, [s for s in segments if s.asset == "order_manifest"], ONE, 1)
    assert [(d.doc_id[0], d.url) for d in found.documents] == [("d", None), ("a", URLS[A])]


def test_a_quarantined_document_is_in_no_sequence_of_its_run_and_its_stand_in_is(world: World, tmp_path: Path) -> None:
    world.quarantine[ONE] = [quarantined(B, rollback_step=1)]
    world.amendments[ONE] = [replaced(2, 0), replaced(3, 1)]
    segments = world.segments(tmp_path)
    index = build_index(segments, tmp_path)
    orders = [segment for segment in segments if segment.asset == "order_manifest"]
    (history,) = by_doc_id(index, B).documents
    use = next(use for use in history.uses if use.run == ONE)
    assert (use.quarantined, use.steps, use.tokens_used, use.repeats) == ("loss_spike", [], 0, 0)
    (history,) = by_doc_id(index, A).documents
    use = next(use for use in history.uses if use.run == ONE)
    assert (use.quarantined, use.sequences, use.steps, use.tokens_used) == (None, [0, 1, 2, 3], [1, 2], 16)
    assert use.repeats == 2
    assert {document.doc_id for document in by_step(index, orders, ONE, 2).documents} == {A}
    assert by_checkpoint(index, orders, ONE, 2).documents == 1
