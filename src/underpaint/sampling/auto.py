"""How far to teleport: what a jump will cost, foreseen from the denoiser along the path of the Gaussian.

The jump follows the Gaussian's flow x_G, where the denoiser differs from the Gaussian's by R = D(x_G) - D_G(x_G). To
first order in R, a difference that arises at the ratio s moves the final image, along a mode of variance lambda, by
emergence(s) R dlog s, so that landing at the ratio s displaces the final image by

    E(s) = integral from s to s_T of R sqrt(lambda/(lambda + r^2)) dlog r.

With R linear between levels, in asinh(sqrt(lambda)/r), the sum below is that integral; it is finite from alpha = 0 on.

What it cannot foresee is that a small difference may tip an image from one kind to another (the modes of a mixture part
at some level, and there D spreads what a Gaussian would not); so a choice can be confirmed by sampling.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..noise import NoiseLevel
from ..theory.denoiser import Denoiser, checked
from ..theory.gaussian import Gaussian
from .solvers import Solver
from .teleport import teleport
from .trajectory import check_grid, initial_noise, sample


@dataclass(frozen=True, eq=False)
class SkipChoice:
    """How many steps of a grid to skip, and what that costs.

    Errors are root-mean-square displacements of the final image against sampling without a jump, in units of the
    standard deviation of the data.

    Attributes:
        skip: the number of steps, for `teleport`.
        level: the grid [N+1].
        tolerance: the error that was allowed.
        predicted: for every skip from 0 to N-1 and every seed, [N, B].
        measured: of the skips that were tried, NaN elsewhere, [N, B]; None if it was not asked for.

    Examples:
        >>> import torch
        >>> import underpaint as up
        >>> gaussian = up.Gaussian.isotropic(torch.zeros(2), variance=1.0)
        >>> choice = up.choose_skip(gaussian, gaussian, up.EDM().grid(steps=10))
        >>> choice.skip, choice.predicted.shape
        (9, torch.Size([10, 8]))
    """

    skip: int
    level: NoiseLevel
    tolerance: float
    predicted: Tensor
    measured: Tensor | None = None

    @property
    def ratio(self) -> float:
        """sigma/alpha at the landing; it serves grids of any number of steps."""
        return float(self.level.ratio[self.skip])

    def __repr__(self) -> str:
        return f"SkipChoice({self})"

    def __str__(self) -> str:
        measured = "" if self.measured is None else f", measured {float(self.measured[self.skip].mean()):.2g}"
        return (
            f"skip {self.skip} of {len(self.level) - 1} steps, down to sigma/alpha = {self.ratio:.3g}: error "
            f"predicted {float(self.predicted[self.skip].mean()):.2g}{measured}, allowed {self.tolerance:.2g} standard "
            "deviations of the data"
        )


def choose_skip(
    denoise: Denoiser,
    gaussian: Gaussian,
    level: NoiseLevel,
    seeds: Sequence[int] = range(8),
    tolerance: float = 0.02,
    measure: bool = False,
    solver: Solver | None = None,
    good_below: float = math.inf,
) -> SkipChoice:
    """The longest jump along a grid whose predicted error, the mean over seeds, stays within a tolerance.

    Calls the denoiser once a step, on one row for each seed; to measure, it samples the grid once, and again from where
    each jump lands that is tried.

    Args:
        denoise: the network, with its condition and guidance.
        level: the grid [N+1]; its last step is never skipped.
        tolerance: in standard deviations of the data.
        measure: also sample with and without the jump, by ``solver`` (that of `sample` unless given), and shorten it
            until the measured error is within the tolerance, too. It holds what the solver gets wrong in the steps that
            are jumped.
        good_below: the highest sigma/alpha at which the denoiser is believed, such as ``check(model).good_below``.
            Above it the Gaussian is: what the denoiser gets wrong there is no cost of a jump that leaves it out, and
            it is not asked.

    Raises:
        ValueError: the tolerance is not positive, or the grid is none.

    Examples:
        >>> import torch
        >>> import underpaint as up
        >>> gaussian = up.Gaussian.isotropic(torch.zeros(2), variance=1.0)
        >>> points = up.PointCloud(gaussian.sample(200, torch.Generator().manual_seed(0)))
        >>> choice = up.choose_skip(points, gaussian, up.EDM().grid(steps=20), tolerance=0.1)
        >>> 0 < choice.skip < 20
        True
    """
    if not 0 < tolerance < math.inf:
        raise ValueError(f"The tolerance is a positive share of the data's standard deviation, got {tolerance}.")
    check_grid(level)
    mean = gaussian.mean
    x = initial_noise(seeds, gaussian.dimension, level[0], mean.dtype).to(mean.device)
    predicted = predicted_error(denoise, gaussian, x, level, good_below)
    if bool(torch.isnan(predicted).any()):
        raise ValueError("The denoiser gave NaN or infinite values along the Gaussian's path; check the model.")
    within = predicted.mean(1) <= tolerance
    skip = int(within.cumprod(0).sum()) - 1
    measured = None
    if measure:
        skip, measured = _confirm(denoise, gaussian, x, level, skip, tolerance, solver)
    return SkipChoice(skip, level, tolerance, predicted, measured)


def predicted_error(
    denoise: Denoiser, gaussian: Gaussian, x: Tensor, level: NoiseLevel, good_below: float = math.inf
) -> Tensor:
    """E at every skip 0 .. N-1 of a grid for start states x [B, D], in standard deviations of the data. [N, B]
    float64. Above the ratio ``good_below``, R counts as 0.

    First order in R: it does not see how the denoiser itself, below the landing, spreads or gathers what arose above.
    Directions of no variance are taken to forget it.
    """
    denoise = checked(denoise)
    covariance = gaussian.covariance
    reach = torch.asinh(covariance.variances.sqrt() / level.ratio[:-1].unsqueeze(1))
    errors, last = [torch.zeros(len(x), dtype=torch.float64)], torch.empty(0)
    displaced: Tensor | float = 0.0
    with torch.no_grad():
        for i, here in enumerate(level[:-1]):
            state = gaussian.flow(x, level[0], here)
            known = gaussian.denoise(state, here)
            residual = covariance.analyse((denoise(state, here) if here.ratio <= good_below else known) - known)
            if i:
                displaced = displaced + (reach[i] - reach[i - 1]).to(residual) / 2 * (last + residual)
                errors.append(_error(displaced, gaussian))
            last = residual
    return torch.stack(errors)


def measured_error(
    denoise: Denoiser, gaussian: Gaussian, x: Tensor, level: NoiseLevel, skip: int, solver: Solver | None = None
) -> Tensor:
    """Displacement of the final image by a jump, on one grid and by one solver, in standard deviations of the data. [B]
    float64."""
    plain = sample(denoise, x, level, solver, every=len(level)).final
    return _error(teleport(gaussian, denoise, x, level, skip, solver, every=len(level)).final - plain, gaussian)


def _confirm(
    denoise: Denoiser,
    gaussian: Gaussian,
    x: Tensor,
    level: NoiseLevel,
    skip: int,
    tolerance: float,
    solver: Solver | None,
) -> tuple[int, Tensor]:
    """The longest jump of at most ``skip`` steps that keeps the tolerance, and the errors measured on the way to it."""
    plain = sample(denoise, x, level, solver, every=len(level)).final
    measured = torch.full((len(level) - 1, len(x)), torch.nan, dtype=torch.float64)
    measured[0] = 0
    while skip > 0:
        measured[skip] = _error(
            teleport(gaussian, denoise, x, level, skip, solver, every=len(level)).final - plain, gaussian
        )
        if measured[skip].mean() <= tolerance:
            break
        skip -= 1
    return skip, measured


def _error(displaced: Tensor, gaussian: Gaussian) -> Tensor:
    """Root mean square of rows, or of their coordinates (the basis is orthonormal), over the data's."""
    square = displaced.double().square().sum(1).cpu() / gaussian.dimension
    return (square / gaussian.covariance.spectrum.mean()).sqrt()
