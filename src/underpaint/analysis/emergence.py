"""When each feature of the data appears in the endpoint estimate, measured and predicted."""

from __future__ import annotations

import torch
from torch import Tensor

from ..noise import NoiseLevel
from ..theory.gaussian import Gaussian


def feature_shares(denoised: Tensor, gaussian: Gaussian, count: int) -> Tensor:
    """Variance over samples of each principal component of x0-hat [N, B, D], as a share of its last value. [N, K]
    float64.

    For Gaussian data it is phi^2 = lambda/(lambda + (sigma/alpha)^2), `modes.emergence` squared.
    """
    variance = gaussian.coordinates(denoised)[..., :count].double().var(1)
    return (variance / variance[-1].clamp(min=1e-300)).cpu()


def half_ratio(shares: Tensor, level: NoiseLevel) -> Tensor:
    """sigma/alpha at which each share [N, K] last rises through one half, by interpolation in log sigma. [K] float64.

    ``level`` holds the N levels of the shares, all with sigma > 0; NaN where a share never rises through one half,
    because it starts above it.
    """
    log_ratio = level.log_ratio
    below = shares < 0.5
    last = torch.where(below, torch.arange(len(shares)).unsqueeze(1), -1).amax(0)
    low = last.clamp(0, len(shares) - 2)
    columns = torch.arange(shares.shape[1])
    before, after = shares[low, columns], shares[low + 1, columns]
    weight = (0.5 - before) / (after - before)
    crossing = torch.exp(log_ratio[low] + weight * (log_ratio[low + 1] - log_ratio[low]))
    return torch.where((last >= 0) & (last < len(shares) - 1), crossing, torch.nan)


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's rank correlation of two vectors, over the entries that are finite in both (no ties expected)."""
    finite = torch.isfinite(a) & torch.isfinite(b)
    if int(finite.sum()) < 2:
        return float("nan")
    ranks = torch.stack([v[finite].argsort().argsort().double() for v in (a, b)])
    return float(torch.corrcoef(ranks)[0, 1])
