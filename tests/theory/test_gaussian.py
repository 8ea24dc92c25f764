"""The spectral Gaussian against dense matrices, SciPy, the probability-flow ODE and the closed forms of each mode."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from hypothesis import given, strategies as st
from torch import Tensor
from torch.testing import assert_close

from underpaint.noise import DDPM, EDM, Flow, NoiseLevel, Schedule
from underpaint.theory import modes
from underpaint.theory.covariance import Covariance, add
from underpaint.theory.denoiser import guide
from underpaint.theory.gaussian import Gaussian, guided_gaussian
from underpaint.theory.moments import Moments

LEVELS = [EDM()(0.3), DDPM()(400), Flow()(0.6), NoiseLevel(0.5, 3.0)]
levels = st.builds(NoiseLevel, st.floats(0.05, 2.0), st.floats(0.01, 20.0))


def identity(dimension: int) -> Tensor:
    return torch.eye(dimension, dtype=torch.float64)


def power(matrix: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0) ** exponent) @ vectors.T


def noisy(gaussian: Gaussian, level: NoiseLevel) -> Tensor:
    """alpha^2 Sigma + sigma^2 I, dense."""
    return level.alpha**2 * gaussian.covariance.matrix() + level.sigma**2 * identity(gaussian.dimension)


def columns(matrix: Tensor, rows: Tensor) -> Tensor:
    """The matrix applied to each row."""
    return rows @ matrix.T


# Covariance


def test_matrix_is_the_definition(gaussian: Gaussian) -> None:
    covariance, q = gaussian.covariance, gaussian.basis
    dense = q @ gaussian.eigenvalues.diag() @ q.T + covariance.residual * (identity(6) - q @ q.T)
    assert_close(covariance.matrix(), dense, rtol=1e-12, atol=1e-12)
    assert_close(covariance.spectrum.sort().values, torch.linalg.eigvalsh(dense), rtol=1e-9, atol=1e-12)


def test_functions_of_the_covariance_are_functions_of_the_matrix(gaussian: Gaussian, normal) -> None:
    values, vectors = torch.linalg.eigh(gaussian.covariance.matrix())
    rows = normal(4, 6)
    for function in (lambda v: v, lambda v: torch.exp(-v), lambda v: 1 / (1 + v)):
        dense = (vectors * function(values)) @ vectors.T
        assert_close(gaussian.covariance.spectral(function, rows), rows @ dense, rtol=1e-11, atol=1e-11)


def test_coordinates_make_every_such_function_a_product(gaussian: Gaussian, normal) -> None:
    covariance, rows = gaussian.covariance, normal(4, 6)
    coordinates = covariance.analyse(rows)
    assert_close(covariance.synthesise(coordinates), rows, rtol=1e-12, atol=1e-12)
    scaled = covariance.synthesise(torch.exp(-covariance.variances) * coordinates)
    assert_close(scaled, covariance.spectral(lambda v: torch.exp(-v), rows), rtol=1e-12, atol=1e-12)


def test_each_row_may_have_its_own_function(gaussian: Gaussian, normal) -> None:
    rows, powers = normal(4, 6), torch.tensor([[0.5], [1.0], [2.0], [3.0]], dtype=torch.float64)
    together = gaussian.covariance.spectral(lambda v: v**powers, rows)
    for row, exponent, result in zip(rows, powers, together, strict=True):
        single = gaussian.covariance.spectral(lambda v, exponent=exponent: v**exponent, row.unsqueeze(0))
        assert_close(result, single[0], rtol=1e-12, atol=1e-12)


def test_rows_keep_their_dtype_whatever_the_basis_has(gaussian: Gaussian, normal) -> None:
    for rows in (normal(2, 6), normal(2, 6).float(), normal(2, 6).bfloat16()):
        assert gaussian.covariance.to(dtype=torch.float32).spectral(lambda v: v, rows).dtype == rows.dtype


def test_a_matrix_is_taken_apart_and_put_together(normal) -> None:
    matrix = normal(6, 3) @ normal(6, 3).T
    covariance = Covariance.of(matrix, dtype=torch.float64)
    assert covariance.full
    assert bool((covariance.eigenvalues.diff() <= 0).all() and (covariance.eigenvalues >= 0).all())
    assert_close(covariance.matrix(), matrix, rtol=1e-11, atol=1e-11)
    assert_close(covariance.basis.T @ covariance.basis, identity(6), rtol=1e-12, atol=1e-12)
    assert Covariance.of(matrix).basis.dtype == torch.float32


@pytest.mark.parametrize("rank", range(7))
def test_truncation_keeps_the_trace_and_the_leading_directions(full: Gaussian, rank: int) -> None:
    covariance = full.truncate(rank).covariance
    assert covariance.rank == rank
    assert torch.equal(covariance.eigenvalues, full.eigenvalues[:rank])
    assert_close(covariance.matrix().trace(), full.covariance.matrix().trace(), rtol=1e-12, atol=0)
    assert_close(
        Covariance.of(full.covariance.matrix(), rank, torch.float64).matrix(),
        covariance.matrix(),
        rtol=1e-10,
        atol=1e-10,
    )
    for direction in full.basis[:, :rank].T:
        assert_close(
            columns(covariance.matrix(), direction), columns(full.covariance.matrix(), direction), rtol=1e-9, atol=1e-12
        )


def test_truncating_a_low_rank_averages_its_residual_too(full: Gaussian) -> None:
    """Ranks 4 then 2 give what rank 2 gives at once; a rank above the present one changes nothing."""
    assert_close(
        full.truncate(4).truncate(2).covariance.matrix(), full.truncate(2).covariance.matrix(), rtol=1e-12, atol=1e-12
    )
    assert_close(full.truncate(2).truncate(5).covariance.matrix(), full.truncate(2).covariance.matrix(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Covariance(torch.ones(2), torch.ones(4, 3)),
            r"eigenvalues \[R\] and a basis \[D, R\], got \(2,\) and \(4, 3\)",
        ),
        (lambda: Covariance(torch.ones(2), torch.ones(2)), r"eigenvalues \[R\] and a basis \[D, R\]"),
        (lambda: Covariance(torch.ones(4), torch.ones(3, 4)), "4 vectors does not fit in 3 dimensions"),
        (lambda: Covariance(torch.tensor([-1.0]), torch.ones(3, 1)), "must be finite and >= 0"),
        (lambda: Covariance(torch.tensor([math.nan]), torch.ones(3, 1)), "must be finite and >= 0"),
        (lambda: Covariance(torch.tensor([math.inf]), torch.ones(3, 1)), "must be finite and >= 0"),
        (lambda: Covariance.isotropic(3, -1.0), "must be finite and >= 0"),
        (lambda: Covariance.isotropic(3, math.inf), "must be finite and >= 0"),
        (lambda: Covariance.isotropic(3, 1.0).truncate(4), "rank must lie between 0 and the dimension 3, got 4"),
        (lambda: Covariance.of(torch.eye(3), rank=-1), "rank must lie between 0 and the dimension 3, got -1"),
        (lambda: Gaussian(torch.zeros(2), Covariance.isotropic(3, 1.0)), r"mean has shape \(2,\), expected \(3,\)"),
        (lambda: Gaussian.fit(torch.zeros(1, 3)), "at least 2 rows, got 1"),
        (lambda: Gaussian.fit(torch.zeros(3, 2, 2)), r"flatten images with .flatten\(1\)"),
        (lambda: Gaussian.fit(torch.randn(9, 3), rank=4), "rank must lie between 0 and the dimension 3, got 4"),
        (
            lambda: Gaussian.isotropic(torch.zeros(3), 1.0).denoise(torch.empty(2, 3, device="meta"), EDM()(1.0)),
            r"Rows are on meta, the Gaussian on cpu; move it with .to\('meta'\)",
        ),
    ],
)
def test_what_is_not_a_gaussian_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# The Gaussian against dense matrices


@pytest.mark.parametrize("rank", [None, 2])
def test_fit_takes_rows_batches_or_moments(normal, rank: int | None) -> None:
    data = 2 + normal(50, 4) @ normal(4, 4, seed=1)
    dense = torch.from_numpy(np.cov(data.numpy().T))
    expected = Covariance.of(dense, rank, torch.float64).matrix()
    for source in (data, data.split(16), Moments.of(data)):
        fitted = Gaussian.fit(source, rank, torch.float64)
        assert_close(fitted.mean, data.mean(0), rtol=1e-12, atol=1e-12)
        assert_close(fitted.covariance.matrix(), expected, rtol=1e-9, atol=1e-9)
    assert Gaussian.fit(data, rank).mean.dtype == torch.float32


@pytest.mark.parametrize("level", LEVELS, ids=repr)
def test_denoiser_score_and_density_are_the_dense_formulas(gaussian: Gaussian, level: NoiseLevel, normal) -> None:
    x, covariance = 2 * normal(5, 6), noisy(gaussian, level)
    centred = x - level.alpha * gaussian.mean
    gain = level.alpha * gaussian.covariance.matrix() @ covariance.inverse()
    assert_close(gaussian.denoise(x, level), gaussian.mean + columns(gain, centred), rtol=1e-10, atol=1e-10)
    assert_close(gaussian.score(x, level), -columns(covariance.inverse(), centred), rtol=1e-10, atol=1e-10)
    density = scipy.stats.multivariate_normal(level.alpha * gaussian.mean, covariance).logpdf(x)
    assert_close(gaussian.log_prob(x, level), torch.from_numpy(density), rtol=1e-10, atol=1e-10)
    log_density, denoised = gaussian.posterior(x, level)
    assert torch.equal(log_density, gaussian.log_prob(x, level))
    assert_close(denoised, gaussian.denoise(x, level), rtol=1e-10, atol=1e-10)


def test_the_density_of_the_data_is_the_default(full: Gaussian, normal) -> None:
    x = full.sample(5)
    density = scipy.stats.multivariate_normal(full.mean, full.covariance.matrix()).logpdf(x)
    assert_close(full.log_prob(x), torch.from_numpy(density), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("level", [None, *LEVELS], ids=repr)
def test_samples_are_noise_times_the_square_root_of_the_covariance(
    gaussian: Gaussian, level: NoiseLevel | None
) -> None:
    noise = torch.randn(5, 6, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    there = NoiseLevel.clean() if level is None else level
    expected = there.alpha * gaussian.mean + columns(power(noisy(gaussian, there), 0.5), noise)
    assert_close(gaussian.sample(5, torch.Generator().manual_seed(7), level), expected, rtol=1e-7, atol=1e-7)


def test_coordinates_are_those_along_the_basis(gaussian: Gaussian, normal) -> None:
    x = normal(2, 5, 6)
    assert_close(
        gaussian.coordinates(x), torch.einsum("nbd,dr->nbr", x - gaussian.mean, gaussian.basis), rtol=1e-12, atol=1e-12
    )


# The flow


@given(here=levels, there=levels, seed=st.integers(0, 99))
def test_the_flow_pushes_one_noisy_gaussian_to_the_other(gaussian: Gaussian, normal, here, there, seed: int) -> None:
    """It is affine; its matrix M takes Sigma(here) to Sigma(there) as M Sigma M^T, and the mean to the mean."""
    start = here.alpha * gaussian.mean
    assert_close(gaussian.flow(start.unsqueeze(0), here, there)[0], there.alpha * gaussian.mean, rtol=1e-12, atol=1e-12)
    m = (gaussian.flow(start + identity(6), here, there) - there.alpha * gaussian.mean).T
    assert_close(m @ noisy(gaussian, here) @ m.T, noisy(gaussian, there), rtol=1e-9, atol=1e-9)
    assert_close(m, m.T, rtol=1e-9, atol=1e-9)


@given(a=levels, b=levels, c=levels)
def test_flows_compose_and_invert(gaussian: Gaussian, normal, a: NoiseLevel, b: NoiseLevel, c: NoiseLevel) -> None:
    x = a.norm * normal(3, 6)
    assert_close(gaussian.flow(gaussian.flow(x, a, b), b, c), gaussian.flow(x, a, c), rtol=1e-9, atol=1e-9)
    assert_close(gaussian.flow(gaussian.flow(x, a, b), b, a), x, rtol=1e-9, atol=1e-9)
    assert torch.equal(gaussian.flow(x, a, a), gaussian.flow(x, a, NoiseLevel(a.alpha, a.sigma)))


def test_rows_may_flow_from_and_to_their_own_levels(gaussian: Gaussian, normal) -> None:
    here, there, x = DDPM().grid(4)[:-1], Flow().grid(4)[:-1], normal(4, 6)
    together = gaussian.flow(x, here, there)
    for i in range(4):
        assert_close(together[i : i + 1], gaussian.flow(x[i : i + 1], here[i], there[i]), rtol=1e-12, atol=1e-12)


def test_the_flow_runs_from_pure_noise_to_the_data(gaussian: Gaussian, normal) -> None:
    """From alpha = 0 to sigma = 0: mu + Sigma^(1/2) x."""
    x = normal(5, 6)
    expected = gaussian.mean + columns(power(gaussian.covariance.matrix(), 0.5), x)
    assert_close(gaussian.flow(x, Flow()(1.0), NoiseLevel.clean()), expected, rtol=1e-7, atol=1e-7)


def test_a_direction_without_variance_holds_nothing_to_scale() -> None:
    flat = Gaussian(torch.zeros(2), Covariance(torch.tensor([1.0]), torch.eye(2)[:, :1]))
    assert flat.flow(torch.ones(1, 2), NoiseLevel.clean(), EDM()(1.0)).tolist() == [[pytest.approx(math.sqrt(2)), 0.0]]


@pytest.mark.parametrize("t", [0.8, 0.3, 0.01])
def test_the_flow_is_the_solution_of_pierret24(gaussian: Gaussian, t: float, normal) -> None:
    """dx = -beta x dt + sqrt(2 beta) dw on centred data: x_t = Sigma_T^(-1/2) Sigma_t^(1/2) x_T (arXiv 2405.14250).

    With Sigma_t = exp(-2 B_t) Sigma + (1 - exp(-2 B_t)) I, B_t the integral of beta, and score -Sigma_t^(-1) x.
    """
    centred = Gaussian(torch.zeros_like(gaussian.mean), gaussian.covariance)

    def at(time: float) -> tuple[NoiseLevel, Tensor]:
        decay = math.exp(-2 * (0.05 * time + 9.95 * time**2 / 2))
        covariance = decay * centred.covariance.matrix() + (1 - decay) * identity(6)
        return NoiseLevel(math.sqrt(decay), math.sqrt(1 - decay)), covariance

    (end, sigma_end), (level, sigma_t), x = at(1.0), at(t), normal(5, 6)
    expected = columns(power(sigma_end, -0.5) @ power(sigma_t, 0.5), x)
    assert_close(centred.flow(x, end, level), expected, rtol=1e-9, atol=1e-9)
    assert_close(centred.score(x, level), -columns(power(sigma_t, -1.0), x), rtol=1e-7, atol=1e-7)


def vp_integral(t: float) -> float:
    """The integral of Song21's continuous betas, from 0.1 to 20."""
    return 0.1 * t + 19.9 * t**2 / 2


