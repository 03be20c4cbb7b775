"""When a step is an incident: a robust band around the loss, and around the gradient norm.

The band follows the curve: the level is the median of the last normal steps, the width is 1.4826 * MAD
(a normal distribution's sigma) of the distances from that level over a longer window. Steps outside the
band do not enter the windows, so a long spike cannot become the new normal, nor its end look like a drop;
a level that lasts is accepted after `relearn_steps`.

Both directions count: a spike can be a bad stretch of data or a learning rate too high, a sudden drop is
text that says nothing (a page of newlines) or was seen before. Starting points: OLMo-core skips steps above
6 sigma over 128 steps; PaLM rewinds about 100 steps and skips 200 to 500 batches, and found that the same
batches did not spike elsewhere: a deviation accuses documents, it does not convict them.

Pure: the running program asks `Detector` step by step, and `find_incidents` replays a finished record.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

SIGMA_PER_MAD = 1.4826


class BandLimits(BaseModel):
    """Limits of the bands; the meaning of each is in the recipe (assets/training/incident_tables.py), which fills them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    window_steps: int = Field(128, ge=16)
    level_steps: int = Field(16, ge=4)
    sigmas: float = Field(6.0, gt=0)
    burn_in_steps: int = Field(50, ge=8)
    smallest_relative_change: float = Field(0.08, ge=0)
    smallest_gradient_ratio: float = Field(3.0, ge=1)
    relearn_steps: int = Field(32, ge=4)
    join_steps: int = Field(8, ge=0)


class IncidentPolicy(BandLimits):
    """When a step is an incident and what is done about it; the meaning of each is in the recipe that fills it."""

    react: bool = True
    confirm_steps: int = Field(4, ge=0)
    documents_before_steps: int = Field(1, ge=0)
    reference_steps: int = Field(16, ge=1)
    look_ahead_steps: int = Field(16, ge=0)
    document_sigmas: float = Field(6.0, gt=0)
    smallest_document_change: float = Field(0.25, ge=0)
    smallest_document_tokens: int = Field(16, ge=1)
    smallest_explained_share: float = Field(0.5, gt=0, le=1)
    learning_rate_factor: float = Field(0.3, gt=0, lt=1)
    calm_steps: int = Field(8, ge=0)
    max_attempts: int = Field(3, ge=1)


@dataclass(frozen=True)
class Deviation:
    """One step outside the band."""

    step: int
    kind: str  # loss_spike | loss_drop | gradient_spike | non_finite
    value: float
    expected: float
    sigmas: float


@dataclass(frozen=True)
class Incident:
    """Deviations of one kind that belong together; the numbers are those of the worst step."""

    first_step: int
    last_step: int
    worst: Deviation


class Band:
    """One curve's expected value and spread."""

    def __init__(self, limits: BandLimits) -> None:
        self._limits = limits
        self._level: deque[float] = deque(maxlen=limits.level_steps)
        self._distances: deque[float] = deque(maxlen=limits.window_steps)
        self._outside: list[float] = []

    def judge(self, step: int, value: float, smallest: float) -> tuple[float, float] | None:
        """(expected value, sigmas) of a finite value that left the band by at least `smallest`, else None.

        A value that left it by less is kept out of the band's memory, but is nothing to speak of.
        """
        limits = self._limits
        if len(self._level) < limits.level_steps:
            self._level.append(value)
            return None
        expected = median(self._level)
        distance = value - expected
        sigmas = self._sigmas(distance)
        if step > limits.burn_in_steps and abs(sigmas) > limits.sigmas:
            self._outside.append(value)
            if len(self._outside) >= limits.relearn_steps:
                self._level.clear()
                self._level.extend(self._outside[-limits.level_steps :])
                self._outside.clear()
            return (expected, sigmas) if abs(distance) >= smallest else None
        self._outside.clear()
        self._level.append(value)
        self._distances.append(distance)
        return None

    def _sigmas(self, distance: float) -> float:
        """Distance in robust standard deviations from the usual distance: a falling curve is usually below its median."""
        if len(self._distances) < self._limits.level_steps:
            return 0.0
        usual = median(self._distances)
        spread = SIGMA_PER_MAD * median(abs(d - usual) for d in self._distances)
        if spread == 0.0:
            return math.copysign(math.inf, distance - usual) if distance != usual else 0.0
        return (distance - usual) / spread

    @property
    def expected(self) -> float | None:
        """The level now; None while too little was seen."""
        return median(self._level) if len(self._level) >= self._limits.level_steps else None


class Detector:
    """Judges a run step by step."""

    def __init__(self, limits: BandLimits) -> None:
        self._limits = limits
        self._loss, self._gradient = Band(limits), Band(limits)

    def observe(self, row: Mapping[str, Any]) -> list[Deviation]:
        """What left its band at this step; rows of metrics come in step order."""
        step, loss, norm = row["step"], row["loss"], row["gradient_norm"]
        found = [Deviation(step, "non_finite", v, math.nan, math.inf) for v in (loss, norm) if not math.isfinite(v)]
        if math.isfinite(loss):
            smallest = self._limits.smallest_relative_change * (self._loss.expected or 0.0)
            if judged := self._loss.judge(step, loss, smallest):
                found.append(Deviation(step, "loss_spike" if judged[1] > 0 else "loss_drop", loss, *judged))
        if math.isfinite(norm) and norm > 0:
            # The norm is heavy-tailed: its logarithm is judged, and only upwards.
            judged = self._gradient.judge(step, math.log(norm), math.log(self._limits.smallest_gradient_ratio))
            if judged and judged[1] > 0:
                found.append(Deviation(step, "gradient_spike", norm, math.exp(judged[0]), judged[1]))
        return found


def find_incidents(metrics: Iterable[Mapping[str, Any]], limits: BandLimits) -> list[Incident]:
    """Incidents of a whole record, by first step."""
    detector = Detector(limits)
    of_kind: dict[str, list[Deviation]] = {}
    for row in metrics:
        for deviation in detector.observe(row):
            of_kind.setdefault(deviation.kind, []).append(deviation)
    found = [incident for deviations in of_kind.values() for incident in _join(deviations, limits.join_steps)]
    return sorted(found, key=lambda incident: (incident.first_step, incident.worst.kind))


def _join(deviations: Sequence[Deviation], join_steps: int) -> list[Incident]:
    groups: list[list[Deviation]] = []
    for deviation in deviations:
        if groups and deviation.step - groups[-1][-1].step <= join_steps:
            groups[-1].append(deviation)
        else:
            groups.append([deviation])
    return [Incident(g[0].step, g[-1].step, max(g, key=lambda d: (abs(d.sigmas), -d.step))) for g in groups]
