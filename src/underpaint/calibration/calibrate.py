"""Fitting the Gaussian exponential integrator to a denoiser: where to call it, and what to make of each call.

Both are found along a fine solution. What was fitted is held against plain solvers on further seeds; where one of these
does better, the plan is that solver.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..bounds import MOST_ITEMS, MOST_STEPS, check_seeds, integer
from ..keeping import Keep, make_only
from ..noise import NoiseLevel, Schedule
from ..progress import Progress, Whole, silent
from ..sampling.fitted import LOOK_BACK, TERMS, Calibration, Plan, fingerprint
from ..theory.denoiser import Denoiser
from ..theory.gaussian import Gaussian
from .fit import Fit, Run
from .levels import shortest_path, step_losses
from .search import guesses, most_calls, search
from .selection import PlanSelector
from .solution import FineSolution, solve_finely

#: Seeds whose fine solutions say what a step loses.
_DRAWN = 32


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
    keep: Keep = make_only,
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
        progress: told of the calls of the denoiser, each on a batch of all seeds, and of how many there may be.
        keep: keeps the fine solutions, what steps lose, and each plan, so that an interrupted fit goes on.

    Raises:
        ValueError: no seeds, seeds in both sets, or numbers of calls that are no plan.
    """
    wanted = check_options(seeds, calls, held_out, fine, effort)
    budgets = [most_calls(count, effort) + PlanSelector.most_calls(count) for count in wanted]
    whole = Whole(progress, "calls of the network at most", 2 * fine + sum(budgets))
    told = _telling(denoise, whole.advance)
    solution = keep("fine solution", partial(solve_finely, told, gaussian, schedule, seeds, fine))
    whole.reach(fine)
    unseen = keep("held-out solution", partial(solve_finely, told, gaussian, schedule, held_out, fine))
    whole.reach(2 * fine)
    losses = keep(
        f"losses from {wanted[0]} calls", lambda: step_losses(_some(solution), gaussian.covariance, wanted[0])
    )
    fit, judge = Fit(told, gaussian, solution), PlanSelector(told, gaussian, schedule, solution, unseen)
    path: tuple[int, ...] | None = None
    plans = list[Plan]()

    def find(count: int, fewer: tuple[int, ...] | None) -> tuple[tuple[int, ...], Plan]:
        shortest = shortest_path(losses, count)
        best = search(fit, guesses(solution.level, gaussian, count, fewer, shortest), effort)
        return best.path, judge.choose(_plan(best, solution.level), shortest, best.loss)

    for i, count in enumerate(wanted):
        # the search for a plan begins with that of fewer calls, too
        known = f"plan of {count} calls after {', '.join(map(str, wanted[:i])) or 'none'}, effort {effort}"
        path, plan = keep(known, partial(find, count, path))
        plans.append(plan)
        whole.reach(2 * fine + sum(budgets[: i + 1]))
    about = {"seeds": list(seeds), "held_out": list(held_out), "fine": fine, "effort": effort}
    return Calibration(tuple(plans), about | {"gaussian": fingerprint(gaussian)})


def _telling(denoise: Denoiser, advance: Callable[[], None]) -> Denoiser:
    """The denoiser, which tells of each call."""

    def call(x: Tensor, level: NoiseLevel) -> Tensor:
        denoised = denoise(x, level)
        advance()
        return denoised

    return call


def check_options(
    seeds: Sequence[int],
    calls: Sequence[int] = (5, 6, 8, 10, 14, 20),
    held_out: Sequence[int] = range(1000, 1016),
    fine: int = 250,
    effort: int = 150,
    **_: Any,
) -> list[int]:
    """The numbers of calls in order, each once; ValueError where something asked for cannot be."""
    integer(fine, "number of steps of the fine solution", 4, MOST_STEPS)
    integer(effort, "number of calls to search with", 0, MOST_ITEMS)
    for given in (seeds, held_out):
        if given:
            check_seeds(given)
    wanted = sorted({integer(count, "number of calls", -MOST_STEPS, MOST_STEPS) for count in calls})
    if not wanted or wanted[0] < 2 or wanted[-1] > fine - 2:
        raise ValueError(f"Plans need 2 to {fine - 2} calls, got {', '.join(map(str, calls)) or 'none'}.")
    if not seeds or not held_out or set(seeds) & set(held_out):
        raise ValueError(
            f"Plans are fitted to some seeds and judged on others; got {len(seeds)} to fit to and {len(held_out)} held "
            f"out, {len(set(seeds) & set(held_out))} of them in both."
        )
    return wanted


def _plan(run: Run, level: NoiseLevel) -> Plan:
    coefficients = torch.zeros(len(run.path), LOOK_BACK, TERMS, dtype=torch.float64)
    for step, fitted in zip(coefficients, run.coefficients, strict=True):
        step.view(-1)[: len(fitted)] = fitted
    return Plan(NoiseLevel.join(level[0], level[torch.tensor(run.path)], NoiseLevel.clean()), coefficients)


def _some(solution: FineSolution) -> FineSolution:
    states, seen = solution.states[:, :_DRAWN], solution.seen[:, :_DRAWN]
    return replace(solution, states=states, seen=seen, seeds=solution.seeds[:_DRAWN])
