"""Agreement of a network with analytic denoisers: by level, along sweeps, by class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from matplotlib import colormaps
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from ..recipes.compare.comparison import Comparison
from .folder import write_result
from .style import COLOURS, new_figure, noise_axis, styled

#: Those of the closed forms, and of the denoisers that generalise.
_COLOURS = COLOURS | {
    "smoothed": "#8ea4e0",
    "patches": "#8f3985",
    "shared patches": "#cf9ac8",
    "Wiener windows": "#c79a2b",
}
_TITLES = {
    "rank": "Gaussian, by rank",
    "components": "mixture, by components",
    "smoothed": "smoothed, by width",
    "patches": "patches, by edge",
    "shared patches": "shared patches, by edge",
}
_RANGE = (-0.25, 1.03)


@styled
def agreement(result: Comparison) -> Figure:
    """What each denoiser explains of the network, by level, on each kind of states."""
    figure, axes = new_figure(11.5, 4.0, len(result.explained), sharey=True)
    for panel, (states, explained) in zip(axes, result.explained.items(), strict=True):
        for name, summary in explained.items():
            line = "-" if name in COLOURS else "--"
            panel.plot(result.level.ratio, summary.mean, line, marker=".", color=_COLOURS[name], label=name)
        panel.set(title=f"on {states}", ylim=_RANGE)
        noise_axis(panel)
    axes[0].set_ylabel("explained variance about the mean")
    axes[-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


@styled
def sweeps(result: Comparison) -> Figure:
    """What each family explains at each value of its parameter, by level; the best of each level is marked."""
    rows = -(-len(result.sweeps) // 3)
    figure, axes = new_figure(11.5, 3.1 * rows, min(3, len(result.sweeps)), rows, sharey=True, squeeze=False)
    for panel, (name, found) in zip(axes.flat, result.sweeps.items(), strict=False):
        colours = colormaps["viridis"](torch.linspace(0.95, 0.05, len(found.values)).numpy())
        for value, explained, colour in zip(found.values, found.explained, colours, strict=True):
            panel.plot(result.level.ratio, explained, color=colour, label=f"{value:g}")
        panel.plot(result.level.ratio, found.explained.max(0).values, "o", color="black", markersize=2.5)
        panel.set(title=_TITLES[name], ylim=_RANGE)
        noise_axis(panel, label=False)
        panel.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=1.2)
    for panel in axes.flat[len(result.sweeps) :]:
        panel.remove()
    figure.supxlabel("noise-to-signal ratio σ/α   (sampling runs this way →)", fontsize=9)
    figure.supylabel("explained variance about the mean", fontsize=9)
    return figure


@styled
def classes(result: Comparison) -> Figure:
    """What Gaussians and points of a class explain of the network on that class, by level."""
    kinds = list(next(iter(result.classes.values())))
    # about 0, which the mean alone explains: a denoiser that does worse than it stands out
    low = min(float(values.min()) for explained in result.classes.values() for values in explained.values())
    scale = TwoSlopeNorm(0, vmin=min(low, -0.05), vmax=1)
    figure, axes = new_figure(10.5, 1.3 + 0.24 * len(result.classes), len(kinds), sharey=True)
    for panel, kind in zip(axes, kinds, strict=True):
        values = torch.stack([explained[kind] for explained in result.classes.values()])
        image = panel.imshow(values.numpy(), cmap="RdBu", norm=scale, aspect="auto")
        panel.set(title=kind, xlabel="σ/α")
        panel.set_xticks(range(len(result.level)), [f"{float(r):.3g}" for r in result.level.ratio], rotation=60)
        panel.set_yticks(range(len(result.classes)), list(result.classes))
        panel.grid(False)
    figure.colorbar(image, ax=axes, label="explained variance (red: less than by the mean)")
    return figure


def write_comparison(result: Comparison, folder: str | Path) -> dict[str, Any]:
    """Write the figures and results.json; return what the JSON holds."""
    figures = {"agreement": agreement(result), "sweeps": sweeps(result)}
    if result.classes:
        figures["classes"] = classes(result)
    return write_result(result, figures, folder)
