"""What a watched run shows of its layers and of held-out text, beside its losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from assets.build import Sample, StageReport

SHOWN_LAYERS = 6
"""Curves in one plot: the first and the last layer, and some between."""

Curves = dict[str, tuple[list[float], list[float]]]


def add_watched(report: StageReport, layers: Sequence[Mapping[str, Any]], heldout: Sequence[Mapping[str, Any]]) -> None:
    """Add anomalies, update over weight and held-out loss to a report; nothing where nothing was measured."""
    from assets.plots import lines

    if layers:
        anomalies = [row for row in layers if row["anomaly"]]
        report.stats["layer_anomalies"] = len(anomalies)
        columns = ("step", "layer", "gradient_norm", "weight_norm", "update_ratio", "activation_rms")
        shown = tuple(tuple(row[name] for name in columns) for row in anomalies[:50])
        report.samples.append(Sample("Layer anomalies", columns, shown))
        for title, name in (("Update over weight", "update_ratio"), ("Gradient norm per layer", "gradient_norm")):
            report.plots[title] = lines("step", title.lower(), curves_of(layers, "layer", name, SHOWN_LAYERS))
    if heldout:
        last = max(row["step"] for row in heldout)
        report.stats["heldout_loss"] = {row["channel"]: row["loss"] for row in heldout if row["step"] == last}
        report.plots["Held-out loss"] = lines("step", "loss (nats per token)", curves_of(heldout, "channel", "loss"))


def curves_of(rows: Sequence[Mapping[str, Any]], key: str, value: str, most: int | None = None) -> Curves:
    """One curve over steps for each value of `key`, at most `most` of them, spread evenly and the ends among them."""
    names = list(dict.fromkeys(row[key] for row in rows))
    if most is not None and len(names) > most:
        names = [names[round(n * (len(names) - 1) / (most - 1))] for n in range(most)]
    curves: Curves = {name: ([], []) for name in names}
    for row in rows:
        if row[key] in curves:
            curves[row[key]][0].append(float(row["step"]))
            curves[row[key]][1].append(row[value])
    return curves
