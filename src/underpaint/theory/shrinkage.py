"""Eigenvalues of a covariance as they probably are, from those of few samples."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from .blocks import slices
from .covariance import Covariance

#: Eigenvalues below this share of the largest are those of directions without any variance.
_NOTHING = 1e-13
#: Rows that it takes at the least: the kernels of fewer reach to 0 or below, as n^(-1/3) sqrt(5) >= 1 for n <= 11.
FEWEST = 13


def shrink(covariance: Covariance, count: int) -> Covariance:
    """The analytical nonlinear shrinkage of Ledoit & Wolf for a covariance taken from ``count`` rows.

    Of few rows, the large eigenvalues come out too large and the small ones too small; of N <= D rows, D - N + 1 are
    zero although the data vary there. Each eigenvalue is replaced by what the rows have along its eigenvector on
    average over new data, estimated from the spectrum alone; the directions without any get one value together, which
    becomes the residual variance. Eigenvectors stay. With l_i the eigenvalues, n = N - 1, c = D/n, and the density f
    of the spectrum and its Hilbert transform H f by Epanechnikov kernels of width n^(-1/3) l_j:

        l_i / [(pi c l_i f)^2 + (1 - c - pi c l_i H f)^2]      for D <= n,
        1 / [pi^2 l_i (f^2 + H f^2)], and for the rest n / [pi (D - n) H f(0)]          for D > n.

    Source: Ledoit & Wolf 2020, "Analytical nonlinear shrinkage of large-dimensional covariance matrices", Annals of
    Statistics 48(5), section 4 and appendix.

    Raises:
        ValueError: the covariance does not hold all directions of its rows, or there are fewer than 13 of them.
    """
    values, dimension = covariance.eigenvalues, covariance.dimension
    known = int((values > _NOTHING * values[0]).sum()) if len(values) else 0
    if known < FEWEST - 1 or count < FEWEST:
        raise ValueError(f"Shrinkage needs at least {FEWEST} different rows, got {count} with {known} directions.")
    if covariance.residual or not isinstance(covariance.basis, Tensor):
        raise ValueError("Shrinkage needs the whole spectrum; take the covariance without a rank, and not stationary.")
    values = values[:known]
    if count > dimension:
        density, hilbert = _kernel_estimates(values, count - 1)
        share = math.pi * known / (count - 1) * values
        shrunk = values / ((share * density) ** 2 + (1 - known / (count - 1) - share * hilbert) ** 2)
        rest = 0.0
    else:  # rows that repeat others tell nothing new, and leave fewer directions
        density, hilbert = _kernel_estimates(values, known)
        shrunk = 1 / (math.pi**2 * values * (density**2 + hilbert**2))
        rest = _of_nothing(values, known, dimension)
    shrunk, order = shrunk.sort(descending=True, stable=True)
    return replace(covariance, eigenvalues=shrunk, basis=covariance.basis[:, order], residual=rest)


def _of_nothing(values: Tensor, freedom: int, dimension: int) -> float:
    """The variance of the directions in which there was none."""
    h, root = freedom ** (-1 / 3), math.sqrt(5)
    log = math.log((1 + root * h) / (1 - root * h))
    hilbert = (3 / 10 / h**2 + 3 / (4 * root) / h * (1 - 1 / 5 / h**2) * log) / math.pi * float((1 / values).mean())
    return freedom / (math.pi * (dimension - freedom) * hilbert)


def _kernel_estimates(values: Tensor, freedom: int) -> tuple[Tensor, Tensor]:
    """Density of the spectrum at each eigenvalue and its Hilbert transform; Epanechnikov kernels."""
    width, root = freedom ** (-1 / 3) * values, math.sqrt(5)
    densities, transforms = [], []
    for part in slices(len(values)):
        x = (values[part].unsqueeze(1) - values) / width
        densities.append((3 / (4 * root) * (1 - x**2 / 5).clamp(min=0) / width).mean(1))
        near = 3 / (4 * root) * (1 - x**2 / 5) * ((root - x) / (root + x)).abs().log()
        near = torch.where(x.abs() == root, 0.0, near) - 3 / 10 * x
        # moments of the kernel over powers of x: there the two terms above cancel
        far = -(1 + 1 / x**2 + 15 / 7 / x**4 + 125 / 21 / x**6) / x
        transforms.append((torch.where(x.abs() > 50, far, near) / math.pi / width).mean(1))
    return torch.cat(densities), torch.cat(transforms)
