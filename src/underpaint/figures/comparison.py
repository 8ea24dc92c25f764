"""Agreement of a network with analytic denoisers: by level, along sweeps, by class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib import colormaps
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from ..recipes.compare.comparison import Comparison
from .folder import write_result
from .pictures import INCH, show
from .style import COLOURS, new_figure, noise_axis, styled

#: Those of the closed forms, of the denoisers that generalise, and of what is made of all of them.
_COLOURS = COLOURS | {
    "components": "#6fb8ae",
    "tempered": "#7f9fe6",
    "smoothed": "#8ea4e0",
    "patches": "#8f3985",
    "shared patches": "#cf9ac8",
    "Wiener windows": "#c79a2b",
    "stitched": "#22223b",
    "blended": "#7a7a90",
}
#: Shades of those as released.
_RELEASED = ("#3d3d3d", "#6b6b6b", "#949494", "#b5b5b5", "#cfcfcf")
_TITLES = {
    "rank": "Gaussian, by rank",
    "components": "mixture, by components",
    "tempered": "exact score, by temperature",
    "smoothed": "smoothed, by width",
    "patches": "patches, by edge",
    "shared patches": "shared patches, by edge",
    "Wiener windows": "Wiener windows, by threshold",
}
_RANGE = (-0.25, 1.03)


@styled
def agreement(result: Comparison) -> Figure:
    """What each denoiser explains of the network, by level, on each kind of states: above those tuned alike, with the
    95 % interval of the stitched one's mean, below those as released and what number of points does."""
    releases = result.setup["releases"]
    ours = [name for name in next(iter(result.explained.values())) if name in _COLOURS]
    others = [name for name in next(iter(result.explained.values())) if name not in _COLOURS]
    rows = [ours, ["stitched", *others]] if others else [ours]
    figure, axes = new_figure(11.5, 3.8 * len(rows), len(result.explained), len(rows), sharey=True, squeeze=False)
    for row, (line, names) in enumerate(zip(axes, rows, strict=True)):
        for panel, (states, explained) in zip(line, result.explained.items(), strict=True):
            for name in names:
                look = _look(name, releases)
                panel.plot(result.level.ratio, explained[name].mean, marker=".", label=name, **look)
            made = explained["stitched"]
            low, high = made.mean - made.reach, made.mean + made.reach
            panel.fill_between(result.level.ratio, low, high, color=_COLOURS["stitched"], alpha=0.12, linewidth=0)
            panel.set(title=f"on {states}", ylim=_RANGE)
            noise_axis(panel, label=row == len(rows) - 1)
        line[0].set_ylabel("explained variance about the mean")
        line[-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _look(name: str, releases: Sequence[str]) -> dict[str, Any]:
    """Solid are closed forms and what is made of all; dashed the tuned families; dotted those as released."""
    if name in releases:
        return {"linestyle": ":", "color": _RELEASED[list(releases).index(name) % len(_RELEASED)]}
    if name not in _COLOURS:  # the exact score of fewer points
        return {"linestyle": "-.", "color": _COLOURS["exact"], "alpha": 0.6}
    solid = name in COLOURS or name in ("stitched", "blended")
    return {"linestyle": "-" if solid else "--", "color": _COLOURS[name]}


@styled
def sweeps(result: Comparison) -> Figure:
    """What each family explains at each value of its parameter, and its best temperature, by level, on the states it is
    tuned on. The best of each level is marked; and by a ring, where it is made again with more images, what it explains
    then."""
    rows = -(-len(result.sweeps) // 3)
    figure, axes = new_figure(11.5, 3.1 * rows, min(3, len(result.sweeps)), rows, sharey=True, squeeze=False)
    for panel, (name, found) in zip(axes.flat, result.sweeps.items(), strict=False):
        colours = colormaps["viridis"](torch.linspace(0.95, 0.05, len(found.values)).numpy())
        for value, explained, colour in zip(found.values, found.by_value, colours, strict=True):
            panel.plot(result.level.ratio, explained, color=colour, label=f"{value:g}")
        panel.plot(result.level.ratio, found.by_value.max(0).values, "o", color="black", markersize=2.5)
        few = ""
        if found.images:
            few, more = (f", of {count:,}" for count in found.images)
            panel.plot(result.level.ratio, found.chosen, "o", color="black", fillstyle="none", label=f"best{more}")
        panel.set(title=f"{_TITLES[name]}{few}", ylim=_RANGE)
        noise_axis(panel, label=False)
        panel.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=1.2)
    for panel in axes.flat[len(result.sweeps) :]:
        panel.remove()
    figure.supxlabel("noise-to-signal ratio σ/α   (sampling runs this way →)", fontsize=9)
    figure.supylabel("explained variance about the mean", fontsize=9)
    return figure


@styled
def samples(result: Comparison) -> Figure:
    """What the network and each denoiser make of the same noises, a row each, and how far they are from the network."""
    rows = torch.stack(list(result.samples.values()))
    far = {name: f"{name}, {float(part.mean):.3f} away" for name, part in result.distance.items()}
    figure, axes = new_figure(rows.shape[1] * INCH + 2.2, len(rows) * INCH + 0.35)
    show(axes, rows, [far.get(name, name) for name in result.samples])
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
    figures = {"agreement": agreement(result), "sweeps": sweeps(result), "samples": samples(result)}
    if result.classes:
        figures["classes"] = classes(result)
    return write_result(result, figures, folder)
