"""Fitting the Gaussian exponential integrator to a denoiser: the levels of its calls, the coefficients of its steps.

Both are found along a fine solution. What was fitted is held against plain solvers on further seeds; where one of these
is surely nearer, the plan is that solver.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor

from ..bounds import MOST_ITEMS, MOST_STEPS, check_seeds, integer
from ..keeping import Keep, make_only, room_of
from ..noise import NoiseLevel, Schedule
from ..progress import Progress, Whole, silent
from ..sampling.fitted import Calibration, Plan, fingerprint
from ..sampling.solvers import Solver
from ..sampling.use import InTurn, use_of
from ..theory.denoiser import Denoiser
from ..theory.gaussian import Gaussian
from .few_seeds import FewSeeds
from .fit import Fit, plan_of
from .levels import shortest_path, step_losses
from .refine import affordable, checks, refine, refining_calls
from .search import guesses, most_calls, round_calls, search
from .selection import PlanSelector
from .solution import FINEST, Precision, fine_enough, precision, solve_finely

#: Numbers of calls to plan for, and seeds to judge on, unless told.
CALLS, HELD_OUT = (3, 4, 5, 6, 8, 10, 14, 20), range(1000, 1016)
#: Trials of the last phase beyond its first.
_TRIALS = 3
#: Seeds that levels of fewer calls are searched for on; coefficients, and the levels of so many calls, need all.
_SEARCHED, _FEW = 16, 6


def calibrate(
    denoise: Denoiser,
    gaussian: Gaussian,
    schedule: Schedule,
    calls: Sequence[int] = CALLS,
    seeds: Sequence[int] = range(32),
    held_out: Sequence[int] = HELD_OUT,
    fine: int | None = None,
    effort: int = 150,
    refined: bool = True,
    rivals: Mapping[str, Solver] | None = None,
    prior: Denoiser | None = None,
    progress: Progress = silent,
    keep: Keep = make_only,
) -> Calibration:
    """Fit plans to a denoiser.

    Args:
        denoise: the network, with its condition and guidance. Of several weights of guidance in turn (`in_turn`), all
            above 0, plans are made for the range: each coefficient is a straight line in the weight's logarithm,
            where that is nearer on held-out seeds than one for all.
        gaussian: statistics of its data, of any form.
        schedule: the network's own.
        calls: numbers of calls to plan for.
        seeds: noise of the trajectories that plans are fitted to.
        held_out: seeds of others, on which they are judged.
        fine: steps of the fine solution; unless given, as many as make its error small beside what plans may leave.
        effort: calls on each seed that the search for a plan may take, once it has tried its guesses. Levels are
            searched for on the first 16 seeds, below six calls, with as many more calls; coefficients are fitted to
            all.
        refined: whether a part of them goes to a last phase that moves levels and coefficients together.
        rivals: further solvers that the plans are held against, by name; a plan is none of them.
        prior: a denoiser that costs nothing, such as a mixture of Gaussians of the data. Then few seeds serve, such as
            4 to fit to and 4 to judge on, a ``fine`` of 60 and an ``effort`` of 40: levels and coefficients begin with
            the prior's and are held to them; see `FewSeeds`. ``refined`` and ``rivals`` are for a fit without one.
        progress: told of the calls of the denoiser, each on a batch of all seeds, and of how many there may be.
        keep: keeps the fine solutions, what steps lose, and each plan, so that an interrupted fit goes on.

    Raises:
        ValueError: no seeds, seeds in both sets, numbers of calls that are no plan, more cases in turn than seeds, or
            a range of guidance that a fit is not for.

    Examples:
        >>> import torch
        >>> import underpaint as up
        >>> gaussian = up.Gaussian.isotropic(torch.zeros(1), variance=4.0)
        >>> seeds = {"seeds": range(4), "held_out": range(4, 6)}
        >>> plans = up.calibrate(gaussian, gaussian, up.EDM(), [3], **seeds, fine=20, effort=1)
        >>> plans.plan(3).calls
        3
    """
    wanted = check_options(seeds, calls, held_out, fine, effort)
    _check_turns(denoise, len(seeds), prior)
    steps, known = fine, None
    if steps is None:
        finding = partial(_found_precision, denoise, gaussian, schedule, seeds, wanted[-1], progress)
        known = keep(f"precision for {wanted[-1]} calls", finding)
        steps = known.steps
    most = PlanSelector.most_calls(len(rivals or ()))
    shares = {count: len(seeds) / seeds_to_search(count, len(seeds)) for count in wanted}
    budgets = [most_calls(n, math.ceil(effort * share)) + checks(n) + most * n for n, share in shares.items()]
    if prior is not None:
        budgets = [FewSeeds.most_calls(count, effort) for count in wanted]
    whole = Whole(progress, "calls of the denoiser, or fewer", 3 * steps + sum(budgets))
    told = _telling(denoise, whole.advance)
    solve = partial(solve_finely, told, gaussian, schedule, seeds, steps, room=room_of(keep))
    solution = keep(f"fine solution of {steps}", solve)
    whole.reach(steps)
    held = partial(solve_finely, told, gaussian, schedule, held_out, steps, whole=False)
    unseen = keep(f"held-out end of {steps}", held)
    if known is None:
        known = keep(f"precision of {steps}", partial(precision, told, gaussian, schedule, solution))
    whole.reach(3 * steps)
    losses = torch.empty(0)
    if prior is None:
        losses = keep(f"losses from {wanted[0]} calls", lambda: step_losses(solution, gaussian.covariance, wanted[0]))
    fit, few = Fit(told, gaussian, solution), Fit(told, gaussian, solution.first(_SEARCHED))
    judge = PlanSelector(told, gaussian, schedule, solution, unseen, known.error, rivals or {})
    path: tuple[int, ...] | None = None
    plans = list[Plan]()

    def find(count: int, fewer: tuple[int, ...] | None) -> tuple[tuple[int, ...], Plan]:
        shortest, share, on = shortest_path(losses, count), shares[count], few if shares[count] > 1 else fit
        searched = on.calls
        paths = guesses(solution.level, gaussian, count, fewer, shortest)
        most, kept = effort + sum(map(len, paths)), _for_refining(count, effort) if refined else 0
        found = search(on, paths, int((effort - kept) * share)).path
        spent, begun = math.ceil((on.calls - searched) / share), fit.calls
        best = fit.run(found)
        if refined:
            left = most - spent - (fit.calls - begun)
            best = refine(fit, schedule, best, left, lambda run: judge.error(plan_of(run, solution.level[0])))
        plan = plan_of(best, solution.level[0])
        if fit.lean is not None:  # half of the coefficients may do better where seeds are few
            same = plan_of(Fit(told, gaussian, solution, ranged=False).run(found), solution.level[0])
            plan = min(plan, same, key=judge.error)
        return found, judge.choose(plan, shortest, best.loss)

    if prior is not None:
        find = FewSeeds(judge, prior, wanted[0], effort).find
    for i, count in enumerate(wanted):
        # the search for a plan begins with that of fewer calls, too
        name = f"plan of {count} calls after {', '.join(map(str, wanted[:i])) or 'none'}, effort {effort}"
        name += ", with a prior" if prior else ", refined" if refined else ""
        path, plan = keep(name, partial(find, count, path))
        plans.append(plan)
        whole.reach(3 * steps + sum(budgets[: i + 1]))
    about: dict[str, Any] = {"seeds": [*map(int, seeds)], "held_out": [*map(int, held_out)]}
    about |= {"fine": int(steps), "effort": int(effort)}
    about |= {"refined": refined and prior is None} | ({"for": use.known} if (use := use_of(denoise)).known else {})
    return Calibration(tuple(plans), about | {"reference_error": known.error, "gaussian": fingerprint(gaussian)})


def _found_precision(
    denoise: Denoiser, gaussian: Gaussian, schedule: Schedule, seeds: Sequence[int], calls: int, progress: Progress
) -> Precision:
    """The steps that a fine solution needs to have for plans of so many calls."""
    usual = 15 * max(8, calls)
    whole = Whole(progress, "calls of the denoiser that say how fine a solution is, about", usual)
    found = fine_enough(_telling(denoise, whole.advance), gaussian, schedule, seeds, calls)
    whole.reach(usual)
    return found


def _check_turns(denoise: Denoiser, seeds: int, prior: Denoiser | None) -> None:
    """Whether several denoisers that share a batch are all seen, and whether plans can be made for their guidance."""
    if not isinstance(denoise, InTurn):
        return
    count = len(denoise.denoisers)
    if count > seeds:
        raise ValueError(
            f"There are {count} cases to fit to (each condition with each guidance) and {seeds} "
            f"{'seed' if seeds == 1 else 'seeds'}: some would not be seen. Give {count} seeds or more."
        )
    weights = denoise.guidance(count)
    if weights is None:
        return
    if not bool((weights > 0).all()):
        raise ValueError(f"Plans for a range of guidance need weights above 0, got {float(weights.min()):g}.")
    if prior is not None:
        raise ValueError("Plans with a prior are for one guidance; leave out the prior, or give one weight.")


def _telling(denoise: Denoiser, advance: Callable[[], None]) -> Denoiser:
    """The denoiser, which tells of each call; of several in turn the first one does."""
    if isinstance(denoise, InTurn):
        first, *others = denoise.denoisers
        return InTurn((_telling(first, advance), *others), denoise.turn)

    @wraps(denoise, (), ())
    def call(x: Tensor, level: NoiseLevel) -> Tensor:
        denoised = denoise(x, level)
        advance()
        return denoised

    return call


def check_options(
    seeds: Sequence[int],
    calls: Sequence[int] = CALLS,
    held_out: Sequence[int] = HELD_OUT,
    fine: int | None = None,
    effort: int = 150,
    **_: Any,
) -> list[int]:
    """The numbers of calls in order, each once; ValueError where something asked for cannot be."""
    if fine is not None:
        integer(fine, "number of steps of the fine solution", 8, MOST_STEPS)
    integer(effort, "number of calls to search with", 0, MOST_ITEMS)
    for given in (seeds, held_out):
        if len(given):
            check_seeds(given)
    wanted = sorted({integer(count, "number of calls", -MOST_STEPS, MOST_STEPS) for count in calls})
    most = (fine or FINEST // 4) - 2
    if not wanted or wanted[0] < 2 or wanted[-1] > most:
        raise ValueError(f"Plans need 2 to {most} calls, got {', '.join(map(str, calls)) or 'none'}.")
    if not len(seeds) or not len(held_out) or set(seeds) & set(held_out):
        raise ValueError(
            f"Plans are fitted to some seeds and judged on others; got {len(seeds)} to fit to and {len(held_out)} held "
            f"out, {len(set(seeds) & set(held_out))} of them in both."
        )
    return wanted


def seeds_to_search(count: int, seeds: int) -> int:
    """How many of the seeds levels are searched for on. From six calls on a few seeds on the border between two images
    decide too much of what a part of them says."""
    return min(_SEARCHED, seeds) if count < _FEW else seeds


def _for_refining(count: int, effort: int) -> int:
    """What the search leaves of an effort: of what goes beyond a round of it, as many calls as `refine` needs to move
    as much as it may. At 8 calls a plan gained more from a whole round than from both phases cut short."""
    most = effort - round_calls(count)
    directions = affordable(count, most)
    return 0 if directions < 0 else min(most, refining_calls(count, directions) + _TRIALS * count)
