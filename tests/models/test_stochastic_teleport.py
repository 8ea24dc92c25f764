"""Teleport of stochastic pipelines, by law: what lands, and what comes of it, is distributed as it should be."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn

from underpaint.models.pipelines.teleport import teleport_pipeline
from underpaint.models.schedulers.gaussian_exponential import GaussianExponentialScheduler
from underpaint.models.schedulers.levels import initial_scale, model_output, scales_input, told_levels
from underpaint.noise import NoiseLevel
from underpaint.theory.covariance import Covariance
from underpaint.theory.gaussian import Gaussian

pytestmark = pytest.mark.filterwarnings("ignore:__array")
SHAPE, STEPS, SKIP, COUNT = (4, 4, 4), 8, 3, 3000
VALUES = torch.tensor([9.0, 2.0, 0.5, 0.05])


def make_law() -> Gaussian:
    """Four directions, oblique to the axes, and a residual variance."""
    draw = torch.Generator().manual_seed(5)
    basis = torch.linalg.qr(torch.randn(64, 4, generator=draw)).Q
    return Gaussian(torch.randn(64, generator=draw), Covariance(VALUES, basis, 0.02))


LAW = make_law()


class Exact(nn.Module):
    """The network of that Gaussian. It keeps the first states that it is shown, and their level."""

    def __init__(self, scheduler: Any) -> None:
        super().__init__()
        self.scheduler, self.first = scheduler, None

    def forward(self, states: Tensor, level: NoiseLevel) -> Tensor:
        x = states * float(level.norm) if scales_input(self.scheduler) else states
        if self.first is None:
            self.first = x.flatten(1), level
        denoised = LAW.denoise(x.flatten(1), level).view_as(x)
        return model_output(self.scheduler, denoised, x, level).to(x.dtype)


class Pipe:
    """From noise, or from states on the way."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        scheduler.set_timesteps(STEPS)
        self.network, self.levels = (
            Exact(scheduler),
            dict(zip(scheduler.timesteps.tolist(), levels(scheduler), strict=False)),
        )

    def __call__(self, generator: torch.Generator) -> Tensor:
        self.scheduler.set_timesteps(STEPS)
        x = initial_scale(self.scheduler) * torch.randn(COUNT, *SHAPE, generator=generator)
        return self.stepped(x, self.scheduler.timesteps, generator)

    def stepped(self, x: Tensor, times: Tensor, generator: torch.Generator) -> Tensor:
        for t in times:
            scaled = hasattr(self.scheduler, "scale_model_input")
            seen = self.scheduler.scale_model_input(x, t) if scaled else x
            output = self.network(seen, self.levels[float(t)])
            x = self.scheduler.step(output, t, x, generator=generator).prev_sample
        return x.flatten(1)


def levels(scheduler: Any) -> list[NoiseLevel]:
    return list(told_levels(scheduler))


SCHEDULERS: dict[str, Callable[[], Any]] = {
    "DDPM": lambda: diffusers.DDPMScheduler(clip_sample=False),
    "Euler ancestral": diffusers.EulerAncestralDiscreteScheduler,
    "SDE-DPM-Solver++": lambda: diffusers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"),
    "stochastic flow": lambda: diffusers.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True),
    "ours": lambda: GaussianExponentialScheduler.from_config(
        diffusers.DDIMScheduler().config, gaussian=LAW, eta=1.0, ending="flow", above=0.0
    ),
}


def moments(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [5] and covariance [5, 5] along the directions of the law and one outside of them, and the variance [6]
    along these and, last, its mean over all of the outside."""
    one = torch.linalg.qr(torch.cat([LAW.basis, torch.ones(64, 1)], 1)).Q[:, 4:]
    rows, directions = rows.double(), torch.cat([LAW.basis, one], 1).double()
    coordinates = rows @ directions
    covariance, rest = coordinates.T.cov(), rows - coordinates[:, :4] @ directions.T[:4]
    return coordinates.mean(0), covariance, torch.cat([covariance.diagonal(), rest.var(0).sum().reshape(1) / 60])


def check(rows: Tensor, mean: Tensor, variance: Tensor, *, sampled: bool = False) -> None:
    """Within five standard errors of a mean [5], of variances [6], and of no correlation between directions; where what
    is expected was ``sampled``, too, the errors of both add up."""
    found, covariance, variances = moments(rows)
    error = math.sqrt((1 + sampled) / COUNT)
    assert bool(((found - mean).abs() < 5 * error * variance[:5].sqrt()).all()), (found, mean)
    draws = torch.tensor([1.0] * 5 + [60.0])  # the last is a mean over 60 directions
    assert bool(((variances / variance - 1).abs() < 5 * error * (2 / draws).sqrt()).all()), (variances, variance)
    correlation = covariance / covariance.diagonal().outer(covariance.diagonal()).sqrt()
    assert float((correlation - torch.eye(5)).abs().max()) < 5 * error


def expected(level: NoiseLevel) -> tuple[Tensor, Tensor]:
    mean, _, _ = moments(torch.stack([LAW.mean, LAW.mean]))
    spectrum = torch.cat([VALUES, torch.tensor([0.02, 0.02])]).double()
    return level.alpha * mean, level.alpha**2 * spectrum + level.sigma**2


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_jump_lands_in_distribution(name: str) -> None:
    pipe, draw = Pipe(SCHEDULERS[name]()), torch.Generator().manual_seed(0)
    teleported = teleport_pipeline(pipe, LAW, SKIP)
    with torch.no_grad():
        final = teleported(draw)
    assert pipe.network.first is not None
    landed, level = pipe.network.first
    pipe.scheduler.set_timesteps(STEPS)
    times = pipe.scheduler.timesteps[SKIP:]
    assert level.ratio == pipe.levels[float(times[0])].ratio
    check(landed, *expected(level))
    if name == "ours":  # whose steps are exact
        check(final, *expected(NoiseLevel.clean()))
    with torch.no_grad():
        start = LAW.sample(COUNT, torch.Generator().manual_seed(1), level).unflatten(1, SHAPE)
        drawn = pipe.stepped(start, times, draw)
    mean, _, variance = moments(drawn)
    check(final, mean, variance, sampled=True)
