"""The Gaussian exponential integrator against closed forms, quadrature, and DPM-Solver++ where no variance is left."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from scipy.integrate import quad
from torch.testing import assert_close

from underpaint.noise import DDPM, EDM, Flow, NoiseLevel, Schedule, spaced_ratios
from underpaint.sampling import exponential, fitted
from underpaint.sampling.exponential import (
    _differences,
    _gauss_legendre,
    _integrals,
    advance,
    gains_by_call,
    gaussian_exponential,
    local_mean,
)
from underpaint.sampling.solvers import dpm_solver, euler, heun
from underpaint.sampling.trajectory import initial_noise, sample
from underpaint.theory.covariance import Covariance
from underpaint.theory.gaussian import Gaussian
from underpaint.theory.mixture import Mixture
from underpaint.theory.pieces import Pieces

ORDERS = pytest.mark.parametrize("order", [1, 2, 3])
CORRECTED = pytest.mark.parametrize("corrector", [False, True], ids=["plain", "corrected"])


@ORDERS
@CORRECTED
def test_exact_in_any_grid_for_every_mean(gaussian: Gaussian, schedule: Schedule, order: int, corrector: bool, normal):
    """The data's mean need not be the one that the solver knows: only the covariance must be."""
    solver = gaussian_exponential(gaussian, order, corrector)
    for data in (gaussian, Gaussian(gaussian.mean + normal(6, seed=9), gaussian.covariance)):
        for steps in (1, 4):
            level = schedule.grid(steps)
            x = initial_noise(range(5), 6, level[0], torch.float64)
            exact = data.flow(x, level[0], level[-1])
            torch.testing.assert_close(sample(data, x, level, solver).final, exact, rtol=1e-7, atol=1e-7)


def test_order_1_without_variance_is_ddim(mixture: Mixture, schedule: Schedule):
    flat, level = Gaussian.isotropic(torch.ones(6, dtype=torch.float64), 0.0), schedule.grid(9)
    x = initial_noise(range(5), 6, level[0], torch.float64)
    ours = sample(mixture, x, level, gaussian_exponential(flat))
    torch.testing.assert_close(ours.x, sample(mixture, x, level, euler).x, rtol=1e-9, atol=1e-9)


def test_order_2_without_variance_is_dpm_solver_plus_plus_2m(mixture: Mixture):
    """In the form that integrates the line through two calls exactly (Lu22, eq. for phi_2; 'heun' in diffusers)."""
    level = EDM().grid(12)
    x = start = initial_noise(range(5), 6, level[0], torch.float64)
    past: list[torch.Tensor] = []
    sigma, time = level.sigma, -level.log_ratio
    for i in range(12):
        past.append(mixture(x, level[i]))
        h = time[i + 1] - time[i]
        x = sigma[i + 1] / sigma[i] * x - torch.expm1(-h) * past[-1]
        if 0 < i < 11:
            slope = (past[-1] - past[-2]) / (time[i] - time[i - 1])
            x = x + (torch.expm1(-h) + h) * slope
    flat = Gaussian.isotropic(torch.zeros(6, dtype=torch.float64), 0.0)
    torch.testing.assert_close(
        sample(mixture, start, level, gaussian_exponential(flat, 2)).final, x, rtol=1e-9, atol=1e-9
    )


