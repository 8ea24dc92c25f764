"""The geometry of trajectories, compared between models, conditions and guidance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..files import write_text
from ..recipes.trajectory import Row, Survey, table
from .folder import write_result
from .style import MODES, QUIET, new_figure, noise_axis, styled

_MARKERS = "os^Dv<>P"


@styled
def geometry_comparison(survey: Survey) -> Figure:
    """Above, all models by guidance; then a row a model with its curves over the levels, one colour a guidance."""
    models = list(dict.fromkeys(row.setup["model"] for row in survey.rows))
    figure, axes = new_figure(11.0, 3.1 * (1 + len(models)), 3, 1 + len(models), squeeze=False)
    _by_guidance(axes[0, 0], survey, ("states needed",), "components for 99.9 % of the variance")
    _by_guidance(axes[0, 1], survey, ("angle",), "angle between $x_0$ and $x_T$, degrees")
    _by_guidance(axes[0, 2], survey, ("Gaussian holds to", "guided holds to"), "σ/α down to which the Gaussian holds")
    axes[0, 0].legend(fontsize=7)
    for name, panels in zip(models, axes[1:], strict=True):
        rows = [row for row in survey.rows if row.setup["model"] == name]
        _curves(panels[0], rows, ("plane residual",), f"{name}: outside span($x_0$, $x_T$)")
        _curves(panels[1], rows, ("rotation error",), "from α$x_0$ + σ$x_T$")
        _curves(panels[2], rows, ("Gaussian error", "guided error"), "from the Gaussian's state")
        panels[0].set_ylabel("share of $|x_t|^2$")
        panels[0].legend(fontsize=7)
    return figure


def _by_guidance(axes: Axes, survey: Survey, names: Sequence[str], title: str) -> None:
    """Each model's mean over its conditions as a line (dashed for the second measure), single conditions as dots."""
    for i, model in enumerate(dict.fromkeys(row.setup["model"] for row in survey.rows)):
        for name, style in zip(names, ("-", "--"), strict=False):
            rows = [row for row in survey.rows if row.setup["model"] == model and name in row.measures]
            weights = sorted({row.case.guidance for row in rows})
            means = [_mean([float(row.measures[name].mean) for row in rows if row.case.guidance == w]) for w in weights]
            colour, marker = MODES[3 * i % len(MODES)], _MARKERS[i % len(_MARKERS)]
            for row in rows:
                axes.plot(row.case.guidance, row.measures[name].mean, ".", color=colour, alpha=0.3, markersize=4)
            if rows:
                label = f"{model}, {name.split()[0]}" if len(names) > 1 else model
                axes.plot(weights, means, style, marker=marker, color=colour, markersize=5, label=label)
    axes.set(title=title, xlabel="guidance w")
    if len(names) > 1 and _explained(axes):
        axes.set_yscale("log")


def _curves(axes: Axes, rows: Sequence[Row], names: Sequence[str], title: str) -> None:
    """Mean over seeds and conditions by level, from dark to light with guidance; the second measure dashed."""
    weights = sorted({row.case.guidance for row in rows})
    for i, weight in enumerate(weights):
        for name, style in zip(names, ("-", "--"), strict=False):
            curves = [r.curves[name].mean for r in rows if r.case.guidance == weight and name in r.curves]
            if curves:
                label = f"w = {weight:g}" if len(names) == 1 else f"{name.split()[0]}, w = {weight:g}"
                inner = slice(1, -1)  # both ends are fixed, or infinite on a log axis
                curve, ratio = torch.stack(curves).mean(0)[inner], rows[0].level.ratio[inner]
                axes.plot(ratio, curve, style, color=MODES[2 * i % len(MODES)], label=label)
    axes.set(title=title, yscale="log")
    noise_axis(axes, label=False)
    axes.set_xlabel("σ/α  (→ sampling)")
    if len(names) > 1:
        _explained(axes)


def _explained(axes: Axes) -> bool:
    """Give a legend, or say why nothing is drawn, which gives False."""
    drawn = bool(axes.get_legend_handles_labels()[0])
    if drawn:
        axes.legend(fontsize=7)
    else:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no statistics known", transform=axes.transAxes, ha="center", color=QUIET)
    return drawn


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def write_survey(survey: Survey, folder: str | Path) -> dict[str, Any]:
    """Write table.csv, geometry.png and results.json; return what the last holds."""
    figures = {"geometry": geometry_comparison(survey)}
    return write_result(survey, figures, folder, more=lambda draft: write_text(draft / "table.csv", table(survey)))
