"""The exact transition of stochastic sampling: its laws, as matrices and as numbers along one mode."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from distributions import GAUSSIANS
from hypothesis import given, strategies as st
from torch import Tensor
from torch.testing import assert_close

from underpaint.noise import EDM, NoiseLevel, Schedule
from underpaint.theory import modes
from underpaint.theory.covariance import Covariance
from underpaint.theory.gaussian import Gaussian

ETAS = [0.0, 0.3, 1.0, 1.7]
etas = st.floats(0.0, 2.0)
variances = st.floats(1e-6, 1e3)
levels = st.builds(NoiseLevel, st.floats(0.0, 2.0), st.floats(0.01, 20.0))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def maps(gaussian: Gaussian, here: NoiseLevel, there: NoiseLevel, eta: float) -> tuple[Tensor, Tensor, Tensor]:
    """The step as x' = b + A x + noise of covariance C, found from what it does to the rows of the identity."""
    eye = torch.eye(gaussian.dimension, dtype=torch.float64)
    drawn = torch.randn(2 * eye.shape[0], eye.shape[1], generator=generator(), dtype=torch.float64)
    both = gaussian.transition(torch.cat([eye, 0 * eye]), here, there, eta, generator())
    # rows of the second half are b + S xi with xi known
    offset = there.alpha * gaussian.mean
    still = gaussian.transition((here.alpha * gaussian.mean).expand(2 * len(eye), -1), here, there, eta, generator())
    root = torch.linalg.lstsq(drawn, still - offset).solution
    moved = both - drawn @ root
    base = moved[len(eye)]
    return base, (moved[: len(eye)] - base).T, root.T @ root


def noisy(gaussian: Gaussian, level: NoiseLevel) -> Tensor:
    eye = torch.eye(gaussian.dimension, dtype=torch.float64)
    return level.alpha**2 * gaussian.covariance.matrix() + level.sigma**2 * eye


