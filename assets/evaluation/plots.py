"""Small PNG plots of scores over training. Figures are built without pyplot, which is not thread-safe."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

OUTSIDE_THE_DATA = "draws what the UI shows beside the data, and no byte of the data"

SIZE_INCHES = (7.0, 3.5)


def line_plot(y_label: str, series: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> bytes:
    """One line per name, (tokens seen, value); a dashed line where the name ends in "(baseline)"."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCHES, dpi=100, layout="constrained")
    axes = figure.subplots()
    for name, (x, y) in sorted(series.items()):
        axes.plot(x, y, "--" if name.endswith("(baseline)") else "o-", label=name, linewidth=1.5, markersize=3)
    axes.set_xlabel("tokens seen")
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return _png(figure)


def heat_map(rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float]], label: str) -> bytes:
    """Shares between 0 and 1, one cell per row and column, the number written in it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCHES, dpi=100, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(values, vmin=0.0, vmax=1.0, cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(columns)), columns, fontsize=8)
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            axes.text(
                j, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color="white" if value < 0.6 else "black"
            )
    figure.colorbar(image, label=label)
    return _png(figure)


def _png(figure: Any) -> bytes:
    """As a palette of 64 colours: a quarter of the bytes, and reports carry their plots inline."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    buffer = io.BytesIO()
    image.quantize(64, dither=Image.Dither.NONE).save(buffer, format="png", optimize=True)
    return buffer.getvalue()
