"""The cause is found from losses alone: planted documents, worse weights, or neither."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from training.contract.bands import IncidentPolicy
from training.recovery.diagnosis import Window, diagnose, suspects_in
from training.recovery.incidents import Amendment, Amendments, attempts_at, muted

BATCH, FIRST, LAST = 4, 101, 103
POLICY = IncidentPolicy(reference_steps=16, look_ahead_steps=4)


def window(kind: str = "loss_spike") -> Window:
    return Window(kind, FIRST, LAST, 3.0, BATCH, 1)


def losses(bad: dict[int, float] | None = None, level: float = 3.0, seed: int = 0) -> pa.Table:
    """Two documents in each sequence of steps 84 to 107; those of `bad` sequences have another loss in the first."""
    generator = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for sequence in range(83 * BATCH, 107 * BATCH):
        for piece in range(2):
            channel = ("zh", "en")[sequence % 2]
            usual = level + (0.3 if channel == "zh" else 0.0) + generator.normal(0, 0.1)
            loss = (bad or {}).get(sequence, usual) if piece == 0 else usual
            doc_id = f"{sequence}-{piece}"
            rows.append(
                {"sequence": sequence, "piece": piece, "doc_id": doc_id, "channel": channel, "tokens": 32, "loss": loss}
            )
    return pa.Table.from_pylist(rows)


def trained(bad: dict[int, float] | None = None, level: float = 3.0) -> np.ndarray:
    """Losses of steps 101 to 103: a sequence with a bad document lies between its two documents."""
    numbers = np.arange((FIRST - 1) * BATCH, LAST * BATCH)
    return np.array([((bad or {}).get(n, level) + level) / 2 for n in numbers.tolist()]).reshape(-1, BATCH)


def metrics(rate: float = 1.0, gradient: float = 1.0) -> list[dict[str, float]]:
    return [
        {
            "learning_rate": 0.01 * rate,
            "planned_learning_rate": 0.01,
            "gradient_norm": gradient,
            "expected_gradient_norm": 1.0,
        }
    ]


@pytest.mark.parametrize(("kind", "loss"), [("loss_spike", 7.0), ("loss_drop", 0.3)])
def test_documents_that_carry_the_deviation_are_the_cause(kind: str, loss: float) -> None:
    bad = dict.fromkeys((400, 401, 405, 410), loss)
    ahead = {420: loss}  # more of the same, not yet read
    table = losses(bad | ahead)
    finding = diagnose(
        window(kind),
        POLICY,
        then=table,
        good=losses(bad | ahead, seed=1),
        trained=trained(bad),
        reference_trained=3.1,
        metrics=metrics(gradient=9.0),
    )
    assert finding.cause == "data"
    assert {suspect.doc_id for suspect in finding.suspects} == {f"{n}-0" for n in (*bad, *ahead)}
    assert finding.evidence["explained_share"] == pytest.approx(1.0, abs=0.05)
    assert {row["sequence"] for row in finding.ranking[:4]} == set(bad)
    assert finding.ranking[0]["doc_ids"] == [f"{finding.ranking[0]['sequence']}-{piece}" for piece in range(2)]


def test_a_drop_to_nothing_stands_out_however_wide_the_usual_losses_are() -> None:
    """Six widths below the usual loss would be less than none."""
    generator = np.random.default_rng(3)
    rows = losses({400: 0.05}).to_pylist()
    for row in rows:
        if row["doc_id"] != "400-0":
            row["loss"] = 2.3 + generator.normal(0, 0.42)
    found = suspects_in(pa.Table.from_pylist(rows), window("loss_drop"), POLICY, "good")
    assert [suspect.doc_id for suspect in found] == ["400-0"]
    assert found[0].expected == pytest.approx(2.3, abs=0.1)


def test_weights_that_a_spike_has_spoilt_accuse_nobody_when_good_ones_are_there() -> None:
    bad = dict.fromkeys((400, 401, 405, 410), 7.0)
    finding = diagnose(
        window(),
        POLICY,
        then=losses(bad | {415: 5.0}),
        good=losses(bad),
        trained=trained(bad),
        reference_trained=3.1,
        metrics=metrics(),
    )
    assert {suspect.doc_id for suspect in finding.suspects} == {f"{n}-0" for n in bad}


def test_only_the_direction_of_the_incident_makes_a_suspect() -> None:
    table = losses({400: 0.3, 401: 9.0})
    assert [s.doc_id for s in suspects_in(table, window("loss_spike"), POLICY, "good")] == ["401-0"]
    assert [s.doc_id for s in suspects_in(table, window("loss_drop"), POLICY, "good")] == ["400-0"]


def test_text_that_became_harder_for_all_is_the_optimiser() -> None:
    finding = diagnose(
        window(),
        POLICY,
        then=losses(level=5.0),
        good=losses(),
        trained=trained(level=5.0),
        reference_trained=3.1,
        metrics=metrics(),
    )
    assert (finding.cause, finding.suspects) == ("optimiser", ())
    assert finding.evidence["clean_loss_then"] == pytest.approx(5.15, abs=0.05)


def test_a_spike_that_is_over_and_that_good_weights_do_not_have_is_the_optimiser() -> None:
    finding = diagnose(
        window(),
        POLICY,
        then=losses(),
        good=losses(),
        trained=trained(level=4.0),
        reference_trained=3.1,
        metrics=metrics(),
    )
    assert finding.cause == "optimiser"


def test_one_odd_document_does_not_excuse_the_optimiser() -> None:
    bad = {401: 9.0}
    finding = diagnose(
        window(),
        POLICY,
        then=losses(bad, level=5.0),
        good=losses(bad),
        trained=trained(bad, level=5.0),
        reference_trained=3.1,
        metrics=metrics(rate=20.0),
    )
    assert (finding.cause, finding.suspects) == ("optimiser", ())
    assert finding.evidence["learning_rate_over_plan"] == pytest.approx(20.0)


def test_a_stretch_that_is_harder_for_good_weights_too_is_left_alone() -> None:
    hard = dict.fromkeys(range(400, 412), 3.6)  # harder, none an outlier
    finding = diagnose(
        window(),
        POLICY,
        then=losses(hard),
        good=losses(hard),
        trained=trained(hard),
        reference_trained=3.1,
        metrics=metrics(),
    )
    assert finding.cause == "unexplained"


def test_without_a_good_checkpoint_the_weights_of_the_moment_decide() -> None:
    bad = dict.fromkeys((404, 405, 406), 8.0)
    finding = diagnose(
        window(), POLICY, then=losses(bad), good=None, trained=trained(bad), reference_trained=3.1, metrics=metrics()
    )
    assert finding.cause == "data"
    assert {suspect.weights for suspect in finding.suspects} == {"then"}


def test_a_loss_that_is_not_finite_accuses_its_document_or_the_optimiser() -> None:
    broken = np.full((3, BATCH), math.nan)
    args = {"trained": broken, "reference_trained": 3.1, "metrics": metrics()}
    nothing = losses(dict.fromkeys(range(400, 412), math.nan), level=math.nan)
    found = diagnose(window("non_finite"), POLICY, then=nothing, good=losses({401: math.inf}), **args)
    assert [suspect.doc_id for suspect in found.suspects] == ["401-0"]
    assert diagnose(window("non_finite"), POLICY, then=nothing, good=losses(), **args).cause == "optimiser"


def test_short_pieces_accuse_nobody() -> None:
    table = losses({401: 9.0})
    short = table.set_column(4, "tokens", pa.array([POLICY.smallest_document_tokens - 1] * len(table)))
    assert suspects_in(short, window(), POLICY, "good") == []


def test_amendments_hold_for_their_steps_and_name_themselves_to_checkpoints() -> None:
    lower = Amendment(1, "lower_learning_rate", 11, 20, factor=0.3)
    tight = Amendment(2, "tighten_clipping", 15, 30, max_gradient_norm=0.5)
    swap = Amendment(3, "replace_sequences", 25, replaced={100: 7})
    plan = Amendment(4, "lower_learning_rate", 28, to_plan=True)
    passed = Amendment(5, "go_on", 3, 9)
    all_of_them = Amendments((lower, tight, swap, plan, passed))
    assert [all_of_them.learning_rate_factor(step) for step in (10, 11, 20, 21)] == [1.0, 0.3, 0.3, 1.0]
    assert [all_of_them.max_gradient_norm(step, 1.0) for step in (14, 15, 31)] == [1.0, 0.5, 1.0]
    assert [all_of_them.holds_to_plan(step) for step in (27, 28, 900)] == [False, True, True]
    assert all_of_them.replaced == {100: 7}
    assert [entry["incident"] for entry in all_of_them.until(24)] == [1, 2]
    assert [entry["incident"] for entry in all_of_them.until(25)] == [1, 2, 3]
    assert Amendment(3, "replace_sequences", 25, replaced={100: 8}).digest != swap.digest


def test_trouble_that_came_back_is_counted_and_a_window_let_pass_is_muted() -> None:
    decisions = [
        {
            "first_step": 101,
            "rollback_step": 80,
            "retried_until": 120,
            "amendment": {"action": "go_on", "last_step": 120},
        }
    ]
    assert [len(attempts_at(decisions, step)) for step in (80, 81, 120, 121)] == [0, 1, 1, 0]
    assert [muted(decisions, step) for step in (100, 101, 120, 121)] == [False, True, True, False]
