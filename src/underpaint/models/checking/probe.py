"""A flow of a model, and what its network makes of noised rows at the same levels: what `check` looks at."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ...noise import NoiseLevel
from ...sampling.solvers import dpmpp_2m
from ...sampling.trajectory import Trajectory, initial_noise, sample
from ..model import Model

#: Ratios of the flow: from at most the first down to the second, in so many levels.
_TOP, _BOTTOM, _STEPS = 80.0, 0.05, 12
#: The error over that of the mean up to which an estimate is worth something; above 1 by chance, among few rows.
WORTHLESS = 1.2


@dataclass(frozen=True, eq=False)
class Probe:
    """What is measured of a model.

    Attributes:
        run: its flow, states [N+1, B, D].
        x0: clean rows [B, D], its samples or data.
        noised: these at levels 0 .. N-1, [N, B, D].
        estimates: the denoiser there, [N, B, D].
    """

    model: Model
    run: Trajectory
    x0: Tensor
    noised: Tensor
    estimates: Tensor

    @staticmethod
    def of(model: Model, count: int, seed: int, data: Tensor | None = None) -> Probe:
        """The flow of ``count`` seeds, and the estimates from as many noised rows of the data, or of its own ends."""
        run = flow(model, count, seed)
        level, made = run.level[:-1], torch.Generator().manual_seed(seed + 1)
        x0 = run.final
        if data is not None:
            x0 = data[torch.randperm(len(data), generator=made)[:count]].to(run.final)
        noise = torch.randn(x0.shape, generator=made, dtype=x0.dtype)
        noised = torch.stack([float(at.alpha) * x0 + float(at.sigma) * noise for at in level])
        if not bool(noised.isfinite().all()):
            return Probe(model, run, x0, noised, noised)
        return Probe(model, run, x0, noised, torch.stack([model(x, at) for x, at in zip(noised, level, strict=True)]))

    @property
    def level(self) -> NoiseLevel:
        return self.run.level

    @property
    def finite(self) -> bool:
        return bool(self.run.x.isfinite().all() and self.estimates.isfinite().all())

    @cached_property
    def errors(self) -> Tensor:
        """Mean square errors over the rows' variance about their mean, [N] float64."""
        variance = self.x0.double().var(0).sum().clamp(min=1e-30)
        return (self.estimates - self.x0).double().square().sum(-1).mean(-1) / variance

    @cached_property
    def alike(self) -> float:
        """The standard deviation of samples, or of data, along their leading direction, over the least noise that they
        are looked at with: below 1 they are all alike, and nothing that goes by their variance can be measured."""
        return max(self.largest, _leading(self.run.final)) / float(self.level.ratio[-2])

    @property
    def good_below(self) -> float:
        """The highest ratio from which on down the error stays below that of the mean; infinite from the first on, 0
        from none. Of samples that are all alike, nothing is known, so infinite."""
        if self.finite and self.alike < 1:
            return math.inf
        over = (~(self.errors <= WORTHLESS)).nonzero().flatten()
        if not len(over):
            return math.inf
        after = int(over[-1]) + 1
        return float(self.level.ratio[after]) if after < len(self.errors) else 0.0

    @property
    def middle(self) -> int:
        """The level at which about half of the variance is still to be found."""
        return int((self.errors - 0.5).abs().argmin())

    @cached_property
    def largest(self) -> float:
        """The standard deviation of the rows along their leading direction."""
        return _leading(self.x0)


def _leading(rows: Tensor) -> float:
    """The standard deviation of rows [B, D] along their leading direction."""
    centred = (rows - rows.mean(0)).double()
    return float(torch.linalg.eigvalsh(centred @ centred.T / (len(centred) - 1))[-1].clamp(min=0).sqrt())


def flow(model: Model, count: int, seed: int, steps: int = _STEPS) -> Trajectory:
    """DPM-Solver++ 2M along levels that are even in log(sigma/alpha); where it becomes infinite, NaN throughout."""
    level = _levels(model, steps)
    x = initial_noise(range(seed, seed + count), model.dimension, level[0])
    try:
        return sample(model, x, level, dpmpp_2m)
    except ValueError as error:
        if "NaN or infinite" not in str(error):
            raise
        nothing = torch.full((len(level), *x.shape), torch.nan)
        return Trajectory(nothing, nothing[1:], level, 0)


def _levels(model: Model, steps: int) -> NoiseLevel:
    """From the schedule's first level, if its ratio is at most 80, down to .05, then sigma = 0; within its range."""
    (low, high), first = model.ratios, float(model.schedule.grid(1).ratio[0])
    top = min(first, _TOP, high)
    bottom = min(max(_BOTTOM, low), top / 2)
    ratios = torch.logspace(math.log10(top), math.log10(bottom), steps, dtype=torch.float64)
    return NoiseLevel.join(model.schedule.level(ratios), NoiseLevel.clean())


def energy_ratios(run: Trajectory) -> Tensor:
    """E|x|^2 over alpha^2 E|x0|^2 + sigma^2 D along a flow that ends on its data, [N] float64.

    For D its own start is taken, |x_T|^2/sigma_T^2, whose chance the later states share. An exact flow has 1, but for
    the correlation of each sample with its noise.
    """
    alpha, sigma = run.level.alpha[:-1], run.level.sigma[:-1]
    energy = run.x.double().square().sum(-1).mean(-1)
    return energy[:-1] / (alpha**2 * energy[-1] + sigma**2 * energy[0] / sigma[0] ** 2)
