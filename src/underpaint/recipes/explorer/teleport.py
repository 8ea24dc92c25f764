"""What a jump costs, foreseen and measured; and solvers that spend equal calls, with and without one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...analysis import agreement
from ...analysis.summary import Summary
from ...models.schedulers.peers import steps_of
from ...noise import NoiseLevel, Schedule, spaced_ratios
from ...progress import Progress, silent
from ...sampling.auto import predicted_error
from ...sampling.exponential import gaussian_exponential
from ...sampling.fitted import Calibration, read_calibration
from ...sampling.solvers import SOLVERS, Solver, dpmpp_3m
from ...sampling.teleport import respend, teleport
from ...sampling.trajectory import initial_noise, sample
from ...theory.denoiser import Denoiser
from ...theory.gaussian import Gaussian
from ..shared.request import Conditioning, Request, Sampler, describe, find_denoiser, network_calls, only
from ..shared.results import picture, quantity
from .painting import known_gaussian
from .plans import plan_from_data


@dataclass(frozen=True)
class TeleportLengths:
    """How many lengths of jump to try along the grid, and the error that is allowed, in standard deviations of the
    data."""

    count: int = 8
    tolerance: float = 0.1

    def __post_init__(self) -> None:
        if self.count < 1 or not self.tolerance > 0:
            raise ValueError(f"Jumps need a count and a tolerance above 0, got {self.count} and {self.tolerance}.")

    def skips(self, steps: int) -> tuple[int, ...]:
        """Up to ``count`` skips besides none, evenly spread over a grid."""
        return tuple(torch.linspace(0, steps - 1, min(self.count + 1, steps)).round().int().tolist())


@dataclass(frozen=True, eq=False)
class Hybrids:
    """Final images after jumps of rising length, against plain sampling on the same grid (accounting: *saved*).

    Errors are root-mean-square displacements of the final state, in standard deviations of the data.
    """

    setup: dict[str, Any]
    skip: tuple[int, ...] = quantity("steps of the grid that the jump replaces")
    level: NoiseLevel = quantity()
    nfe: tuple[int, ...] = quantity("calls of the network")
    predicted: Summary = quantity("error foreseen along the Gaussian's path, over seeds, by skip")
    measured: Summary = quantity("error, over seeds, by skip")
    tolerance: float = quantity("standard deviations of the data")
    advised: int = quantity("steps: the longest of these skips whose predicted error is allowed")
    plain: Tensor = picture()
    finals: Tensor = picture()


def compare_teleports(
    sampler: Sampler, request: Request, jumps: TeleportLengths | None = None, progress: Progress = silent
) -> Hybrids:
    """Jump and sample on, for jumps of several lengths: ``finals`` [skip, seed, C, H, W] beside ``plain`` [seed, ...].

    Memory: one trajectory, and the final states and images of every jump.

    Raises:
        ValueError: several conditions, or no statistics of the data are known.
    """
    jumps, case, level = jumps or TeleportLengths(), only(request, sampler), sampler.level
    gaussian, about = jumping_gaussian(sampler, case)
    skips, steps = jumps.skips(len(level) - 1), len(level) - 1
    calls = network_calls(sampler.model, case)
    advance = progress("jumps", steps + sum(steps - skip for skip in skips))
    denoise = counted(find_denoiser(sampler.model, case), advance)
    start = initial_noise(request.seeds, sampler.model.dimension, level[0])
    predicted = predicted_error(denoise, gaussian, start, level)[list(skips)]
    runs = [teleport(gaussian, denoise, start, level, skip, sampler.solve, every=steps) for skip in skips]
    finals = torch.stack([run.final for run in runs])
    variance = gaussian.covariance.spectrum.mean()
    error = (agreement.mean_squared_error(finals, finals[0]) / variance).sqrt()
    within = (predicted.mean(1) <= jumps.tolerance).cumprod(0).sum()
    return Hybrids(
        setup=describe(sampler, case, request.seeds) | {"jump by": about},
        skip=skips,
        level=level[torch.tensor(skips)],
        nfe=tuple(run.nfe * calls for run in runs),
        predicted=Summary.of(predicted),
        measured=Summary.of(error),
        tolerance=jumps.tolerance,
        advised=skips[int(within) - 1],
        plain=sampler.model.images(finals[0]),
        finals=sampler.model.images(finals),
    )


def jumping_gaussian(sampler: Sampler, case: Conditioning) -> tuple[Gaussian, str]:
    """The case's own Gaussian where it has one in closed form, else that of all the data; and which it is."""
    own, words = sampler.theory.nearest(case)
    if isinstance(own, Gaussian):
        return own, words
    return known_gaussian(sampler), "Gaussian of all the data (the condition's has no closed form under guidance)"


