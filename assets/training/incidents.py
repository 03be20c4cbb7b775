"""Steps whose loss or gradient left the expected band, and what they were reading.

The band is robust and follows the curve: the level is the median of the last normal steps, the
width is 1.4826 * MAD (a normal distribution's sigma) of the distances from that level over a longer
window. Steps outside the band do not enter the windows, so a long spike cannot become the new
normal, nor its end look like a drop; a level that lasts is accepted after `relearn_steps`.

Both directions count: a spike can be a bad stretch of data or a learning rate too high, a sudden
drop is text seen before (a duplicate, a leak). Starting points: OLMo-core skips steps above 6 sigma
over 128 steps; PaLM rewinds about 100 steps and skips 200 to 500 batches, and found that the same
batches did not spike elsewhere: an incident accuses documents, it does not convict them.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field

from assets.build import Segment
from assets.key_set import KeySet

SIGMA_PER_MAD = 1.4826


class IncidentsRecipe(BaseModel):
    """When a step is an incident."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    window_steps: int = Field(128, ge=16, description="steps whose spread is the band's width (OLMo-core: 128)")
    level_steps: int = Field(
        16, ge=4, description="steps whose median is the expected value: short, to follow the trend"
    )
    sigmas: float = Field(6.0, gt=0, description="distance that makes an incident (OLMo-core: 6)")
    burn_in_steps: int = Field(
        50, ge=8, description="first steps are not judged: the curve is too steep to expect anything"
    )
    smallest_relative_change: float = Field(
        0.08, ge=0, description="of the loss, below which nothing is an incident however quiet the curve was"
    )
    smallest_gradient_ratio: float = Field(3.0, ge=1, description="of the gradient norm to the expected one, likewise")
    relearn_steps: int = Field(32, ge=4, description="a new level that lasts this long is the new normal")
    join_steps: int = Field(8, ge=0, description="deviations this close are one incident, reported at its first step")
    documents_before_steps: int = Field(
        1,
        ge=0,
        description="a batch changes the weights that the next step's loss is measured with: look back this far",
    )


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


def find_incidents(metrics: Sequence[Mapping[str, Any]], recipe: IncidentsRecipe) -> list[Incident]:
    """Incidents of a run, by first step. `metrics` are the rows of metrics.parquet in step order."""
    steps = [row["step"] for row in metrics]
    losses = [row["loss"] for row in metrics]
    norms = [row["gradient_norm"] for row in metrics]
    broken = [
        Deviation(step, "non_finite", value, math.nan, math.inf)
        for values in (losses, norms)
        for step, value in zip(steps, values, strict=True)
        if not math.isfinite(value)
    ]
    of_loss = [
        deviation
        for deviation in _deviations(steps, losses, recipe, "loss_spike", "loss_drop")
        if abs(deviation.value - deviation.expected) >= recipe.smallest_relative_change * deviation.expected
    ]
    spikes = [deviation for deviation in of_loss if deviation.kind == "loss_spike"]
    drops = [deviation for deviation in of_loss if deviation.kind == "loss_drop"]
    # The norm is heavy-tailed: its logarithm is judged, and only upwards.
    logs = [math.log(norm) if norm > 0 and math.isfinite(norm) else math.nan for norm in norms]
    gradients = [
        Deviation(d.step, d.kind, math.exp(d.value), math.exp(d.expected), d.sigmas)
        for d in _deviations(steps, logs, recipe, "gradient_spike", "gradient_drop")
        if d.kind == "gradient_spike" and d.value - d.expected >= math.log(recipe.smallest_gradient_ratio)
    ]
    found = [i for deviations in (broken, spikes, drops, gradients) for i in _join(deviations, recipe.join_steps)]
    return sorted(found, key=lambda incident: (incident.first_step, incident.worst.kind))


