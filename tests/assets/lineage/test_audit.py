"""The audit is silent on a sound world and finds each error that is planted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from assets.build import BuildError, Segment, StageReport
from assets.lineage import defs
from assets.lineage.audit import PROOFS, RULES
from quality.lineage_checks import CHECKS
from quality.outcome import Evidence
from quality.thresholds import LINEAGE
from tests.assets.lineage.conftest import (
    ONE,
    TWO,
    A,
    B,
    C,
    World,
    build_index,
    decision,
    digest,
    piece,
    planned,
    quarantined,
    replaced,
    saved,
)
from tests.builds import make_build


def audit(segments: list[Segment], root: Path) -> tuple[StageReport, dict[tuple[str, str], dict[str, Any]]]:
    build = make_build(root / "audit", "lineage_audit", [*segments, build_index(segments, root)])
    report = defs.lineage_audit(build)
    rows = pq.ParquetFile(build.output / "findings.parquet").read().to_pylist()
    assert rows == sorted(rows, key=lambda row: (row["rule"], row["run"]))
    return report, {(row["rule"], row["run"]): row for row in rows}


def test_a_sound_world_has_no_violation_and_every_rule_looked(world: World, tmp_path: Path) -> None:
    report, rows = audit(world.segments(tmp_path), tmp_path)
    assert {key: row["example"] for key, row in rows.items() if row["violations"]} == {}
    assert len(rows) == 2 * (len(RULES) + len(PROOFS))
    assert report.stats["violations"] == report.stats["found_later"] == 0
    # Only run two holds anything out, and neither had an incident.
    unchecked = {key for key, row in rows.items() if not row["checked"]} - {
        (r, run) for r in AMENDED for run in (ONE, TWO)
    }
    assert unchecked == {("heldout_documents_are_in_no_sequence", ONE)}


AMENDED = (
    "quarantined_documents_are_in_no_sequence_after_their_rollback",
    "replaced_sequences_read_earlier_planned_ones",
    "checkpoints_were_trained_with_these_amendments",
)


def _amend(world: World) -> None:
    """Run one found B guilty after step 1: its second step reads the first one's sequences again."""
    world.quarantine[ONE] = [quarantined(B, rollback_step=1)]
    world.amendments[ONE] = [replaced(2, 0), replaced(3, 1)]


def test_a_run_that_was_amended_is_sound_and_counts_what_it_read(world: World, tmp_path: Path) -> None:
    _amend(world)
    report, rows = audit(world.segments(tmp_path), tmp_path)
    assert {key: row["example"] for key, row in rows.items() if row["violations"]} == {}
    assert [rows[rule, ONE]["checked"] for rule in AMENDED] == [1, 2, 2]
    assert report.stats["violations"] == 0


def _still_read(world: World) -> None:
    _amend(world)
    world.amendments[ONE].pop()


def _replaced_by_a_later_one(world: World) -> None:
    _amend(world)
    world.amendments[ONE][0] = replaced(2, 3)


def _not_trained_with(world: World) -> None:
    _amend(world)
    world.amendments[ONE][0]["incident"] = 2


def _heldout(world: World) -> None:
    world.mixture[ONE][1] |= {"split": "heldout", "stable_uses": 0.0}


def _foreign(world: World) -> None:
    world.mixture[ONE].pop()


def _unplanned(world: World) -> None:
    world.mixture[ONE][1]["stable_uses"] = 0.0


def _gap(world: World) -> None:
    world.order[ONE] = [row for row in world.order[ONE] if row["sequence"] != 1]


def _beyond(world: World) -> None:
    world.order[ONE].append(piece(4, 0, B, 0, 4, 1))


def _short(world: World) -> None:
    world.order[ONE][0]["length"] = 3


def _numbers(world: World) -> None:
    world.order[ONE][3]["piece"] = 2


def _outside(world: World) -> None:
    world.mixture[ONE][1]["tokens"] = 5


def _too_often(world: World) -> None:
    world.mixture[TWO][0]["decay_uses"] = 0.0


def _twice(world: World) -> None:
    world.order[ONE][1]["start"] = 3


def _half_step(world: World) -> None:
    world.checkpoints[ONE][0]["sequences_seen"] = 3


def _past_the_end(world: World) -> None:
    world.checkpoints[ONE][1] = saved(ONE, 3, 2)


def _other_order(world: World) -> None:
    world.trained_on[ONE] = {"order_fingerprint": "0" * 64}


def _other_decay(world: World) -> None:
    world.trained_on[TWO] = {"decay_order_fingerprint": "0" * 64}


def _changed_decay(world: World) -> None:
    stable, decay = ([row for row in world.order[TWO] if row["phase"] == phase] for phase in ("stable", "decay"))
    entries = [("stable", 0, digest(stable), 0), ("decay", 2, digest([*decay[1:], decay[0]]), 1)]
    world.plan[TWO]["phases"] = [
        {"phase": phase, "file": f"order-{number:05d}.parquet", "first_sequence": first, "order_sha256": found}
        for phase, first, found, number in entries
    ]
    world.keep_digest = True


def _changed_order(world: World) -> None:
    world.plan[ONE]["order_sha256"] = digest(world.order[ONE])
    world.order[ONE][3] |= {"channel": "code"}
    world.keep_digest = True


def _contaminated(world: World) -> None:
    world.decisions[1] = decision(B, "contamination", "contaminated")


