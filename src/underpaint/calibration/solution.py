"""A fine solution of the probability-flow ODE: what plans are fitted to, and held against."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..noise import NoiseLevel, Schedule, spaced_ratios
from ..sampling.exponential import gaussian_exponential
from ..sampling.trajectory import initial_noise, sample
from ..theory.denoiser import Denoiser
from ..theory.gaussian import Gaussian

#: Steps of a schedule's own grid, whose first and last level above 0 all others lie between.
_FINEST = 1000


@dataclass(frozen=True, eq=False)
class FineSolution:
    """States of the seeds at many levels, as precise as these, and what the denoiser saw in them: what plans are
    fitted to.

    Attributes:
        level: L levels, the last the lowest of the schedule that is noisy.
        states: centred, in coordinates of the covariance, [L, B, K].
        seen: the denoised images, likewise.
        seeds: of the noise that they began from, B of them.
    """

    level: NoiseLevel
    states: Tensor
    seen: Tensor
    seeds: tuple[int, ...]

    @property
    def final(self) -> Tensor:
        """The denoised image at the last level, where samplers end."""
        return self.seen[-1]


def solve_finely(
    denoise: Denoiser,
    gaussian: Gaussian,
    schedule: Schedule,
    seeds: Sequence[int],
    steps: int = 250,
) -> FineSolution:
    """Solve at levels even in log(sigma/alpha), down to the schedule's last above 0; memory O(steps B D).

    The denoised image there is the end of the solution: below it, the denoiser has not been trained.
    """
    level = span(schedule, steps)
    covariance, mean = gaussian.covariance, gaussian.mean
    x = initial_noise(seeds, gaussian.dimension, level[0], mean.dtype).to(mean.device)
    states, seen = [covariance.analyse(x - level.alpha[0].to(x) * mean)], []

    def keep(index: int, x: Tensor, denoised: Tensor) -> None:
        states.append(covariance.analyse(x - level.alpha[index + 1].to(x) * mean))
        seen.append(covariance.analyse(denoised - mean))

    solver = gaussian_exponential(gaussian, 3, corrector=True)
    final = sample(denoise, x, level, solver, keep, every=len(level)).final
    with torch.no_grad():
        seen.append(covariance.analyse(denoise(final, level[-1]) - mean))
    return FineSolution(level, torch.stack(states), torch.stack(seen), tuple(seeds))


def span(schedule: Schedule, steps: int, rho: float = math.inf) -> NoiseLevel:
    """Levels from end to end of a schedule, the first without signal if that is: even in log(sigma/alpha), or in
    (sigma/alpha)^(1/rho)."""
    whole = schedule.grid(_FINEST)[:-1]
    infinite = int(not bool(torch.isfinite(whole.ratio[0])))
    spaced = spaced_ratios(steps - infinite, float(whole.ratio[infinite]), float(whole.ratio[-1]), rho)
    level = schedule.level(spaced)
    return NoiseLevel.join(whole[0], level) if infinite else level
