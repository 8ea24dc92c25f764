"""Mixtures of Gaussians against dense densities by SciPy and Bayes' rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations

import pytest
import scipy.stats
import torch
from memory import Largest
from torch import Tensor
from torch.testing import assert_close

from underpaint.noise import DDPM, EDM, Flow, NoiseLevel
from underpaint.theory.covariance import Covariance
from underpaint.theory.gaussian import Gaussian
from underpaint.theory.mixture import Mixture
from underpaint.theory.refine import refine

LEVELS = [NoiseLevel.clean(), EDM()(0.3), DDPM()(600), Flow()(0.5), NoiseLevel(0.5, 30.0)]


def densities(mixture: Mixture, x: Tensor, level: NoiseLevel) -> Tensor:
    """weight_k N(x; alpha mu_k, alpha^2 Sigma_k + sigma^2 I), [B, K], dense."""
    parts = []
    for weight, component in zip(mixture.weights, mixture.components, strict=True):
        covariance = level.alpha**2 * component.covariance.matrix() + level.sigma**2 * torch.eye(6, dtype=torch.float64)
        density = scipy.stats.multivariate_normal(level.alpha * component.mean, covariance).pdf(x)
        parts.append(weight * torch.from_numpy(density))
    return torch.stack(parts, 1)


@pytest.mark.parametrize("level", LEVELS, ids=repr)
def test_density_responsibilities_and_denoiser_are_bayes_rule(mixture: Mixture, level: NoiseLevel) -> None:
    x = mixture.sample(20, torch.Generator().manual_seed(0), level)
    joint = densities(mixture, x, level)
    assert_close(mixture.log_prob(x, level), joint.sum(1).log(), rtol=1e-9, atol=1e-9)
    shares = joint / joint.sum(1, keepdim=True)
    assert_close(mixture.responsibilities(x, level), shares, rtol=1e-8, atol=1e-10)
    denoised = torch.stack([component.denoise(x, level) for component in mixture.components], 1)
    assert_close(mixture.denoise(x, level), (shares.unsqueeze(2) * denoised).sum(1), rtol=1e-8, atol=1e-8)


def test_the_density_of_the_data_is_the_default(mixture: Mixture, normal) -> None:
    assert torch.equal(mixture.log_prob(normal(4, 6)), mixture.log_prob(normal(4, 6), NoiseLevel.clean()))


def test_weights_are_normalised(mixture: Mixture) -> None:
    assert_close(mixture.weights.tolist(), [0.5, 0.3, 0.2], rtol=1e-12, atol=0)
    assert mixture.weights.dtype == torch.float64


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_the_order_of_components_does_not_matter(mixture: Mixture, order: tuple[int, ...], normal) -> None:
    """The running sum meets the largest component first, in the middle or last."""
    x, level = 3 * normal(20, 6), EDM()(0.1)
    turned = Mixture(mixture.weights[list(order)], tuple(mixture.components[k] for k in order))
    assert_close(turned.denoise(x, level), mixture.denoise(x, level), rtol=1e-10, atol=1e-10)
    assert_close(turned.log_prob(x, level), mixture.log_prob(x, level), rtol=1e-12, atol=1e-12)
    assert_close(
        turned.responsibilities(x, level), mixture.responsibilities(x, level)[:, list(order)], rtol=1e-10, atol=1e-10
    )


def test_equal_components_are_one_gaussian(gaussian: Gaussian, normal) -> None:
    x, level = normal(5, 6), EDM()(0.4)
    mixture = Mixture(torch.tensor([1.0, 2.0]), (gaussian, gaussian))
    assert_close(mixture.denoise(x, level), gaussian.denoise(x, level), rtol=1e-12, atol=1e-12)
    assert_close(mixture.log_prob(x, level), gaussian.log_prob(x, level), rtol=1e-12, atol=1e-12)
    assert_close(
        mixture.responsibilities(x, level), torch.tensor([[1 / 3, 2 / 3]]).double().expand(5, 2), rtol=1e-7, atol=0
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_from_every_component_the_nearest_still_answers(mixture: Mixture, dtype: torch.dtype, normal) -> None:
    """Where every density underflows. With equal covariances the nearest mean takes all."""
    means = [torch.zeros(6), 3 * torch.ones(6), -3 * torch.ones(6)]
    mixture = Mixture(torch.ones(3), tuple(Gaussian.isotropic(mean.to(dtype), 0.5) for mean in means))
    x = torch.full((1, 6), 1e4, dtype=dtype)
    assert mixture.responsibilities(x, EDM()(0.1)).tolist() == [[0.0, 1.0, 0.0]]
    assert_close(mixture.denoise(x, EDM()(0.1)), mixture.components[1].denoise(x, EDM()(0.1)), rtol=1e-6, atol=0)


def test_samples_come_from_each_component_in_proportion() -> None:
    """Components so far apart that each sample betrays its own."""
    means = torch.tensor([[-100.0, 0.0], [0.0, 0.0], [100.0, 0.0]], dtype=torch.float64)
    mixture = Mixture(torch.tensor([0.6, 0.3, 0.1]), tuple(Gaussian.isotropic(mean, 1.0) for mean in means))
    generator = torch.Generator().manual_seed(0)
    x = mixture.sample(4000, generator)
    nearest = torch.cdist(x, means).argmin(1)
    expected = 4000 * mixture.weights
    assert bool(((nearest.bincount() - expected).abs() < 4 * (expected * (1 - mixture.weights)).sqrt()).all())
    assert float((x - means[nearest]).std()) == pytest.approx(1.0, abs=0.03)
    assert float((nearest[1:] == nearest[:-1]).double().mean()) < 0.6, "components come in random order"


def test_samples_are_taken_at_their_level(mixture: Mixture) -> None:
    """Pure noise forgets the data."""
    x = mixture.sample(4000, torch.Generator().manual_seed(0), NoiseLevel(0.0, 3.0))
    assert_close(x.T.cov(), 9 * torch.eye(6, dtype=torch.float64), rtol=0, atol=1.0)
    assert_close(x.mean(0), torch.zeros(6, dtype=torch.float64), rtol=0, atol=0.2)


def test_sampling_repeats_with_its_generator(mixture: Mixture) -> None:
    first, again = (mixture.sample(9, torch.Generator().manual_seed(3), EDM()(2.0)) for _ in range(2))
    assert torch.equal(first, again)


@pytest.mark.parametrize("rank", [None, 2])
def test_fit_gives_each_class_its_gaussian_and_its_share(normal, rank: int | None) -> None:
    data, labels = normal(60, 4), torch.tensor([7, 2, 2] * 20)
    data[labels == 2] += 3
    mixture = Mixture.fit(data, labels, rank, torch.float64)
    assert_close(mixture.weights.tolist(), [2 / 3, 1 / 3], rtol=1e-12, atol=0)
    for component, label in zip(mixture.components, (2, 7), strict=True):
        alone = Gaussian.fit(data[labels == label], rank, torch.float64)
        assert torch.equal(component.mean, alone.mean)
        assert_close(component.covariance.matrix(), alone.covariance.matrix(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rank", [1, 3, 8, 20])
def test_few_rows_of_high_dimension_are_fitted_as_many_are(normal, rank: int) -> None:
    """By their Gram matrix, also where there are duplicates or a higher rank is asked for than they have."""
    data = normal(9, 30)
    data[8] = data[7]
    (component,) = Mixture.fit(data, torch.zeros(9), rank, torch.float64).components
    expected = Covariance.of(torch.cov(data.T), min(rank, 8), torch.float64).matrix()
    assert_close(component.covariance.matrix(), expected, rtol=1e-9, atol=1e-9)
    assert component.covariance.rank == min(rank, 7)


def test_float32_is_right_from_the_lowest_to_the_highest_noise(normal) -> None:
    """Components with the spectrum of images: denoised rows to 1e-5 of the data's scale, log-densities to 1e-2."""
    data = normal(300, 96) * torch.logspace(1, -1.5, 96) + 5 * normal(3, 96, seed=9).repeat(100, 1)
    exact = Mixture.fit(data, torch.arange(300) % 3, 20, torch.float64)
    single = exact.to(dtype=torch.float32)
    for sigma in torch.logspace(-3, 2, 11).tolist():
        x = (exact.sample(9, torch.Generator().manual_seed(0)) + sigma * normal(9, 96)).float()
        error = single(x, EDM()(sigma)).double() - exact(x.double(), EDM()(sigma))
        assert float(error.abs().max()) < 1e-5 * float(data.abs().max())
        assert_close(single.log_prob(x, EDM()(sigma)), exact.log_prob(x.double(), EDM()(sigma)), rtol=1e-5, atol=1e-2)


