"""Levels where steps lose least: the losses against quadrature, the path against all others, and what it is for."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies
from mixtures import gaussian_of, mixture
from scipy.integrate import quad
from torch.testing import assert_close

from underpaint.calibration.levels import shortest_path, smoothed, step_losses
from underpaint.calibration.selection import PlanSelector
from underpaint.calibration.solution import FineSolution, solve_finely
from underpaint.noise import DDPM, EDM, NoiseLevel, Schedule
from underpaint.sampling.fitted import Plan
from underpaint.theory.gaussian import Gaussian
from underpaint.theory.mixture import Mixture

DIMENSION = 8


def solved(data: Mixture | Gaussian, gaussian: Gaussian, schedule: Schedule, steps: int = 60) -> FineSolution:
    return solve_finely(data, gaussian, schedule, range(3), steps)


@pytest.mark.parametrize("schedule", [EDM(), DDPM()], ids=["edm", "ddpm"])
@pytest.mark.parametrize(("i", "length"), [(0, 3), (2, 1), (3, 3), (20, 6), (40, 2)])
def test_a_loss_is_that_of_the_step(schedule: Schedule, i: int, length: int) -> None:
    """y~ = sqrt(lambda + s^2) z with dz = -s^2 Q / (lambda + s^2)^(3/2) dlog s, the polynomial Q through the nodes by
    NumPy and its integral by SciPy; what the flow down to sigma = 0 leaves is sqrt(lambda / (lambda + s^2))."""
    data = mixture(DIMENSION, seed=3, apart=1)
    gaussian = gaussian_of(data, torch.float64)
    fine = solved(data, gaussian, schedule)
    variances, time, alpha = gaussian.covariance.variances, fine.level.log_ratio, fine.level.alpha.unsqueeze(1)
    nodes = [k for k in (i + length, i, i - length, i - 2 * length) if k >= 0]
    square = time.exp()[:, None] ** 2
    scaled = (fine.states / alpha.unsqueeze(1)).numpy()
    eps = (fine.states - alpha.unsqueeze(1) * fine.seen) / fine.level.sigma[:, None, None]
    local = (fine.seen - (variances / time.exp()[:, None]).unsqueeze(1) * eps).numpy()
    lost = []
    for seed in range(3):
        errors = []
        for k, value in enumerate(variances.tolist()):
            at = np.array([float(time[n]) for n in nodes])
            poly = np.polynomial.Polynomial.fit(at, [local[n, seed, k] for n in nodes], len(nodes) - 1)

            def integrand(t: float, poly: np.polynomial.Polynomial = poly, value: float = value) -> float:
                return float(poly(t)) * math.exp(2 * t) / (value + math.exp(2 * t)) ** 1.5

            wide = [math.sqrt(value + float(square[n])) for n in (i, i + length)]
            z = scaled[i, seed, k] / wide[0] + quad(integrand, time[i + length], time[i], epsabs=1e-12)[0]
            left = math.sqrt(value) / wide[1]
            errors.append((z * wide[1] - scaled[i + length, seed, k]) * left)
        lost.append(math.sqrt(np.mean(np.square(errors))))
    found = step_losses(fine, gaussian.covariance, 6)[i, i + length]
    assert float(found) == pytest.approx(float(np.prod(lost)) ** (1 / 3), rel=1e-4)


def test_gaussian_data_lose_nothing_and_long_steps_are_not_made() -> None:
    gaussian = gaussian_of(mixture(DIMENSION, seed=3, apart=1), torch.float64)
    fine = solved(gaussian, gaussian, EDM())
    losses = step_losses(fine, gaussian.covariance, 20)
    longest = round(2.2 * 60 / 20)
    made = torch.isfinite(losses)
    gap = torch.arange(60) - torch.arange(60).unsqueeze(1)
    assert torch.equal(made, (gap >= 1) & (gap <= longest))
    assert float(losses[made].max()) < 1e-6
    other = step_losses(solved(mixture(DIMENSION, seed=3, apart=1), gaussian, EDM()), gaussian.covariance, 20)
    assert float(other[made].max()) > 1e-4


@pytest.mark.parametrize("rank", [None, 40], ids=["full", "low rank"])
def test_some_coordinates_tell_of_all(rank: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The widest half of them, and a random half of the others, which stand for the rest."""
    data = mixture(160, seed=3, apart=0.5)
    rows = data.sample(600, torch.Generator().manual_seed(1))
    gaussian = Gaussian.fit(rows, rank=rank)
    fine = solve_finely(data, gaussian, EDM(), range(6), 24)
    whole = step_losses(fine, gaussian.covariance, 6)
    monkeypatch.setattr("underpaint.calibration.levels._COORDINATES", 80)
    some = step_losses(fine, gaussian.covariance, 6)
    made = torch.isfinite(whole)
    assert torch.equal(made, torch.isfinite(some))
    assert not torch.equal(whole[made], some[made])
    assert_close(some[made].log(), whole[made].log(), rtol=0, atol=0.25)


