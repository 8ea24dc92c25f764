"""One look for every figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar, cast

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from torch import Tensor

from ..analysis.summary import Summary

#: The network in ink; its analytic approximations from coarse to fine.
COLOURS = {"network": "#22223b", "Gaussian": "#c1542c", "mixture": "#2a8c82", "exact": "#3f63c8"}
ACCENT, QUIET = "#8f3985", "#9a9a9a"
#: Large to small variance, dark to light.
MODES = ("#5a1e0e", "#a23e1c", "#d97a2b", "#e0b040", "#8fae5d", "#4d8b7a", "#356a8a", "#4a4a8a")

RC: Any = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e8e4dc",
    "grid.linewidth": 0.6,
    "axes.edgecolor": "#6b6b6b",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "figure.dpi": 110,
    "savefig.dpi": 160,
    "savefig.bbox": "tight",
    "svg.hashsalt": "underpaint",
}


Draw = TypeVar("Draw", bound=Callable[..., Any])


def styled(draw: Draw) -> Draw:
    """Let a function that returns a figure draw it in the look above, whatever the caller's settings."""

    @wraps(draw)
    def inside(*args: Any, **kwargs: Any) -> Any:
        with matplotlib.rc_context(RC):
            return draw(*args, **kwargs)

    return cast(Draw, inside)


def new_figure(width: float, height: float, columns: int = 1, rows: int = 1, **options: Any) -> tuple[Figure, Any]:
    """A figure of inches with a grid of axes, [rows, columns] squeezed; outside pyplot, so nothing is left open."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


class _Plain(LogFormatter):
    """Labels the ticks that matplotlib would label, by plain numbers: between powers of ten where less than a decade is
    shown."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def noise_axis(axes: Axes, label: bool = True) -> None:
    """A log axis of sigma/alpha that runs as sampling does, from noise on the left to the image on the right."""
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(_Plain())
    axes.xaxis.set_minor_formatter(_Plain())
    axes.invert_xaxis()
    if label:
        axes.set_xlabel("noise-to-signal ratio σ/α   (sampling runs this way →)")


def band(
    axes: Axes, x: Tensor | Sequence[float], summary: Summary, colour: str, label: str | None = None, **options: Any
) -> None:
    """Mean with the 5 to 95 % range of samples behind it."""
    axes.plot(x, summary.mean, color=colour, label=label, **options)
    axes.fill_between(x, summary.low, summary.high, color=colour, alpha=0.15, linewidth=0)
