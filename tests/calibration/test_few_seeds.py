"""Plans from few seeds, with a prior: nearer than from few seeds alone, and never more calls than were promised."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from mixtures import gaussian_of, mixture
from torch import Tensor

import underpaint as up
from underpaint.calibration.few_seeds import FewSeeds
from underpaint.calibration.fit import Fit
from underpaint.calibration.selection import PlanSelector
from underpaint.calibration.solution import distances, solve_finely
from underpaint.sampling.fitted import Plan

SCHEDULE, OTHERS = up.DDPM(), range(500, 540)


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """The prior's own plan takes less."""
    for name, value in (("_SEEDS", range(2_000_000, 2_000_016)), ("_EFFORT", 20), ("_REFINING", 60)):
        monkeypatch.setattr(f"underpaint.calibration.few_seeds.{name}", value)


def known_by_sight(data: up.Mixture) -> up.Mixture:
    """What one would fit to few samples: the same kinds, each a little wrong."""
    rows = data.sample(400, torch.Generator().manual_seed(3))
    kinds = data.responsibilities(rows, up.DDPM().level(0.01)).argmax(1)
    return up.Mixture.fit(rows, kinds, dtype=torch.float64)


def error(data: up.Mixture, gaussian: up.Gaussian, plan: Plan) -> float:
    """Of a plan on seeds that it has not seen."""
    solver, level = up.Calibration((plan,), {}).solver(gaussian, plan.calls)
    x = up.initial_noise(OTHERS, data.dimension, level[0], torch.float64)
    exact = solve_finely(data, gaussian, SCHEDULE, OTHERS, 100).final
    found = gaussian.covariance.analyse(up.sample(data, x, level, solver).final - gaussian.mean)
    return float(distances(found, exact, data.dimension).mean())


def test_a_prior_makes_up_for_seeds() -> None:
    data = mixture()
    gaussian, prior = gaussian_of(data, torch.float64), known_by_sight(data)
    rows, seeds, held = 0, range(2), range(50, 53)

    def network(x: Tensor, level: up.NoiseLevel) -> Tensor:
        nonlocal rows
        rows += len(x)
        return data(x, level)

    found = up.calibrate(network, gaussian, SCHEDULE, (6,), seeds, held, fine=40, effort=30, prior=prior)
    spent = rows
    alone = up.calibrate(data, gaussian, SCHEDULE, (6,), seeds, held, fine=40, effort=30, refined=False)
    plan = found.plan(6)
    assert error(data, gaussian, plan) < 0.8 * error(data, gaussian, alone.plan(6))
    assert plan.errors["held_out"] < plan.errors["plain"]
    # two fine solutions, less than one more that says how fine they are, and what was promised
    assert spent <= (3 * 40 + FewSeeds.most_calls(6, 30)) * 5


def finder(network: up.Denoiser, prior: up.Denoiser, data: up.Mixture) -> FewSeeds:
    gaussian = gaussian_of(data, torch.float64)
    solution, unseen = (solve_finely(data, gaussian, SCHEDULE, seeds, 40) for seeds in (range(3), range(50, 54)))
    return FewSeeds(PlanSelector(network, gaussian, SCHEDULE, solution, unseen), prior, 5, 20)


def test_each_seed_of_the_network_is_called_once_and_counts_as_often_as_told() -> None:
    """The fit is that to as many copies of the network's seeds, each called by itself."""
    data, sizes = mixture(), list[int]()

    def network(x: Tensor, level: up.NoiseLevel) -> Tensor:
        sizes.append(len(x))
        return data(x, level)

    few, path = finder(network, known_by_sight(data), data), (6, 12, 20, 28, 36)
    fit = few._pooled(3)
    run = fit.run(path)
    assert sizes == [3] * 5

    def each(x: Tensor, level: up.NoiseLevel) -> Tensor:
        return torch.cat([data(x[:9], level), few.prior(x[9:], level)])

    other = Fit(each, few.judge.gaussian, fit.fine).run(path)
    for one, same in zip(run.coefficients, other.coefficients, strict=True):
        torch.testing.assert_close(one, same, rtol=1e-4, atol=1e-5)  # of least squares that are almost singular
    assert fit.fine.seeds[:9] == (0, 1, 2) * 3
    assert len(fit.fine.seeds) == 9 + 16


def test_a_prior_of_other_data_is_found_out_on_held_out_seeds() -> None:
    """The plan is then not the prior's own."""
    data = mixture()
    far = up.Mixture(
        torch.ones(2), tuple(up.Gaussian.isotropic(torch.full((12,), sign * 4.0).double(), 0.01) for sign in (-1, 1))
    )
    few = finder(data, far, data)
    _, plan = few.find(5, None)
    assert plan.errors["held_out"] <= few.judge.error(replace(plan, errors={})) * (1 + 1e-9) or plan.solver != "fitted"
    own = few.judge.error(few._plan(Fit(far, few.judge.gaussian, few._known).run((6, 12, 20, 28, 36))))
    assert min(plan.errors["held_out"], plan.errors["plain"]) < 0.7 * own
