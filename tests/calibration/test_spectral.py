"""Levels from the spectrum: the error that is foreseen is the one that is measured, and it falls."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler
from distributions import GAUSSIANS, MIXTURE, SCHEDULES, standard_normal
from torch import Tensor
from torch.testing import assert_close

import underpaint as up
from underpaint.calibration.solution import span
from underpaint.models.schedulers.levels import scheduler_levels
from underpaint.models.schedulers.peers import peer
from underpaint.sampling.solvers import SOLVERS, Solver

pytestmark = pytest.mark.filterwarnings("ignore:__array")

PLAIN = {name: solver for name, (solver, _) in SOLVERS.items()}


def measured(gaussian: up.Gaussian, level: up.NoiseLevel, solver: Solver) -> Tensor:
    """Of the solver itself on the Gaussian denoiser, from one standard deviation along each direction of a basis of all
    of R^D: for a linear solver the sum of their squares is the expectation."""
    _, basis = torch.linalg.eigh(gaussian.covariance.matrix())
    variances = (basis.T @ gaussian.covariance.matrix() @ basis).diagonal()
    deviations = (level.alpha[0] ** 2 * variances + level.sigma[0] ** 2).sqrt()
    x = level.alpha[0] * gaussian.mean + deviations.unsqueeze(1) * basis.T
    final, exact = up.sample(gaussian, x, level, solver).final, gaussian.flow(x, level[0], level[-1])
    return ((final - exact).square().sum() / gaussian.dimension).sqrt()


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", PLAIN)
def test_the_error_is_that_of_the_solver_itself(name: str, schedule: str) -> None:
    for gaussian in GAUSSIANS.values():
        level = SCHEDULES[schedule].grid(5)
        foreseen = up.spectral_error(gaussian, level, PLAIN[name])
        assert foreseen.dtype == torch.float64
        assert_close(foreseen, measured(gaussian, level, PLAIN[name]), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("schedule", ["stable-diffusion", "edm", "flow"])
@pytest.mark.parametrize("name", PLAIN)
def test_levels_are_never_worse_than_grids_and_better(name: str, schedule: str) -> None:
    gaussian, own, solver = GAUSSIANS["full"], SCHEDULES[schedule], PLAIN[name]
    level = up.spectral_levels(gaussian, own, 5, solver)
    assert len(level) == 6
    assert float(level.sigma[-1]) == 0
    assert_close(level.ratio[0], own.grid(1).ratio[0])
    assert float(level.ratio[-2]) >= float(own.grid(1000).ratio[-2]) * (1 - 1e-9)
    grids = [own.grid(5), *(up.NoiseLevel.join(span(own, 5, rho), up.NoiseLevel.clean()) for rho in (3, 7, math.inf))]
    found, *plain = (float(up.spectral_error(gaussian, grid, solver)) for grid in (level, *grids))
    assert found < 0.97 * min(plain)
    assert_close(torch.tensor(found).double(), measured(gaussian, level, solver), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", PLAIN)
def test_the_slope_is_that_of_differences(name: str) -> None:
    gaussian = GAUSSIANS["low-rank"]
    sigma = up.EDM().grid(4).sigma[:-1].clone().requires_grad_()

    def error(sigma: Tensor) -> Tensor:
        level = up.NoiseLevel.join(up.EDM()(sigma), up.NoiseLevel.clean())
        return up.spectral_error(gaussian, level, PLAIN[name])

    (slope,) = torch.autograd.grad(error(sigma), sigma)
    for i in range(len(sigma)):
        step = 1e-5 * sigma.detach()[i] * torch.eye(len(sigma), dtype=torch.float64)[i]
        difference = (error(sigma.detach() + step) - error(sigma.detach() - step)) / (2 * step[i])
        assert_close(slope[i], difference, rtol=1e-4, atol=1e-9)


def test_two_calls_of_ddim_meet_the_least_error_of_a_search() -> None:
    """One free level: no other of two hundred is better."""
    gaussian, schedule = GAUSSIANS["full"], up.DDPM()
    level = up.spectral_levels(gaussian, schedule, 2, up.euler)

    def error(ratio: float) -> float:
        inner = up.NoiseLevel.join(level[0], schedule.level(ratio), up.NoiseLevel.clean())
        return float(up.spectral_error(gaussian, inner, up.euler))

    least = min(error(ratio) for ratio in torch.logspace(-1.9, 2, 200, dtype=torch.float64).tolist())
    assert error(float(level.ratio[1])) <= least * (1 + 1e-9)


def test_a_peer_of_diffusers_has_levels_of_its_own() -> None:
    """Its own steps are run, in single precision."""
    gaussian, solver = GAUSSIANS["full"], peer("UniPC-2 bh2")
    level = up.spectral_levels(gaussian, up.DDPM(), 4, solver)
    assert_close(up.spectral_error(gaussian, level, solver), measured(gaussian, level, solver), rtol=1e-2, atol=1e-5)
    assert float(measured(gaussian, level, solver)) < 0.5 * float(measured(gaussian, up.DDPM().grid(4), solver))


def test_equal_variances_are_solved_once() -> None:
    """With the weight of all that have them, and as many numbers as there are distinct ones."""
    sizes = set[int]()

    def spying(denoise: up.Denoiser, x: Tensor, level: up.NoiseLevel):
        sizes.add(x.shape[1])
        return up.euler(denoise, x, level)

    basis = torch.linalg.qr(standard_normal(40, 40)).Q
    twice = up.Covariance(torch.tensor([3.0, 3.0, 1.0]).double(), basis[:, :3], residual=0.1)
    up.spectral_error(up.Gaussian(standard_normal(40), twice), up.DDPM().grid(4), spying)
    assert sizes == {3}


def test_solvers_that_are_not_linear_by_number_are_refused() -> None:
    def clipped(denoise: up.Denoiser, x: Tensor, level: up.NoiseLevel):
        yield from up.euler(lambda state, at: denoise(state, at).clamp(-0.1, 0.1), x, level)

    for gaussian in (GAUSSIANS["full"], GAUSSIANS["low-rank"]):
        for solver in (clipped, up.gaussian_exponential(gaussian)):
            with pytest.raises(ValueError, match="linear and alike for each number"):
                up.spectral_levels(gaussian, up.DDPM(), 5, solver)
    with pytest.raises(ValueError, match="number of steps"):
        up.spectral_levels(GAUSSIANS["full"], up.DDPM(), 1)


def test_levels_begin_where_they_are_told_to() -> None:
    level = up.spectral_levels(GAUSSIANS["full"], up.DDPM(), 5, start=20.0)
    assert_close(level.ratio[0], torch.tensor(20.0).double())


def test_schedulers_of_diffusers_take_them() -> None:
    """Euler by sigmas, and its run is ours; flows by sigmas; DPM-Solver++ by whole times, near to them."""
    gaussian, schedule = GAUSSIANS["full"], up.DDPM()
    level = up.spectral_levels(gaussian, schedule, 6, up.euler)
    euler = EulerDiscreteScheduler(beta_schedule="linear", beta_start=1e-4, beta_end=0.02)
    euler.set_timesteps(sigmas=level.ratio.tolist())
    assert_close(scheduler_levels(euler).ratio, level.ratio, rtol=1e-5, atol=1e-6)
    x = level.sigma[0] * standard_normal(3, 6)
    state, wanted = x / level.alpha[0], up.sample(MIXTURE, x, level, up.euler).final
    for i, t in enumerate(euler.timesteps):
        euler.scale_model_input(state, t)
        here = scheduler_levels(euler)[i]
        denoised = MIXTURE(state, here)
        state = euler.step((state - denoised) / here.ratio, t, state).prev_sample
    assert_close(state, wanted, rtol=1e-4, atol=1e-4)

    flow = up.spectral_levels(gaussian, up.Flow(), 6, up.euler)
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=flow.sigma[:-1].tolist())
    assert_close(scheduler_levels(scheduler).sigma, flow.sigma, rtol=1e-5, atol=1e-6)

    dpm = DPMSolverMultistepScheduler(beta_schedule="linear", beta_start=1e-4, beta_end=0.02)
    level = up.spectral_levels(gaussian, schedule, 6, up.dpmpp_2m)
    dpm.set_timesteps(timesteps=schedule.time(level[:-1]).round().long().tolist())
    assert_close(scheduler_levels(dpm).ratio[:-1].log(), level.ratio[:-1].log(), rtol=0.1, atol=0.1)


def test_what_is_no_solver_or_no_gaussian_is_refused() -> None:
    gaussian, level = GAUSSIANS["full"], up.EDM().grid(4)
    for ask in (
        lambda: up.spectral_levels(gaussian, up.EDM(), 4, solver="euler"),  # type: ignore[arg-type]
        lambda: up.spectral_error(gaussian, level, "euler"),  # type: ignore[arg-type]
        lambda: up.sample(gaussian, torch.zeros(1, 6), level, "euler"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match=r"A solver is a function, such as underpaint\.euler .*, got 'euler'"):
            ask()
    with pytest.raises(ValueError, match="Expected a Gaussian of the data, got a Tensor"):
        up.spectral_levels(torch.eye(6), up.EDM(), 4)  # type: ignore[arg-type]