@settings(max_examples=30, deadline=None)
@given(strategies.integers(3, 7), strategies.integers(0, 10_000), strategies.data())
def test_the_path_is_the_shortest_of_all(size: int, seed: int, data: strategies.DataObject) -> None:
    count = data.draw(strategies.integers(2, size))
    losses = torch.rand(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    losses[torch.ones(size, size, dtype=torch.bool).tril()] = float("inf")
    paths = [(0, *inner, size - 1) for inner in combinations(range(1, size - 1), count - 2)]
    sums = [float(losses[list(path[:-1]), list(path[1:])].sum()) for path in paths]
    assert shortest_path(losses, count) == paths[sums.index(min(sums))]


def test_a_path_that_is_too_short_is_none() -> None:
    losses = torch.full((6, 6), float("inf"), dtype=torch.float64)
    losses[range(5), range(1, 6)] = 1.0
    assert shortest_path(losses, 6) == (0, 1, 2, 3, 4, 5)
    with pytest.raises(ValueError, match="No path of 4 levels leads through 6"):
        shortest_path(losses, 4)


def test_smoothing_keeps_the_ends_and_what_is_even() -> None:
    level = EDM()(torch.logspace(2, -2, 41, dtype=torch.float64))
    assert_close(smoothed(level, range(0, 41, 4)), level.log_ratio[::4])
    uneven = smoothed(level, (0, 1, 10, 12, 30, 40))
    times = level.log_ratio[torch.tensor([0, 1, 10, 12, 30, 40])]
    assert_close(uneven[[0, -1]], times[[0, -1]])
    once = (times[:-2] + 2 * times[1:-1] + times[2:]) / 4
    assert_close(smoothed(level, (0, 1, 10, 12, 30, 40), 1)[1:-1], once)
    assert float(uneven.diff().diff().abs().sum()) < float(times.diff().diff().abs().sum())
    silent = NoiseLevel.join(
        NoiseLevel(torch.tensor([0.0], dtype=torch.float64), torch.tensor([1.0], dtype=torch.float64)), level
    )
    assert_close(smoothed(silent, (0, 1, 2, 11, 13, 31, 41))[1:], uneven)


def test_steps_lose_less_on_the_path_than_on_the_usual_grids() -> None:
    data = mixture(DIMENSION, seed=3, apart=1)
    gaussian = gaussian_of(data, torch.float64)
    fine = solve_finely(data, gaussian, EDM(), range(16), 150)
    path = shortest_path(step_losses(fine, gaussian.covariance, 14), 14)
    seeds = range(50, 66)
    unseen = solve_finely(data, gaussian, EDM(), seeds, 300)
    judge = PlanSelector(data, gaussian, EDM(), unseen, unseen)
    own = unseen.level  # 300 levels, so the path is laid by its ratios
    laid = EDM().level(fine.level.ratio[torch.tensor(path)])
    mine = judge.error(Plan(NoiseLevel.join(laid, NoiseLevel.clean()), solver="exponential-3c"))
    even = tuple(torch.linspace(0, len(own) - 1, 14).round().int().tolist())
    usual = [judge.error(Plan(grid, solver="exponential-3c")) for grid in judge.grids(even)]
    assert mine < 0.8 * min(usual)
