"""How far to skip: foreseen errors against closed forms, and against fine solutions on distributions whose truth is
computable."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from underpaint.noise import EDM, Flow, NoiseLevel, Schedule
from underpaint.sampling.auto import SkipChoice, choose_skip, measured_error, predicted_error
from underpaint.sampling.solvers import Solver, euler, heun
from underpaint.sampling.trajectory import initial_noise
from underpaint.theory.covariance import Covariance
from underpaint.theory.gaussian import Gaussian
from underpaint.theory.mixture import Mixture


@pytest.fixture(scope="module")
def summary(mixture: Mixture) -> Gaussian:
    """The mixture's own mean and covariance, from the laws of total expectation and variance."""
    means = torch.stack([part.mean for part in mixture.components])
    mean = mixture.weights @ means
    within = sum(w * part.covariance.matrix() for w, part in zip(mixture.weights, mixture.components, strict=True))
    spread = means - mean
    between = (mixture.weights.unsqueeze(1) * spread).T @ spread
    return Gaussian(mean, Covariance.of(within + between, dtype=torch.float64))


def test_a_gaussian_is_skipped_to_its_last_step(gaussian: Gaussian, schedule: Schedule) -> None:
    grid = schedule.grid(10)
    choice = choose_skip(gaussian, gaussian, grid, tolerance=1e-9)
    assert choice.skip == 9
    assert choice.ratio == float(grid.ratio[9])
    assert choice.predicted.shape == (10, 8)
    assert choice.measured is None


def test_a_wrong_mean_costs_its_part_that_has_emerged(full: Gaussian, schedule: Schedule) -> None:
    """The flows of two Gaussians that differ by a shift of the mean stay apart by [1 - sqrt(lambda/(lambda + s^2))] of
    it, which a jump gets wrong and what follows does not mend: R is linear in it, so that the first order is all."""
    shift = torch.linspace(0.1, 0.6, 6, dtype=torch.float64)
    grid = schedule.grid(400)
    x = initial_noise(range(2), 6, grid[0], torch.float64)
    predicted = predicted_error(Gaussian(full.mean + shift, full.covariance), full, x, grid)
    assert torch.equal(predicted[0], torch.zeros(2, dtype=torch.float64))
    values = full.eigenvalues
    for skip in (200, 380):
        here, there = ((values / (values + ratio**2)).sqrt() for ratio in (grid.ratio[0], grid.ratio[skip]))
        moved = (shift @ full.basis) * (there - here)
        truth = float((moved.square().mean() / values.mean()).sqrt())
        assert_close(predicted[skip], torch.full((2,), truth, dtype=torch.float64), rtol=0.02, atol=0)


@pytest.mark.parametrize("schedule", [EDM(0.02), Flow(3.0)], ids=["edm", "flow"])
def test_errors_on_a_mixture_are_foreseen(mixture: Mixture, summary: Gaussian, schedule: Schedule) -> None:
    """Within a tenth of what a fine solution shows, for jumps that cost between 0.3 % and 5 % of a standard
    deviation."""
    grid = schedule.grid(40)
    x = initial_noise(range(16), 6, grid[0], torch.float64)
    predicted = predicted_error(mixture, summary, x, grid).mean(1)
    skips = [k for k in range(1, 40, 2) if 0.003 < predicted[k] < 0.05]
    assert len(skips) >= 3
    measured = torch.stack([measured_error(mixture, summary, x, grid, k, heun).mean() for k in skips])
    assert_close(predicted[skips], measured, rtol=0.1, atol=0)


def test_the_longest_jump_within_the_tolerance_is_chosen(mixture: Mixture, summary: Gaussian) -> None:
    grid = EDM(0.02).grid(40)
    choice = choose_skip(mixture, summary, grid, tolerance=0.02)
    mean = choice.predicted.mean(1)
    assert float(mean[choice.skip]) <= 0.02 < float(mean[choice.skip + 1])
    x = initial_noise(range(8), 6, grid[0], torch.float64)
    assert torch.equal(choice.predicted, predicted_error(mixture, summary, x, grid))
    strict = choose_skip(mixture, summary, grid, tolerance=1e-9)
    assert (strict.skip, strict.ratio) == (0, 80.0)


