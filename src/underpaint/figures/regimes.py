"""The three regimes along the noise, in one figure."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.ticker import LogLocator
from torch import Tensor

from ..recipes.shared.regimes import Regimes
from .folder import write_result
from .style import ACCENT, COLOURS, MODES, QUIET, new_figure, noise_axis, styled

#: Inches of the figure, of its axis of σ/α about, of a row of pictures, and of a picture, at most and at least.
_WIDTH, _AXIS, _ROW, _PICTURE, _LEAST = 7.6, 6.4, 0.66, 0.6, 0.25
#: Height of the lines from pictures to their σ/α, in rows of pictures.
_LINES = 0.3
#: What pictures are, from the top.
_STRIPS = {"exact": "exact score", "network": "network", "one end": "one end", "another": "another"}
_NAMES = ("I: one cloud", "II: classes", "III: single points")


@styled
def along(result: Regimes) -> Figure:
    """Over one axis: what exact score and network expect of the first seed's states, and two ends of each; pairs of
    clones that end in one class; the perplexity of the exact posterior by number of points; and what exact score and
    Gaussian explain of the network. What is predicted are dashed lines, the regimes bands."""
    tall = (len(_STRIPS) + _LINES) * _ROW + 0.3
    figure, axes = new_figure(_WIDTH, tall + 5.4, rows=4, sharex=True, height_ratios=(tall, 1.8, 1.8, 1.8))
    for panel, draw in zip(axes, (_pictures, _speciation, _collapse, _departure), strict=True):
        draw(panel, result)
    noise_axis(axes[-1])
    axes[-1].set_xlim(*span(result))
    axes[-1].xaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}")
    _name_regimes(axes, result)
    return figure


def span(result: Regimes) -> tuple[float, float]:
    """The highest and lowest σ/α that is shown: those of clones and of the collapse, and half a picture more."""
    ratio = torch.cat([result.speciation.ratio, result.collapse.ratio])
    return 1.3 * float(ratio.max()), float(ratio.min()) / 1.3


def borders(result: Regimes) -> tuple[float, float] | None:
    """The σ/α between the regimes, as measured; None where they were not found, or are in no order."""
    born, fallen = result.speciation.measured, result.collapse.measured[-1]
    return (born, fallen) if math.inf > born > fallen else None  # NaN is above nothing


def _name_regimes(axes: Any, result: Regimes) -> None:
    """Bands in all panels, and their names above the first."""
    found = borders(result)
    if found is None:
        return
    high, low = span(result)
    edges = (high, *found, low)
    for panel in axes:
        panel.axvspan(edges[1], edges[2], color=COLOURS["mixture"], alpha=0.09, linewidth=0, zorder=0)
        panel.axvspan(edges[2], edges[3], color=COLOURS["exact"], alpha=0.11, linewidth=0, zorder=0)
    for name, left, right in zip(_NAMES, edges, edges[1:], strict=False):
        middle, where = math.sqrt(left * right), axes[0].get_xaxis_transform()
        axes[0].text(middle, 1.01, name, transform=where, ha="center", va="bottom", fontweight="bold")


def _pictures(axes: Axes, result: Regimes) -> None:
    """Rows of pictures, a column for each level, and below it a line to its σ/α. Where levels are close, their columns
    stand beside each other; where they are too many, the label says how many have pictures."""
    ratio, (high, low) = result.speciation.ratio, span(result)
    shown, inches = fitting(len(ratio))
    least, rows = math.log(high / low) * inches / _AXIS, len(_STRIPS)
    columns = spread(ratio[shown].log(), least, math.log(high), math.log(low)).exp()
    axes.set_ylim(rows - 0.5 + _LINES, -0.5)
    axes.set_yticks(range(rows), _STRIPS.values())
    axes.tick_params(length=0)
    axes.tick_params(axis="x", which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.grid(False)
    for level, column in zip(shown, columns.tolist(), strict=True):
        axes.plot([column, float(ratio[level])], [rows - 0.5, rows - 0.5 + _LINES], color=QUIET, linewidth=0.7)
        for row, name in enumerate(_STRIPS):
            picture = _picture(result.strips[name][level], inches)
            axes.add_artist(AnnotationBbox(picture, (column, row), frameon=False, pad=0))
    if len(shown) < len(ratio):
        axes.set_ylabel(f"{len(shown)} of {len(ratio)} levels")
    for label, colour in zip(axes.get_yticklabels(), (COLOURS["exact"], COLOURS["network"]), strict=False):
        label.set_color(colour)


def fitting(count: int) -> tuple[list[int], float]:
    """Which of so many levels have pictures, first and last among them, and of how many inches: all that are not too
    small to be seen."""
    most = min(count, int(_AXIS / _LEAST))
    shown = torch.linspace(0, count - 1, most).round().int().tolist()
    return shown, min(_PICTURE, _AXIS / most)


def spread(places: Tensor, least: float, first: float, last: float) -> Tensor:
    """Falling places [N] moved as little as can be, in squares, until they lie at least so far apart, and half as far
    from both ends, between which there is room for them.

    With i times the distance added, place i may not be above the one before: that is isotonic regression, and a cut
    keeps its bounds. Source: Barlow et al. 1972, "Statistical inference under order restrictions".
    """
    from scipy.optimize import isotonic_regression  # type: ignore[import-untyped,unused-ignore]

    steps = least * torch.arange(len(places), dtype=torch.float64)
    found = isotonic_regression((places.double() + steps).numpy(), increasing=False).x
    return torch.from_numpy(found.copy()).clamp(last + least / 2 + float(steps[-1]), first - least / 2) - steps


def _picture(image: Tensor, inches: float) -> OffsetImage:
    """An image [C, H, W] in [0, 1] of so many inches."""
    pixels, zoom = image.clamp(0, 1).movedim(0, 2), inches * 72 / max(image.shape[1:])
    shown = pixels.expand(-1, -1, 3) if len(image) == 1 else pixels
    return OffsetImage(shown.numpy(), zoom=zoom, interpolation="nearest")


def _speciation(axes: Axes, result: Regimes) -> None:
    part = result.speciation
    reach = torch.stack([part.share - part.low, part.high - part.share]).clamp(min=0)
    axes.errorbar(part.ratio, part.share, reach, color=COLOURS["network"], marker="o", markersize=4, capsize=2)
    axes.axhline(part.chance, color=QUIET, linestyle=":", label="independent samples")
    axes.axvline(part.predicted, color=ACCENT, linestyle="--", linewidth=1, label="predicted, √λ₁")
    then = f", but for a nudge of {part.nudge:g} of the noise," if part.nudge else ""
    title = f"pairs that share their state down to σ/α{then} and end in one class"
    axes.set(title=title, ylim=(0, 1.03), ylabel="share")
    axes.legend(loc="upper left")


def _collapse(axes: Axes, result: Regimes) -> None:
    part = result.collapse
    for row, (count, predicted) in enumerate(zip(part.counts, part.predicted, strict=True)):
        colour, values = MODES[row % len(MODES)], part.perplexity[row]
        axes.plot(part.ratio, values.mean, color=colour, label=f"{count:,} points")
        axes.axvline(predicted, color=colour, linestyle="--", linewidth=1)
    last = part.perplexity[-1]
    axes.fill_between(part.ratio, last.low, last.high, color=colour, alpha=0.15, linewidth=0)
    axes.set(title="data points that share the exact posterior (dashed: predicted collapse)", yscale="log")
    axes.set_ylabel("perplexity")
    axes.legend(loc="upper right")


def _departure(axes: Axes, result: Regimes) -> None:
    part = result.departure
    for name, summary in part.explained.items():
        axes.plot(part.ratio, summary.mean, color=COLOURS[name], label=name)
        axes.fill_between(part.ratio, summary.low, summary.high, color=COLOURS[name], alpha=0.15, linewidth=0)
    if math.isfinite(part.left):
        axes.axvline(part.left, color=QUIET, linestyle=":", label="the network leaves the exact score")
    least = min(float(summary.low.min()) for summary in part.explained.values())
    axes.set(title="what denoisers of the data explain of the network", ylim=(max(0.0, least - 0.05), 1.03))
    axes.set_ylabel("explained variance")
    axes.legend(loc="lower left")


def write_regimes(result: Regimes, folder: str | Path) -> dict[str, Any]:
    """Write the figure and results.json; return what the JSON holds."""
    return write_result(result, {"regimes": along(result)}, folder)
