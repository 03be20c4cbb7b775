"""Incidents are found where they were put, and nowhere in a clean curve."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from assets.training.incident_tables import IncidentsRecipe
from training.contract.bands import Detector, IncidentPolicy, find_incidents

RECIPE = IncidentPolicy()


def curve(steps: int = 800, seed: int = 0, noise: float = 0.06) -> list[dict[str, Any]]:
    """A loss that falls like a power law from 9 to about 3.5, with noise; gradient norms log-normal around 1."""
    generator = np.random.default_rng(seed)
    position = np.arange(1, steps + 1)
    losses = 2.2 + 6.8 * position**-0.25 + generator.normal(0, noise, steps)
    norms = np.exp(generator.normal(0, 0.25, steps))
    return [
        {"step": int(step), "loss": float(loss), "gradient_norm": float(norm)}
        for step, loss, norm in zip(position, losses, norms, strict=True)
    ]


@pytest.mark.parametrize("seed", range(8))
def test_a_clean_curve_has_no_incident(seed: int) -> None:
    assert find_incidents(curve(seed=seed), RECIPE) == []
    assert find_incidents(curve(seed=seed, noise=0.005), RECIPE) == []


@pytest.mark.parametrize("step", [60, 300, 799])
def test_a_spike_is_one_incident_at_its_step(step: int) -> None:
    rows = curve()
    rows[step - 1]["loss"] += 2.0
    (incident,) = find_incidents(rows, RECIPE)
    assert (incident.first_step, incident.last_step, incident.worst.kind) == (step, step, "loss_spike")
    assert incident.worst.sigmas > 6
    assert abs(incident.worst.expected - rows[step - 2]["loss"]) < 0.5


def test_a_long_spike_is_one_incident_and_its_end_no_drop() -> None:
    rows = curve()
    for row in rows[399:420]:
        row["loss"] += 1.5
    (incident,) = find_incidents(rows, RECIPE)
    assert (incident.first_step, incident.last_step, incident.worst.kind) == (400, 420, "loss_spike")


def test_a_sudden_drop_is_an_incident() -> None:
    """Text seen before: duplicates, or evaluation items in training."""
    rows = curve()
    for row in rows[499:503]:
        row["loss"] *= 0.6
    (incident,) = find_incidents(rows, RECIPE)
    assert (incident.first_step, incident.last_step, incident.worst.kind) == (500, 503, "loss_drop")
    assert incident.worst.sigmas < -6


def test_a_new_level_is_reported_once_and_then_accepted() -> None:
    rows = curve()
    for row in rows[399:]:
        row["loss"] += 1.0
    (incident,) = find_incidents(rows, RECIPE)
    assert incident.first_step == 400
    assert incident.last_step == 399 + RECIPE.relearn_steps


def test_a_gradient_spike_is_an_incident_only_upwards() -> None:
    rows = curve()
    rows[299]["gradient_norm"] = 40.0
    rows[599]["gradient_norm"] = 1e-3
    (incident,) = find_incidents(rows, RECIPE)
    assert (incident.first_step, incident.worst.kind, incident.worst.value) == (300, "gradient_spike", 40.0)


def test_non_finite_values_are_always_incidents() -> None:
    rows = curve(steps=40)
    rows[9]["loss"] = math.nan
    rows[29]["gradient_norm"] = math.inf
    assert [(i.first_step, i.worst.kind) for i in find_incidents(rows, RECIPE)] == [
        (10, "non_finite"),
        (30, "non_finite"),
    ]


def test_small_changes_of_a_very_quiet_curve_are_not_incidents() -> None:
    rows = curve(noise=0.0)
    rows[399]["loss"] += 0.05
    assert find_incidents(rows, RECIPE) == []


def test_short_runs_are_not_judged() -> None:
    assert find_incidents(curve(steps=12), RECIPE) == []
    assert find_incidents([], RECIPE) == []


def test_the_recipe_and_the_program_agree_on_every_default() -> None:
    assert IncidentsRecipe().model_dump() == IncidentPolicy().model_dump()


def test_judged_step_by_step_is_judged_whole() -> None:
    rows = curve()
    rows[300]["loss"] += 2.0
    rows[301]["gradient_norm"] = 50.0
    detector = Detector(RECIPE)
    seen = [(d.step, d.kind) for row in rows for d in detector.observe(row)]
    assert seen == [(301, "loss_spike"), (302, "gradient_spike")]
    assert [(i.first_step, i.worst.kind) for i in find_incidents(rows, RECIPE)] == seen
