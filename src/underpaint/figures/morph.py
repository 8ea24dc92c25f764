"""Paths of pictures from one to another: film strips, what the network makes of each picture, and animations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ..recipes.morph import WORDS, Morph
from .folder import write_result
from .perturbation import image_inch
from .pictures import show
from .style import MODES, styled

#: Milliseconds for which an animation shows a picture, and an end.
FRAME, END = 120, 700


@styled
def morph_strips(result: Morph) -> Figure:
    """A strip of pictures for each path; below, how far the network pulls each picture, and its density."""
    count, points = result.pictures.shape[:2]
    inch = image_inch(result.pictures)
    tall = count * inch
    figure = Figure(figsize=(max(9.0, points * inch + 1.6), tall + 3.6), layout="constrained")
    upper, lower = np.asarray(figure.subfigures(2, 1, height_ratios=(tall + 0.8, 2.8)))
    upper.suptitle(f"{result.setup['model']}: from {result.ends[0]} to {result.ends[1]}", fontsize=9)
    axes = upper.subplots()
    names = [
        f"{WORDS[name]}\nlength {float(length):.2f}" for name, length in zip(result.paths, result.length, strict=True)
    ]
    shares = torch.linspace(0, 1, points).tolist()
    show(axes, result.pictures, names, [f"{share:.2g}" for share in shares])
    left, *right = lower.subplots(1, 1 if result.log_prob is None else 2, squeeze=False)[0]
    _lines(left, shares, result, result.residual)
    left.set(
        title=f"what the network takes away at σ/α = {float(result.residual_level.ratio):.2g}",
        xlabel="share of the path",
        ylabel="rms of x − D(noised x)",
        ylim=(0, None),
    )
    left.legend(fontsize=7)
    if result.log_prob is not None:
        _densities(right[0], shares, result, result.log_prob)
    return figure


def _densities(axes: Axes, shares: list[float], result: Morph, density: Tensor) -> None:
    _lines(axes, shares, result, density, result.log_prob_error)
    axes.set(
        title=f"log density at σ/α = {float(result.noised.ratio):.2g}, less that of the ends",
        xlabel="share of the path",
        ylabel="natural logarithm, per number of the state",
    )


def _lines(axes: Axes, shares: list[float], result: Morph, values: Tensor, error: Tensor | None = None) -> None:
    for k, name in enumerate(result.paths):
        colour = MODES[k % len(MODES)]
        axes.plot(shares, values[k], "o-", color=colour, markersize=3, label=WORDS[name])
        if error is not None:
            low, high = values[k] - 2 * error[k], values[k] + 2 * error[k]
            axes.fill_between(shares, low.numpy(), high.numpy(), color=colour, alpha=0.12, linewidth=0)


def animate(pictures: Tensor, path: Path) -> None:
    """Write pictures [K, C, H, W] in [0, 1] as an animated PNG that runs there and back again and again."""
    from PIL import Image

    larger = max(1, round(192 / max(pictures.shape[-2:])))
    order = [*range(len(pictures)), *range(len(pictures) - 2, 0, -1)]
    arrays = (pictures * 255).round().byte().permute(0, 2, 3, 1).squeeze(3).numpy()
    frames = [Image.fromarray(np.repeat(np.repeat(arrays[k], larger, 0), larger, 1)) for k in order]
    times = [END if k in (0, len(pictures) - 1) else FRAME for k in order]
    frames[0].save(path, format="PNG", save_all=True, append_images=frames[1:], duration=times, loop=0)


def write_morph(result: Morph, folder: str | Path) -> dict[str, Any]:
    """Write morph.png, an animation NAME.apng for each path, and results.json; return what the latter holds."""

    def animations(draft: Path) -> None:
        for name, pictures in zip(result.paths, result.pictures, strict=True):
            animate(pictures, draft / f"{name}.apng")

    return write_result(result, {"morph": morph_strips(result)}, folder, more=animations)
