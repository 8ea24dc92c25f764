"""Coefficients along paths: fitted to other seeds than they lead, not swayed by a few of them, and not fitted twice."""

from __future__ import annotations

import pytest
import torch
from mixtures import gaussian_of, mixture
from torch.testing import assert_close

from underpaint.noise import DDPM, EDM, NoiseLevel
from underpaint.recipes.calibrate import solve_finely
from underpaint.recipes.search import Fit, _nearest_fit, guesses, search
from underpaint.sampling.fitted import LOOK_BACK, TERMS, combine, fitted_exponential, jumping
from underpaint.sampling.trajectory import initial_noise, sample


@pytest.mark.parametrize("part", range(3))
def test_each_part_of_the_seeds_is_solved_with_what_was_fitted_to_the_others(part: int) -> None:
    generator = torch.Generator().manual_seed(8)
    terms, wanted = (torch.randn(*shape, 9, 6, generator=generator, dtype=torch.float64) for shape in ((4,), ()))
    others = torch.arange(9) % 3 != part
    used = torch.arange(9) % 3 != torch.arange(3).unsqueeze(1)
    found = _nearest_fit(terms, wanted, used)
    a, b = terms[:, others].movedim(0, 2), wanted[others].unsqueeze(2)
    first = torch.linalg.lstsq(a.flatten(0, 1), b.flatten(0, 1)).solution
    # of all seeds, those of the part included: what they were left at says how far a row lies from the rest
    left = (wanted - (terms.movedim(0, 2) @ first).squeeze(2)).square().sum(1)
    root = (left[others] + 0.01 * left.median()).pow(-0.25).view(-1, 1, 1)
    expected = torch.linalg.lstsq((root * a).flatten(0, 1), (root * b).flatten(0, 1)).solution
    assert_close(found[part], expected.squeeze(1), rtol=1e-4, atol=1e-5)
    rows = combine(found[torch.arange(9) % 3], terms)
    assert_close(rows[~others], combine(found[part], terms)[~others])
    assert_close(combine(found[part], terms), (found[part].view(-1, 1, 1) * terms).sum(0))


def test_a_seed_that_went_astray_hardly_counts() -> None:
    """Where plain least squares follow it: its distance is a hundred times that of the others."""
    generator = torch.Generator().manual_seed(3)
    terms = torch.randn(2, 12, 30, generator=generator, dtype=torch.float64)
    known = torch.tensor([0.7, -0.4], dtype=torch.float64)
    wanted = combine(known, terms) + 0.01 * torch.randn(12, 30, generator=generator, dtype=torch.float64)
    wanted[0] -= 3 * terms[0, 0]
    found = _nearest_fit(terms, wanted, torch.ones(1, 12))[0]
    plain = torch.linalg.lstsq(terms.flatten(1).T, wanted.flatten().unsqueeze(1)).solution.squeeze(1)
    assert float((plain - known).norm()) > 0.1
    assert float((found - known).norm()) < 0.1 * float((plain - known).norm())


def test_what_is_wanted_is_nothing_where_gaussians_need_no_fit() -> None:
    terms = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1))
    assert_close(_nearest_fit(terms, torch.zeros(5, 4), torch.ones(1, 5)), torch.zeros(1, 3, dtype=torch.float64))


def test_terms_that_say_the_same_are_no_trouble() -> None:
    """The ridge decides between them: each gets half."""
    term = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = _nearest_fit(torch.stack([term, term]), 3 * term, torch.ones(1, 6))
    assert_close(found, torch.full((1, 2), 1.5, dtype=torch.float64), rtol=1e-4, atol=0)


def test_guesses_are_several_and_the_shortest_path_is_among_them() -> None:
    data, gaussian = mixture(), gaussian_of(mixture())
    level = solve_finely(data, gaussian, EDM(), (0,), 60).level
    low = (30, 37, 44, 51, 59)
    found = guesses(level, gaussian, 5, None, low)
    assert low in found
    assert len(found) == 7
    # levels of more calls, too: between those of fewer
    fewer = Fit(data, gaussian, solve_finely(data, gaussian, EDM(), (0,), 60)).run((20, 40, 58))
    assert (20, 30, 40, 49, 58) in guesses(level, gaussian, 5, fewer, low)


def test_parts_hold_seeds_that_follow_on_each_other() -> None:
    """So that prompts or classes in turn are in all of them."""
    data, gaussian = mixture(), gaussian_of(mixture())
    fit = Fit(data, gaussian, solve_finely(data, gaussian, DDPM(), range(10), 20), parts=3)
    assert fit.part.tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert fit.used.tolist() == [[part != own for own in fit.part.tolist()] for part in range(3)]
    assert Fit(data, gaussian, solve_finely(data, gaussian, DDPM(), range(4), 20)).used.tolist() == [[True] * 4]


def test_each_seed_is_led_by_coefficients_that_were_fitted_to_others() -> None:
    data, gaussian = mixture(), gaussian_of(mixture())
    fine = solve_finely(data, gaussian, DDPM(), range(12), 60)
    path = (5, 25, 45)
    run = Fit(data, gaussian, fine, parts=3).run(path)
    level = NoiseLevel.join(fine.level[0], fine.level[torch.tensor(path)], NoiseLevel.clean())
    for part in range(3):
        coefficients = torch.zeros(3, LOOK_BACK, TERMS, dtype=torch.float64)
        for step, weights in zip(coefficients, run.coefficients, strict=True):
            step.view(-1)[: weights.shape[1]] = weights[part]
        seeds = range(4 * part, 4 * part + 4)
        x = initial_noise(seeds, data.dimension, level[0], gaussian.mean.dtype)
        final = sample(data, x, level, jumping(gaussian, fitted_exponential(gaussian, coefficients))).final
        error = (gaussian.covariance.analyse(final - gaussian.mean) - fine.final[list(seeds)]).square().mean(1).sqrt()
        assert_close(run.errors[list(seeds)], error.double(), rtol=1e-3, atol=1e-6)


def test_the_search_makes_the_mean_distance_small() -> None:
    """Not that of its square, which one seed of twelve would decide; no path that was tried has less."""
    data, gaussian = mixture(), gaussian_of(mixture())
    fit = Fit(data, gaussian, solve_finely(data, gaussian, DDPM(), range(12), 60), parts=3)
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
    known, whole = (Fit(data, gaussian, fine, parts=3).run(one) for one in ((5, 25, 45), path))
    fit = Fit(data, gaussian, fine, parts=3)
    again = fit.run(path, known)
    assert fit.calls == calls
    for a, b in zip(again.coefficients, whole.coefficients, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(again.errors, whole.errors)