@pytest.mark.parametrize("eta", ETAS)
def test_marginals_hold_at_every_level(gaussian: Gaussian, schedule: Schedule, eta: float) -> None:
    grid = schedule.grid(5)
    for here, there in [*pairwise(grid), (grid[3], grid[1])]:  # and back to more noise
        base, linear, added = maps(gaussian, here, there, eta)
        mean = base + linear @ (here.alpha * gaussian.mean)
        assert_close(mean, there.alpha * gaussian.mean, rtol=1e-9, atol=1e-9)
        covariance = linear @ noisy(gaussian, here) @ linear.T + added
        assert_close(covariance, noisy(gaussian, there), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("eta", ETAS)
def test_two_steps_are_one(gaussian: Gaussian, schedule: Schedule, eta: float) -> None:
    first, middle, last = schedule.grid(4)[torch.tensor([0, 2, 4])]
    (b1, a1, c1), (b2, a2, c2), (b, a, c) = (
        maps(gaussian, here, there, eta) for here, there in ((first, middle), (middle, last), (first, last))
    )
    assert_close(a2 @ a1, a, rtol=1e-9, atol=1e-9)
    assert_close(a2 @ b1 + b2, b, rtol=1e-9, atol=1e-9)
    assert_close(a2 @ c1 @ a2.T + c2, c, rtol=1e-9, atol=1e-9)


def test_at_strength_one_it_is_the_posterior_of_the_forward_process(full: Gaussian) -> None:
    """x' given x of a joint Gaussian, by Schur's complement: x = (alpha/alpha') x' + noise of what variance is left."""
    here, there = NoiseLevel(0.6, 0.8), NoiseLevel(0.9, 0.4)
    share = here.alpha / there.alpha
    prior, seen = noisy(full, there), noisy(full, here)
    gain = share * prior @ torch.linalg.inv(seen)
    _, linear, added = maps(full, here, there, 1.0)
    assert_close(linear, gain, rtol=1e-9, atol=1e-9)
    assert_close(added, prior - gain @ (share * prior), rtol=1e-9, atol=1e-9)


def test_at_strength_one_up_it_is_the_forward_process(gaussian: Gaussian) -> None:
    here, there = NoiseLevel(0.9, 0.4), NoiseLevel(0.6, 0.8)
    share = there.alpha / here.alpha
    _, linear, added = maps(gaussian, here, there, 1.0)
    eye = torch.eye(6, dtype=torch.float64)
    if gaussian.covariance.residual or gaussian.covariance.full:
        assert_close(linear, share * eye, rtol=1e-9, atol=1e-9)
    assert_close(added, (there.sigma**2 - share**2 * here.sigma**2) * eye, rtol=1e-9, atol=1e-9)


def test_without_noise_it_is_the_flow(gaussian: Gaussian, schedule: Schedule, normal) -> None:
    x, grid = normal(3, 6), schedule.grid(4)
    flow = gaussian.flow(x, grid[1], grid[3])
    assert torch.equal(gaussian.transition(x, grid[1], grid[3], eta=0), flow)
    errors = [(gaussian.transition(x, grid[1], grid[3], eta, generator()) - flow).norm() for eta in (1e-2, 1e-3)]
    assert errors[1] < 0.11 * errors[0]  # the noise falls with eta


def test_from_pure_noise_nothing_is_kept_and_the_state_is_drawn_anew(full: Gaussian, normal) -> None:
    start, there = NoiseLevel(0.0, 1.0), NoiseLevel(0.8, 0.6)
    one, other = (full.transition(normal(2, 6, seed=seed), start, there, 1.0, generator()) for seed in (1, 2))
    assert torch.equal(one, other)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_a_fine_euler_maruyama_agrees(eta: float) -> None:
    """Mean and variance of the discretised SDE, which for a linear drift are a recurrence; its error falls with 1/N."""
    eigenvalues = torch.tensor([0.01, 1.0, 20.0], dtype=torch.float64)
    gain, added = modes.transition(eigenvalues, EDM()(5.0), EDM()(0.05), eta)

    def error(steps: int) -> float:
        sigma = torch.logspace(math.log10(5.0), math.log10(0.05), steps + 1, dtype=torch.float64)
        factor, variance = torch.ones(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
        for high, low in pairwise(sigma):
            drift = 1 + (1 + eta**2) * high / (eigenvalues + high**2) * (low - high)
            factor, variance = drift * factor, drift**2 * variance + 2 * eta**2 * high * (high - low)
        return float(((factor - gain).abs() + (variance / added - 1).abs()).max())

    assert error(4000) < 0.01
    assert error(4000) == pytest.approx(error(2000) / 2, rel=0.02)


@given(variances, levels, levels, levels, etas)
def test_laws_along_a_mode(
    variance: float, first: NoiseLevel, middle: NoiseLevel, last: NoiseLevel, eta: float
) -> None:
    first, middle, last = sorted((first, middle, last), key=lambda level: -float(level.ratio))
    value = torch.tensor([variance], dtype=torch.float64)
    (g1, v1), (g2, v2), (g, v) = (
        modes.transition(value, here, there, eta) for here, there in ((first, middle), (middle, last), (first, last))
    )
    assert_close(g2 * g1, g, rtol=1e-8, atol=1e-12)
    assert_close(g2**2 * v1 + v2, v, rtol=1e-8, atol=1e-9 * float(last.sigma**2 + variance * last.alpha**2))
    start = first.alpha**2 * value + first.sigma**2
    assert_close(g**2 * start + v, last.alpha**2 * value + last.sigma**2, rtol=1e-9, atol=0)
    assert bool((g >= 0).all() and (v >= 0).all())


def test_drawn_states_have_the_marginal_of_their_level() -> None:
    """By Monte Carlo, as a check on the noise itself, low rank and with a basis of cosines."""
    blocks = torch.diag_embed(torch.linspace(2.0, 0.1, 12, dtype=torch.float64).unsqueeze(1))
    cosine = Gaussian(torch.ones(12, dtype=torch.float64), Covariance.stationary(blocks, (3, 4), torch.float64))
    here, there = NoiseLevel(0.5, 2.0), NoiseLevel(0.9, 0.3)
    for gaussian in (cosine, GAUSSIANS["low-rank"]):
        source = generator()  # one for both: the same noise twice would be correlated
        x = gaussian.transition(gaussian.sample(20_000, source, here), here, there, 1.0, source)
        expected = noisy(gaussian, there)
        scale = expected.diagonal().max()
        assert_close(torch.cov(x.T) / scale, expected / scale, rtol=0, atol=0.05)
        assert_close(x.mean(0), there.alpha * gaussian.mean, rtol=0, atol=5 * float((scale / 20_000).sqrt()))


@pytest.mark.parametrize("eta", [-0.1, math.nan, math.inf, True, "1"])
def test_a_strength_that_is_none_is_refused(full: Gaussian, normal, eta: float) -> None:
    with pytest.raises(ValueError, match="The strength eta of the added noise must be a number from 0"):
        full.transition(normal(2, 6), EDM()(2.0), EDM()(1.0), eta)
