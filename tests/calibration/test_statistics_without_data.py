"""Statistics of a model without its data: those of analytic denoisers come back."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from underpaint.calibration.own_samples import compare_with_samples
from underpaint.calibration.statistics import fit_from_model, fit_from_samples, variances_along
from underpaint.noise import DDPM, EDM, Flow, NoiseLevel
from underpaint.sampling.solvers import euler
from underpaint.sampling.trajectory import initial_noise, sample
from underpaint.theory.covariance import Covariance
from underpaint.theory.gaussian import Gaussian
from underpaint.theory.mixture import Mixture

#: The same noise-to-signal ratio in each family.
LEVELS = {"edm": EDM()(60.0), "ddpm": DDPM().level(60.0), "flow": Flow().level(60.0)}


@pytest.fixture(scope="module")
def wide(normal) -> Gaussian:
    """40 dimensions with variances from 25 down to 0.02; the six leading ones stand out."""
    values = torch.cat([torch.tensor([25.0, 12.0, 6.0, 3.0, 1.5, 0.8]), torch.linspace(0.05, 0.02, 34)]).double()
    return Gaussian(normal(40, seed=5), Covariance(values, torch.linalg.qr(normal(40, 40, seed=6)).Q))


@pytest.mark.parametrize("level", LEVELS.values(), ids=LEVELS)
def test_the_leading_modes_of_a_gaussian_come_back(wide: Gaussian, level: NoiseLevel) -> None:
    """Mean, variances and directions to rounding; the rest get their mean variance, which the trace gives."""
    found = fit_from_model(wide, 40, level, rank=6, dtype=torch.float64)
    known = wide.truncate(6)
    assert_close(found.mean, wide.mean, rtol=0, atol=1e-5)
    assert_close(found.eigenvalues, known.eigenvalues, rtol=1e-6, atol=0)
    alignment = (found.basis * known.basis).sum(0).abs()
    assert_close(alignment, torch.ones(6, dtype=torch.float64), rtol=0, atol=1e-6)
    assert found.covariance.residual == pytest.approx(known.covariance.residual, rel=0.05)


def test_every_shape_of_covariance_comes_back(gaussian: Gaussian) -> None:
    found = fit_from_model(gaussian, 6, EDM()(60.0), rank=6, dtype=torch.float64)
    assert_close(found.covariance.matrix(), gaussian.covariance.matrix(), rtol=0, atol=1e-9)
    assert_close(found.mean, gaussian.mean, rtol=0, atol=1e-9)


def test_float32_finds_what_stands_above_its_rounding(wide: Gaussian) -> None:
    found = fit_from_model(wide.to(dtype=torch.float32), 40, EDM()(30.0), rank=6)
    assert found.basis.dtype == torch.float32
    assert_close(found.eigenvalues, wide.eigenvalues[:6], rtol=1e-3, atol=0)


def test_a_mixture_is_known_the_better_the_higher_the_noise(mixture: Mixture) -> None:
    """What is missing is of the order of the variance over the noise."""
    means = torch.stack([part.mean for part in mixture.components])
    mean = mixture.weights @ means
    within = sum(w * part.covariance.matrix() for w, part in zip(mixture.weights, mixture.components, strict=True))
    truth = within + (mixture.weights.unsqueeze(1) * (means - mean)).T @ (means - mean)
    errors = []
    for sigma in (20.0, 80.0, 320.0):
        found = fit_from_model(mixture, 6, EDM()(sigma), rank=6, points=8, dtype=torch.float64)
        errors.append(float((found.covariance.matrix() - truth).norm() / truth.norm()))
        assert float((found.mean - mean).norm()) < 4 / sigma
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.01


def test_the_calls_are_those_stated(wide: Gaussian) -> None:
    rows = 0

    def counted(x: Tensor, level: NoiseLevel) -> Tensor:
        nonlocal rows
        rows += len(x)
        return wide(x, level)

    fit_from_model(counted, 40, EDM()(60.0), rank=6, points=3, sweeps=5, samples=4, dtype=torch.float64)
    assert rows == 2 * 3 * (5 * (6 + 8) + 10 + 6) + 4 * 24


def with_error(known: Gaussian, share: float):
    """Its noise estimate is a share too small, so that its estimate keeps that share of the noise."""

    def denoise(x: Tensor, level: NoiseLevel) -> Tensor:
        exact = known(x, level)
        return exact + share * (x / level.alpha.to(x) - exact)

    return denoise


def test_variances_that_grow_with_the_level_are_refused(wide: Gaussian) -> None:
    """An error of a part in a thousand is a variance of 3.6 at sigma/alpha = 60, and of .06 at 8."""
    small = Gaussian(wide.mean, Covariance(wide.covariance.eigenvalues / 50, wide.covariance.basis))
    wrong = with_error(small, 1e-3)
    with pytest.raises(ValueError, match=r"does not tell the covariance.*the variances .* at 60 and .* at half of it"):
        fit_from_model(wrong, 40, EDM()(60.0), rank=3, dtype=torch.float64)
    found = fit_from_model(wrong, 40, EDM()(torch.tensor([60.0, 30.0, 8.0])), rank=3, dtype=torch.float64)
    assert_close(found.eigenvalues, small.eigenvalues[:3] + 0.064, rtol=0.02, atol=0)  # at the last of them


def test_the_variances_along_directions_say_how_well_they_are_known(wide: Gaussian) -> None:
    levels = EDM()(torch.tensor([60.0, 20.0, 5.0]))
    exact = variances_along(wide, wide.truncate(4), levels)
    assert_close(exact, wide.eigenvalues[:4].expand(3, 4), rtol=1e-6, atol=0)
    wrong = variances_along(with_error(wide, 1e-3), wide.truncate(4), levels)
    assert_close(wrong - exact, (1e-3 * levels.ratio**2).unsqueeze(1) * (1 + exact / levels.ratio.unsqueeze(1) ** 2),
                 rtol=0.02, atol=0)  # fmt: skip


@pytest.mark.parametrize("level", LEVELS.values(), ids=LEVELS)
def test_samples_have_the_variances_of_a_network_that_is_right(wide: Gaussian, level: NoiseLevel) -> None:
    """From many samples: within their error of 1, direction by direction, and a different Gaussian by its factor."""
    wide = Gaussian(wide.mean.double(), Covariance(wide.covariance.eigenvalues, wide.covariance.basis.double()))
    compared = compare_with_samples(wide, wide, level, 2000)
    assert compared.values.shape == (2000, 8)
    assert_close(compared.error, torch.full((8,), (2 / 2000) ** 0.5, dtype=torch.float64), rtol=0.15, atol=0)
    assert float((compared.ratio - 1).abs().max()) < 3.5 * float(compared.error.max())
    assert compared.least_factor == 1
    double = Gaussian(wide.mean, Covariance(2 * wide.covariance.eigenvalues, wide.covariance.basis))
    half = compare_with_samples(wide, double, level, 2000)
    assert half.overall == pytest.approx(0.5, abs=0.02)
    assert 1.7 < half.least_factor < 2


def lying(truth: Gaussian, factors: Tensor):
    """It states other variances at high noise than its samples have."""
    covariance = truth.covariance
    told = Gaussian(truth.mean, Covariance(covariance.eigenvalues * factors, covariance.basis))
    return lambda x, level: (told if float(level.ratio) > 12 else truth).denoise(x, level)


def test_a_jacobian_that_lies_is_refused_by_samples(wide: Gaussian) -> None:
    """The variances at the level and at half of it agree, and are three times those of samples."""
    network = lying(wide, torch.full((40,), 3.0, dtype=torch.float64))
    found = fit_from_model(network, 40, EDM()(60.0), rank=6, samples=0, dtype=torch.float64)
    assert_close(found.eigenvalues, 3 * wide.eigenvalues[:6], rtol=1e-6, atol=0)
    with pytest.raises(ValueError, match=r"does not tell .* 75, 36, 18 at 60, of which its own samples have 0.3\d ± 0"):
        fit_from_model(network, 40, EDM()(60.0), rank=6, dtype=torch.float64)
    lower = fit_from_model(network, 40, EDM()(torch.tensor([60.0, 12.0])), rank=6, dtype=torch.float64)
    assert_close(lower.eigenvalues, wide.eigenvalues[:6], rtol=1e-5, atol=0)  # where it tells the truth


def test_one_direction_that_lies_is_refused_though_others_make_up_for_it(wide: Gaussian) -> None:
    factors = torch.ones(40, dtype=torch.float64)
    factors[:2] = torch.tensor([1 / 8, 8.0])
    network = lying(wide, factors)
    with pytest.raises(ValueError, match="its own samples have"):
        fit_from_model(network, 40, EDM()(80.0), rank=6, samples=64, dtype=torch.float64)


def test_a_small_lie_is_told_and_taken(wide: Gaussian) -> None:
    network = lying(wide, torch.full((40,), 1.4, dtype=torch.float64))
    with pytest.warns(UserWarning, match=r"states the variances 35, 16.8, 8.4 at 60, of which .* have 0.7\d ± 0.0"):
        found = fit_from_model(network, 40, EDM()(60.0), rank=6, samples=400, dtype=torch.float64)
    assert_close(found.eigenvalues, 1.4 * wide.eigenvalues[:6], rtol=1e-6, atol=0)


def test_samples_to_compare_with_are_none_or_two_and_more(wide: Gaussian) -> None:
    with pytest.raises(ValueError, match="at least 2 samples, got 1; 0 compares with none"):
        fit_from_model(wide, 40, EDM()(60.0), rank=2, samples=1)
    with pytest.raises(ValueError, match="more noise than the standard deviations"):
        compare_with_samples(wide, wide, EDM()(2.0))


def test_a_level_of_too_little_noise_is_refused(wide: Gaussian) -> None:
    """A denoiser that sharpens a direction is none of a distribution's at that level."""

    def sharpening(x: Tensor, level: NoiseLevel) -> Tensor:
        return 1.5 * x

    with pytest.raises(ValueError, match=r"At sigma/alpha = 2 the denoiser keeps 1.5 of a direction"):
        fit_from_model(sharpening, 40, EDM()(2.0), rank=2, dtype=torch.float64)


