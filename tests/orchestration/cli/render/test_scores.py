"""The scores at the end of a run: an interval beside every share, and what guessing gives below them."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest

from orchestration.cli.render.scores import Scores, Share, notes, score_table, wilson
from orchestration.process.terminal import console
from tests.shared_build import Built


@pytest.mark.parametrize(("passed", "of"), [(0, 8), (8, 8), (30, 58), (1, 1)])
def test_the_interval_is_scipys(passed: int, of: int) -> None:
    expected = binomtest(passed, of).proportion_ci(method="wilson")
    assert wilson(passed / of, of) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_ten_answers_to_one_item_make_the_interval_no_narrower() -> None:
    once = Share.over([("a", True), ("b", False)])
    often = Share.over([*[("a", True)] * 10, *[("b", False)] * 10])
    assert once == often
    assert once is not None and once.of == 2


def test_no_item_has_no_share() -> None:
    assert Share.over([]) is None


def scores(probes: Share) -> Scores:
    row = {"run": "r", "step": 9, "tokens seen": 2048, "loss": 5.0, "bits/byte": 2.0, "probes passed": probes}
    return Scores(
        "r", [row], {"loss": 7.5, "bits/byte": 3.0, "probes passed": 0.5}, {"documents": 2, "tokens": 9}, None
    )


def test_a_score_that_guessing_reaches_is_told_and_a_better_one_is_not() -> None:
    coin = Share.over((str(n), n % 2 == 0) for n in range(58))
    sure = Share.over((str(n), n > 5) for n in range(58))
    assert coin is not None and sure is not None
    assert any("cannot be told from guessing by: probes passed" in line for line in notes(scores(coin)))
    assert not any("guessing by" in line for line in notes(scores(sure)))


def test_the_table_has_intervals_and_the_baseline(capsys: pytest.CaptureFixture[str]) -> None:
    console().print(score_table(scores(Share(0.5, 58, 0.376, 0.624))))
    lines = capsys.readouterr().out.splitlines()
    assert any("0.500 (0.38-0.62)" in line for line in lines)
    assert lines[-1].split() == ["baseline", "7.500", "3.000", "0.500"]


def test_a_build_ends_with_chance_levels_for_programs_too(built: Built) -> None:
    baseline, last = built.summary["baseline"], built.summary["scores"][-1]
    assert baseline["probes passed"] == 0.5
    assert 0 < baseline["needles found"] < 1
    assert last["probes passed"]["low"] <= last["probes passed"]["value"] <= last["probes passed"]["high"]
