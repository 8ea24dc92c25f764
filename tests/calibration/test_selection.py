"""When a plan gives way to a plain solver: where that is surely nearer, not where one seed of many says so."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from mixtures import gaussian_of, mixture
from torch import Tensor

from underpaint.calibration.few_seeds import FewSeeds
from underpaint.calibration.selection import PlanSelector
from underpaint.calibration.solution import FineSolution, solve_finely
from underpaint.noise import DDPM
from underpaint.sampling.fitted import LOOK_BACK, TERMS, Plan

PATH = (0, 10, 20, 30, 40, 50, 59)


@dataclass(frozen=True, eq=False)
class Told(PlanSelector):
    """One that is told the errors of the plan, and of every plain solver."""

    fitted_errors: tuple[float, ...] = ()
    plain_errors: tuple[float, ...] = ()

    def errors(self, plan: Plan, fine: FineSolution, most: int | None = None) -> Tensor:
        told = self.plain_errors if plan.coefficients is None else self.fitted_errors
        return torch.tensor(told[:most], dtype=torch.float64)


def chosen(fitted: tuple[float, ...], plain: tuple[float, ...]) -> Plan:
    data = mixture()
    gaussian = gaussian_of(data)
    fine = solve_finely(data, gaussian, DDPM(), range(2), 60)
    level = DDPM().grid(7)
    plan = Plan(level, torch.zeros(len(level) - 2, LOOK_BACK, TERMS, dtype=torch.float64))
    return Told(data, gaussian, DDPM(), fine, fine, 0.0, {}, fitted, plain).choose(plan, PATH, 1.0)


@pytest.mark.parametrize(
    ("fitted", "plain", "stays"),
    [
        # one seed on the border between two images makes the mean five times that of the plain solver
        ((*[0.001] * 15, 0.3), (0.004,) * 16, True),
        # hardly farther, by what seeds differ in
        ((0.009, 0.007) * 8, (0.0082, 0.0074) * 4 + (0.0068, 0.0084) * 4, True),
        # farther on every seed
        ((0.005,) * 16, (0.004,) * 16, False),
        # farther on nearly all, though one seed goes wrong with both
        ((*[0.008] * 15, 0.1), (*[0.004] * 15, 0.1), False),
        ((0.003,) * 16, (0.004,) * 16, True),
    ],
)
def test_a_plan_gives_way_to_what_is_surely_nearer(
    fitted: tuple[float, ...], plain: tuple[float, ...], stays: bool
) -> None:
    found = chosen(fitted, plain)
    assert (found.coefficients is not None) == stays
    assert found.errors["held_out"] == pytest.approx(sum(fitted) / 16)
    assert found.errors["plain"] == pytest.approx(sum(plain) / 16)
    assert (found.errors["ratio_low"] > 1) != stays


@pytest.mark.parametrize(
    ("fitted", "plain", "stays"),
    [
        ((*[0.001] * 3, 0.3), (0.004,) * 4, True),  # one seed of four on the border between two images
        ((0.005,) * 4, (0.004,) * 4, False),
        ((0.003,) * 4, (0.004,) * 4, True),
    ],
)
def test_plans_from_few_seeds_give_way_by_the_same_rule(
    fitted: tuple[float, ...], plain: tuple[float, ...], stays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("_SEEDS", range(2_000_000, 2_000_008)), ("_EFFORT", 5), ("_REFINING", 10)):
        monkeypatch.setattr(f"underpaint.calibration.few_seeds.{name}", value)
    data = mixture()
    gaussian = gaussian_of(data)
    fine, held = (solve_finely(data, gaussian, DDPM(), seeds, 40) for seeds in (range(2), range(50, 54)))
    judge = Told(data, gaussian, DDPM(), fine, held, 0.0, {}, fitted, plain)
    _, found = FewSeeds(judge, data, 5, 5).find(5, None)
    assert (found.coefficients is not None) == stays
    assert found.errors["held_out"] == pytest.approx(sum(fitted) / 4)
    assert found.errors["plain"] == pytest.approx(sum(plain) / 4)