@pytest.mark.parametrize("solver", [heun, euler])
def test_a_measured_choice_is_shortened_until_it_keeps_the_tolerance(
    mixture: Mixture, summary: Gaussian, solver: Solver
) -> None:
    """On a coarse grid, where the solver itself is off in the steps that are jumped."""
    grid = EDM(0.02).grid(12)
    x = initial_noise(range(8), 6, grid[0], torch.float64)
    foreseen = choose_skip(mixture, summary, grid, tolerance=0.02)
    choice = choose_skip(mixture, summary, grid, tolerance=0.02, measure=True, solver=solver)
    assert 0 < choice.skip <= foreseen.skip
    assert choice.measured is not None
    for skip in range(12):
        if 0 < skip < choice.skip or skip > foreseen.skip:
            assert bool(choice.measured[skip].isnan().all())
        else:
            assert_close(choice.measured[skip], measured_error(mixture, summary, x, grid, skip, solver))
            assert (float(choice.measured[skip].mean()) <= 0.02) == (skip in (0, choice.skip))


def test_one_call_a_step_and_none_at_the_end(mixture: Mixture, summary: Gaussian) -> None:
    calls: list[NoiseLevel] = []

    def counted(x: torch.Tensor, level: NoiseLevel) -> torch.Tensor:
        calls.append(level)
        return mixture(x, level)

    choose_skip(counted, summary, EDM().grid(12), range(3))
    assert [float(level.sigma) for level in calls] == EDM().grid(12).sigma[:-1].tolist()


def test_directions_outside_a_low_rank_basis_count_by_their_variance(mixture: Mixture, summary: Gaussian) -> None:
    """A truncation whose residual is that of its own spectrum changes nothing."""
    values = torch.tensor([8.0, 3.0, 0.5, 0.5, 0.5, 0.5], dtype=torch.float64)
    whole = Gaussian(summary.mean, Covariance(values, summary.basis))
    grid = EDM().grid(12)
    x = initial_noise(range(3), 6, grid[0], torch.float64)
    short = predicted_error(mixture, whole.truncate(2), x, grid)
    assert_close(short, predicted_error(mixture, whole, x, grid), rtol=1e-9, atol=1e-12)


def test_a_choice_says_what_it_costs() -> None:
    predicted = torch.tensor([[0.0, 0.0], [0.01, 0.014]], dtype=torch.float64)
    choice = SkipChoice(1, EDM().grid(2), 0.02, predicted, torch.tensor([[0.0, 0.0], [0.01, 0.03]]))
    assert str(choice) == (
        "skip 1 of 2 steps, down to sigma/alpha = 0.002: error predicted 0.012, measured 0.02, allowed 0.02 standard "
        "deviations of the data"
    )


@pytest.mark.parametrize("tolerance", [0.0, -1.0, math.nan])
def test_the_tolerance_is_positive(full: Gaussian, tolerance: float) -> None:
    with pytest.raises(ValueError, match="tolerance is a positive share"):
        choose_skip(full, full, EDM().grid(4), tolerance=tolerance)


def test_what_a_network_gets_wrong_at_the_top_is_no_cost_of_the_jump_over_it(full: Gaussian) -> None:
    """A denoiser that is exact up to a ratio and off above: plainly, no jump is within the tolerance; believed only
    where it is good, all are, and it is not asked above."""
    grid, asked = EDM().grid(20), []

    def broken(x: torch.Tensor, level: NoiseLevel) -> torch.Tensor:
        asked.append(float(level.ratio))
        return full(x, level) + (3.0 if level.ratio > 10 else 0.0)

    assert choose_skip(broken, full, grid).skip < 3
    asked.clear()
    choice = choose_skip(broken, full, grid, good_below=10.0)
    assert choice.skip == len(grid) - 2
    assert max(asked) <= 10
