"""The three regimes along the noise, in one figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..recipes.regimes import Regimes
from .folder import write_result
from .style import ACCENT, COLOURS, MODES, QUIET, new_figure, noise_axis, styled


@styled
def along(result: Regimes) -> Figure:
    """Over one axis: pairs of clones that end in one class, the perplexity of the exact posterior by number of points,
    and what exact score and Gaussian explain of the network; what is predicted as vertical lines."""
    figure, (upper, middle, lower) = new_figure(8.0, 8.2, rows=3, sharex=True)
    _speciation(upper, result)
    _collapse(middle, result)
    _departure(lower, result)
    noise_axis(lower)
    return figure


def _speciation(axes: Axes, result: Regimes) -> None:
    part = result.speciation
    reach = torch.stack([part.share - part.low, part.high - part.share]).clamp(min=0)
    axes.errorbar(part.ratio, part.share, reach, color=COLOURS["network"], marker="o", markersize=4, capsize=2)
    axes.axhline(part.chance, color=QUIET, linestyle=":", label="independent samples")
    axes.axvline(part.predicted, color=ACCENT, linestyle="--", linewidth=1, label="predicted, √λ₁")
    then = f", but for a nudge of {part.nudge:g} of the noise," if part.nudge else ""
    title = f"pairs that share their state down to σ/α{then} and end in one class"
    axes.set(title=title, ylim=(0, 1.03), ylabel="share")
    axes.legend(loc="lower right")


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
    if part.left == part.left:
        axes.axvline(part.left, color=QUIET, linestyle=":", label="the network leaves the exact score")
    axes.set(title="what denoisers of the data explain of the network", ylim=(0, 1.03), ylabel="explained variance")
    axes.legend(loc="lower left")


def write_regimes(result: Regimes, folder: str | Path) -> dict[str, Any]:
    """Write the figure and results.json; return what the JSON holds."""
    return write_result(result, {"regimes": along(result)}, folder)
