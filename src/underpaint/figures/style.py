"""One look for every figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from itertools import pairwise
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


#: Width of a digit, and of the room between two labels, over the size of the font.
_DIGIT, _ROOM = 0.64, 0.3


class _Plain(LogFormatter):
    """Labels the ticks that matplotlib would label, by plain numbers: between powers of ten where less than a decade is
    shown. Of minor ones, those are left off that have no room beside each other and the major ones: all but every
    second, third, and so on."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""

    def format_ticks(self, values: list[float]) -> list[str]:
        texts = super().format_ticks(values)
        major = [*cast(Any, self.axis).get_majorticklocs()]
        if not len(values) or {*values} <= {*major}:
            return texts
        beside = [(*ends, -1) for ends in self._shown(major, [f"{value:g}" for value in major]).values()]
        listed = sorted([*beside, *((*ends, place) for place, ends in self._shown(values, texts).items())])
        for every in range(1, len(listed) + 1):
            for first in range(every):
                kept = [label for k, label in enumerate(listed) if k % every == first or label[2] < 0]
                if all(here[1] < there[0] for here, there in pairwise(kept)):
                    places = {place for *_, place in kept}
                    return [text if place in places else "" for place, text in enumerate(texts)]
        return [""] * len(texts)

    def _shown(self, values: Sequence[float], texts: Sequence[str]) -> dict[int, tuple[float, float]]:
        """Left and right of each label in the view, in units of the screen, by its number."""
        axis = cast(Any, self.axis)
        low, high = sorted(axis.get_view_interval())
        size = axis.get_major_ticks(1)[0].label1.get_size() * axis.figure.dpi / 72
        found = {}
        for number, (value, text) in enumerate(zip(values, texts, strict=True)):
            if text and low <= value <= high:
                middle, half = axis.axes.transData.transform((value, 1))[0], size * (_DIGIT * len(text) + _ROOM) / 2
                found[number] = (middle - half, middle + half)
        return found


def noise_axis(axes: Axes, label: bool = True) -> None:
    """A log axis of sigma/alpha that runs as sampling does, from noise on the left to the image on the right."""
    axes.set_xscale("log")
    few = (1.3, 0.4)  # decades; old versions of matplotlib count the margins of the view, too
    axes.xaxis.set_major_formatter(_Plain(minor_thresholds=few))
    axes.xaxis.set_minor_formatter(_Plain(minor_thresholds=few))
    axes.invert_xaxis()
    if label:
        axes.set_xlabel("noise-to-signal ratio σ/α   (sampling runs this way →)")


def band(
    axes: Axes, x: Tensor | Sequence[float], summary: Summary, colour: str, label: str | None = None, **options: Any
) -> None:
    """Mean with the 5 to 95 % range of samples behind it."""
    axes.plot(x, summary.mean, color=colour, label=label, **options)
    axes.fill_between(x, summary.low, summary.high, color=colour, alpha=0.15, linewidth=0)
