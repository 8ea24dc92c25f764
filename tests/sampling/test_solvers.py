"""Solvers: measured orders, parity with Karras22 and diffusers, invariances, honest counts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import scipy.integrate
import torch
from distributions import SCHEDULES
from hypothesis import given, settings, strategies as st
from torch import Tensor
from torch.testing import assert_close

from underpaint.noise import DDPM, EDM, Flow, NoiseLevel, Schedule
from underpaint.prediction import from_denoised, to_denoised
from underpaint.sampling.solvers import SOLVERS, Solver, ddim_step, dpm_solver, dpmpp_2m, euler, find_solver, heun
from underpaint.sampling.trajectory import sample
from underpaint.theory.denoiser import Denoiser
from underpaint.theory.gaussian import Gaussian
from underpaint.theory.mixture import Mixture

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # of diffusers with NumPy 2


@pytest.fixture(params=SOLVERS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def solver(name: str) -> Solver:
    return find_solver(name)


# Order of convergence

#: The 3M rule, as diffusers has it, gives the quadratic term of its polynomial half the weight of its integral. So it
#: is of order 2 with a small constant, not of order 3.
ORDERS = {"euler": 1.0, "heun": 2.0, "dpmpp-2m": 2.0, "dpmpp-3m": 2.0}
HIGH, LOW = 20.0, 0.2


def smooth_grid(steps: int, rho: float) -> NoiseLevel:
    """From HIGH to LOW, even in sigma^(1/rho); after two tiny steps, as multistep rules start with order 1."""
    h = 1 / steps
    u = torch.tensor([0.0, h**2, 2 * h**2, *(i * h for i in range(1, steps + 1))], dtype=torch.float64)
    if math.isinf(rho):
        return EDM()(HIGH * (LOW / HIGH) ** u)
    return EDM()((HIGH ** (1 / rho) + u * (LOW ** (1 / rho) - HIGH ** (1 / rho))) ** rho)


@pytest.fixture(scope="module", params=["gaussian-float64", "gaussian-float32", "mixture-float64"])
def problem(
    request: pytest.FixtureRequest, full: Gaussian, mixture: Mixture, normal
) -> tuple[Denoiser, Tensor, Tensor]:
    """A denoiser, states at HIGH and the exact states at LOW: in closed form, or by SciPy where there is none."""
    x = HIGH * normal(4, 6, seed=5)
    if request.param.startswith("gaussian"):
        dtype = torch.float32 if request.param.endswith("32") else torch.float64
        return full.to(dtype=dtype), x.to(dtype), full.flow(x, EDM()(HIGH), EDM()(LOW))

    def velocity(sigma: float, state: np.ndarray) -> np.ndarray:
        rows = torch.from_numpy(state).view(4, 6)
        return ((rows - mixture(rows, EDM()(sigma))) / sigma).numpy().ravel()

    solved = scipy.integrate.solve_ivp(velocity, (HIGH, LOW), x.numpy().ravel(), method="DOP853", rtol=1e-7, atol=1e-8)
    return mixture, x, torch.from_numpy(solved.y[:, -1]).view(4, 6)


@pytest.mark.parametrize("rho", [math.inf, 7.0], ids=["log", "karras"])
def test_the_measured_order(name: str, solver: Solver, problem, rho: float) -> None:
    denoise, x, exact = problem
    coarse, fine = (
        float((sample(denoise, x, smooth_grid(n, rho), solver).final - exact).norm(dim=1).mean()) for n in (32, 64)
    )
    assert math.log2(coarse / fine) == pytest.approx(ORDERS[name], abs=0.25)


def test_every_solver_is_exact_where_the_denoiser_is_constant(solver: Solver, schedule: Schedule, normal) -> None:
    """One point of data: straight lines in x/alpha against sigma/alpha, for any steps and from pure noise too."""
    point, grid = Gaussian.isotropic(normal(6), 0.0), schedule.grid(7)
    x = grid[0].norm * normal(3, 6, seed=1)
    trajectory = sample(point, x, grid, solver)
    for state, level in zip(trajectory.x, grid, strict=True):
        assert_close(state, point.flow(x, grid[0], level), rtol=1e-9, atol=1e-9)


def test_grids_from_pure_noise_to_data_converge(name: str, solver: Solver, full: Gaussian, normal) -> None:
    """alpha = 0 at the start, sigma = 0 at the end; with four times the steps, though the ends cost some order."""
    x, start = normal(16, 6), Flow()(1.0)
    exact = full.flow(x, start, NoiseLevel.clean())
    coarse, fine = (
        float((sample(full, x, Flow().grid(n), solver).final - exact).norm(dim=1).mean()) for n in (25, 100)
    )
    bound, gain = (0.07, 3.5) if name == "euler" else (0.007, 8)
    assert fine < bound
    assert fine < coarse / gain


# Parity


def test_heun_is_algorithm_1_of_karras22(mixture: Mixture, normal) -> None:
    grid, x = EDM().grid(12), 80 * normal(5, 6)
    trajectory, t = sample(mixture, x, grid, heun), grid.sigma
    for i in range(12):
        d = (x - mixture(x, EDM()(t[i]))) / t[i]
        moved = x + (t[i + 1] - t[i]) * d
        if t[i + 1] != 0:
            d_next = (moved - mixture(moved, EDM()(t[i + 1]))) / t[i + 1]
            moved = x + (t[i + 1] - t[i]) * (d / 2 + d_next / 2)
        x = moved
        assert_close(trajectory.x[i + 1], x, rtol=1e-12, atol=1e-11)


def peer_states(peer, x: Tensor, levels: NoiseLevel, output: Callable[[Tensor, NoiseLevel], Tensor]) -> Tensor:
    """The states that a scheduler of diffusers passes through when its network puts out ``output``."""
    states = [x]
    for t, level in zip(peer.timesteps, levels, strict=True):
        states.append(peer.step(output(states[-1], level), t, states[-1], return_dict=False)[0])
    return torch.stack(states)


def predicting(denoise: Denoiser, kind: str) -> Callable[[Tensor, NoiseLevel], Tensor]:
    return lambda x, level: from_denoised(denoise(x, level), x, level, kind)  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "prediction"), [("eps", "epsilon"), ("v", "v_prediction"), ("x0", "sample")])
@pytest.mark.parametrize("steps", [7, 20])
def test_euler_is_ddim(kind: str, prediction: str, steps: int, mixture: Mixture, normal) -> None:
    schedule = DDPM()
    peer = diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=True, prediction_type=prediction)
    peer.alphas_cumprod = schedule(torch.arange(1000)).alpha ** 2  # its own table is float32
    peer.set_timesteps(steps)
    grid, x = NoiseLevel.join(schedule(peer.timesteps), NoiseLevel.clean()), normal(5, 6)
    states = peer_states(peer, x, grid[:-1], predicting(mixture, kind))
    assert_close(sample(mixture, x, grid, euler).x, states, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 14, 15, 20])
def test_multistep_is_dpm_solver_plus_plus_of_diffusers(order: int, steps: int, mixture: Mixture, normal) -> None:
    """In float64, on EDM levels; the network's output is what the preconditioning of EDM turns into D."""
    peer = diffusers.EDMDPMSolverMultistepScheduler(solver_order=order, final_sigmas_type="zero")
    peer.set_timesteps(steps)
    grid, x = EDM().grid(steps), 80 * normal(5, 6)
    peer.sigmas = grid.sigma  # its own are float32

    def output(state: Tensor, level: NoiseLevel) -> Tensor:
        data, sigma = 0.5, level.sigma
        skip, out = data**2 / (sigma**2 + data**2), sigma * data / (sigma**2 + data**2).sqrt()
        return (mixture(state, level) - skip * state) / out

    states = peer_states(peer, x, grid[:-1], output)
    assert_close(sample(mixture, x, grid, dpm_solver(order)).x, states, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("steps", [5, 14, 15, 20])
def test_and_so_it_is_on_variance_preserving_levels(order: int, steps: int, mixture: Mixture, normal) -> None:
    """To float32, in which this scheduler of diffusers computes."""
    schedule = DDPM()
    peer = diffusers.DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++", solver_order=order, final_sigmas_type="zero"
    )
    peer.set_timesteps(steps)
    grid, x = NoiseLevel.join(schedule(peer.timesteps), NoiseLevel.clean()), normal(5, 6)
    states = peer_states(peer, x, grid[:-1], predicting(mixture, "eps"))
    assert_close(sample(mixture, x, grid, dpm_solver(order)).x, states, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_euler_is_flow_match_euler(shift: float, mixture: Mixture, normal) -> None:
    """To float32, in which this scheduler of diffusers computes."""
    peer = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    peer.set_timesteps(sigmas=np.linspace(1.0, 1 / 10, 10))
    grid, x = Flow(shift).grid(10), normal(5, 6)
    states = peer_states(peer, x, grid[:-1], predicting(mixture, "flow"))
    assert_close(sample(mixture, x, grid, euler).x, states, rtol=1e-5, atol=1e-5)


def test_heun_is_heun_discrete(mixture: Mixture, normal) -> None:
    """Which calls the network at every level but the first and the last twice, and holds x/alpha."""
    peer = diffusers.HeunDiscreteScheduler(beta_start=1e-4, beta_end=0.02)
    peer.set_timesteps(10)
    grid, x = DDPM().grid(10), normal(5, 6)
    sigma = grid.ratio
    peer.sigmas = torch.cat([sigma[:1], sigma[1:-1].repeat_interleave(2), sigma[-1:]])  # its own are float32

    def output(state: Tensor, level: NoiseLevel) -> Tensor:
        return (state - mixture(level.alpha * state, level)) / level.ratio

    calls = grid[(torch.arange(19) + 1) // 2]
    states = peer_states(peer, x / grid.alpha[0], calls, output)
    mine = sample(mixture, x, grid, heun).x / grid.alpha.view(-1, 1, 1)
    assert_close(mine, torch.cat([states[:1], states[2::2], states[-1:]]), rtol=1e-10, atol=1e-10)


# Invariances


@pytest.mark.parametrize("family", [DDPM(), Flow()], ids=["vp", "flow"])
def test_the_same_problem_in_any_scaling_gives_the_same_image(
    solver: Solver, family: Schedule, mixture: Mixture, normal
) -> None:
    """Levels of equal ratio, states as x/alpha."""
    exploding = EDM().grid(9)
    grid, x = family.level(exploding.ratio), 80 * normal(5, 6)
    expected = sample(mixture, x, exploding, solver)
    scaled = sample(mixture, grid.alpha[0] * x, grid, solver)
    assert_close(scaled.x / grid.alpha.view(-1, 1, 1), expected.x, rtol=1e-9, atol=1e-9)
    assert_close(scaled.denoised, expected.denoised, rtol=1e-9, atol=1e-9)


@settings(max_examples=8)
@given(factors=st.lists(st.floats(0.1, 10.0), min_size=7, max_size=7), name=st.sampled_from(sorted(SOLVERS)))
def test_each_level_may_have_its_own_scale(mixture: Mixture, normal, factors: list[float], name: str) -> None:
    grid, c, x = EDM().grid(6), torch.tensor(factors, dtype=torch.float64), 80 * normal(3, 6)
    scaled = sample(mixture, c[0] * x, NoiseLevel(c * grid.alpha, c * grid.sigma), find_solver(name))
    expected = sample(mixture, x, grid, find_solver(name)).x
    assert_close(scaled.x / c.view(-1, 1, 1), expected, rtol=1e-9, atol=1e-9)


@settings(max_examples=8)
@given(factor=st.floats(0.01, 100.0), name=st.sampled_from(sorted(SOLVERS)))
def test_larger_data_with_larger_noise_give_larger_images(mixture: Mixture, normal, factor: float, name: str) -> None:
    def enlarged(gaussian: Gaussian) -> Gaussian:
        old = gaussian.covariance
        new = replace(old, eigenvalues=factor**2 * old.eigenvalues, residual=factor**2 * old.residual)
        return Gaussian(factor * gaussian.mean, new)

    data = Mixture(mixture.weights, tuple(enlarged(component) for component in mixture.components))
    grid, x = EDM().grid(6), 80 * normal(3, 6)
    large = sample(data, factor * x, NoiseLevel(grid.alpha, factor * grid.sigma), find_solver(name))
    assert_close(large.x / factor, sample(mixture, x, grid, find_solver(name)).x, rtol=1e-8, atol=1e-8)


def test_float32_follows_float64(solver: Solver, schedule: Schedule, mixture: Mixture, normal) -> None:
    """To 1e-5 of the size of the image."""
    grid, single = schedule.grid(8), mixture.to(dtype=torch.float32)
    x = (grid[0].norm * normal(8, 6)).float()
    low, high = sample(single, x, grid, solver), sample(mixture, x.double(), grid, solver)
    assert low.x.dtype == low.denoised.dtype == torch.float32
    assert_close(low.final.double(), high.final, rtol=0, atol=1e-5 * float(high.final.abs().max()))


# Counts and names


def test_calls_of_the_denoiser_are_counted_and_foretold(name: str, schedule: Schedule, full: Gaussian, normal) -> None:
    """Heun saves its second call into sigma = 0, and also from alpha = 0 where a flow schedule starts."""
    calls: list[NoiseLevel] = []

    def counted(x: Tensor, level: NoiseLevel) -> Tensor:
        calls.append(level)
        return full(x, level)

    solver, foretold = SOLVERS[name]
    grid = schedule.grid(9)
    trajectory = sample(counted, normal(2, 6), grid, solver)
    spared = 1 if name == "heun" and float(grid.alpha[0]) == 0 else 0
    assert trajectory.nfe == len(calls) == foretold(9) - spared


@pytest.mark.parametrize(("name", "calls"), [("euler", 18), ("heun", 35), ("dpmpp-2m", 18), ("dpmpp-3m", 18)])
def test_the_counts_of_18_steps(name: str, calls: int) -> None:
    """35 for Heun, as in Karras22."""
    assert SOLVERS[name][1](18) == calls


#: Ends at abar = 1e-12, as zero terminal SNR does.
_ROOT = DDPM.stable_diffusion()(torch.arange(1000)).alpha
_BAR = ((_ROOT - _ROOT[-1]) * _ROOT[0] / (_ROOT[0] - _ROOT[-1])).square().clamp(min=1e-12)
NO_SIGNAL = DDPM(1 - _BAR / torch.cat([torch.ones(1, dtype=torch.float64), _BAR[:-1]]))
EVERY = {**SCHEDULES, "zero terminal SNR": NO_SIGNAL, "coarse cosine": DDPM("cosine", 50)}


@pytest.mark.parametrize("name", EVERY)
def test_the_default_is_safe_on_every_schedule_and_in_any_number_of_steps(name: str, full: Gaussian, normal) -> None:
    """Never further from the flow of Gaussian data than the data's own spread, nor than Euler by half; at 50 steps
    nearer than Euler."""
    spread, schedule = float(full.eigenvalues.mean().sqrt()), EVERY[name]
    for steps in (1, 2, 3, 4, 6, 10, 20, 50):
        grid = schedule.grid(steps)
        x = grid[0].sigma * normal(64, 6)
        exact = full.flow(x, grid[0], grid[-1])
        ours, plain = (float((sample(full, x, grid, s).final - exact).square().mean().sqrt()) for s in (None, euler))
        assert ours < min(1.1 * spread, 1.5 * plain)
        assert steps < 50 or ours < plain


def test_heun_cannot_reach_a_first_level_with_hardly_any_signal(full: Gaussian, normal) -> None:
    """Why it is not the default: RMS errors of hundreds on data of spread 1.4, where the formula is right."""
    grid = NO_SIGNAL.grid(10)
    x = grid[0].sigma * normal(64, 6)
    exact = full.flow(x, grid[0], grid[-1])
    assert float((sample(full, x, grid, heun).final - exact).square().mean().sqrt()) > 50


def test_noise_prediction_with_zero_terminal_snr_says_that_it_has_no_estimate(full: Gaussian, normal) -> None:
    def network(x: Tensor, level: NoiseLevel) -> Tensor:
        return to_denoised(from_denoised(full(x, level), x, level, "eps"), x, level, "eps")

    grid = NO_SIGNAL.grid(10)
    with pytest.raises(
        ValueError, match=r"At sigma/alpha = 1e\+06 there is no signal, and a network that predicts 'eps'"
    ):
        sample(network, normal(2, 6), grid)
    sample(network, normal(2, 6), NO_SIGNAL.grid(10, start=100.0))


def test_ddim_step_is_exact_in_eps_and_image(normal) -> None:
    """alpha x0 + sigma eps goes to alpha' x0 + sigma' eps."""
    x0, eps, here, there = normal(2, 3), normal(2, 3, seed=1), DDPM()(700), Flow()(0.2)
    moved = ddim_step(here.alpha * x0 + here.sigma * eps, x0, here, there)
    assert_close(moved, there.alpha * x0 + there.sigma * eps, rtol=1e-12, atol=1e-12)


def test_solvers_are_found_by_name() -> None:
    assert find_solver("ddim") is find_solver("euler") is euler
    assert find_solver("heun") is heun
    assert find_solver("dpmpp-2m") is dpmpp_2m
    with pytest.raises(ValueError, match="Unknown solver 'rk45'; choose one of ddim, euler, heun, dpmpp-2m, dpmpp-3m"):
        find_solver("rk45")


@pytest.mark.parametrize("order", [0, 1, 4])
def test_multistep_orders_on_offer(order: int) -> None:
    with pytest.raises(ValueError, match=f"order 2 or 3, got {order}"):
        dpm_solver(order)