def counted(denoise: Denoiser, advance: Callable[[], None]) -> Denoiser:
    """The same denoiser, which tells of each call."""

    def counting(x: Tensor, level: NoiseLevel) -> Tensor:
        denoised = denoise(x, level)
        advance()
        return denoised

    return counting


@dataclass(frozen=True)
class SolverComparison:
    """Solvers at equal calls of the denoiser, against a fine solution.

    Attributes:
        calls: of the denoiser, for each sample.
        ratio: sigma/alpha that the jumps land on; their calls are *re-spent* below it.
        low: levels are even in log(sigma/alpha) down to this one; None keeps to the schedule's own grid.
        fine: steps of the fine solution.
        plan: `FROM_DATA` for a calibrated plan that is made of the data alone, or a file of plans; None for no plan.
    """

    calls: int = 8
    ratio: float = 10.0
    low: float | None = 0.1
    fine: int = 50
    plan: str | None = None

    def __post_init__(self) -> None:
        if not 2 <= self.calls <= self.fine or self.fine < 4:
            raise ValueError(f"A contest needs 2 calls to those of the fine solution ({self.fine}), got {self.calls}.")
        if not 0 < self.ratio < float("inf") or not (self.low is None or 0 < self.low < self.ratio):
            raise ValueError(
                f"The level to jump to must be a positive noise-to-signal ratio above the lowest ({self.low}), got "
                f"{self.ratio}."
            )

    def level(self, schedule: Schedule, steps: int, jump: bool = False) -> NoiseLevel:
        """The grid of a solver; with a jump, one interval more, which is the jump.

        Raises:
            ValueError: the jump lands above the first level.
        """
        own = schedule.grid(steps)
        if jump:
            own = respend(schedule, own, self.ratio)
        return own if self.low is None else log_grid(schedule, steps, self.low, self.ratio if jump else None)


@dataclass(frozen=True, eq=False)
class SolverErrors:
    """Distance of each solver's pictures from the fine solution; images [seed, C, H, W] by solver, those after the jump
    under the solver's name and `AFTER`, and those of a calibrated plan, which jumps by itself, under `PLAN`."""

    setup: dict[str, Any]
    ratio: float = quantity("sigma/alpha that the jumps land on")
    low: float | None = quantity("lowest sigma/alpha of levels even in its log; none on the schedule's own grid")
    solvers: tuple[str, ...] = quantity("name")
    jumps: bool = quantity("whether statistics of the data are known, so that there are jumps")
    nfe: dict[str, int] = quantity("calls of the network")
    error: dict[str, Summary] = quantity("distance from the fine solution, root mean square per number of the state")
    fine: Tensor = picture()
    finals: dict[str, Tensor] = picture()

    @property
    def best(self) -> str:
        return min(self.error, key=lambda name: float(self.error[name].mean))

    def names(self, suffix: str = "") -> tuple[str, ...]:
        """The solvers from the start, the calibrated plan among them; with `AFTER`, those after the jump."""
        return tuple(name for name in (*self.solvers, PLAN) if name + suffix in self.error)


#: What is added to a solver's name where it starts after the jump; a calibrated plan's name; and where that comes from
#: if not from a file.
AFTER, PLAN, FROM_DATA = ", after the jump", "calibrated plan", "data"


