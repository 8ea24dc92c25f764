"""Where along the noise the exact score of a data set changes its character, for Gaussian statistics of the data.

Source: Biroli, Bonnaire, de Bortoli & Mezard 2024, "Dynamical regimes of diffusion models", arXiv 2402.18491.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..bounds import MOST_ITEMS, integer
from .gaussian import Gaussian, check_gaussian

#: Ratios of noise to the largest deviation of the data that are looked at, as powers of ten.
_POWERS = (-12.0, 12.0)


def speciation_ratio(gaussian: Gaussian) -> float:
    """sigma/alpha at which classes are decided: sqrt(lambda_1), lambda_1 the leading variance of the data.

    Above it the leading direction, along which classes differ most, is drowned in noise, and trajectories are alike;
    below it they have chosen. Source: section 2 there, where the leading variance meets that of the noise.

    Examples:
        >>> import torch
        >>> import underpaint as up
        >>> covariance = up.Covariance(torch.tensor([4.0, 0.25]), torch.eye(2))
        >>> gaussian = up.Gaussian(torch.zeros(2), covariance)
        >>> float(up.speciation_ratio(gaussian))
        2.0
    """
    return float(_variances(gaussian).max().clamp(min=0).sqrt())


def information(gaussian: Gaussian, ratio: float | Tensor) -> Tensor:
    """What a noisy state tells of the image, in nats: I = 1/2 sum_k log(1 + lambda_k / r^2) at r = sigma/alpha.

    Shapes: those of ``ratio``, float64. Source: the capacity of parallel Gaussian channels (Cover & Thomas 2006, 9.4).

    Examples:
        >>> import torch
        >>> import underpaint as up
        >>> gaussian = up.Gaussian.isotropic(torch.zeros(2), variance=1.0)
        >>> round(float(up.information(gaussian, ratio=1.0)), 4)
        0.6931
    """
    squared = torch.as_tensor(ratio, dtype=torch.float64).square()
    return 0.5 * torch.log1p(_variances(gaussian) / squared.unsqueeze(-1)).sum(-1)


def collapse_ratio(gaussian: Gaussian, count: int) -> float:
    """sigma/alpha below which the exact score of ``count`` points of this Gaussian is drawn to one of them.

    There a state that is made from a point tells as much of it as it takes to name one of N: I = log N. Above it the
    point shares the posterior with many, and the exact score is that of the population; below, it has nearly all of
    the weight. The level falls as N grows, with log N / D.
    Source: the excess-entropy criterion there, in terms of mutual information.

    Raises:
        ValueError: fewer than two points, or data without variance.

    Examples:
        >>> import torch
        >>> import underpaint as up
        >>> gaussian = up.Gaussian.isotropic(torch.zeros(2), variance=1.0)
        >>> few, many = (float(up.collapse_ratio(gaussian, count)) for count in (100, 10_000))
        >>> round(few, 3), round(many, 3)
        (0.101, 0.01)
    """
    integer(count, "number of points", 2, MOST_ITEMS)
    largest = speciation_ratio(gaussian)
    if not largest > 0:
        raise ValueError("Data without variance have no level of collapse.")
    low, high = (math.log(largest) + power * math.log(10) for power in _POWERS)
    for _ in range(80):  # information falls with the noise
        middle = (low + high) / 2
        enough = float(information(gaussian, math.exp(middle))) > math.log(count)
        low, high = (middle, high) if enough else (low, middle)
    return math.exp((low + high) / 2)


def _variances(gaussian: Gaussian) -> Tensor:
    """Of all directions, [D] float64."""
    gaussian = check_gaussian(gaussian)
    values, rest = gaussian.eigenvalues.double().cpu(), gaussian.dimension - len(gaussian.eigenvalues)
    return torch.cat([values, values.new_full((rest,), float(gaussian.covariance.residual))]).clamp(min=0)