def lagrange(variances: torch.Tensor, nodes: torch.Tensor, start: float, end: float) -> torch.Tensor:
    """Weights of each node, from the integrals of Newton's products, [J, M]."""
    ends = (torch.tensor(value, dtype=torch.float64) for value in (start, end))
    ratio = ((variances + math.exp(2 * end)) / (variances + math.exp(2 * start))).sqrt()
    return _differences(nodes) @ torch.cat([(1 - ratio).unsqueeze(0), _integrals(variances, nodes[:-1], *ends)])


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_weights_are_the_integrals(count: int):
    nodes = torch.tensor([0.3, 1.1, 1.7, 2.9], dtype=torch.float64)[:count]
    variances, start, end = torch.tensor([0.0, 0.04, 1.0, 30.0], dtype=torch.float64), 0.5, -0.75
    weights = lagrange(variances, nodes, start, end)
    for j in range(count):
        for k, value in enumerate(variances.tolist()):

            def integrand(t: float, j: int = j, value: float = value) -> float:
                lagrange = math.prod((t - float(n)) / float(nodes[j] - n) for n in nodes if n != nodes[j])
                return lagrange * math.exp(2 * t) / (value + math.exp(2 * t)) ** 1.5

            expected = math.sqrt(value + math.exp(2 * end)) * quad(integrand, end, start, epsabs=1e-13)[0]
            assert weights[j, k].item() == pytest.approx(expected, rel=1e-10, abs=1e-12)
    # together they move what a constant moves
    ratio = ((variances + math.exp(2 * end)) / (variances + math.exp(2 * start))).sqrt()
    torch.testing.assert_close(weights.sum(0), 1 - ratio)


def test_divided_differences_are_those_of_newton(normal) -> None:
    """Of a polynomial of degree J - 1 they are its coefficients in Newton's form: it is met everywhere again."""
    nodes = torch.tensor([[2.9, 1.7, 1.1, 0.3], [0.5, 0.4, -2.0, 7.0]], dtype=torch.float64)
    coefficients = normal(4, seed=3)

    def polynomial(t: torch.Tensor) -> torch.Tensor:
        return sum(c * t**k for k, c in enumerate(coefficients))

    found = (_differences(nodes) * polynomial(nodes).unsqueeze(-1)).sum(-2)
    t = torch.tensor([0.1, 5.0], dtype=torch.float64).view(2, 1)
    before = torch.cat([torch.ones_like(t), (t - nodes[:, :-1]).cumprod(-1)], 1)
    torch.testing.assert_close((found * before).sum(1), polynomial(t.squeeze(1)), rtol=1e-9, atol=1e-9)


def smooth(steps: int) -> NoiseLevel:
    """Levels even in log sigma that end above 0, so that the order is that of the steps alone."""
    return EDM()(spaced_ratios(steps + 1, 10.0, 0.2))


@pytest.fixture(scope="module")
def exact(mixture: Mixture) -> torch.Tensor:
    """Heun at two step sizes, extrapolated to none (Richardson)."""
    x = initial_noise(range(8), 6, smooth(1)[0], torch.float64)
    coarse, fine = (sample(mixture, x, smooth(n), heun, every=n).final for n in (800, 1600))
    return fine + (fine - coarse) / 3


@pytest.mark.parametrize(
    ("order", "corrector", "expected"), [(1, 0, 1), (1, 1, 2), (2, 0, 2), (2, 1, 3), (3, 0, 2), (3, 1, 4)]
)
def test_the_measured_order(mixture: Mixture, full: Gaussian, exact, order: int, corrector: int, expected: int):
    """The corrector adds one; without it the first step, of order 1, leaves an error of order 2 whatever follows."""
    solver = gaussian_exponential(full, order, bool(corrector))
    x = initial_noise(range(8), 6, smooth(1)[0], torch.float64)
    error = [float((sample(mixture, x, smooth(n), solver).final - exact).norm()) for n in (60, 120)]
    assert math.log2(error[0] / error[1]) == pytest.approx(expected, abs=0.35)


def test_fewer_calls_than_dpm_solver_for_data_that_are_nearly_gaussian(full: Gaussian, normal):
    """What it is for: near its Gaussian it needs far fewer calls than a solver that knows none."""
    near = Mixture(
        torch.ones(3), tuple(Gaussian(full.mean + 0.3 * normal(6, seed=s), full.covariance) for s in range(3))
    )
    known = Gaussian.fit(near.sample(20_000, torch.Generator().manual_seed(0)), dtype=torch.float64)
    fine, coarse = EDM().grid(300), EDM().grid(8)
    x = initial_noise(range(50), 6, fine[0], torch.float64)
    exact = sample(near, x, fine, heun, every=300).final
    ours, peer = (
        float((sample(near, x, coarse, solver).final - exact).norm())
        for solver in (gaussian_exponential(known, 1, True), dpm_solver(2))
    )
    assert ours < peer / 5


