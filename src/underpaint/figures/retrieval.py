"""Generation as retrieval: what samples resemble on their way, and whether they copy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from ..recipes.retrieve import COPY, Retrieval
from .folder import write_result
from .pictures import show
from .style import ACCENT, COLOURS, QUIET, band, new_figure, noise_axis, styled


def image_inch(height: int) -> float:
    """Edge of an image in a grid, in inches: larger pictures are given more room, within reason."""
    return min(1.2, max(0.62, height / 64))


@styled
def strips(result: Retrieval) -> Figure:
    """The paper's retrieval view: endpoint estimates over time, above the training images nearest to them."""
    times, seeds, _, height, _ = result.estimates.shape
    inch = image_inch(height)
    figure, panels = new_figure(times * inch + 1.2, seeds * (2 * inch + 0.2) + 0.2, rows=seeds, squeeze=False)
    ratios = [f"{float(ratio):.3g}" for ratio in result.level.ratio[result.times]]
    for seed, panel in enumerate(panels[:, 0]):
        rows = torch.stack([result.estimates[:, seed], result.neighbours[:, seed]])
        show(panel, rows, (r"$\hat{x}_0$", "nearest"), ratios if seed == 0 else ())
    panels[0, 0].set_title("σ/α:", fontsize=7, loc="left", fontweight="normal", x=-0.06, y=1.0)
    return figure


@styled
def way(result: Retrieval) -> Figure:
    """By level: distance to the nearest training image, place of the last one, share of seeds that have found it."""
    part, ratio = result.way, result.level.ratio
    figure, axes = new_figure(10.5, 3.2, 3)
    band(axes[0], ratio, part.distance, COLOURS["network"])
    axes[0].set(title="distance to the nearest image, per number", ylim=(0, None))
    band(axes[1], ratio, part.rank, COLOURS["exact"])
    axes[1].set(title="rank of the image that is nearest in the end", yscale="log")
    axes[1].invert_yaxis()
    axes[2].plot(ratio, part.final, color=ACCENT)
    axes[2].set(title="share of seeds whose nearest image is final", ylim=(-0.03, 1.03))
    for panel in axes:
        noise_axis(panel, label=False)
        panel.set_xlabel("σ/α  (→ sampling)")
    return figure


@styled
def memory(result: Retrieval) -> Figure:
    """Distances and distance ratios of samples beside those of images of the data, as cumulative shares."""
    part, colours = result.memory, {"samples": COLOURS["network"], "data": QUIET}
    figure, axes = new_figure(10.5, 3.2, 2)
    for panel, values, title in (
        (axes[0], part.distance, "nearest other training image: distance per number"),
        (axes[1], part.ratio, "the same over that of the second nearest"),
    ):
        for name, of_kind in values.items():
            panel.step(of_kind.sort().values, torch.linspace(0, 1, len(of_kind)), color=colours[name], label=name)
        panel.set(title=title, ylabel="share of images below", xlim=(0, None))
    axes[1].axvline(COPY, color=ACCENT, linewidth=1, label="copies lie left of this")
    for panel, free in zip(axes, ("upper left", "center"), strict=True):
        panel.legend(loc=free)
    return figure


@styled
def suspects(result: Retrieval) -> Figure:
    """The samples of smallest distance ratio, above the training image nearest to each."""
    count, _, height, _ = result.suspects.shape
    inch = image_inch(height)
    figure, axes = new_figure(count * inch + 1.2, 2 * inch + 0.4)
    show(axes, torch.stack([result.suspects, result.originals]), ("sample", "nearest"))
    return figure


def write_retrieval(result: Retrieval, folder: str | Path) -> dict[str, Any]:
    """Write the figures and results.json; return what the JSON holds."""
    figures = {"strips": strips(result), "way": way(result), "memory": memory(result), "suspects": suspects(result)}
    return write_result(result, figures, folder)
