"""What the bars of the UI look like at their edges."""

from __future__ import annotations

from typing import Any

import pytest

from assets import plots


def drawn(monkeypatch: pytest.MonkeyPatch, series: dict[str, dict[str, float]]) -> Any:
    """The axes of a plot before it becomes a PNG."""
    figures: list[Any] = []

    def keep(figure: Any) -> bytes:
        figures.append(figure)
        return b""

    monkeypatch.setattr(plots, "_png", keep)
    plots.grouped_bars("documents", series)
    return figures[0].axes[0]


def test_counts_of_nothing_stand_on_an_axis_from_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    assert drawn(monkeypatch, {"documents": {"none": 0}}).get_ylim() == (0, 1)
    assert drawn(monkeypatch, {}).get_ylim() == (0, 1)


def test_the_highest_bar_leaves_room_for_its_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    low, high = drawn(monkeypatch, {"in": {"en": 20, "zh": 30}, "kept": {"en": 20}}).get_ylim()
    assert low == 0
    assert 32 < high < 35
