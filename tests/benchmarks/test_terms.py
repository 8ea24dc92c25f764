"""Plans with other terms: today's are those of `calibrate`, more terms are no worse where they are fitted."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from distributions import GAUSSIANS
from mixtures import gaussian_of, mixture
from torch.testing import assert_close

SCRIPTS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(SCRIPTS))

import terms  # noqa: E402

from underpaint.calibration.fit import RIDGE, Fit, plan_of  # noqa: E402
from underpaint.calibration.solution import FineSolution, solve_finely  # noqa: E402
from underpaint.noise import DDPM, EDM, NoiseLevel  # noqa: E402
from underpaint.sampling.fitted import Plan  # noqa: E402
from underpaint.theory.covariance import Covariance  # noqa: E402

DATA, SHAPE, PATH = mixture(), (2, 2, 3), (4, 12, 20, 27)
GAUSSIAN = gaussian_of(DATA)
FAMILIES = {family.name: family for family in terms.families(GAUSSIAN.covariance, SHAPE)}


def solved(seeds: range) -> FineSolution:
    return solve_finely(DATA, GAUSSIAN, DDPM(), seeds, 30)


def fit_of(name: str, fine: FineSolution, ridge: float = RIDGE) -> terms.FamilyFit:
    return terms.FamilyFit(DATA, GAUSSIAN, fine, FAMILIES[name], ridge)


def test_todays_family_is_the_fit_of_calibrate_bit_for_bit() -> None:
    fine = solved(range(8))
    known = Fit(DATA, GAUSSIAN, fine).run(PATH)
    found = fit_of(terms.TODAY, fine).run(PATH, terms.begun(Fit(DATA, GAUSSIAN, fine), PATH))
    assert found.level.sigma.tolist() == known.level.sigma.tolist()
    for mine, theirs in zip([*found.coefficients, found.errors], [*known.coefficients, known.errors], strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != terms.TODAY])
def test_a_family_that_holds_another_is_no_further_off_after_the_first_step(name: str) -> None:
    """For one seed, of which all weights are one. The shrunk ones hold today's with coefficients of 0, which cost no
    ridge."""
    smaller = {"(a + bS)(D - G) alone": None, "without S^2": "(a + bS)(D - G) alone"}
    smaller["splines in place of S^2"] = "without S^2"
    other, ridge = smaller.get(name, terms.TODAY), FAMILIES[name].ridges[0]
    for seed in range(3):
        fine = solved(range(seed, seed + 1))

        def left(family: str, fine: FineSolution = fine, ridge: float = ridge) -> float:
            run = fit_of(family, fine, ridge).run(PATH)
            return float((run.states[1] - fine.state(PATH[1])).double().norm())

        flown = float((Fit(DATA, GAUSSIAN, fine)._landed(fine.level[PATH[1]]) - fine.state(PATH[1])).double().norm())
        assert left(name) <= (flown if other is None else left(other)) * (1 + 1e-5)


def test_a_last_step_knows_what_its_family_knows() -> None:
    """x_T enters by three terms, all past calls by six each, splines and octaves by two each for every call."""
    fine, splines = solved(range(4)), terms.SPLINES
    counts = {name: len(fit_of(name, fine).run(PATH).coefficients[-1]) for name in FAMILIES}
    octaves = len(FAMILIES["with octaves of frequency"].gains)
    assert counts == {
        terms.TODAY: 18,
        "(a + bS)(D - G) alone": 6,
        "without S^2": 12,
        "with x_T": 21,
        "with all past calls": 24,
        "with x_T and all past calls": 27,
        "splines in place of S^2": 12 + 6 * splines,
        "with splines": 18 + 6 * splines,
        "with octaves of frequency": 18 + 6 * octaves,
        "with each mode's own": 18 + 6 * DATA.dimension,
    }


@pytest.mark.parametrize("name", FAMILIES)
def test_a_run_is_followed_from_its_coefficients_alone(name: str) -> None:
    fine = solved(range(4))
    fit = fit_of(name, fine, 0.1)
    run = fit.run(PATH)
    again = fit_of(name, fine).follow(run.level, run.coefficients, terms.begun(fit, PATH), 1)
    assert torch.equal(again.errors, run.errors)


def test_a_great_ridge_leaves_todays_coefficients() -> None:
    fine = solved(range(8))
    today = fit_of(terms.TODAY, fine).run(PATH).errors
    for name in ("with splines", "with octaves of frequency", "with each mode's own"):
        assert_close(fit_of(name, fine, 1e9).run(PATH).errors, today, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("kind", GAUSSIANS)
def test_splines_share_out_one_and_hold_straight_lines(kind: str) -> None:
    covariance = GAUSSIANS[kind].covariance
    found = terms.splines(covariance)
    variances = covariance.variances
    at = variances.clamp(min=float(variances[variances > 0].min())).log()
    assert_close(found.sum(0), torch.ones_like(at))
    assert float(found.min()) >= 0
    line = torch.linalg.lstsq(found.T, at.unsqueeze(1), driver="gelsd").solution
    assert_close((found.T @ line).squeeze(1), at)


def test_octaves_are_of_the_frequencies_of_each_mode() -> None:
    """A constant is all in the first, stripes one pixel wide in the last; each mode's shares are one."""
    even, stripes = torch.ones(8), torch.tensor([1.0, -1.0]).repeat(4)
    basis = torch.linalg.qr(torch.stack([even, stripes, *torch.eye(8)[2:]], 1).double()).Q
    found = terms.octaves(Covariance(torch.linspace(2, 1, 8), basis), (1, 1, 8))
    assert_close(found.sum(0), torch.ones(8).double())
    assert_close(found[:, 0], torch.tensor([1.0, 0, 0, 0]).double())
    assert float(found[2:, 1].sum()) > 0.85
    assert len(FAMILIES["with octaves of frequency"].gains) == 2


