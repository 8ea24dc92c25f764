"""What nudges do to samples: images by time and magnitude, and displacements against the theory's gain."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ..analysis.summary import Summary
from ..recipes.perturb import Perturbed
from ..recipes.shared.request import Conditioning
from .folder import write_result
from .pictures import show
from .style import COLOURS, MODES, QUIET, band, new_figure, noise_axis, styled

_UNIT = {"sigma": "σ", "norm": "|x|"}


def image_inch(images: Tensor) -> float:
    """Edge of an image [..., H, W] in a grid, in inches: larger pictures are given more room, within reason."""
    return min(1.4, max(0.62, images.shape[-2] / 64))


def magnitude_names(magnitudes: Sequence[float], unit: str) -> list[str]:
    """Such as −2σ or +0.5|x|."""
    return [f"{m:+g}{unit}".replace("-", "−") if m else "plain" for m in magnitudes]


def step_names(result: Perturbed) -> list[str]:
    return [f"step {k}, σ/α {float(r):.3g}" for k, r in zip(result.step, result.level.ratio, strict=True)]


@styled
def perturbed_images(result: Perturbed, index: int = 0) -> Figure:
    """Final images of the first seed after nudges along one direction: rows are times, columns magnitudes."""
    centre = sum(m < 0 for m in result.magnitude)
    images = result.images[index]
    plain = result.plain.expand(len(images), 1, *result.plain.shape)
    shown = torch.cat([images[:, :centre], plain, images[:, centre:]], 1)
    names = magnitude_names([*result.magnitude[:centre], 0, *result.magnitude[centre:]], _UNIT[result.unit])
    inch = image_inch(shown)
    figure, axes = new_figure(shown.shape[1] * inch + 2.0, len(shown) * inch + 0.8)
    show(axes, shown, step_names(result), names)
    axes.set_title(f"nudged along {_words(result, index)}", pad=14)
    figure.suptitle(sample_words(result.setup), fontsize=8)
    return figure


def _words(result: Perturbed, index: int) -> str:
    name = result.directions[index]
    share = result.share.get(name)
    return name if share is None else f"{name}, {100 * float(share.mean):.0f} % of the path's variance"


def sample_words(setup: Mapping[str, Any]) -> str:
    """The model, case and first seed of a result, in short lines."""
    case = Conditioning(setup["condition"], setup["guidance"], setup["negative"])
    return textwrap.fill(f"{setup['model']}, {case}, seed {setup['seeds'][0]}", 90)


@styled
def displacements(result: Perturbed) -> Figure:
    """Displacement of the final state for a unit of nudge, along it and in all, and how much the image changed."""
    count = len(result.directions)
    figure, axes = new_figure(2.7 * count + 3.0, 6.6, count, 3, squeeze=False, sharex=True, sharey="row")
    for k, name in enumerate(result.directions):
        _gains(axes[0, k], result, result.along[k], result.predicted_along and result.predicted_along[k])
        _gains(axes[1, k], result, result.total[k], result.predicted_total and result.predicted_total[k])
        _gains(axes[2, k], result, result.dissimilarity[k], None)
        axes[0, k].set_title(name)
        axes[2, k].set_xlabel("σ/α at the nudge  (→ sampling)")
    noise_axis(axes[2, 0], label=False)  # shared by all panels
    axes[0, 0].set_ylabel("displacement along\nthe nudge / nudge")
    axes[1, 0].set_ylabel("whole displacement\n/ nudge")
    axes[2, 0].set_ylabel("image dissimilarity")
    axes[0, -1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.supxlabel(f"image dissimilarity: {result.features}; theory: {result.setup['predicted from']}", fontsize=7)
    return figure


def _gains(axes: Axes, result: Perturbed, measured: Summary, predicted: Summary | None) -> None:
    """One line a magnitude: warm ones forward, cold ones backward, darker for larger."""
    ratio, unit = result.level.ratio, _UNIT[result.unit]
    largest = max(abs(m) for m in result.magnitude)
    for s, m in enumerate(result.magnitude):
        colour = MODES[2 if m > 0 else 6]
        label = magnitude_names([m], unit)[0]
        axes.plot(ratio, measured.mean[:, s], color=colour, alpha=0.35 + 0.65 * abs(m) / largest, label=label)
    if predicted is not None:
        band(axes, ratio, predicted, COLOURS["network"], "theory", linestyle="--")
    axes.axhline(0, color=QUIET, linewidth=0.8)


def write_perturbed(result: Perturbed, folder: str | Path) -> dict[str, Any]:
    """Write images-DIRECTION.png for each direction, gain.png and results.json; return what the last holds."""
    names = [re.sub(r"\W+", "-", name) for name in result.directions]
    images = {f"images-{name}": perturbed_images(result, k) for k, name in enumerate(names)}
    return write_result(result, images | {"gain": displacements(result)}, folder)
