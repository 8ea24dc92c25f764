"""The choice between what was fitted and plain solvers, on seeds that nothing was fitted to."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..noise import NoiseLevel, Schedule
from ..sampling.fitted import Calibration, Plan
from ..sampling.trajectory import initial_noise, sample
from ..theory.denoiser import Denoiser
from ..theory.gaussian import Gaussian
from .fit import distances
from .levels import smoothed
from .solution import FineSolution, span

#: The plain solvers that a plan has to beat, and rho of their grids besides levels even in log(sigma/alpha).
_PLAIN = ("dpmpp-3m", "exponential-2c", "exponential-3c")
_RHO = (5.0, 7.0, 10.0, 15.0)
#: How many of the best plain solvers on held-out seeds are held against each other on the seeds of the fit, too.
_FINALISTS = 4


@dataclass(frozen=True, eq=False)
class PlanSelector:
    """Holds plans against plain solvers on seeds that nothing was fitted to, and plain solvers against each other on
    those of the fit, too: a few on the border between two images make much of a mean, and the more there are, the less
    depends on which."""

    denoise: Denoiser
    gaussian: Gaussian
    schedule: Schedule
    fitted: FineSolution
    unseen: FineSolution

    @staticmethod
    def most_calls(count: int) -> int:
        """The most that `choose` calls the denoiser for a plan of so many calls."""
        return (1 + len(_PLAIN) * (len(_RHO) + 3) + _FINALISTS) * count

    def errors(self, plan: Plan, fine: FineSolution) -> Tensor:
        """The distances to the ends of fine solutions that a plan leaves, of each of their seeds [B]."""
        solver, level = Calibration((plan,), {}).solver(self.gaussian, plan.calls)
        mean = self.gaussian.mean
        noise = initial_noise(fine.seeds, len(mean), level[0], mean.dtype).to(mean.device)
        found = sample(self.denoise, noise, level, solver, every=len(level)).final
        return distances(self.gaussian.covariance.analyse(found - mean), fine.final, len(mean))

    def error(self, plan: Plan) -> float:
        """The mean distance on held-out seeds."""
        return float(self.errors(plan, self.unseen).mean())

    def choose(self, plan: Plan, path: tuple[int, ...], fit: float) -> Plan:
        """The plan, or the best plain solver at as many calls where that is nearer on held-out seeds.

        Which plain solver that is, the seeds of the fit decide, too, among the best on held-out ones.

        Args:
            plan: what was fitted.
            path: levels of the fine solution where steps lose least, for plain solvers.
            fit: the error of the fit.
        """
        plain = [Plan(grid, solver=name) for grid in self.grids(path) for name in _PLAIN]
        errors = [self.errors(other, self.unseen) for other in plain]
        mine, theirs = self.error(plan), [float(found.mean()) for found in errors]
        best = min(range(len(plain)), key=lambda i: theirs[i])
        if mine > theirs[best]:

            def overall(i: int) -> float:
                return float(torch.cat([errors[i], self.errors(plain[i], self.fitted)]).mean())

            best = min(sorted(range(len(plain)), key=lambda i: theirs[i])[:_FINALISTS], key=overall)
            plan = plan if mine <= theirs[best] else plain[best]
        return replace(plan, errors={"fit": fit, "held_out": mine, "plain": theirs[best]})

    def grids(self, path: tuple[int, ...]) -> list[NoiseLevel]:
        """Of as many levels as a path has: even in log(sigma/alpha) and by Karras22's rule; the path, and smoothed."""
        level = self.fitted.level
        infinite = not bool(torch.isfinite(level.ratio[0]))
        even = smoothed(level, path)[int(infinite) :].exp()
        spaced = self.schedule.level(even)
        grids = [span(self.schedule, len(path), rho) for rho in (math.inf, *_RHO)]
        grids += [level[torch.tensor(path)], NoiseLevel.join(level[0], spaced) if infinite else spaced]
        return [NoiseLevel.join(grid, NoiseLevel.clean()) for grid in grids]