@pytest.mark.parametrize("level", [NoiseLevel(0.0, 1.0), NoiseLevel.clean(), EDM().grid(3)])
def test_one_level_with_signal_and_noise_is_needed(wide: Gaussian, level: NoiseLevel) -> None:
    with pytest.raises(ValueError, match="at levels with alpha > 0 and sigma > 0"):
        fit_from_model(wide, 40, level, rank=2)


@pytest.mark.parametrize("rank", [0, 41])
def test_the_rank_fits(wide: Gaussian, rank: int) -> None:
    with pytest.raises(ValueError, match=f"rank must lie between 1 and the dimension 40, got {rank}"):
        fit_from_model(wide, 40, EDM()(60.0), rank=rank)


def test_statistics_of_samples_are_those_of_the_samples(mixture: Mixture) -> None:
    """Batches change nothing, nor does leaving out the D x D matrix when the rank is all there is."""
    grid = EDM().grid(6)
    rows = sample(mixture, initial_noise(range(3, 53), 6, grid[0]), grid, euler).final
    for rank in (None, 6):
        found = fit_from_samples(mixture, 6, grid, 50, rank, solver=euler, batch=16, seed=3)
        assert_close(found.mean, rows.double().mean(0).float(), rtol=0, atol=1e-5)
        assert_close(found.covariance.matrix(), rows.double().T.cov(), rtol=0, atol=1e-4)


def test_one_sample_has_no_covariance(full: Gaussian) -> None:
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        fit_from_samples(full, 6, EDM().grid(3), 1)