PLANTED: list[tuple[Callable[[World], None], str, str]] = [
    (_heldout, "heldout_documents_are_in_no_sequence", f"held-out document {B} is in sequence 2"),
    (_foreign, "sequences_hold_only_planned_training_documents", f"document {B} in sequence 2 is not in the mixture"),
    (_unplanned, "sequences_hold_only_planned_training_documents", f"document {B} is planned for no use"),
    (_gap, "sequences_are_numbered_without_gap", "sequence 1 is missing"),
    (_beyond, "sequences_are_numbered_without_gap", "sequence 4 is outside 0..3"),
    (_short, "sequences_have_their_exact_length", "sequence 0 has 3 tokens, not 4"),
    (_numbers, "pieces_are_numbered_without_gap", "sequence 2 has pieces [0, 2]"),
    (_outside, "pieces_lie_inside_their_documents", f"reads tokens 2 to 6 of document {B}, which has 5"),
    (_too_often, "documents_are_used_no_more_than_planned", f"document {A} is used 2 times, planned 1.0 + 0.0"),
    (_twice, "no_token_is_read_twice_in_one_use", f"sequence 1 reads document {A} (use 0) again from 3"),
    (_half_step, "checkpoints_have_read_whole_steps", "checkpoint 1 has read 3 sequences"),
    (_past_the_end, "checkpoints_have_read_whole_steps", "checkpoint 3 has read 6 sequences"),
    (_other_order, "checkpoints_were_trained_on_this_order", "checkpoint 1 was trained on stable order 0000"),
    (_other_decay, "checkpoints_were_trained_on_this_order", "checkpoint 4 was trained on decay order 0000"),
    (_changed_decay, "order_has_its_digest", "the order of phase decay has digest"),
    (_changed_order, "order_has_its_digest", "the order of all phases has digest"),
    (_still_read, AMENDED[0], f"document {B} was quarantined (loss_spike), yet sequence 3 reads it after step 1"),
    (_replaced_by_a_later_one, AMENDED[1], "sequence 2 is replaced by 3"),
    (
        _not_trained_with,
        AMENDED[2],
        "checkpoint 2 was trained with the amendments of incidents [1], amendments.parquet",
    ),
    (_contaminated, "no_document_read_was_found_contaminated_later", f"document {B} holds an evaluation item"),
]


@pytest.mark.parametrize(("plant", "rule", "example"), PLANTED, ids=[plant.__name__ for plant, _, _ in PLANTED])
def test_a_planted_error_is_found(
    world: World, tmp_path: Path, plant: Callable[[World], None], rule: str, example: str
) -> None:
    plant(world)
    run = TWO if plant in (_too_often, _other_decay, _changed_decay) else ONE
    report, rows = audit(world.segments(tmp_path), tmp_path)
    assert rows[rule, run]["violations"] >= 1
    assert example in rows[rule, run]["example"]
    other = ONE if run == TWO else TWO
    assert sum(row["violations"] for key, row in rows.items() if key[1] == other) == 0
    later = rule == "no_document_read_was_found_contaminated_later"
    assert (report.stats["found_later"] > 0) == later
    assert (report.stats["violations"] == 0) == later


def test_an_index_that_is_not_of_these_manifests_is_found(world: World, tmp_path: Path) -> None:
    index = build_index(world.segments(tmp_path / "before"), tmp_path / "before")
    world.order[ONE][4] = piece(3, 0, A, 0, 4, 1)
    world.checkpoints[ONE][1]["weights_sha256"] = "f" * 64
    build = make_build(tmp_path / "audit", "lineage_audit", [*world.segments(tmp_path / "after"), index])
    stats = defs.lineage_audit(build).stats
    assert stats["violations_by_rule"]["index_accounts_for_every_token_read"] == 2
    assert stats["violations_by_rule"]["index_lists_every_checkpoint"] == 1


def test_every_rule_has_a_planted_error() -> None:
    tested = {rule for _, rule, _ in PLANTED}
    tested |= {"index_accounts_for_every_token_read", "index_lists_every_checkpoint"}
    assert tested == {rule.name for rule in RULES} | {proof.__name__ for proof in PROOFS}


def test_a_run_without_its_mixture_cannot_be_audited(world: World, tmp_path: Path) -> None:
    segments = [
        segment
        for segment in world.segments(tmp_path)
        if (segment.asset, segment.partition) != ("mixture_manifest", ONE)
    ]
    with pytest.raises(BuildError, match=f"run {ONE} has an order or checkpoints but not"):
        audit(segments, tmp_path)


def test_a_run_that_is_planned_but_not_trained_is_audited(world: World, tmp_path: Path) -> None:
    segments = [segment for segment in world.segments(tmp_path) if segment.asset != "base_checkpoints"]
    report, rows = audit(segments, tmp_path)
    assert report.stats["violations"] == 0
    assert rows["checkpoints_have_read_whole_steps", ONE]["checked"] == 0


@pytest.mark.parametrize(("findings", "blind", "passed"), [(26, 0, True), (25, 0, False), (26, 1, False)])
def test_an_audit_with_holes_does_not_pass(findings: int, blind: int, passed: bool) -> None:
    stats = {"runs": 2, "rules": 13, "runs_without_pieces": blind}
    report = {"documents_in": None, "dropped": {}, "stats": stats}
    assert CHECKS["lineage_audit"][0].run(Evidence(report, None, {"findings": findings}, 0)).passed is passed


def test_each_asset_has_a_blocking_and_an_informational_check() -> None:
    for asset in ("lineage_index", "lineage_audit"):
        kinds = {limit.blocking for limit in LINEAGE if limit.asset == asset}
        assert kinds | {check.blocking for check in CHECKS[asset]} == {True, False}


def test_a_dropped_document_in_an_order_is_foreign(world: World, tmp_path: Path) -> None:
    world.mixture[ONE].append(planned(C, 4, "train", 0.0))
    world.order[ONE][0] = piece(0, 0, C, 0, 4)
    _, rows = audit(world.segments(tmp_path), tmp_path)
    assert rows["sequences_hold_only_planned_training_documents", ONE]["example"].startswith(f"document {C}")
