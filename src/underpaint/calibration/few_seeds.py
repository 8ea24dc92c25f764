"""Plans from few seeds of a network, with a denoiser made of the data as their prior.

Trajectories of that denoiser cost no call of the network. A plan is fitted to both together: many seeds of the prior
hold the coefficients to what the data say, at any levels, and the search on the network begins at the levels that the
prior has found. How much the network's seeds count, held-out seeds of the network decide, and whether to leave the
prior's plan as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..noise import NoiseLevel
from ..sampling.fitted import Plan
from ..theory.denoiser import Denoiser
from .fit import Fit, Run, plan_of
from .levels import shortest_path, step_losses
from .refine import refine
from .search import guesses, search
from .selection import PlanSelector, compared, gives_way
from .solution import FineSolution, solve_finely

#: Seeds of the prior that plans are fitted to, and that they are judged on; apart from those of the network.
_SEEDS, _HELD = range(2_000_000, 2_000_032), range(2_001_000, 2_001_016)
#: Calls of the prior, on each of its seeds, that the search for its own plan may take, and the last phase.
_EFFORT, _REFINING = 100, 300
#: How often each seed of the network counts beside one of the prior: what is tried for the coefficients.
_COUNTS = (2, 8)

Path = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class FewSeeds:
    """Finds plans for a network from few of its fine solutions, and a prior.

    Attributes:
        judge: of the network, with its fine solutions of the seeds of the fit and the ends of held-out ones.
        prior: a denoiser that costs nothing, such as a mixture of Gaussians of the data.
        fewest: calls of the shortest plan that is to be found.
        effort: calls on each seed that the search for the levels of a plan may take on the network.
    """

    judge: PlanSelector
    prior: Denoiser
    fewest: int
    effort: int

    @staticmethod
    def most_calls(count: int, effort: int) -> int:
        """The most that `find` calls the network for a plan of so many calls."""
        return (2 * len(_COUNTS) + 4) * count + effort

    @staticmethod
    def seeds_held(seeds: int) -> int:
        """Seeds whose fine solutions are held at once, with so many of the network."""
        return len(_SEEDS) + sum(often * seeds + len(_SEEDS) for often in _COUNTS)

    def find(self, count: int, fewer: Path | None) -> tuple[Path, Plan]:
        """The prior's path, from which that of more calls may begin, and the plan that is nearest on held-out seeds:
        the prior's own; its levels, with coefficients of both; levels searched on both; or the plain solver that is
        the best on the prior, where that is surely nearer."""
        gaussian, shortest = self.judge.gaussian, shortest_path(self._losses, count)
        alone = Fit(self.prior, gaussian, self._known)
        found = search(alone, guesses(alone.fine.level, gaussian, count, fewer, shortest), _EFFORT)
        known = PlanSelector(self.prior, gaussian, self.judge.schedule, self._known, self._held)
        own = refine(alone, self.judge.schedule, found, _REFINING, lambda run: known.error(self._plan(run)))
        tried = list[tuple[Plan, Tensor]]()

        def keep(plan: Plan) -> float:
            tried.append((plan, self.judge.errors(plan, self.judge.unseen)))
            return float(tried[-1][1].mean())

        keep(self._plan(own))
        fits = [self._pooled(often) for often in _COUNTS]
        trusted = min(fits, key=lambda fit: keep(self._plan(fit.run(found.path))))
        keep(self._plan(search(trusted, [found.path], self.effort)))
        best, mine = min(tried, key=lambda one: float(one[1].mean()))
        keep(plain := known.best_plain(shortest))
        theirs = tried[-1][1]
        return found.path, replace(plain if gives_way(mine, theirs) else best, errors=compared(mine, theirs))

    def _pooled(self, often: int) -> Fit:
        """A fit to the prior's seeds and the network's, each of which counts so often; it is called on them once."""
        own, known, count = self.judge.fitted, self._known, len(self.judge.fitted.seeds)

        def denoise(x: Tensor, level: NoiseLevel) -> Tensor:
            denoised = self.judge.denoise(x[:count], level).to(x)
            return torch.cat([denoised.repeat(often, 1), self.prior(x[count * often :], level)])

        return Fit(denoise, self.judge.gaussian, _side_by_side([own] * often + [known]))

    def _plan(self, run: Run) -> Plan:
        return plan_of(run, self.judge.fitted.level[0])

    def _solved(self, seeds: Sequence[int], whole: bool) -> FineSolution:
        steps = len(self.judge.fitted.level)
        return solve_finely(self.prior, self.judge.gaussian, self.judge.schedule, seeds, steps, whole)

    @cached_property
    def _known(self) -> FineSolution:
        return self._solved(_SEEDS, whole=True)

    @cached_property
    def _held(self) -> FineSolution:
        return self._solved(_HELD, whole=False)

    @cached_property
    def _losses(self) -> Tensor:
        return step_losses(self._known, self.judge.gaussian.covariance, self.fewest)


def _side_by_side(parts: Sequence[FineSolution]) -> FineSolution:
    """Solutions at the same levels as one."""
    states, seen = (torch.cat(tensors, 1) for tensors in ([p.states for p in parts], [p.seen for p in parts]))
    return replace(parts[0], states=states, seen=seen, seeds=tuple(seed for part in parts for seed in part.seeds))
