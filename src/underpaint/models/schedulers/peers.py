"""The peers of our solvers: diffusers' own schedulers as solvers of rows, and the level grids that diffusers offers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ...noise import DDPM, EDM, NoiseLevel, Schedule, spaced_ratios
from ...sampling.solvers import Solver, Step, find_solver
from ...theory.denoiser import Denoiser
from .levels import scheduler_levels

#: peer -> the scheduler that is called for it, and with what options. A first-order DPM-Solver++ is DDIM on any levels.
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "DDIM": ("DPMSolverMultistepScheduler", {"solver_order": 1}),
    "DPM-Solver++ 2M": ("DPMSolverMultistepScheduler", {"solver_order": 2}),
    "DPM-Solver++ 2M heun": ("DPMSolverMultistepScheduler", {"solver_order": 2, "solver_type": "heun"}),
    "DPM-Solver++ 3M": ("DPMSolverMultistepScheduler", {"solver_order": 3}),
    "UniPC-2 bh2": ("UniPCMultistepScheduler", {"solver_order": 2, "solver_type": "bh2"}),
    "UniPC-2 bh1": ("UniPCMultistepScheduler", {"solver_order": 2, "solver_type": "bh1"}),
    "UniPC-3 bh2": ("UniPCMultistepScheduler", {"solver_order": 3, "solver_type": "bh2"}),
    "UniPC-3 bh1": ("UniPCMultistepScheduler", {"solver_order": 3, "solver_type": "bh1"}),
    "DEIS-2": ("DEISMultistepScheduler", {"solver_order": 2}),
    "DEIS-3": ("DEISMultistepScheduler", {"solver_order": 3}),
}
#: family of peers -> its variants; the first is what diffusers makes by default. Heun is EDM's formula, this library's.
FAMILIES: dict[str, tuple[str, ...]] = {
    "DDIM": ("DDIM",),
    "DPM-Solver++": ("DPM-Solver++ 2M", "DPM-Solver++ 2M heun", "DPM-Solver++ 3M"),
    "UniPC": ("UniPC-2 bh2", "UniPC-2 bh1", "UniPC-3 bh2", "UniPC-3 bh1"),
    "DEIS": ("DEIS-2", "DEIS-3"),
    "Heun": ("heun",),
}
#: Schedulers whose default levels a family has, where they are not those of the one that is called for it.
_DEFAULTS = {"DDIM": "DDIMScheduler", "heun": "HeunDiscreteScheduler"}

_SPACINGS = ("linspace", "leading", "trailing")
_RHO = {"rho 3": 3.0, "rho 5": 5.0, "karras": 7.0, "rho 10": 10.0, "rho 15": 15.0}
#: Level grids: diffusers' three spacings of time, the schedule's own, Beta(0.6, 0.6), even in sigma^(1/rho), and even
#: in log(sigma/alpha), which diffusers calls exponential, or Lu's.
GRIDS = (*_SPACINGS, "own", "beta", *_RHO, "log")
#: Grids in sigma/alpha begin here at most: above, there is nothing but noise.
_HIGHEST = 1e3


def peer(name: str) -> Solver:
    """A peer as a solver of any grid; a name of this library's solvers is one of those.

    The scheduler carries x / |level|, which is variance preserving, and is fed with the denoised image
    (``prediction_type="sample"``). A step into sigma = 0 is not left to it: it is the denoised image in all of them,
    but DEIS and UniPC (bh1) would come to it by 0/0.
    """
    if name not in SCHEDULERS:
        return find_solver(name)

    def solve(denoise: Denoiser, x: Tensor, level: NoiseLevel) -> Iterator[Step]:
        scheduler = _scheduler(*SCHEDULERS[name])
        scheduler.set_timesteps(len(level) - 1)
        scheduler.timesteps, scheduler.sigmas = torch.arange(len(level) - 1), level.ratio.float()
        state = x / level[0].norm.to(x)
        for t, (here, there) in zip(scheduler.timesteps, pairwise(level), strict=True):
            denoised = denoise(here.norm.to(x) * state, here)
            state = denoised if there.sigma == 0 else scheduler.step(denoised, t, state).prev_sample
            yield there.norm.to(x) * state, denoised

    return solve


def steps_of(name: str, calls: int) -> int:
    """Steps of a grid that take at most so many calls: Heun takes two a step and one for the last."""
    return (calls + 1) // 2 if name == "heun" else calls


def calls_of(name: str, steps: int) -> int:
    """Calls that a grid of so many steps takes."""
    return 2 * steps - 1 if name == "heun" else steps


def grids(schedule: Schedule) -> tuple[str, ...]:
    """The grids on offer to every solver. Spacings of time need a table of times; EDM's own grid is one of Karras'."""
    absent = () if isinstance(schedule, DDPM) else _SPACINGS
    return tuple(grid for grid in GRIDS if grid not in absent and not (grid == "own" and isinstance(schedule, EDM)))


def lay(schedule: Schedule, grid: str, steps: int, start: float | None = None) -> NoiseLevel:
    """steps + 1 levels of a schedule from the ratio ``start``, by default its first, to sigma = 0.

    Raises:
        ValueError: there is no such grid, or it begins at the first level only.
    """
    if grid in _SPACINGS and isinstance(schedule, DDPM) and start is None:
        spaced = _scheduler("DPMSolverMultistepScheduler", {"timestep_spacing": grid}, schedule)
        return _laid(schedule, spaced, steps)
    high, low = (float(ratio) for ratio in schedule.grid(1000).ratio[[0, -2]])
    first = min(high if start is None else start, _HIGHEST)
    if grid == "own":
        return schedule.grid(steps, first if first < high else None)
    if grid == "beta":
        ratios = _beta(steps, first, low)
    elif grid == "log":
        ratios = spaced_ratios(steps, first, low)
    elif grid in _RHO:
        ratios = spaced_ratios(steps, first, low, _RHO[grid])
    else:
        raise ValueError(f"There is no grid {grid!r} here; choose from {', '.join(grids(schedule))}.")
    return NoiseLevel.join(schedule.level(ratios), NoiseLevel.clean())


def lay_default(schedule: Schedule, name: str, steps: int) -> NoiseLevel:
    """The levels of a peer's scheduler with nothing set but the number of steps; those of EDM and of flows are their
    own. DEIS ends just above sigma = 0."""
    if not isinstance(schedule, DDPM):
        return lay(schedule, "own", steps)
    return _laid(schedule, _scheduler(_DEFAULTS.get(name) or SCHEDULERS[name][0], {}, schedule), steps)


def _laid(schedule: DDPM, scheduler: Any, steps: int) -> NoiseLevel:
    """The schedule's levels at a scheduler's times, and where the scheduler ends."""
    scheduler.set_timesteps(steps)
    times = scheduler.timesteps.double().unique_consecutive()  # Heun's stand twice
    return NoiseLevel.join(schedule(times), scheduler_levels(scheduler)[-1])


def betas(schedule: DDPM) -> Tensor:
    """beta_t of a schedule from its log(sigma/alpha), [T] float64."""
    bar = torch.sigmoid(-2 * schedule.log_ratios)
    return 1 - bar / torch.cat([torch.ones_like(bar[:1]), bar[:-1]])


def _scheduler(kind: str, options: dict[str, Any], schedule: DDPM | None = None) -> Any:
    import diffusers

    given: dict[str, Any] = dict(options)
    if schedule is not None:
        given |= {"trained_betas": betas(schedule).numpy(), "num_train_timesteps": len(schedule.log_ratios)}
    if kind != "HeunDiscreteScheduler":  # which is asked for its times only
        given["prediction_type"] = "sample"
    return getattr(diffusers, kind)(**given)


def _beta(steps: int, high: float, low: float) -> Tensor:
    """Quantiles of Beta(0.6, 0.6) between two ratios. Source: Lee et al. 2024, as in diffusers."""
    from scipy.stats import beta  # type: ignore[import-untyped,unused-ignore]

    quantiles = beta.ppf(1 - torch.linspace(0, 1, steps, dtype=torch.float64).numpy(), 0.6, 0.6)
    return low + torch.from_numpy(quantiles) * (high - low)