def _deviations(
    steps: Sequence[int], values: Sequence[float], recipe: IncidentsRecipe, above: str, below: str
) -> Iterable[Deviation]:
    level: deque[float] = deque(maxlen=recipe.level_steps)
    distances: deque[float] = deque(maxlen=recipe.window_steps)
    outside: list[float] = []
    for step, value in zip(steps, values, strict=True):
        if not math.isfinite(value):
            continue
        if len(level) < recipe.level_steps:
            level.append(value)
            continue
        expected = median(level)
        distance = value - expected
        sigmas = _sigmas(distance, distances, recipe)
        if step > recipe.burn_in_steps and abs(sigmas) > recipe.sigmas:
            yield Deviation(step, above if sigmas > 0 else below, value, expected, sigmas)
            outside.append(value)
            if len(outside) >= recipe.relearn_steps:
                level.clear()
                level.extend(outside[-recipe.level_steps :])
                outside.clear()
            continue
        outside.clear()
        level.append(value)
        distances.append(distance)


def _sigmas(distance: float, distances: Sequence[float], recipe: IncidentsRecipe) -> float:
    """Distance in robust standard deviations from the usual distance: a falling curve is usually below its median."""
    if len(distances) < recipe.level_steps:
        return 0.0
    usual = median(distances)
    spread = SIGMA_PER_MAD * median(abs(d - usual) for d in distances)
    if spread == 0.0:
        return math.copysign(math.inf, distance - usual) if distance != usual else 0.0
    return (distance - usual) / spread


def _join(deviations: Sequence[Deviation], join_steps: int) -> list[Incident]:
    groups: list[list[Deviation]] = []
    for deviation in sorted(deviations, key=lambda d: d.step):
        if groups and deviation.step - groups[-1][-1].step <= join_steps:
            groups[-1].append(deviation)
        else:
            groups.append([deviation])
    return [Incident(g[0].step, g[-1].step, max(g, key=lambda d: (abs(d.sigmas), -d.step))) for g in groups]


def incident_rows(
    run: str,
    incidents: Sequence[Incident],
    recipe: IncidentsRecipe,
    *,
    order: Segment,
    corpus: Segment,
    global_batch_size: int,
) -> list[dict[str, Any]]:
    """Rows of incidents.parquet: each incident with the documents its steps were reading, and their URLs."""
    windows = [(max(1, i.first_step - recipe.documents_before_steps), i.last_step) for i in incidents]
    documents = documents_of_steps(order, windows, global_batch_size) if windows else []
    urls = urls_of(corpus, {doc_id for found in documents for doc_id in found})
    return [
        {
            "run": run,
            "step": incident.first_step,
            "kind": incident.worst.kind,
            "value": incident.worst.value,
            "expected": incident.worst.expected,
            "deviation_sigma": incident.worst.sigmas,
            "doc_ids": found,
            "urls": sorted({urls[doc_id] for doc_id in found if doc_id in urls}),
        }
        for incident, found in zip(incidents, documents, strict=True)
    ]


def documents_of_steps(order: Segment, windows: Sequence[tuple[int, int]], global_batch_size: int) -> list[list[str]]:
    """For each window of steps (1-based, both ends included): the documents its sequences were cut from, sorted."""
    found: list[set[str]] = [set() for _ in windows]
    for batch in order.batches("order", ["sequence", "doc_id"], rows=65536):
        sequence = batch.column("sequence")
        for documents, (first, last) in zip(found, windows, strict=True):
            inside = pc.and_(
                pc.greater_equal(sequence, (first - 1) * global_batch_size), pc.less(sequence, last * global_batch_size)
            )
            documents.update(batch.column("doc_id").filter(inside).to_pylist())
    return [sorted(documents) for documents in found]


def urls_of(corpus: Segment, doc_ids: set[str]) -> dict[str, str]:
    """URL of each document that the corpus still has."""
    wanted = KeySet(pa.array(sorted(doc_ids), pa.string()))
    urls: dict[str, str] = {}
    for batch in corpus.batches("documents", ["doc_id", "url"]) if doc_ids else ():
        mine = batch.filter(wanted.holds(batch.column("doc_id")))
        urls.update(zip(mine.column("doc_id").to_pylist(), mine.column("url").to_pylist(), strict=True))
    return urls
