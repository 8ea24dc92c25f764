"""Teleport: skip the early steps in closed form (WV24 calls it analytical teleportation).

A grid's first ``skip`` intervals are replaced by one exact step of the Gaussian flow. Two accountings, always named:
*saved* keeps the rest of the original grid (fewer calls); *re-spent* lays a fresh grid of as many steps from the level
that is skipped to (same calls). A re-spent grid is a grid whose first interval is the jump: use it with skip = 1.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from ..noise import NoiseLevel, Schedule
from ..theory.denoiser import Denoiser, check_states
from ..theory.gaussian import Gaussian
from .solvers import Solver
from .trajectory import Callback, Trajectory, check_grid, sample


def teleport(
    gaussian: Gaussian,
    denoise: Denoiser,
    x: Tensor,
    level: NoiseLevel,
    skip: int,
    solver: Solver | None = None,
    callback: Callback | None = None,
    every: int = 1,
) -> Trajectory:
    """Jump from level[0] to level[skip] with the Gaussian's exact flow, then sample the rest with the denoiser.

    The jump is the first step of the trajectory, its endpoint estimate the Gaussian's; ``nfe`` counts the denoiser
    alone. skip = 0 is plain sampling. Of the states after the landing, each ``every``-th is kept, and the last.
    Source: WV23, section on acceleration; WV24.

    Raises:
        ValueError: skip is negative or leaves no step for the denoiser.

    Examples:
        >>> import torch
        >>> import underpaint as up
        >>> covariance = up.Covariance(torch.tensor([4.0, 0.25]), torch.eye(2))
        >>> gaussian = up.Gaussian(torch.zeros(2), covariance)
        >>> level = up.EDM().grid(steps=20)
        >>> x = up.initial_noise(range(4), gaussian.dimension, level[0])
        >>> network = gaussian  # or a model
        >>> quick = up.teleport(gaussian, network, x, level, up.steps_above(level, ratio=10.0))
        >>> quick.nfe
        14
    """
    check_grid(level)
    if not 0 <= skip < len(level) - 1 or skip != int(skip):
        raise ValueError(
            f"skip must lie between 0 and {len(level) - 2} for a grid of {len(level) - 1} steps, got {skip}."
        )
    check_states(x, gaussian.dimension)
    if skip == 0:
        return sample(denoise, x, level, solver, callback, every)
    landed = gaussian.flow(x, level[0], level[skip])
    tail = sample(denoise, landed, level[skip:], solver, callback, every)
    jump = gaussian.denoise(x, level[0])
    return Trajectory(
        torch.cat([x.unsqueeze(0), tail.x]),
        torch.cat([jump.unsqueeze(0), tail.denoised]),
        NoiseLevel.join(level[0], tail.level),
        tail.nfe,
    )


def steps_above(level: NoiseLevel, ratio: float) -> int:
    """How many steps of a grid to skip so that the jump lands on its last level with sigma/alpha >= ratio (*saved*).

    Where the grid has none but its first level above the ratio, that is none, and a warning says so.

    Raises:
        ValueError: the ratio is not positive and finite.

    Examples:
        >>> import underpaint as up
        >>> level = up.EDM().grid(steps=20)
        >>> up.steps_above(level, ratio=10.0)
        6
    """
    if not 0 < ratio < float("inf"):
        raise ValueError(f"The level to skip to must be a positive noise-to-signal ratio, got {ratio}.")
    skip = int((level.ratio >= ratio * (1 - 1e-9)).sum()) - 1
    if skip < 1:
        warnings.warn(skips_nothing(level, ratio), stacklevel=2)
    return max(0, skip)


def skips_nothing(level: NoiseLevel, ratio: float) -> str:
    """Why a jump to a ratio skips nothing on a grid, and which ratio would skip a step."""
    first = float(level.ratio[0])
    if len(level) < 3:
        return f"A jump to sigma/alpha = {ratio:.4g} skips nothing: the grid has one step."
    second = float(level.ratio[1])
    where = (
        f"the grid begins below that, at {first:.4g}"
        if first < ratio
        else f"the grid goes from {first:.4g} to {second:.4g}, which is below that, in its first step"
    )
    return (
        f"A jump to sigma/alpha = {ratio:.4g} skips nothing, and all steps are taken: {where}. Jump to {second:.4g} to "
        "skip one step, or take more steps."
    )


def respend(schedule: Schedule, level: NoiseLevel, ratio: float) -> NoiseLevel:
    """A grid that jumps from level[0] to ``ratio`` and spends as many steps as ``level`` has from there
    (*re-spent*).

    Examples:
        >>> import underpaint as up
        >>> up.respend(up.EDM(), up.EDM().grid(steps=20), ratio=10.0)
        NoiseLevel(22 levels, sigma/alpha 80 to 0)
    """
    if not ratio < float(level.ratio[0]):
        raise ValueError(
            f"The level to skip to, {ratio}, must lie below the first level of the grid, {level.ratio[0]:.4g}."
        )
    grid = NoiseLevel.join(level[0], schedule.grid(len(level) - 1, start=ratio))
    check_grid(grid)
    return grid
