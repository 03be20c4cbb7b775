"""Small PNG plots of counts. Figures are built without pyplot, which is not thread-safe and keeps them in memory."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt

OUTSIDE_THE_DATA = "draws what the UI shows beside the data, and no byte of the data"

SIZE_INCHES = (7.0, 3.5)


def grouped_bars(y_label: str, series: Mapping[str, Mapping[str, float]]) -> bytes:
    """One group of bars per label, one colour per name: series[name][label]."""
    figure, axes = _figure()
    labels = sorted({label for values in series.values() for label in values})
    width = 0.8 / max(len(series), 1)
    for number, (name, values) in enumerate(series.items()):
        places = [place + number * width for place in range(len(labels))]
        bars = axes.bar(places, [values.get(label, 0.0) for label in labels], width, label=name)
        axes.bar_label(bars, fmt="%.3g", fontsize=7)
    axes.set_xticks([place + width * (len(series) - 1) / 2 for place in range(len(labels))], labels)
    axes.set_ylabel(y_label)
    axes.margins(y=0.1)  # or the figure over the highest bar lies on the frame
    if not any(value for values in series.values() for value in values.values()):
        axes.set_ylim(0, 1)  # matplotlib's own axis would go below 0
    if len(series) > 1:
        axes.legend(fontsize=8)
    return _png(figure)


def histogram(
    x_label: str, series: Mapping[str, Sequence[float] | npt.NDArray[Any]], logarithmic: bool = False
) -> bytes:
    """Overlaid outlines of counts per bin, one per name; bins are even in the logarithm when asked."""
    import numpy as np

    figure, axes = _figure()
    everything = np.concatenate([np.asarray(v, dtype=float) for v in series.values()] or [np.zeros(0)])
    if len(everything):
        low, high = float(everything.min()), float(everything.max())
        if logarithmic:
            bins = np.geomspace(max(low, 1.0), max(high, 2.0) * 1.001, 40)
            axes.set_xscale("log")
        else:
            bins = np.linspace(low, high + 1e-9 if high > low else low + 1.0, 40)
        for name, values in series.items():
            axes.hist(values, bins=bins.tolist(), histtype="step", label=name)
        axes.legend(fontsize=8)
    axes.set_xlabel(x_label)
    axes.set_ylabel("documents")
    return _png(figure)


def lines(x_label: str, y_label: str, series: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> bytes:
    """One line of (x, y) per name."""
    figure, axes = _figure()
    for name, (x, y) in series.items():
        axes.plot(x, y, label=name, linewidth=1.2)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return _png(figure)


def _figure() -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    # Fixed margins: matplotlib's layout engines draw everything twice, and plots are most of what a small delta costs.
    figure = Figure(figsize=SIZE_INCHES, dpi=100)
    return figure, figure.subplots(gridspec_kw={"left": 0.12, "right": 0.98, "bottom": 0.14, "top": 0.96})


def _png(figure: Any) -> bytes:
    from PIL import Image

    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png")
    # 64 colours suffice and make a third of the bytes, which Dagster keeps in its event log.
    Image.open(drawn).convert("RGB").quantize(64).save(small, format="png", optimize=True)
    return small.getvalue()
