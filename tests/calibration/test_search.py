"""Coefficients along paths: nearest to a fine solution, not swayed by a few seeds, and not fitted twice."""

from __future__ import annotations

import pytest
import torch
from mixtures import gaussian_of, mixture
from torch.testing import assert_close

from underpaint.calibration.fit import Fit, nearest_fit
from underpaint.calibration.search import guesses, search
from underpaint.calibration.solution import solve_finely
from underpaint.noise import DDPM, EDM, NoiseLevel
from underpaint.sampling.fitted import LOOK_BACK, TERMS, combine, fitted_exponential, jumping
from underpaint.sampling.trajectory import initial_noise, sample


def test_coefficients_are_those_of_two_rounds_of_least_squares() -> None:
    """The second weighs each row by one over the distance that the first left it at."""
    generator = torch.Generator().manual_seed(8)
    terms, wanted = (torch.randn(*shape, 9, 6, generator=generator, dtype=torch.float64) for shape in ((4,), ()))
    a, b = terms.movedim(0, 2), wanted.unsqueeze(2)
    first = torch.linalg.lstsq(a.flatten(0, 1), b.flatten(0, 1)).solution
    left = (wanted - (a @ first).squeeze(2)).square().sum(1)
    root = (left + 0.01 * left.median()).pow(-0.25).view(-1, 1, 1)
    expected = torch.linalg.lstsq((root * a).flatten(0, 1), (root * b).flatten(0, 1)).solution.squeeze(1)
    found = nearest_fit(terms, wanted)
    assert_close(found, expected, rtol=1e-6, atol=1e-7)
    assert_close(combine(found, terms), (found.view(-1, 1, 1) * terms).sum(0))


def test_what_only_a_third_difference_tells_is_told() -> None:
    """Calls that follow closely on each other are almost the same; the ridge leaves what little they differ in."""
    generator = torch.Generator().manual_seed(2)
    value, slope, bend = (torch.randn(12, 40, generator=generator, dtype=torch.float64) for _ in range(3))
    terms = torch.stack([value + 1e-2 * j * slope + 3e-4 * j * j * bend for j in range(3)])
    wanted = terms[0] - 2 * terms[1] + terms[2]  # 6e-4 of the bend
    left = combine(nearest_fit(terms, wanted), terms) - wanted
    assert float(left.norm()) < 0.2 * float(wanted.norm())


def test_a_seed_that_went_astray_hardly_counts() -> None:
    """Where plain least squares follow it: its distance is a hundred times that of the others."""
    generator = torch.Generator().manual_seed(3)
    terms = torch.randn(2, 12, 30, generator=generator, dtype=torch.float64)
    known = torch.tensor([0.7, -0.4], dtype=torch.float64)
    wanted = combine(known, terms) + 0.01 * torch.randn(12, 30, generator=generator, dtype=torch.float64)
    wanted[0] -= 3 * terms[0, 0]
    found = nearest_fit(terms, wanted)
    plain = torch.linalg.lstsq(terms.flatten(1).T, wanted.flatten().unsqueeze(1)).solution.squeeze(1)
    assert float((plain - known).norm()) > 0.1
    assert float((found - known).norm()) < 0.1 * float((plain - known).norm())


def test_what_is_wanted_is_nothing_where_gaussians_need_no_fit() -> None:
    terms = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1))
    assert_close(nearest_fit(terms, torch.zeros(5, 4)), torch.zeros(3, dtype=torch.float64))


def test_terms_that_say_the_same_are_no_trouble() -> None:
    """The ridge decides between them: each gets half."""
    term = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = nearest_fit(torch.stack([term, term]), 3 * term)
    assert_close(found, torch.full((2,), 1.5, dtype=torch.float64), rtol=1e-4, atol=0)


def test_guesses_are_several_and_the_shortest_path_is_among_them() -> None:
    data, gaussian = mixture(), gaussian_of(mixture())
    level = solve_finely(data, gaussian, EDM(), (0,), 60).level
    low = (30, 37, 44, 51, 59)
    found = guesses(level, gaussian, 5, None, low)
    assert low in found
    assert len(found) == 7
    # levels of more calls, too: between those of fewer
    assert (20, 30, 40, 49, 58) in guesses(level, gaussian, 5, (20, 40, 58), low)


def test_a_run_is_what_the_solver_makes_of_its_coefficients() -> None:
    data, gaussian = mixture(), gaussian_of(mixture())
    fine = solve_finely(data, gaussian, DDPM(), range(12), 60)
    path = (5, 25, 45)
    run = Fit(data, gaussian, fine).run(path)
    level = NoiseLevel.join(fine.level[0], fine.level[torch.tensor(path)], NoiseLevel.clean())
    coefficients = torch.zeros(3, LOOK_BACK, TERMS, dtype=torch.float64)
    for step, weights in zip(coefficients, run.coefficients, strict=True):
        step.view(-1)[: len(weights)] = weights
    x = initial_noise(range(12), data.dimension, level[0], gaussian.mean.dtype)
    final = sample(data, x, level, jumping(gaussian, fitted_exponential(gaussian, coefficients))).final
    error = (gaussian.covariance.analyse(final - gaussian.mean) - fine.final).square().mean(1).sqrt()
    assert_close(run.errors, error.double(), rtol=1e-3, atol=1e-6)


def test_the_search_makes_the_mean_distance_small() -> None:
    """Not that of its square, which one seed of twelve would decide; no path that was tried has less."""
    data, gaussian = mixture(), gaussian_of(mixture())
    fit = Fit(data, gaussian, solve_finely(data, gaussian, DDPM(), range(12), 60))
    tried = [(5, 25, 45), (10, 30, 50), (2, 20, 55)]
    means = [float(fit.run(path).errors.mean()) for path in tried]
    best = search(fit, tried, 30)
    assert best.loss == pytest.approx(float(best.errors.mean()))
    assert best.loss < min(means)
    assert search(fit, tried, 0).path == tried[means.index(min(means))]


@pytest.mark.parametrize(("path", "calls"), [((4, 25, 45), 3), ((5, 24, 45), 2), ((5, 25, 46), 1), ((5, 25, 45), 0)])
def test_what_a_run_has_in_common_with_another_is_not_done_again(path: tuple[int, ...], calls: int) -> None:
    data, gaussian = mixture(), gaussian_of(mixture())
    fine = solve_finely(data, gaussian, DDPM(), range(12), 60)
    known, whole = (Fit(data, gaussian, fine).run(one) for one in ((5, 25, 45), path))
    fit = Fit(data, gaussian, fine)
    again = fit.run(path, known)
    assert fit.calls == calls
    for a, b in zip(again.coefficients, whole.coefficients, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(again.errors, whole.errors)
