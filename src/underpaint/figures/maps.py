"""The images around one sample: a grid, strips, and how far each direction is one of images (WV23, figure 5)."""

from __future__ import annotations

from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..recipes.map import Map
from ..recipes.shared.request import name_condition
from .folder import write_result
from .perturbation import image_inch, sample_words
from .pictures import show
from .style import COLOURS, MODES, styled


@styled
def manifold_map(result: Map) -> Figure:
    """The grid with the strips beside it, and below, what the denoiser makes of each direction."""
    count, points = result.strips.shape[:2]
    inch, panels = image_inch(result.strips), 1 if result.grid is None else 2
    tall = max(count, points if panels == 2 else 0) * inch
    figure = Figure(figsize=(max(9.0, panels * (points * inch + 1.3)), tall + 3.4), layout="constrained")
    upper, lower = np.asarray(figure.subfigures(2, 1, height_ratios=(tall + 0.7, 2.7)))
    upper.suptitle(_heading(result), fontsize=9)
    axes = upper.subplots(1, panels, squeeze=False)[0]
    offsets = [f"{float(s):+.2g}".replace("-", "−") if s else "sample" for s in result.offset]
    if result.grid is not None:
        show(axes[0], result.grid, *_grid_names(result, offsets))
        axes[0].set_title(_grid_title(result), pad=14)
    show(axes[-1], result.strips, [_name(result, k) for k in range(count)], offsets)
    axes[-1].set_title("single directions", pad=14)
    axes[-1].set_anchor("N")
    left, right = lower.subplots(1, 2)
    _residuals(left, result)
    _kept(right, result)
    return figure


def _heading(result: Map) -> str:
    moved = "the finished sample moved"
    if result.step < result.setup["steps"]:
        moved = f"moved at step {result.step} (σ/α {float(result.level.ratio):.3g}), then sampled on"
    return f"{sample_words(result.setup)}\n{moved}, in shares of the state's length"


def _name(result: Map, k: int) -> str:
    name = result.directions[k]
    return f"{name} ({100 * result.share[name]:.3g} %)" if name in result.share else name


def _grid_names(result: Map, offsets: list[str]) -> tuple[list[str], list[str]]:
    return offsets[::-1] if result.blend is None else [f"{float(s):.2f}" for s in result.blend], offsets


def _grid_title(result: Map) -> str:
    first, setup = result.directions[0], result.setup
    if result.blend is None:
        return f"{first} across, {result.directions[1]} up"
    ways = [name_condition(setup["condition"]), "to " + name_condition(setup["toward"])]
    return "\n".join([f"{first} across; down, from", *(shorten(way, 60, placeholder="...") for way in ways)])


def _residuals(axes: Axes, result: Map) -> None:
    """Pull towards the manifold against the distance moved."""
    for k, name in enumerate(result.directions):
        colour = MODES[k % len(MODES)]
        axes.plot(result.offset, result.measured.residual[k], color=colour, label=name)
        if result.expected is not None:
            axes.plot(result.offset, result.expected.residual[k], "--", color=colour, linewidth=1)
    dashed = "" if result.expected is None else "  (dashed: theory)"
    axes.set_title(f"denoising residual at σ/α = {float(result.noised.ratio):.3g}{dashed}")
    axes.set(xlabel="moved, share of $|x_0|$", ylabel="rms of x − D(noised x)")
    axes.legend(fontsize=7, loc="upper center", ncols=len(result.directions))
    axes.margins(y=0.15)


def _kept(axes: Axes, result: Map) -> None:
    """What the denoiser leaves of the smallest and of the largest move, beside the theory's share."""
    x, measured = torch.arange(len(result.directions)), result.measured.kept
    sizes = result.offset[len(result.offset) // 2 + 1 :]
    for k, marker, fill in ((0, "o", None), (-1, "^", "none"))[: len(sizes)]:
        label = f"moved by ±{float(sizes[k]):.2g} $|x_0|$"
        axes.plot(x, measured[:, k], marker, color=COLOURS["network"], mfc=fill, label=label)
    if result.expected is not None:
        style: dict[str, Any] = {"color": COLOURS["Gaussian"], "markersize": 20, "markeredgewidth": 2}
        axes.plot(x, result.expected.kept[:, 0], "_", label="theory", **style)
    axes.set_xticks(x, result.directions)
    axes.set(title="share of the move that the denoiser keeps", ylim=(min(-0.05, float(measured.min()) - 0.05), 1.3))
    axes.legend(fontsize=7, loc="upper right", ncols=3)
    axes.set_xlabel(f"theory: {result.setup['expected from']}", fontsize=7)


def write_map(result: Map, folder: str | Path) -> dict[str, Any]:
    """Write map.png and results.json; return what the latter holds."""
    return write_result(result, {"map": manifold_map(result)}, folder)