def vp_beta(t: float) -> float:
    return 0.1 + 19.9 * t


#: family -> alpha(t), sigma(t), dlog alpha/dt, dlog sigma/dt, first t, last t
FAMILIES = {
    "vp": (
        lambda t: math.exp(-vp_integral(t) / 2),
        lambda t: math.sqrt(-math.expm1(-vp_integral(t))),
        lambda t: -vp_beta(t) / 2,
        lambda t: vp_beta(t) / 2 / math.expm1(vp_integral(t)),
        1.0,
        1e-3,
    ),
    "ve": (lambda t: 1.0, lambda t: t, lambda t: 0.0, lambda t: 1 / t, 80.0, 0.01),
    "flow": (lambda t: 1 - t, lambda t: t, lambda t: -1 / (1 - t), lambda t: 1 / t, 0.999, 0.01),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_flow_solves_the_probability_flow_ode(gaussian: Gaussian, family: str, normal) -> None:
    """dx/dt = f x - g^2 score/2, f = dlog alpha/dt, g^2 = 2 sigma^2 (dlog sigma/dt - f) (Song21): dense, by SciPy."""
    alpha, sigma, f, rate, first, last = FAMILIES[family]
    matrix, mean = gaussian.covariance.matrix().numpy(), gaussian.mean.numpy()

    def velocity(t: float, x: np.ndarray) -> np.ndarray:
        covariance = alpha(t) ** 2 * matrix + sigma(t) ** 2 * np.eye(6)
        score = -np.linalg.solve(covariance, x - alpha(t) * mean)
        return f(t) * x - sigma(t) ** 2 * (rate(t) - f(t)) * score

    here, there = NoiseLevel(alpha(first), sigma(first)), NoiseLevel(alpha(last), sigma(last))
    x = here.norm * normal(6)
    solved = scipy.integrate.solve_ivp(velocity, (first, last), x.numpy(), method="DOP853", rtol=1e-10, atol=1e-11)
    assert_close(gaussian.flow(x.unsqueeze(0), here, there)[0], torch.from_numpy(solved.y[:, -1]), rtol=1e-7, atol=1e-7)


# Modes


def mode_levels(schedule: Schedule) -> NoiseLevel:
    return schedule.grid(9)[1:]


def test_each_mode_is_a_gaussian_of_one_dimension(full: Gaussian, schedule: Schedule, normal) -> None:
    """psi scales the state and xi the endpoint estimate of a trajectory, by c_k = u_k^T (x_T - alpha_T mu)."""
    grid = schedule.grid(9)
    start, x = grid[0], grid[0].norm * normal(1, 6)
    c = (x - start.alpha * full.mean) @ full.basis
    states = torch.cat([full.flow(x, start, level) for level in grid])
    state_modes = (states - grid.alpha.unsqueeze(1) * full.mean) @ full.basis
    assert_close(state_modes, modes.psi(full.eigenvalues, start, grid) * c, rtol=1e-9, atol=1e-9)
    estimates = torch.cat([full.denoise(state.unsqueeze(0), level) for state, level in zip(states, grid, strict=True)])
    assert_close(full.coordinates(estimates), modes.xi(full.eigenvalues, start, grid) * c, rtol=1e-9, atol=1e-9)


def test_xi_is_its_closed_form(full: Gaussian, schedule: Schedule) -> None:
    """alpha lambda / sqrt((sigma^2 + lambda alpha^2)(sigma_T^2 + lambda alpha_T^2)), [N, K]."""
    start, level, v = schedule.grid(9)[0], mode_levels(schedule), full.eigenvalues
    a, s = level.alpha.unsqueeze(1), level.sigma.unsqueeze(1)
    expected = a * v / ((s**2 + v * a**2) * (start.sigma**2 + v * start.alpha**2)).sqrt()
    assert_close(modes.xi(v, start, level), expected, rtol=1e-12, atol=0)
    assert_close(modes.shrinkage(v, level), a * v / (a**2 * v + s**2), rtol=1e-12, atol=0)


def test_the_rate_of_xi_is_its_slope_in_time(full: Gaussian, schedule: Schedule) -> None:
    """Against central differences, at times between the knots of a discrete schedule."""
    start = schedule.grid(9)[0]
    t = {DDPM: [100.4, 500.5, 900.6], EDM: [0.05, 1.0, 30.0], Flow: [0.1, 0.5, 0.9]}[type(schedule)]
    t = torch.tensor(t, dtype=torch.float64)
    step = 1e-5 * t
    ahead, behind = (modes.xi(full.eigenvalues, start, schedule(time)) for time in (t + step, t - step))
    slope = (ahead - behind) / (2 * step.unsqueeze(1))
    with torch.no_grad():
        assert_close(modes.xi_rate(full.eigenvalues, start, schedule, t), slope, rtol=1e-5, atol=1e-8)


@given(variance=st.floats(1e-4, 1e4), ratio=st.floats(1e-3, 1e3), alpha=st.floats(0.01, 2.0))
def test_emergence_is_a_sigmoid_in_the_log_snr(variance: float, ratio: float, alpha: float) -> None:
    """phi^2 = sigmoid(log lambda - 2 log(sigma/alpha)); the scale of the level does not matter."""
    phi = modes.emergence(torch.tensor([variance]), NoiseLevel(alpha, alpha * ratio))
    expected = (
        torch.tensor([math.log(torch.tensor(variance)) - 2 * math.log(ratio)], dtype=torch.float64).sigmoid().sqrt()
    )
    assert_close(phi, expected, rtol=1e-9, atol=0)


def test_emergence_is_the_share_of_the_final_endpoint_estimate(full: Gaussian, schedule: Schedule) -> None:
    v, start, level = full.eigenvalues, schedule.grid(9)[0], mode_levels(schedule)
    share = modes.xi(v, start, level) / modes.xi(v, start, NoiseLevel.clean())
    assert_close(modes.emergence(v, level), share, rtol=1e-11, atol=0)


def test_half_the_variance_at_the_emergence_ratio_and_steepest_a_little_earlier(full: Gaussian) -> None:
    v = full.eigenvalues
    half = modes.emergence_ratio(v)
    assert_close(half, v.sqrt(), rtol=1e-15, atol=0)
    assert_close(modes.emergence(v, EDM()(half)).diagonal() ** 2, torch.full_like(v, 0.5), rtol=1e-12, atol=0)
    log_ratio = torch.linspace(-10, 5, 30_001, dtype=torch.float64)
    slope = modes.emergence(v, EDM()(log_ratio.exp())).diff(dim=0)
    steepest = (log_ratio[:-1] + 2.5e-4)[slope.argmin(0)].exp()
    assert_close(steepest, (2 * v).sqrt(), rtol=1e-3, atol=0)


def test_the_gain_is_how_far_the_flow_carries_a_perturbation(full: Gaussian, schedule: Schedule, normal) -> None:
    x, clean = normal(1, 6), NoiseLevel.clean()
    for level in mode_levels(schedule):
        moved = full.flow(x + full.basis.T, level, clean) - full.flow(x, level, clean)
        assert_close(moved, modes.gain(full.eigenvalues, level).unsqueeze(1) * full.basis.T, rtol=1e-9, atol=1e-9)
        v = full.eigenvalues
        assert_close(modes.gain(v, level), (v / (level.sigma**2 + v * level.alpha**2)).sqrt(), rtol=1e-12, atol=0)


def test_a_mode_without_variance_emerges_nowhere_and_scales_like_noise() -> None:
    nothing, start = torch.zeros(1, dtype=torch.float64), EDM()(10.0)
    assert modes.shrinkage(nothing, start).tolist() == modes.emergence(nothing, start).tolist() == [0.0]
    assert modes.psi(nothing, start, EDM()(2.5)).tolist() == [0.25]
    assert modes.gain(nothing, start).tolist() == [0.0]
    assert modes.shrinkage(nothing, NoiseLevel(0.5, 0.0)).tolist() == [2.0]
    assert modes.emergence(nothing, NoiseLevel.clean()).tolist() == [1.0]


# Rotation


@pytest.mark.parametrize(
    "schedule_pair", [(EDM()(80.0), EDM()(2.0)), (DDPM()(999), DDPM()(300)), (Flow()(1.0), Flow()(0.4))], ids=repr
)
def test_rotation_and_correction_add_up_to_the_flow(gaussian: Gaussian, schedule_pair, normal) -> None:
    here, there = schedule_pair
    x = here.norm * normal(5, 6)
    plane, correction = gaussian.rotation(x, here, there)
    start = gaussian.flow(x, here, NoiseLevel.clean())
    assert_close(plane, there.alpha * start + there.sigma / here.sigma * x, rtol=1e-11, atol=1e-11)
    assert_close(plane + correction, gaussian.flow(x, here, there), rtol=1e-11, atol=1e-11)


@given(t=st.floats(0.01, 1.57))
def test_the_correction_to_a_rotation_from_pure_noise(full: Gaussian, normal, t: float) -> None:
    """sqrt(sigma^2 + lambda alpha^2) - alpha sqrt(lambda) - sigma on each mode, at alpha = cos t, sigma = sin t."""
    x, level = normal(4, 6), NoiseLevel(math.cos(t), math.sin(t))
    _, correction = full.rotation(x, NoiseLevel(0.0, 1.0), level)
    v = full.eigenvalues
    expected = (math.sin(t) ** 2 + v * math.cos(t) ** 2).sqrt() - math.cos(t) * v.sqrt() - math.sin(t)
    assert_close(correction @ full.basis, expected * (x @ full.basis), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("variance", "error"), [(0.0, 0.0), (1e-8, 1e-4), (1.0, 0.42), (1e8, 1.0)])
def test_the_rotation_is_exact_without_variance_and_relatively_so_for_much(
    variance: float, error: float, normal
) -> None:
    """The correction stays below one unit of noise, while the state grows with sqrt(lambda)."""
    gaussian, x = Gaussian.isotropic(torch.zeros(3, dtype=torch.float64), variance), normal(4, 3)
    _, correction = gaussian.rotation(x, NoiseLevel(0.0, 1.0), DDPM().level(1.0))
    assert float((correction / x).abs().max()) <= error
    assert error < 1e-3 or float((correction / x).abs().max()) >= 0.7 * error


# Guidance


@pytest.fixture(scope="module", params=[-0.5, 4.0])
def guided(request: pytest.FixtureRequest, gaussian: Gaussian, normal) -> tuple[Gaussian, Gaussian, float]:
    return gaussian, Gaussian(gaussian.mean + normal(6, seed=5), gaussian.covariance), request.param


@pytest.mark.parametrize("level", LEVELS, ids=repr)
def test_guidance_of_equal_covariances_is_a_gaussian(guided, level: NoiseLevel, normal) -> None:
    """D_u + w (D_c - D_u), mean mu_u + w (mu_c - mu_u)."""
    uncond, cond, weight = guided
    x = normal(5, 6)
    combined = guide(uncond, cond, weight)(x, level)
    assert_close(combined, (1 - weight) * uncond(x, level) + weight * cond(x, level), rtol=1e-11, atol=1e-11)
    closed = guided_gaussian(uncond, cond, weight)
    assert_close(closed.mean, (1 - weight) * uncond.mean + weight * cond.mean, rtol=1e-12, atol=1e-12)
    assert_close(closed(x, level), combined, rtol=1e-10, atol=1e-10)


def test_its_flow_is_the_integral_of_the_guided_denoiser(guided, normal) -> None:
    """dx/dsigma = (x - D_g)/sigma from sigma = 20 to 0.05, by SciPy."""
    denoise, closed = guide(*guided), guided_gaussian(*guided)

    def velocity(sigma: float, x: np.ndarray) -> np.ndarray:
        return (x - denoise(torch.from_numpy(x).unsqueeze(0), EDM()(sigma)).numpy()[0]) / sigma

    x = 20 * normal(6)
    solved = scipy.integrate.solve_ivp(velocity, (20.0, 0.05), x.numpy(), method="DOP853", rtol=1e-8, atol=1e-9)
    assert_close(
        closed.flow(x.unsqueeze(0), EDM()(20.0), EDM()(0.05))[0],
        torch.from_numpy(solved.y[:, -1]),
        rtol=1e-6,
        atol=1e-6,
    )


def test_equal_covariances_are_recognised_by_value(full: Gaussian) -> None:
    copy = Gaussian(full.mean + 1, Covariance(full.eigenvalues.clone(), full.basis.clone()))
    assert_close(guided_gaussian(full, copy, 2.0).mean, full.mean + 2, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "other",
    [
        lambda g: Covariance(g.eigenvalues, g.basis, 0.06),
        lambda g: Covariance(2 * g.eigenvalues, g.basis, 0.05),
        lambda g: Covariance(g.eigenvalues, g.basis.flip(1), 0.05),
        lambda g: Covariance(g.eigenvalues[:2], g.basis[:, :2], 0.05),
    ],
)
def test_different_covariances_have_no_closed_form(full: Gaussian, other) -> None:
    first = Gaussian(full.mean, Covariance(full.eigenvalues[:3], full.basis[:, :3], 0.05))
    with pytest.raises(ValueError, match="only for equal covariances; use guide"):
        guided_gaussian(first, Gaussian(full.mean, other(first)), 2.0)


def test_gains_are_asked_once_for_each_variance_that_is_stored(gaussian: Gaussian) -> None:
    covariance, asked = gaussian.covariance, []

    def function(variances: torch.Tensor) -> torch.Tensor:
        asked.append(len(variances))
        return torch.stack([torch.exp(-variances), variances**2])

    variances = covariance.variances
    found = covariance.gains(function, variances)
    assert asked == [covariance.rank + (not covariance.full)]
    assert_close(found, torch.stack([torch.exp(-variances), variances**2]), rtol=0, atol=0)
    assert covariance.gains(torch.sqrt, variances.float()).dtype == torch.float32


def test_combined_parts_are_the_sum_of_functions_of_sigma(gaussian: Gaussian, normal) -> None:
    covariance, rows = gaussian.covariance, normal(2, 3, 6, seed=8)
    parts = [covariance.analyse(part) for part in rows]
    found = covariance.combine(lambda v: torch.stack([torch.exp(-v), 1 / (1 + v)]), parts)
    dense = covariance.matrix()
    expected = rows[0] @ torch.matrix_exp(-dense) + rows[1] @ torch.linalg.inv(torch.eye(6).to(dense) + dense)
    assert_close(covariance.synthesise(found), expected)
    joined = covariance.combine(lambda v: torch.stack([torch.exp(-v), 1 / (1 + v)]), [*map(covariance.split, rows)])
    assert_close(covariance.join(joined), expected)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_a_full_basis_of_many_variances_is_combined_in_pieces(
    normal, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, error: float
) -> None:
    """From few values of a function, to rounding; the widest variances and those of 0 among them."""
    monkeypatch.setattr("underpaint.theory.covariance._MANY", 0)
    blocks = normal(400, 2, 2, seed=4) * torch.logspace(0, -3, 400, dtype=torch.float64).view(-1, 1, 1)
    blocks[-9:] = 0
    covariance = Covariance.stationary(blocks @ blocks.mT, (20, 20), dtype)
    parts, asked = [part.to(dtype) for part in normal(2, 3, 800, seed=5)], []

    def function(values: torch.Tensor) -> torch.Tensor:
        asked.append(len(values))
        return torch.stack([values / (values + 0.01), (values / (values + 1e-5)).sqrt()])

    gains = function(covariance.stored).to(dtype)
    expected = gains[0] * parts[0] + gains[1] * parts[1]
    kept = parts[0].clone()
    assert_close(covariance.combine(function, parts), expected, rtol=0, atol=error)
    assert_close(parts[0], kept, rtol=0, atol=0)
    assert asked[1] < 800
    given = parts[0].data_ptr()
    own = covariance.combine(function, parts, own=True)
    assert own.data_ptr() == given
    assert_close(own, expected, rtol=0, atol=error)
    monkeypatch.setattr("underpaint.theory.pieces._BLOCK", 300)  # across which pieces run
    asked.clear()
    assert_close(covariance.combine(function, [kept, parts[1]]), expected, rtol=0, atol=error)
    assert len(asked) == 1
    places = [part[0] for part in covariance._pieces.gains(function(covariance.asked))]
    assert places == [slice(0, 300), slice(300, 600), slice(600, 800)]
    rising = Covariance(covariance.eigenvalues.flip(0), covariance.basis)  # in no order: each is asked for itself
    assert_close(rising.combine(function, [kept, parts[1]]), gains[0].flip(0) * kept + gains[1].flip(0) * parts[1])


@pytest.mark.parametrize("rank", [0, 2, 6])
def test_along_the_coordinates_parts_are_changed_in_place(rank: int, normal) -> None:
    """Each coordinate once, with the gains of its variance; numbers outside the basis."""
    covariance = Covariance.of(normal(6, 6) @ normal(6, 6).T, rank).to(dtype=torch.float64)
    x, y = (covariance.split(rows) for rows in normal(2, 3, 6, seed=1))
    variances = covariance.gains(lambda v: v, covariance.variances)
    if rank < 6:  # on the basis twice, the second time as outside it
        variances = torch.cat([variances[:rank], torch.full((rank + 6,), covariance.residual, dtype=torch.float64)])
    expected = 1 / (1 + variances) * x + variances**2 * y
    gains = torch.stack([1 / (1 + covariance.asked), covariance.asked**2])
    for (one, other), (of_x, of_y) in covariance.along(gains, x, y):
        of_x.mul_(one)
        add(of_x, other, of_y)
    assert_close(x, expected)


@pytest.mark.parametrize("rank", [0, 2, 6])
def test_combining_takes_the_place_of_the_first_part_only_where_that_is_given_away(rank: int, normal) -> None:
    covariance = Covariance.of(normal(6, 6) @ normal(6, 6).T, rank)
    covariance = covariance.to(dtype=torch.float64)
    rows = normal(2, 3, 6, seed=1)
    parts = [covariance.split(own, normal(6, seed=2)) for own in rows]
    kept = [part.clone() for part in parts]

    def function(values: torch.Tensor) -> torch.Tensor:
        return torch.stack([1 / (1 + values), values])

    expected = covariance.combine(function, parts)
    assert all(map(torch.equal, parts, kept))
    assert_close(covariance.combine(function, parts, own=True), expected)
    assert torch.equal(parts[1], kept[1])


def test_what_is_where_it_should_be_is_not_moved() -> None:
    gaussian = Gaussian(torch.zeros(4), Covariance.isotropic(4, 1.0))
    assert gaussian.to("cpu") is gaussian
    assert gaussian.to(dtype=torch.float32) is gaussian
    assert gaussian.to(dtype=torch.float64).mean.dtype == torch.float64
