"""A latent text-to-image model whose network is a Gaussian in its own parametrisation, so that theory is exact."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from underpaint.models.model import Model
from underpaint.noise import DDPM, NoiseLevel
from underpaint.prediction import from_denoised
from underpaint.recipes.shared.request import Sampler, Theory
from underpaint.theory.covariance import Covariance
from underpaint.theory.gaussian import Gaussian

STATE, IMAGE = (2, 4, 4), (3, 8, 8)
DIMENSION = 32


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


VARIANCES = torch.logspace(0.7, -1.5, DIMENSION, dtype=torch.float64)
COVARIANCE = Covariance(VARIANCES, torch.linalg.qr(normal(DIMENSION, DIMENSION)).Q)
#: prompt -> mean of what it describes; "" is anything
MEANS = {"": normal(DIMENSION, seed=1), "an apple": normal(DIMENSION, seed=2), "a bear": normal(DIMENSION, seed=3)}
GAUSSIANS = {prompt: Gaussian(mean, COVARIANCE) for prompt, mean in MEANS.items()}
THEORY = Theory(GAUSSIANS[""], {p: GAUSSIANS[p] for p in ("an apple", "a bear")}, {"all": "known"})


class LinearAutoencoder:
    """An isometry into a larger image, scaled so that no picture is clipped."""

    shape, scale = IMAGE, 0.02
    matrix = torch.linalg.qr(normal(192, DIMENSION, seed=4)).Q

    def decode(self, states: Tensor) -> Tensor:
        return (self.scale * states.double().flatten(1) @ self.matrix.T).unflatten(1, IMAGE)

    def encode(self, images: Tensor) -> Tensor:
        return (images.double().flatten(1) @ self.matrix / self.scale).unflatten(1, STATE)


def latent_model(called: Callable[[], None] = lambda: None) -> Model:
    """The model; ``called`` is told of each call of its network."""
    schedule = DDPM()

    def network(states: Tensor, times: Tensor, mean: Tensor) -> Tensor:
        called()
        x, level = states.flatten(1), schedule(times.double())
        alpha, _ = level.columns(x)
        denoised = mean + Gaussian(torch.zeros_like(mean[0]), COVARIANCE)(x - alpha * mean, level)
        return from_denoised(denoised, x, level, "v").unflatten(1, STATE)

    return Model(
        network,
        schedule,
        "v",
        STATE,
        name="latent",
        embed=lambda prompt: MEANS[prompt][None],
        autoencoder=LinearAutoencoder(),
        dtype=torch.float64,
    )


def latent_sampler(
    steps: int = 120, solver: str = "heun", theory: Theory = THEORY, called: Callable[[], None] = lambda: None
) -> Sampler:
    model = latent_model(called)
    return Sampler(model, model.schedule.grid(steps), solver, theory)


def slow_sampler() -> Sampler:
    """Slow enough to be interrupted."""
    return latent_sampler(15, "ddim", called=lambda: time.sleep(0.005))


def spectral(function: Callable[[Tensor], Tensor]) -> Tensor:
    """The dense matrix g(Sigma)."""
    basis = COVARIANCE.basis
    return basis @ torch.diag(function(VARIANCES)) @ basis.T


def flow_matrix(here: NoiseLevel, there: NoiseLevel) -> Tensor:
    """The dense linear part of the probability flow between two levels, from its formula."""
    before, after = ((level.alpha**2 * VARIANCES + level.sigma**2).sqrt() for level in (here, there))
    return spectral(lambda _: after / before)


def path(mean: Tensor, start: Tensor, level: NoiseLevel) -> Tensor:
    """The exact states of a Gaussian of that mean, [N+1, B, D] float64."""
    moved = [(start.double() - level.alpha[0] * mean) @ flow_matrix(level[0], there) for there in level]
    return torch.stack(moved) + level.alpha[:, None, None] * mean