def test_octaves_of_a_stationary_covariance_are_those_of_its_cosines() -> None:
    """Two channels at each of 4 x 4 frequencies, with variances that fall, so that modes are in the order of these."""
    variances = torch.linspace(16, 1, 16, dtype=torch.float64)
    stationary = Covariance.stationary(variances.view(-1, 1, 1) * torch.eye(2).double(), (4, 4))
    found = terms.octaves(stationary, (2, 4, 4))
    assert_close(found.sum(0), torch.ones(32).double())
    radius = torch.tensor([(i * i + j * j) ** 0.5 for i in range(4) for j in range(4)], dtype=torch.float64)
    octave = (1 + radius).log2().floor().long().repeat_interleave(2)
    assert_close(found, torch.nn.functional.one_hot(octave).T.double(), rtol=0, atol=1e-6)


def test_modes_are_fitted_each_by_itself() -> None:
    """With a ridge of r times its own square a coefficient is 1/(1 + r) of that of least squares."""
    generator = torch.Generator().manual_seed(0)
    signal, known = torch.randn(1, 5, 3, generator=generator), torch.tensor([2.0, -1.0, 0.5])
    wanted = known * signal[0]
    assert_close(terms.mode_fit(signal, wanted, 0.0), known.double().unsqueeze(0), rtol=1e-5, atol=0)
    assert_close(terms.mode_fit(signal, wanted, 3.0), known.double().unsqueeze(0) / 4, rtol=1e-5, atol=0)


def test_the_ridge_is_the_best_on_the_seeds_that_choose() -> None:
    """And the plan itself is that of `Fit.run`, here, where it was fitted at the same levels."""
    solutions = [solved(seeds) for seeds in (range(8), range(100, 108), range(200, 206))]
    plan = plan_of(Fit(DATA, GAUSSIAN, solutions[0]).run(PATH), solutions[0].level[0])
    rows = {row.family: row for row in terms.compare(plan, [DATA] * 3, GAUSSIAN, solutions, SHAPE)}
    assert list(rows) == [*FAMILIES, terms.PLAN]
    assert_close(torch.tensor(rows[terms.PLAN].errors), torch.tensor(rows[terms.TODAY].errors), rtol=1e-4, atol=1e-6)
    for name in (terms.TODAY, "with splines", "with each mode's own"):
        ridges = FAMILIES[name].ridges
        runs = {ridge: fit_of(name, solutions[0], ridge).run(PATH) for ridge in ridges}
        judged, held = (
            {r: fit_of(name, solutions[k]).follow(run.level, run.coefficients).errors for r, run in runs.items()}
            for k in (1, 2)
        )
        assert rows[name].ridge == min(ridges, key=lambda ridge: float(judged[ridge].mean()))
        assert rows[name].errors == held[rows[name].ridge].tolist()
        assert rows[name].calls == 4


def test_levels_of_a_plan_are_the_nearest_of_the_solution() -> None:
    level = EDM().grid(40)[:-1]
    inner = NoiseLevel(torch.ones(3), level.sigma[torch.tensor([5, 17, 39])] * torch.tensor([1.01, 0.99, 1.0]))
    grid = NoiseLevel.join(level[0], inner, NoiseLevel.clean())
    fitted = Plan(grid, torch.zeros(3, 3, 6))
    assert terms.path_of(fitted, level) == (5, 17, 39)
    assert terms.path_of(Plan(grid, solver="euler"), level) == (0, 5, 17, 39)
    with pytest.raises(ValueError, match="With 2 levels two of 3 calls are at the same one; give more --fine"):
        terms.path_of(fitted, level[torch.tensor([0, 39])])


def test_the_table_has_ratios_to_today() -> None:
    rows = [
        terms.Row(terms.TODAY, 4, RIDGE, [1.0, 1.0, 1.0]),
        terms.Row("with splines", 4, 0.1, [0.5, 0.5, 2.0]),
    ]
    lines = terms.table(rows).splitlines()
    assert lines[0] == "| terms | 4 calls |"
    assert lines[2] == f"| {terms.TODAY} | 1.0000, 1.0000 |"
    assert lines[3] == "| with splines | 1.22 [0.50, 1.66], 0.50, 67 % (ridge 0.1) |"