def test_float32_state_follows_float64(mixture: Mixture, full: Gaussian):
    level = EDM().grid(12)
    x = initial_noise(range(5), 6, level[0], torch.float64)
    single = Mixture(mixture.weights, tuple(c.to(dtype=torch.float32) for c in mixture.components))
    solver, coarse = (gaussian_exponential(g, 2, True) for g in (full, full.to(dtype=torch.float32)))
    difference = sample(single, x.float(), level, coarse).final - sample(mixture, x, level, solver).final
    assert difference.abs().max() < 2e-3


@CORRECTED
def test_one_call_a_step(full: Gaussian, mixture: Mixture, corrector: bool):
    level = EDM().grid(7)
    x = initial_noise(range(2), 6, level[0], torch.float64)
    run = sample(mixture, x, level, gaussian_exponential(full, 2, corrector))
    assert run.nfe == 7
    for i, (here, state) in enumerate(pairwise(run.x)):
        torch.testing.assert_close(run.denoised[i], mixture(here, level[i]))
        assert state.shape == here.shape


@CORRECTED
@ORDERS
def test_a_step_takes_two_products_with_the_basis(
    full: Gaussian, mixture: Mixture, order: int, corrector: bool, monkeypatch: pytest.MonkeyPatch
):
    """One into its coordinates and one back, and one more for the first state."""
    counts = {"split": 0, "join": 0}

    def counted(name: str):
        plain = getattr(Covariance, name)

        def call(self: Covariance, *given: torch.Tensor) -> torch.Tensor:
            counts[name] += 1
            return plain(self, *given)

        return call

    for name in counts:
        monkeypatch.setattr(Covariance, name, counted(name))
    level = EDM().grid(7)
    x = initial_noise(range(2), 6, level[0], torch.float64)
    sample(lambda x, level: x, x, level, gaussian_exponential(full, order, corrector))
    assert counts == {"split": 8, "join": 7}


def test_weights_serve_gradients_though_they_were_first_asked_for_without():
    _gauss_legendre.cache_clear()
    nodes, start = (torch.tensor(values, dtype=torch.float64) for values in ([0.3, 1.1], 0.5))
    with torch.inference_mode():
        _integrals(torch.ones(3, dtype=torch.float64), nodes, start, start - 1)
    end = torch.tensor(-0.5, dtype=torch.float64, requires_grad=True)
    ones = torch.ones(3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda end: _integrals(ones, nodes, start, end), (end,))


@CORRECTED
def test_it_may_end_with_the_image_that_was_denoised_last(full: Gaussian, mixture: Mixture, corrector: bool):
    """As DPM-Solver++ does; until then nothing differs. A grid that ends above 0 has no such step."""
    level = EDM().grid(7)
    x = initial_noise(range(3), 6, level[0], torch.float64)
    flow, image = (sample(mixture, x, level, gaussian_exponential(full, 2, corrector, e)) for e in ("flow", "denoised"))
    torch.testing.assert_close(image.x[:-1], flow.x[:-1], rtol=0, atol=0)
    torch.testing.assert_close(image.final, mixture(image.x[-2], level[-2]))
    assert image.nfe == flow.nfe == 7
    assert float((image.final - flow.final).abs().max()) > 1e-6
    high = level[:-1]
    ends = [sample(mixture, x, high, gaussian_exponential(full, 2, corrector, e)).final for e in ("flow", "denoised")]
    torch.testing.assert_close(*ends, rtol=0, atol=0)


def test_orders_and_endings_on_offer(full: Gaussian):
    with pytest.raises(ValueError, match="order 1, 2 or 3, got 4"):
        gaussian_exponential(full, 4)
    with pytest.raises(ValueError, match="ends by 'flow' or 'denoised', got 'clean'"):
        gaussian_exponential(full, ending="clean")


