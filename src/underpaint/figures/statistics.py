"""Statistics of data as pictures: the mean, the first principal components, and the spectrum."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import torch
from matplotlib.figure import Figure

from ..files import replacing
from ..theory.gaussian import Gaussian
from .pictures import show
from .style import RC, new_figure, styled


@styled
def mean_and_components(gaussian: Gaussian, shape: tuple[int, int, int], shown: int = 9) -> Figure:
    """The mean image, the first components about grey with their shares of the variance, and the spectrum.

    Pixels in [-1, 1]; ``shape`` is (C, H, W), grey or RGB.
    """
    covariance = gaussian.covariance
    count = min(shown, covariance.rank)
    basis = covariance.basis[:, :count].T.float().cpu()
    patterns = 0.5 + 0.5 * basis / basis.abs().amax(1, keepdim=True).clamp(min=1e-12)
    images = torch.cat([(gaussian.mean.float().cpu().unsqueeze(0) + 1) / 2, patterns]).clamp(0, 1).unflatten(1, shape)
    shares = covariance.eigenvalues[:count] / max(covariance.total, 1e-300)
    names = ["mean", *(f"u{k + 1}: {100 * float(share):.2g} %" for k, share in enumerate(shares))]
    figure, (above, below) = new_figure(9.5, 4.2, rows=2, height_ratios=[1, 2])
    show(above, images.unsqueeze(0), columns=names)
    below.loglog(1 + torch.arange(covariance.rank), covariance.eigenvalues.clamp(min=1e-12), color="black")
    if covariance.residual:
        below.axhline(covariance.residual, linestyle="--", color="grey", label="in each direction outside these")
        below.legend()
    below.set(xlabel="principal component", ylabel="variance")
    return figure


def write_picture(gaussian: Gaussian, shape: tuple[int, ...], path: Path) -> Path | None:
    """Write `mean_and_components`, whole or not at all; None for items that are no images, grey or RGB."""
    if len(shape) != 3 or shape[0] not in (1, 3):
        return None
    with replacing(path) as temporary, matplotlib.rc_context(RC):
        mean_and_components(gaussian, (shape[0], shape[1], shape[2])).savefig(temporary, format="png")
    return path