def log_grid(schedule: Schedule, steps: int, low: float | None = None, start: float | None = None) -> NoiseLevel:
    """The first level of a schedule; levels even in log(sigma/alpha) from it, or from close to it where it is noise
    alone, down to ``low``, by default close to the last; and sigma = 0. From ``start`` on, the first interval is a jump
    and comes before ``steps`` others."""
    own = schedule.grid(50)
    high, low, inner = float(own.ratio[0]), low or float(own.ratio[-2]), steps - (start is None)
    if start is None and math.isfinite(high):
        ratios = spaced_ratios(steps, high, low)[1:]
    else:  # a single step from noise alone has no level between
        ratios = spaced_ratios(max(inner, 1), start or float(own.ratio[1]), low)[:inner]
    return NoiseLevel.join(own[0], schedule.level(ratios), NoiseLevel.clean())


def compare_solvers(
    sampler: Sampler,
    request: Request,
    contest: SolverComparison | None = None,
    progress: Progress = silent,
    plans: Calibration | None = None,
) -> SolverErrors:
    """Sample the seeds with each solver at equal calls (Heun, two a step, may spend one less), from the start and after
    a jump; and by a calibrated plan of as many calls, if one is asked for.

    Without statistics of the data there are no jumps, and no Gaussian exponential integrator.

    Args:
        plans: those that the contest asks for, where they are known already.

    Raises:
        ValueError: several conditions, a jump that lands above the first level, or no plan of so many calls.
    """
    contest, case, schedule = contest or SolverComparison(), only(request, sampler), sampler.model.schedule
    gaussian = None if sampler.theory.everything is None else jumping_gaussian(sampler, case)[0]
    solvers: dict[str, Solver] = {name: solver for name, (solver, _) in SOLVERS.items()}
    if gaussian is not None:
        solvers["Gaussian exponential"] = gaussian_exponential(gaussian, corrector=True, ending="denoised")
    planned = _planned(sampler, request, case, contest, plans, progress)
    rounds = len(solvers) * (1 if gaussian is None else 2) + (planned is not None)
    advance = progress("solvers", contest.fine + rounds * contest.calls)
    denoise = counted(find_denoiser(sampler.model, case), advance)
    start = initial_noise(request.seeds, sampler.model.dimension, sampler.level[0])
    fine = sample(denoise, start, log_grid(schedule, contest.fine), dpmpp_3m, every=contest.fine).final
    runs = {}
    for name, solver in solvers.items():
        steps = steps_of(name, contest.calls)
        runs[name] = sample(denoise, start, contest.level(schedule, steps), solver)
        if gaussian is not None:
            jump = contest.level(schedule, steps, jump=True)
            runs[name + AFTER] = teleport(gaussian, denoise, start, jump, 1, solver)
    if planned is not None:
        solver, level = planned
        runs[PLAN] = sample(denoise, start, level, solver)
    calls = network_calls(sampler.model, case)
    error = {name: agreement.mean_squared_error(run.final, fine).sqrt() for name, run in runs.items()}
    return SolverErrors(
        setup=describe(sampler, case, request.seeds) | {"steps of the fine solution": contest.fine},
        ratio=contest.ratio,
        low=contest.low,
        solvers=tuple(solvers),
        jumps=gaussian is not None,
        nfe={name: run.nfe * calls for name, run in runs.items()},
        error={name: Summary.of(values) for name, values in error.items()},
        fine=sampler.model.images(fine),
        finals={name: sampler.model.images(run.final) for name, run in runs.items()},
    )


def _planned(
    sampler: Sampler,
    request: Request,
    case: Conditioning,
    contest: SolverComparison,
    plans: Calibration | None,
    progress: Progress,
) -> tuple[Solver, NoiseLevel] | None:
    """The solver and the grid of the calibrated plan that is asked for."""
    if contest.plan is None:
        return None
    if plans is None and contest.plan == FROM_DATA:
        plans = plan_from_data(sampler, case, contest.calls, request.statistics or (request.model,), progress)
    return (plans or read_calibration(contest.plan)).solver(known_gaussian(sampler), contest.calls)
