"""The choice between what was fitted and plain solvers, on seeds that nothing was fitted to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..noise import NoiseLevel, Schedule
from ..sampling.exponential import EXPONENTIALS
from ..sampling.fitted import Calibration, Plan
from ..sampling.solvers import Solver
from ..sampling.trajectory import initial_noise, sample
from ..sampling.use import by_guidance
from ..theory.denoiser import Denoiser
from ..theory.gaussian import Gaussian
from .levels import smoothed
from .solution import FineSolution, distances, span

#: The plain solvers that a plan is held against first: what the most use, DDIM, and ours of low and high order.
_FIRST = ("dpmpp-2m", "euler", "exponential-1c", "exponential-3c")
#: All that a plan can be; those with one call a step.
PLAIN = ("euler", "dpmpp-2m", "dpmpp-3m", *EXPONENTIALS)
#: Rho of their grids besides levels even in log(sigma/alpha).
_RHO = (5.0, 7.0, 10.0, 15.0)
#: Seeds on which they are tried, grids that the others are tried on, and how many are then held against each other.
_TRIED, _GRIDS, _FINALISTS = 4, 3, 4
#: A plan whose error is less than this share of the best of the first is not held against the others.
_CLEAR = 0.6
#: Resamples of the seeds for an interval.
_DRAWS = 2000


@dataclass(frozen=True, eq=False)
class PlanSelector:
    """Holds plans against plain solvers on seeds that nothing was fitted to, and plain solvers against each other on
    those of the fit, too: a few on the border between two images make much of a mean, and the more there are, the less
    depends on which.

    Attributes:
        reference: the error of the fine solutions; no error is taken for less.
        rivals: further solvers to be held against, by name, which no plan can be; each gets the best grids.
    """

    denoise: Denoiser
    gaussian: Gaussian
    schedule: Schedule
    fitted: FineSolution
    unseen: FineSolution
    reference: float = 0.0
    rivals: Mapping[str, Solver] = field(default_factory=dict)

    @staticmethod
    def most_calls(rivals: int = 0) -> int:
        """The most that `choose` calls the denoiser, on few seeds or all, for each call of the plan."""
        return 2 + PlanSelector._most_tried(rivals) + 2 * _FINALISTS

    @staticmethod
    def most_rows(fitted: int, held_out: int, rivals: int = 0) -> int:
        """The same on all seeds together, of so many to fit to and held out."""
        few, all_of = min(_TRIED, held_out), 2 + _FINALISTS
        return PlanSelector._most_tried(rivals) * few + all_of * held_out + _FINALISTS * fitted

    @staticmethod
    def usual_rows(held_out: int) -> int:
        """The same where the plan is clearly nearer than the first plain solvers."""
        return PlanSelector._first_tried() * min(_TRIED, held_out) + 2 * held_out

    @staticmethod
    def _first_tried() -> int:
        return len(_RHO) + 3 + _GRIDS * (len(_FIRST) - 1)

    @staticmethod
    def _most_tried(rivals: int) -> int:
        return PlanSelector._first_tried() + _GRIDS * (len(PLAIN) - len(_FIRST) + rivals)

    def errors(self, plan: Plan, fine: FineSolution, most: int | None = None) -> Tensor:
        """The distances to the ends of fine solutions that a plan leaves, of the first ``most`` of their seeds [B]."""
        return self._left(*Calibration((plan,), {}).solver(self.gaussian, plan.calls), fine, most)

    def _left(self, solver: Solver, level: NoiseLevel, fine: FineSolution, most: int | None = None) -> Tensor:
        mean = self.gaussian.mean
        noise = initial_noise(fine.seeds[:most], len(mean), level[0], mean.dtype).to(mean.device)
        found = torch.empty_like(noise)
        for rows, denoise in by_guidance(self.denoise, len(noise)):
            found[rows] = sample(denoise, noise[rows], level, solver, every=len(level)).final
        errors = distances(self.gaussian.covariance.analyse(found - mean), fine.final[:most], len(mean))
        return errors.clamp(min=self.reference)

    def error(self, plan: Plan) -> float:
        """The mean distance on held-out seeds."""
        return float(self.errors(plan, self.unseen).mean())

    def choose(self, plan: Plan, path: tuple[int, ...], fit: float) -> Plan:
        """The plan, or the best plain solver at as many calls where that is surely nearer on held-out seeds.

        All plain solvers are tried on a few of them, unless a few say clearly enough that the plan is nearer; the best
        of those on all. Which of these it is, the seeds of the fit decide, too, where a plan gives way.

        Of some fifty plain solvers and grids the best on these seeds is nearer there than on others, and one seed on
        the border between two images can decide a mean. So a plan gives way only where the interval of the ratio of
        mean errors lies above 1.

        Args:
            plan: what was fitted.
            path: levels of the fine solution where steps lose least, for plain solvers.
            fit: the error of the fit.
        """
        own = self.errors(plan, self.unseen)
        plain = self._finalists(self.grids(path), float(own[:_TRIED].mean()))
        errors = [self.errors(other, self.unseen) for other in plain]
        best = min(range(len(plain)), key=lambda i: float(errors[i].mean()))
        if gives_way(own, errors[best]):

            def overall(i: int) -> float:
                return float(torch.cat([errors[i], self.errors(plain[i], self.fitted)]).mean())

            best = min(range(len(plain)), key=overall)
            plan = plan if own.mean() <= errors[best].mean() else plain[best]
        found = {"fit": fit} | compared(own, errors[best])
        clear = found["held_out"] < _CLEAR * found["plain"]
        return replace(plan, errors=found | ({} if clear else self._rival(plain)))

    def best_plain(self, path: tuple[int, ...]) -> Plan:
        """The best plain solver on a few held-out seeds, at as many calls as a path has levels."""
        return self._finalists(self.grids(path), math.inf)[0]

    def _finalists(self, grids: Sequence[NoiseLevel], mine: float) -> list[Plan]:
        """The best plain solvers on a few held-out seeds, the best first: only that where the plan is clearly nearer.

        The first one tells the best grids, on which the others are tried.
        """
        tried = {(_FIRST[0], i): self._tried(Plan(grids[i], solver=_FIRST[0])) for i in range(len(grids))}
        best = [i for _, i in sorted(tried, key=lambda one: tried[one])[:_GRIDS]]
        tried |= {(name, i): self._tried(Plan(grids[i], solver=name)) for name in _FIRST[1:] for i in best}
        clear = mine <= _CLEAR * min(tried.values())
        if not clear:
            others = [name for name in PLAIN if name not in _FIRST]
            tried |= {(name, i): self._tried(Plan(grids[i], solver=name)) for name in others for i in best}
        listed = sorted(tried, key=lambda one: tried[one])[: 1 if clear else _FINALISTS]
        return [Plan(grids[i], solver=name) for name, i in listed]

    def _tried(self, plan: Plan) -> float:
        return float(self.errors(plan, self.unseen, _TRIED).mean())

    def _rival(self, plain: Sequence[Plan]) -> dict[str, float]:
        """The error of the best rival on held-out seeds, on the grids of the best plain solvers."""
        levels = [plan.level for plan in plain[:_GRIDS]]
        tried = [
            (float(self._left(solver, level, self.unseen, _TRIED).mean()), solver, level)
            for solver in self.rivals.values()
            for level in levels
        ]
        if not tried:
            return {}
        _, solver, level = min(tried, key=lambda one: one[0])
        return {"rival": float(self._left(solver, level, self.unseen).mean())}

    def grids(self, path: tuple[int, ...]) -> list[NoiseLevel]:
        """Of as many levels as a path has: even in log(sigma/alpha) and by Karras22's rule; the path, and smoothed."""
        level = self.fitted.level
        infinite = not bool(torch.isfinite(level.ratio[0]))
        even = smoothed(level, path)[int(infinite) :].exp()
        spaced = self.schedule.level(even)
        grids = [span(self.schedule, len(path), rho) for rho in (math.inf, *_RHO)]
        grids += [level[torch.tensor(path)], NoiseLevel.join(level[0], spaced) if infinite else spaced]
        return [NoiseLevel.join(grid, NoiseLevel.clean()) for grid in grids]


def gives_way(mine: Tensor, theirs: Tensor) -> bool:
    """Whether a plan of these errors [B] gives way to a plain solver of those: that is surely nearer."""
    return interval(mine, theirs)[0] > 1


def compared(mine: Tensor, theirs: Tensor) -> dict[str, float]:
    """The errors [B] of what was fitted beside those of a plain solver, as a `Plan` holds them."""
    low, high = interval(mine, theirs)
    return {"held_out": float(mine.mean()), "plain": float(theirs.mean()), "ratio_low": low, "ratio_high": high}


def interval(mine: Tensor, theirs: Tensor) -> tuple[float, float]:
    """5 % and 95 % of the ratio of mean errors [B] of the same seeds, when these are drawn anew."""
    index = torch.randint(len(mine), (_DRAWS, len(mine)), generator=torch.Generator().manual_seed(0))
    again = mine.double().cpu()[index].mean(1) / theirs.double().cpu()[index].mean(1).clamp(min=1e-12)
    low, high = torch.quantile(again, torch.tensor([0.05, 0.95], dtype=torch.float64)).tolist()
    return low, high
