"""Speciation and collapse, where they are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from underpaint.theory.covariance import Covariance
from underpaint.theory.gaussian import Gaussian
from underpaint.theory.regimes import collapse_ratio, information, speciation_ratio


def gaussian(*variances: float, dimension: int = 0, residual: float = 0.0) -> Gaussian:
    size = dimension or len(variances)
    values = torch.tensor(variances, dtype=torch.float64)
    basis = torch.eye(size, dtype=torch.float64)[:, : len(variances)]
    return Gaussian(torch.zeros(size, dtype=torch.float64), Covariance(values, basis, residual))


@pytest.mark.parametrize("distance", [2.0, 10.0])
def test_two_points_part_where_the_noise_is_their_distance_from_the_middle(distance: float) -> None:
    """The denoiser of points at -d and d is d tanh(d x / r^2): its slope at the middle passes 1 at r = d, where the
    middle begins to drive states away."""
    points = torch.tensor([[-distance], [distance]], dtype=torch.float64)
    ratio = speciation_ratio(Gaussian.fit(points.repeat(500, 1), dtype=torch.float64))
    assert ratio == pytest.approx(distance, rel=1e-3)
    slopes = [distance**2 / (scale * ratio) ** 2 for scale in (1.01, 0.99)]
    assert slopes[0] < 1 < slopes[1]


def test_information_is_that_of_determinants() -> None:
    known = gaussian(4.0, 1.0, dimension=5, residual=0.25)
    variances = torch.tensor([4.0, 1.0, 0.25, 0.25, 0.25], dtype=torch.float64)
    ratios = torch.tensor([0.1, 1.0, 30.0], dtype=torch.float64)
    expected = torch.stack([0.5 * torch.logdet(torch.eye(5) + (variances / r**2).diag()) for r in ratios])
    torch.testing.assert_close(information(known, ratios), expected, rtol=1e-10, atol=1e-12)


def test_collapse_has_a_closed_form_for_white_data() -> None:
    """D/2 log(1 + v/r^2) = log N, at r = sqrt(v / (N^(2/D) - 1))."""
    for count, dimension in ((2, 1), (1000, 12), (10**6, 3)):
        white = gaussian(dimension=dimension, residual=3.0)
        assert collapse_ratio(white, count) == pytest.approx((3 / (count ** (2 / dimension) - 1)) ** 0.5, rel=1e-9)


def weight_of_own(points: Tensor, ratio: float) -> float:
    """Of the point that a state was made from, in the exact posterior: the mean over 64 states."""
    noise = torch.randn(64, points.shape[1], generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    weights = (-torch.cdist(points[:64] + ratio * noise, points).square() / (2 * ratio**2)).softmax(1)
    return float(weights[:, :64].diagonal().mean())


@pytest.mark.parametrize("count", [100, 3000])
def test_about_the_level_of_collapse_the_exact_posterior_falls_to_one_point(count: int, normal) -> None:
    """Data of 200 dimensions, where the change is sharp."""
    scales = torch.logspace(0.5, -0.5, 200, dtype=torch.float64)
    level, points = collapse_ratio(gaussian(*scales.square().tolist()), count), normal(count, 200) * scales
    low, at, high = (weight_of_own(points, level * factor) for factor in (0.5, 1.0, 2.0))
    assert low > 0.99
    assert 0.3 < at < 0.7
    assert high < 0.15


def test_more_points_collapse_later() -> None:
    known = gaussian(*torch.logspace(2, -2, 50).tolist())
    levels = [collapse_ratio(known, 10**k) for k in range(1, 7)]
    assert levels == sorted(levels, reverse=True)


def test_what_has_no_collapse_is_refused() -> None:
    with pytest.raises(ValueError, match="without variance"):
        collapse_ratio(gaussian(dimension=3), 10)
    with pytest.raises(ValueError, match="number of points"):
        collapse_ratio(gaussian(1.0), 1)


@pytest.mark.parametrize(
    "ask", [speciation_ratio, lambda given: information(given, 1.0), lambda given: collapse_ratio(given, 10)]
)
@pytest.mark.parametrize("given", [None, torch.eye(3), lambda x, level: x])
def test_what_is_no_gaussian_is_refused(ask: Callable[[Any], Any], given: Any) -> None:
    with pytest.raises(ValueError, match=r"Expected a Gaussian of the data, got an? [A-Za-z]+; "):
        ask(given)
