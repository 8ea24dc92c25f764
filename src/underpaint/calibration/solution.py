"""A fine solution of the probability-flow ODE: what plans are fitted to, and held against."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..keeping import Room, in_memory
from ..noise import NoiseLevel, Schedule, spaced_ratios
from ..sampling.exponential import gaussian_exponential
from ..sampling.solvers import Solver
from ..sampling.trajectory import initial_noise, sample
from ..theory.denoiser import Denoiser
from ..theory.gaussian import Gaussian

#: Seeds on which a solution is tried for its own error.
_TRIED = 4
#: Steps of a schedule's own grid, whose first and last level above 0 all others lie between.
_WHOLE = 1000
#: The fewest and the most steps of a solution that is as fine as it needs to be.
FEWEST, FINEST = 60, 1000


@dataclass(frozen=True, eq=False)
class FineSolution:
    """States of the seeds at many levels, as precise as these, and what the denoiser saw in them: what plans are
    fitted to.

    Attributes:
        level: L levels, the last the lowest of the schedule that is noisy.
        states: centred, in coordinates of the covariance, [L, B, K].
        seen: the denoised images, likewise.
        seeds: of the noise that they began from, B of them.
        device: where they are asked for; both may lie in files.
    """

    level: NoiseLevel
    states: Tensor
    seen: Tensor
    seeds: tuple[int, ...]
    device: str = "cpu"

    def first(self, count: int) -> FineSolution:
        """That of the first seeds."""
        return replace(self, states=self.states[:, :count], seen=self.seen[:, :count], seeds=self.seeds[:count])

    def state(self, i: int) -> Tensor:
        """The states at a level, [B, K]."""
        return self.states[i].to(self.device)

    @property
    def final(self) -> Tensor:
        """The denoised image at the last level, where samplers end."""
        return self.seen[-1].to(self.device)


def solve_finely(
    denoise: Denoiser,
    gaussian: Gaussian,
    schedule: Schedule,
    seeds: Sequence[int],
    steps: int = 250,
    whole: bool = True,
    room: Room = in_memory,
) -> FineSolution:
    """Solve at levels even in log(sigma/alpha), down to the schedule's last above 0: 2 steps B K numbers, laid where
    there is ``room``, or 2 B K if all but the last level is let go of (``whole`` is false).

    The denoised image there is the end of the solution: below it, the denoiser has not been trained.
    """
    level = span(schedule, steps)
    covariance, mean = gaussian.covariance, gaussian.mean
    x = initial_noise(seeds, gaussian.dimension, level[0], mean.dtype).to(mean.device)
    first = covariance.analyse(x - level.alpha[0].to(x) * mean)
    shape = (len(level) if whole else 1, *first.shape)
    states, seen = (room(f"fine solution, {name}", shape, first) for name in ("states", "seen"))
    states[0] = first

    def keep(index: int, x: Tensor, denoised: Tensor) -> None:
        states[index + 1 if whole else 0] = covariance.analyse(x - level.alpha[index + 1].to(x) * mean)
        seen[index if whole else 0] = covariance.analyse(denoised - mean)

    final = sample(denoise, x, level, _finely(gaussian), keep, every=len(level)).final
    del x
    with torch.no_grad():
        seen[-1] = covariance.analyse(denoise(final, level[-1]) - mean)
    return FineSolution(level if whole else level[-1:], states, seen, tuple(seeds), str(first.device))


@dataclass(frozen=True)
class Precision:
    """How fine a solution is: its ``steps``, and the ``error`` of its end, mean over seeds, in units of the data."""

    steps: int
    error: float


def precision(denoise: Denoiser, gaussian: Gaussian, schedule: Schedule, fine: FineSolution) -> Precision:
    """The error of a fine solution, from solutions of some of its seeds with a half and a quarter of its steps.

    By Richardson's extrapolation: if halving the steps moves the end by d, and did so by q d before, d/(q - 1) is left.
    q is taken for 2 at least, 8 at most: what does not converge is not called fine. Calls: 3/4 of the steps, on at most
    four seeds.
    """
    steps = len(fine.level)
    quarter, half = (_end(denoise, gaussian, schedule, fine.seeds, max(4, steps // part)) for part in (4, 2))
    return Precision(steps, _left(gaussian.dimension, quarter, half, fine.final[:_TRIED]))


def ends_for_precision(steps: int) -> int:
    """Calls of `precision`, on all of its seeds together."""
    return _TRIED * (steps // 4 + steps // 2)


def fine_enough(
    denoise: Denoiser, gaussian: Gaussian, schedule: Schedule, seeds: Sequence[int], calls: int, share: float = 0.02
) -> Precision:
    """The fewest steps, doubled from as many as there are calls, whose error is a small share of that of so many steps:
    small beside what a plan may come to with these calls.

    Where they do not come to that, the most that were tried: a network is not smooth in its input to any precision.
    """
    ends, steps = [_end(denoise, gaussian, schedule, seeds, max(8, calls))], max(8, calls)
    while True:
        steps *= 2
        ends.append(_end(denoise, gaussian, schedule, seeds, steps))
        if len(ends) < 3:
            continue
        found = Precision(steps, _left(gaussian.dimension, *ends[-3:]))
        small = share * float(distances(ends[0], ends[-1], gaussian.dimension).mean())
        rounding = 1e-6 * (gaussian.covariance.total / gaussian.dimension) ** 0.5
        if (found.error <= max(small, rounding) and steps >= FEWEST) or 2 * steps > FINEST:
            return found


def _end(denoise: Denoiser, gaussian: Gaussian, schedule: Schedule, seeds: Sequence[int], steps: int) -> Tensor:
    """The end of a fine solution of the first seeds, in coordinates; nothing else of it is kept."""
    mean, level = gaussian.mean, span(schedule, steps)
    x = initial_noise(seeds[:_TRIED], gaussian.dimension, level[0], mean.dtype).to(mean.device)
    final = sample(denoise, x, level, _finely(gaussian), every=len(level)).final
    with torch.no_grad():
        return gaussian.covariance.analyse(denoise(final, level[-1]) - mean)


def _left(dimension: int, quarter: Tensor, half: Tensor, whole: Tensor) -> float:
    """The error of the last of three ends, each of twice the steps of the one before."""
    before, last = (float(distances(a, b, dimension).mean()) for a, b in ((quarter, half), (half, whole)))
    return last / (min(max(before / last, 2.0), 8.0) - 1) if last > 0 else 0.0


def _finely(gaussian: Gaussian) -> Solver:
    return gaussian_exponential(gaussian, 3, corrector=True)


def distances(found: Tensor, wanted: Tensor, dimension: int) -> Tensor:
    """Root mean square per number of the data, of each seed [B], in float64."""
    return ((found - wanted).double().square().sum(1) / dimension).sqrt()


def span(schedule: Schedule, steps: int, rho: float = math.inf) -> NoiseLevel:
    """Levels from end to end of a schedule, the first without signal if that is: even in log(sigma/alpha), or in
    (sigma/alpha)^(1/rho)."""
    whole = schedule.grid(_WHOLE)[:-1]
    infinite = int(not bool(torch.isfinite(whole.ratio[0])))
    spaced = spaced_ratios(steps - infinite, float(whole.ratio[infinite]), float(whole.ratio[-1]), rho)
    level = schedule.level(spaced)
    return NoiseLevel.join(whole[0], level) if infinite else level
