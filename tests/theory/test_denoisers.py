"""One contract for every analytic denoiser: Tweedie, the limits of the noise, rows with their own levels, dtypes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from underpaint.noise import DDPM, EDM, Flow, NoiseLevel, Schedule
from underpaint.theory.cloud import PointCloud
from underpaint.theory.gaussian import Gaussian
from underpaint.theory.mixture import Mixture

Distribution = Gaussian | Mixture | PointCloud


def mean_of(distribution: Distribution) -> Tensor:
    match distribution:
        case Gaussian():
            return distribution.mean
        case Mixture():
            return sum(w * c.mean for w, c in zip(distribution.weights, distribution.components, strict=True))
        case PointCloud():
            return distribution.points.mean(0)


def test_tweedie(distribution: Distribution, schedule: Schedule, normal) -> None:
    """alpha D = x + sigma^2 grad log p, the gradient by autograd."""
    for level in schedule.grid(5)[:-1]:
        x = (level.norm * normal(7, 6)).requires_grad_()
        (gradient,) = torch.autograd.grad(distribution.log_prob(x, level).sum(), x)
        x = x.detach()
        assert_close(distribution.score(x, level), gradient, rtol=1e-8, atol=1e-8 * float(gradient.abs().max()))
        assert_close(level.alpha * distribution.denoise(x, level), x + level.sigma**2 * gradient, rtol=1e-9, atol=1e-9)


def test_gradients_in_float32(distribution: Distribution, normal) -> None:
    """Finite, and without a warning: one would be an error."""
    x = normal(3, 6).float().requires_grad_()
    distribution.to(dtype=torch.float32).log_prob(x, EDM()(0.5)).sum().backward()
    assert x.grad is not None
    assert bool(torch.isfinite(x.grad).all())


def test_rows_may_have_their_own_levels(distribution: Distribution, schedule: Schedule, normal) -> None:
    levels = schedule.grid(5)[:-1]
    x = levels.norm.unsqueeze(1) * normal(5, 6)
    for method in (distribution, distribution.denoise, distribution.score, distribution.log_prob):
        one_by_one = torch.cat([method(row.unsqueeze(0), level) for row, level in zip(x, levels, strict=True)])
        together = method(x, levels)
        if method == distribution.score:  # a difference over sigma^2, which rounds like x over sigma^2
            rounding = 4 * torch.finfo(x.dtype).eps * x.abs() / levels.sigma.unsqueeze(1) ** 2
            together = torch.where((together - one_by_one).abs() <= rounding, one_by_one, together)
        assert_close(together, one_by_one, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("level", [Flow()(1.0), NoiseLevel(0.0, 7.0), EDM()(1e8), DDPM().level(1e8)], ids=repr)
def test_pure_noise_leaves_the_mean(distribution: Distribution, level: NoiseLevel, normal) -> None:
    x = level.sigma * normal(7, 6)
    assert_close(distribution(x, level), mean_of(distribution).expand(7, 6), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.0, 1e-7])
@pytest.mark.parametrize("alpha", [1.0, 0.8])
def test_without_noise_the_state_is_the_image(distribution: Distribution, alpha: float, sigma: float, normal) -> None:
    """x/alpha, or its projection where the data lie in a plane, or the nearest of the points."""
    level, x = NoiseLevel(alpha, sigma), normal(7, 6)
    expected = x / alpha
    if isinstance(distribution, PointCloud):
        expected = distribution.points[torch.cdist(x / alpha, distribution.points).argmin(1)]
    elif isinstance(distribution, Gaussian) and distribution.covariance.spectrum[-1] == 0 and sigma > 0:
        expected = distribution.mean + distribution.coordinates(x / alpha) @ distribution.basis.T
    assert_close(distribution(x, level), expected, rtol=1e-9, atol=1e-9)


def test_float32_agrees_with_float64(distribution: Distribution, schedule: Schedule, normal) -> None:
    """To 1e-5 of the state's scale, down to the lowest level of every family."""
    single = distribution.to(dtype=torch.float32)
    for level in schedule.grid(6)[:-1]:
        x = (level.norm * normal(7, 6)).float()
        got = single(x, level)
        assert got.dtype == torch.float32
        assert_close(
            got.double(), distribution(x.double(), level), rtol=1e-5, atol=1e-5 * float(x.abs().max() / level.norm)
        )


@pytest.mark.parametrize("shape", [(6,), (2, 5), (2, 1, 6)])
def test_only_rows_of_the_right_dimension_are_taken(distribution: Distribution, shape: tuple[int, ...]) -> None:
    for method in (distribution.denoise, distribution.score, distribution.log_prob):
        with pytest.raises(ValueError, match=r"Expected rows \[B, 6\], got a tensor of shape"):
            method(torch.zeros(shape, dtype=torch.float64), EDM()(1.0))


@pytest.mark.parametrize("level", [EDM()(0.5), DDPM()(500), Flow()(0.7)], ids=repr)
def test_the_error_of_the_best_denoiser_is_uncorrelated_with_the_state(
    level: NoiseLevel, full, mixture, normal
) -> None:
    """E[(x0 - D(x)) x^T] = 0 and E[x0 - D(x)] = 0, by Monte Carlo to five standard errors."""
    for distribution in (full, mixture):
        x0 = distribution.sample(10_000, torch.Generator().manual_seed(0))
        x = level.alpha * x0 + level.sigma * normal(*x0.shape, seed=1)
        error = x0 - distribution(x, level)
        for product in (error, (error.unsqueeze(2) * (x - x.mean(0)).unsqueeze(1)).flatten(1)):
            assert bool((product.mean(0).abs() < 5 * product.std(0) / len(x) ** 0.5).all())