def test_weights_of_many_variances_are_those_of_each() -> None:
    """Of many variances gains are made piece by piece: zero, tiny, equal and large ones among them."""
    many = torch.cat([torch.logspace(3, -9, 5000, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)])
    alike = torch.full((5000,), 0.3, dtype=torch.float64)
    for variances in (many, alike, torch.zeros(5000, dtype=torch.float64)):
        for nodes, start, end in (((0.4, 1.1, 2.5), 0.4, -0.3), ((-3.0, -2.3), -3.0, -6.2)):
            places = torch.tensor(nodes, dtype=torch.float64)
            exact = lagrange(variances, places, start, end)
            for dtype, error in ((torch.float64, 1e-12), (torch.float32, 4e-7)):
                pieces = Pieces.of(variances, torch.empty(0, dtype=dtype))
                known = lagrange(pieces.asked, places, start, end)
                found = torch.cat([gains for _, gains in pieces.gains(known)], 1)
                assert found.dtype == dtype
                assert len(pieces.asked) < 1200
                assert_close(found.double(), exact, rtol=0, atol=error * float(exact.abs().max()))


@pytest.mark.parametrize("schedule", [DDPM(), EDM(), Flow()])
@CORRECTED
@ORDERS
def test_a_step_with_a_corrector_is_the_step_made_again(
    mixture: Mixture, full: Gaussian, schedule: Schedule, order: int, corrector: bool
) -> None:
    """As UniPC is written down: each state is made anew from the one before, with the newest call among the nodes."""
    level, covariance = schedule.grid(7), full.covariance
    x = initial_noise(range(3), 6, level[0], torch.float64)
    state = before = covariance.split(x - level[0].alpha * full.mean)
    past: list[tuple[NoiseLevel, torch.Tensor]] = []
    for i in range(7):
        seen = covariance.split(mixture(level[i].alpha * full.mean + covariance.join(state), level[i]) - full.mean)
        past = [(level[i], local_mean(seen, state, covariance, level[i])), *past]
        if corrector and i:
            state = advance(before, past[: order + 1], level[i - 1], level[i], covariance)
        before = state
        state = advance(state, past[: 1 if level[i + 1].sigma == 0 else order], level[i], level[i + 1], covariance)
    expected = level[7].alpha * full.mean + covariance.join(state)
    assert_close(
        sample(mixture, x, level, gaussian_exponential(full, order, corrector)).final, expected, rtol=0, atol=1e-9
    )


def test_gains_are_asked_for_several_calls_at_once_and_once_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of few variances those of a whole grid are had by one quadrature, of many in turns."""
    monkeypatch.setattr(exponential, "_TOGETHER", 12)
    asked: list[list[int]] = []

    def gains(variances: torch.Tensor, calls: torch.Tensor) -> torch.Tensor:
        asked.append(calls.tolist())
        return calls.view(-1, 1, 1) * variances

    for count, expected in ((3, [[0, 1, 2, 3], [4, 5, 6]]), (100, [[k] for k in range(7)])):
        variances = torch.arange(count, dtype=torch.float64)
        asked.clear()
        for call, found in enumerate(gains_by_call(gains, variances, range(7))):
            assert torch.equal(found, call * variances.unsqueeze(0))
        assert asked == expected


@pytest.mark.parametrize("name", ["exponential", "plan"])
def test_a_step_meets_each_coordinate_once(full: Gaussian, mixture: Mixture, name: str, monkeypatch) -> None:
    """Local mean, correction and step are one pass over the coordinates, and one question for gains."""
    passes, plain = [], Covariance.along

    def counted(self: Covariance, *given: Any) -> Any:
        passes.append(given)
        return plain(self, *given)

    monkeypatch.setattr(Covariance, "along", counted)
    level = EDM().grid(7)
    plan = torch.zeros(7, fitted.LOOK_BACK, fitted.TERMS, dtype=torch.float64)
    solver = gaussian_exponential(full, 2, True) if name == "exponential" else fitted.fitted_exponential(full, plan)
    sample(mixture, initial_noise(range(2), 6, level[0], torch.float64), level, solver)
    assert len(passes) == 7