def test_bases_are_stored_once(mixture: Mixture) -> None:
    storage = mixture.directions.untyped_storage().data_ptr()
    assert all(part.basis.untyped_storage().data_ptr() == storage for part in mixture.components)
    assert mixture.to(dtype=torch.float32).directions.dtype == torch.float32


def test_memory_of_a_call_does_not_multiply_rows_components_and_dimension(normal) -> None:
    mixture = Mixture.fit(normal(80, 64), torch.arange(80) % 8, 4)
    with Largest() as largest:
        mixture(normal(50, 64).float(), EDM()(0.5))
    assert largest.numel <= 50 * 64


def test_the_mean_is_that_of_the_data(normal) -> None:
    data, labels = 7 + normal(60, 5), torch.arange(60) % 4 // 3
    assert_close(Mixture.fit(data, labels, dtype=torch.float64).mean, data.mean(0), rtol=1e-12, atol=1e-12)


def dense_step(mixture: Mixture, data: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Mean and covariance of each component after a step of expectation maximisation, with every matrix formed."""
    joint = densities(mixture, data, NoiseLevel.clean())
    result = []
    for share, component in zip((joint / joint.sum(1, keepdim=True)).T, mixture.components, strict=True):
        mean = share @ data / share.sum()
        scatter = (data - mean).T @ (share.unsqueeze(1) * (data - mean)) / share.sum()
        rho, rank = component.covariance.residual, component.covariance.rank
        w = component.basis * (component.eigenvalues - rho).sqrt()
        m = w.T @ w + rho * torch.eye(rank, dtype=torch.float64)
        new = scatter @ w @ (rho * torch.eye(rank, dtype=torch.float64) + m.inverse() @ w.T @ scatter @ w).inverse()
        residual = (scatter - scatter @ w @ m.inverse() @ new.T).trace() / len(scatter)
        result.append((mean, new @ new.T + residual * torch.eye(len(scatter), dtype=torch.float64)))
    return result


def low_rank_mixture(normal: Callable[..., Tensor]) -> Mixture:
    bases = [torch.linalg.qr(normal(6, 2, seed=k)).Q for k in range(3)]
    parts = [Gaussian(2 * normal(6, seed=k), Covariance(torch.tensor([3.0, 1.0]), bases[k], 0.2)) for k in range(3)]
    return Mixture(torch.tensor([5.0, 3.0, 2.0]), tuple(parts))


@pytest.mark.parametrize("chunk", [7, 1000])
def test_a_step_of_refinement_is_the_dense_one(normal, chunk: int) -> None:
    mixture = low_rank_mixture(normal)
    data = mixture.sample(60, torch.Generator().manual_seed(0)) + normal(60, 6, seed=8)
    refined = refine(mixture, data, chunk)
    for component, (mean, covariance) in zip(refined.components, dense_step(mixture, data), strict=True):
        assert_close(component.mean, mean, rtol=1e-10, atol=1e-10)
        assert_close(component.covariance.matrix(), covariance, rtol=1e-9, atol=1e-9)
    assert_close(refined.weights, mixture.responsibilities(data, NoiseLevel.clean()).mean(0), rtol=1e-10, atol=0)


def test_refinement_climbs_to_the_likelihood_of_the_truth(normal) -> None:
    """Rows drawn from a known mixture, of which the start takes two in five for those of another component."""
    truth = low_rank_mixture(normal)
    data = truth.sample(600, torch.Generator().manual_seed(0))
    labels = truth.responsibilities(data, NoiseLevel.clean()).argmax(1)
    wrong = torch.arange(600) % 5 < 2
    mixture = Mixture.fit(data, torch.where(wrong, torch.arange(600) % 3, labels), 2, torch.float64)
    likelihood = [float(mixture.log_prob(data).mean())]
    for _ in range(30):
        mixture = refine(mixture, data)
        likelihood.append(float(mixture.log_prob(data).mean()))
    assert min(torch.tensor(likelihood).diff()) > -1e-10
    assert likelihood[-1] >= float(truth.log_prob(data).mean()) > likelihood[0] + 0.1


def test_a_component_without_rows_is_left_out(normal) -> None:
    mixture = low_rank_mixture(normal)
    far = replace(mixture.components[0], mean=mixture.components[0].mean + 1000)
    data = mixture.sample(200, torch.Generator().manual_seed(0))
    refined = refine(Mixture(torch.ones(4), (*mixture.components[:1], far, *mixture.components[1:])), data)
    assert len(refined.components) == 3
    assert_close(refined.log_prob(data), refine(Mixture(torch.ones(3), mixture.components), data).log_prob(data))


def test_fit_keeps_its_basis_in_float32_unless_told(normal) -> None:
    assert Mixture.fit(normal(9, 3), torch.tensor([0, 1, 1] * 3)).components[0].basis.dtype == torch.float32


def two(dimension: int) -> tuple[Gaussian, Gaussian]:
    return Gaussian.isotropic(torch.zeros(3), 1.0), Gaussian.isotropic(torch.zeros(dimension), 1.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mixture(torch.ones(3), two(3)), r"one weight per component, got \(3,\) for 2"),
        (lambda: Mixture(torch.ones(0), ()), r"one weight per component, got \(0,\) for 0"),
        (lambda: Mixture(torch.ones(2), two(4)), "must have the same dimension"),
        (lambda: Mixture(torch.tensor([1.0, 0.0]), two(3)), r"weights must be positive, got \[1.0, 0.0\]"),
        (lambda: Mixture.fit(torch.zeros(4, 3), torch.zeros(5)), r"Expected 4 labels, got \(5,\)"),
        (
            lambda: Mixture.fit(torch.zeros(3, 3), torch.tensor([0, 0, 4])),
            "Class 4 has 1 row; a Gaussian needs at least 2",
        ),
        (lambda: refine(Mixture(torch.ones(2), two(3)), torch.zeros(4, 2)), "rows of dimension 3, got 2"),
        (lambda: refine(Mixture.fit(torch.eye(3), torch.zeros(3)), torch.zeros(4, 3)), "fit the mixture with a lower"),
        (lambda: Mixture.fit(torch.zeros(4, 3, 2), torch.zeros(4)), r"Expected rows \[B, D\]"),
    ],
)
def test_what_is_not_a_mixture_is_refused(make: Callable[[], Mixture], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
