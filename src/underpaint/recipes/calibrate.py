"""Fitting the Gaussian exponential integrator to a denoiser: where to call it, and what to make of each call.

Both are found along a fine solution (`recipes.search`). What was fitted is held against plain solvers on
further seeds; where one of these does better, the plan is that solver.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..noise import NoiseLevel, Schedule, spaced_ratios
from ..sampling.exponential import gaussian_exponential
from ..sampling.fitted import LOOK_BACK, TERMS, Calibration, Plan, fingerprint
from ..sampling.trajectory import initial_noise, sample
from ..theory.denoiser import Denoiser
from ..theory.gaussian import Gaussian
from .ask import Ask, cases, find_denoiser, in_turn, prepare
from .levels import FineSolution, shortest_path, smoothed, step_losses
from .progress import Progress, silent
from .search import Fit, Run, distances, guesses, search

#: The plain solvers that a plan has to beat, and rho of their grids besides levels even in log(sigma/alpha).
_PLAIN = ("dpmpp-3m", "exponential-2c", "exponential-3c")
_RHO = (5.0, 7.0, 10.0, 15.0)
#: How many of the best plain solvers on held-out seeds are held against each other on the seeds of the fit, too.
_FINALISTS = 4
#: Steps of a schedule's own grid, whose first and last level above 0 all others lie between.
_FINEST = 1000
#: Seeds whose fine solutions say what a step loses.
_DRAWN = 32


def calibrate_model(ask: Ask, **how: Any) -> Calibration:
    """Fit plans to a model, for all that is asked of it together: row i is run in case i modulo their number.

    Args:
        ask: the model, its cases, and the seeds to fit to.
        how: ``calls``, ``held_out``, ``fine``, ``effort`` and ``progress`` of `calibrate`.

    Raises:
        ValueError: as `prepare` and `calibrate`, or the statistics of the data are not known.
    """
    sampler = prepare(ask)
    model, gaussian = sampler.model, sampler.theory.everything
    if gaussian is None:
        raise ValueError(
            f"A calibration needs the Gaussian of the data of {model.name}; give a file with --gaussian (`underpaint "
            "stats` makes one, of a model's own samples if there is nothing else)."
        )
    listed = cases(ask, model)
    denoise = in_turn([find_denoiser(model, case) for case in listed])
    found = calibrate(denoise, gaussian, model.schedule, seeds=ask.seeds, **how)
    asked: dict[str, Any] = {"model": model.name, "place": ask.model, "cases": [str(case) for case in listed]}
    asked["statistics"] = dict(sampler.theory.about)
    return replace(found, about=asked | found.about)


def solve_finely(
    denoise: Denoiser,
    gaussian: Gaussian,
    schedule: Schedule,
    seeds: Sequence[int],
    steps: int = 250,
    progress: Progress = silent,
) -> FineSolution:
    """Solve at levels even in log(sigma/alpha), down to the schedule's last above 0; memory O(steps B D).

    The denoised image there is the end of the solution: below it, the denoiser has not been trained.
    """
    level = _span(schedule, steps)
    covariance, mean = gaussian.covariance, gaussian.mean
    x = initial_noise(seeds, gaussian.dimension, level[0], mean.dtype).to(mean.device)
    states, seen = [covariance.analyse(x - level.alpha[0].to(x) * mean)], []
    advance = progress("fine solution", len(level))

    def keep(index: int, x: Tensor, denoised: Tensor) -> None:
        states.append(covariance.analyse(x - level.alpha[index + 1].to(x) * mean))
        seen.append(covariance.analyse(denoised - mean))
        advance()

    solver = gaussian_exponential(gaussian, 3, corrector=True)
    final = sample(denoise, x, level, solver, keep, every=len(level)).final
    with torch.no_grad():
        seen.append(covariance.analyse(denoise(final, level[-1]) - mean))
    advance()
    return FineSolution(level, torch.stack(states), torch.stack(seen), tuple(seeds))


def _span(schedule: Schedule, steps: int, rho: float = math.inf) -> NoiseLevel:
    """Levels from end to end of a schedule, the first without signal if that is: even in log(sigma/alpha), or in
    (sigma/alpha)^(1/rho)."""
    whole = schedule.grid(_FINEST)[:-1]
    infinite = int(not bool(torch.isfinite(whole.ratio[0])))
    spaced = spaced_ratios(steps - infinite, float(whole.ratio[infinite]), float(whole.ratio[-1]), rho)
    level = schedule.level(spaced)
    return NoiseLevel.join(whole[0], level) if infinite else level


def calibrate(
    denoise: Denoiser,
    gaussian: Gaussian,
    schedule: Schedule,
    calls: Sequence[int] = (5, 6, 8, 10, 14, 20),
    seeds: Sequence[int] = range(32),
    held_out: Sequence[int] = range(1000, 1016),
    fine: int = 250,
    effort: int = 150,
    progress: Progress = silent,
) -> Calibration:
    """Fit plans to a denoiser.

    Args:
        denoise: the network, with its condition and guidance.
        gaussian: statistics of its data, of any form.
        schedule: the network's own.
        calls: numbers of calls to plan for.
        seeds: noise of the trajectories that plans are fitted to.
        held_out: seeds of others, on which they are judged.
        fine: steps of the fine solution; levels are chosen among its own.
        effort: calls on each seed that the search for the levels of a plan may take, once it has tried its guesses.
        progress: told of the fine solution and of each plan.

    Raises:
        ValueError: no seeds, seeds in both sets, or numbers of calls that are no plan.
    """
    wanted = sorted(set(calls))
    if not wanted or wanted[0] < 2 or wanted[-1] > fine - 2:
        raise ValueError(f"Plans need 2 to {fine - 2} calls, got {', '.join(map(str, calls)) or 'none'}.")
    if not seeds or not held_out or set(seeds) & set(held_out):
        raise ValueError(
            f"Plans are fitted to some seeds and judged on others; got {len(seeds)} to fit to and {len(held_out)} held "
            f"out, {len(set(seeds) & set(held_out))} of them in both."
        )
    solution = solve_finely(denoise, gaussian, schedule, seeds, fine, progress)
    unseen = solve_finely(denoise, gaussian, schedule, held_out, fine, progress)
    judge = Judge(denoise, gaussian, schedule, solution, unseen)
    losses = step_losses(_some(solution), gaussian.covariance.variances, wanted[0])
    advance = progress("plans", len(wanted))
    fit, plans = Fit(denoise, gaussian, solution), list[Plan]()
    best: Run | None = None
    for count in wanted:
        shortest = shortest_path(losses, count)
        best = search(fit, guesses(solution.level, gaussian, count, best, shortest), effort)
        plans.append(judge.choose(_plan(best, solution.level), shortest, best.loss))
        advance()
    about = {"seeds": list(seeds), "held_out": list(held_out), "fine": fine, "effort": effort}
    return Calibration(tuple(plans), about | {"gaussian": fingerprint(gaussian)})


@dataclass(frozen=True, eq=False)
class Judge:
    """Holds plans against plain solvers on seeds that nothing was fitted to, and plain solvers against each other on
    those of the fit, too: a few on the border between two images make much of a mean, and the more there are, the less
    depends on which."""

    denoise: Denoiser
    gaussian: Gaussian
    schedule: Schedule
    fitted: FineSolution
    unseen: FineSolution

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
        grids = [_span(self.schedule, len(path), rho) for rho in (math.inf, *_RHO)]
        grids += [level[torch.tensor(path)], NoiseLevel.join(level[0], spaced) if infinite else spaced]
        return [NoiseLevel.join(grid, NoiseLevel.clean()) for grid in grids]


def _plan(run: Run, level: NoiseLevel) -> Plan:
    coefficients = torch.zeros(len(run.path), LOOK_BACK, TERMS, dtype=torch.float64)
    for step, fitted in zip(coefficients, run.coefficients, strict=True):
        step.view(-1)[: len(fitted)] = fitted
    return Plan(NoiseLevel.join(level[0], level[torch.tensor(run.path)], NoiseLevel.clean()), coefficients)


def _some(solution: FineSolution) -> FineSolution:
    states, seen = solution.states[:, :_DRAWN], solution.seen[:, :_DRAWN]
    return replace(solution, states=states, seen=seen, seeds=solution.seeds[:_DRAWN])
