"""Levels from the spectrum of the data alone, at which a linear solver is nearest to the exact flow of a Gaussian.

For Gaussian data the denoiser multiplies each mode by a number, and so does a linear solver, whatever its order. Run on
one row that holds one number for each distinct variance, the solver itself says what it makes of each mode, and the
error of its end is a sum over modes, differentiable in the levels. No network is asked.

Source: Benita, Elad & Keshet 2025, arXiv 2502.00180, who do it for DDIM and DDPM on stationary data; here for any
covariance and any linear solver.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..bounds import MOST_STEPS, integer
from ..noise import NoiseLevel, Schedule, preserving, spaced_ratios
from ..sampling.solvers import Solver, check_solver, dpmpp_2m
from ..sampling.trajectory import check_grid
from ..theory import modes
from ..theory.gaussian import Gaussian, check_gaussian

#: Karras22's rho of the grids to begin from, besides levels even in log(sigma/alpha) and the schedule's own.
_RHO = (3.0, 5.0, 7.0, 10.0, 15.0)
#: How many of the grids the descent begins from, and its steps from each.
_STARTS, _STEPS = 2, 60
#: A gap that a grid does not have, between its last level and the lowest, as a share of its mean gap.
_CLOSED = 1e-2
#: The logarithm of an error that is none.
_FAR = 1e3
#: By how much the parameters are changed where the slope is found by differences.
_DIFFERENCE = 1e-5


def spectral_levels(
    gaussian: Gaussian, schedule: Schedule, steps: int, solver: Solver = dpmpp_2m, start: float | None = None
) -> NoiseLevel:
    """The levels at which a linear solver ends nearest to the exact flow of Gaussian data: a grid [steps + 1].

    The first level is the schedule's, where noise is drawn; the others lie between that and its lowest, and sigma = 0
    is the end. From the best of some grids (the schedule's own, Karras22's of several rho, even in log) the gaps are
    moved down the gradient of `spectral_error`. The result is never worse than any of these grids.

    Any sampler takes it: ``up.sample(model, x, level, solver)``; of diffusers, the Euler scheduler by
    ``sigmas=level.ratio.tolist()``, those of flows by ``sigmas=level.sigma[:-1].tolist()``, and those that take whole
    times of a table by ``timesteps=schedule.time(level[:-1]).round().long().tolist()``.

    Args:
        gaussian: statistics of the data, of any form.
        schedule: of the network.
        steps: of the grid.
        solver: linear in states and denoised images, alike for each number: `euler` (DDIM), `heun`, `dpmpp_2m`,
            `dpmpp_3m`, or one of your own that works on any rows.
        start: the noise-to-signal ratio to begin from in place of the schedule's first.

    Raises:
        ValueError: fewer than 2 steps, or a solver that is not linear, or not alike for each number.

    Examples:
        >>> import torch
        >>> import underpaint as up
        >>> covariance = up.Covariance(torch.tensor([4.0, 0.25]), torch.eye(2))
        >>> gaussian = up.Gaussian(torch.zeros(2), covariance)
        >>> best = up.spectral_levels(gaussian, up.EDM(), steps=4)
        >>> usual = up.EDM().grid(steps=4)
        >>> error = up.spectral_error(gaussian, best, up.dpmpp_2m)
        >>> bool(error < up.spectral_error(gaussian, usual, up.dpmpp_2m))
        True
    """
    integer(steps, "number of steps", 2, MOST_STEPS)
    variances, shares = _spectrum(gaussian)
    high, low = _ends(schedule, start)
    first = schedule.grid(1, start)[:1]
    grids = _grids(schedule, steps, start, high, low, infinite=not bool(torch.isfinite(first.ratio[0])))
    _check_linear(variances, _joined(first, grids[0], schedule), solver)

    def error(times: Tensor) -> Tensor:
        """Of log(sigma/alpha) after the first level, in levels that preserve the variance and have a slope."""
        level = NoiseLevel.join(preserving(first.ratio), preserving(times.exp()), NoiseLevel.clean())
        return _error(variances, shares, level, solver)

    def true(times: Tensor) -> float:
        with torch.no_grad():
            found = float(_error(variances, shares, _joined(first, times, schedule), solver))
        return found if math.isfinite(found) else math.inf

    known = sorted(grids, key=true)
    found = [_descended(times, high, low, error) for times in known[:_STARTS]]
    return _joined(first, min([*known, *found], key=true), schedule)


def spectral_error(gaussian: Gaussian, level: NoiseLevel, solver: Solver) -> Tensor:
    """How far a linear solver ends from the exact flow of Gaussian data: root mean square per number, over start states
    of N(alpha mu, alpha^2 Sigma + sigma^2).

    sqrt(1/D sum_k (alpha^2 lambda_k + sigma^2) (g_k - psi_k)^2), with what the solver makes of mode k, g_k, and the
    flow, psi_k (Pierret24). A float64 number, differentiable in the levels. Work: one run of the solver on as many
    numbers as there are distinct variances.

    Raises:
        ValueError: the grid is none, or the solver is not linear, or not alike for each number.

    Examples:
        >>> import torch
        >>> import underpaint as up
        >>> gaussian = up.Gaussian.isotropic(torch.zeros(2), variance=1.0)
        >>> few, many = up.EDM().grid(steps=10), up.EDM().grid(steps=50)
        >>> error = up.spectral_error(gaussian, few, up.euler)
        >>> bool(up.spectral_error(gaussian, many, up.euler) < error / 3)
        True
    """
    check_grid(level)
    variances, shares = _spectrum(gaussian)
    with torch.no_grad():
        _check_linear(variances, level, solver)
    return _error(variances, shares, level, solver)


def _error(variances: Tensor, shares: Tensor, level: NoiseLevel, solver: Solver) -> Tensor:
    missed = _gains(variances, level, solver) - modes.psi(variances, level[0], level[-1])
    start = level.alpha[0] ** 2 * variances + level.sigma[0] ** 2
    return (shares * start * missed**2).sum().sqrt()


def _gains(variances: Tensor, level: NoiseLevel, solver: Solver, start: Tensor | None = None) -> Tensor:
    """What a solver makes of a state of 1 along each mode (or of ``start``), [M] float64."""

    def denoise(x: Tensor, at: NoiseLevel) -> Tensor:
        return modes.shrinkage(variances, at) * x

    x = torch.ones_like(variances) if start is None else start
    for state, _ in solver(denoise, x.unsqueeze(0), level):
        x = state.squeeze(0)
    return x


def _check_linear(variances: Tensor, level: NoiseLevel, solver: Solver) -> None:
    """ValueError unless the solver multiplies each number by one of its own."""
    start = torch.linspace(-1, 2, len(variances), dtype=torch.float64)
    check_solver(solver)
    try:
        gains, found = _gains(variances, level, solver), _gains(variances, level, solver, start)
        linear = torch.allclose(found, gains * start, rtol=1e-4, atol=1e-6 * float(gains.abs().max()))
    except RuntimeError:  # it is for rows of another length
        linear = False
    if not linear:
        raise ValueError(
            "Levels from the spectrum need a solver that is linear and alike for each number, such as euler, heun or "
            "dpmpp_2m; the Gaussian exponential integrator is exact for its Gaussian at any levels."
        )


def _spectrum(gaussian: Gaussian) -> tuple[Tensor, Tensor]:
    """The distinct variances [M], and the share of the dimensions that has each."""
    values, counts = check_gaussian(gaussian).covariance.spectrum.unique(return_counts=True)
    return values, counts.double() / gaussian.dimension


def _ends(schedule: Schedule, start: float | None) -> tuple[float, float]:
    """log(sigma/alpha) of the highest level that is not noise alone, and of the lowest."""
    times = schedule.grid(1000, start).log_ratio[:-1]
    return float(times[int(not bool(torch.isfinite(times[0])))]), float(times[-1])


def _grids(
    schedule: Schedule, steps: int, start: float | None, high: float, low: float, infinite: bool
) -> list[Tensor]:
    """log(sigma/alpha) after the first level, [steps - 1], of grids to begin from."""
    count = steps - int(infinite)
    rules = [spaced_ratios(count, math.exp(high), math.exp(low), rho).log() for rho in (math.inf, *_RHO)]
    own = schedule.grid(steps, start).log_ratio[1:-1].clamp(min=low)
    return [own, *(times if infinite else times[1:] for times in rules)]


def _descended(times: Tensor, high: float, low: float, error: Callable[[Tensor], Tensor]) -> Tensor:
    """Times [K] moved down the gradient; they fall from below ``high``, and stay above ``low``.

    Gaps are a softmax, so that any values of its parameters are times in order. The last gap is that to ``low``.
    """
    from scipy.optimize import minimize  # type: ignore[import-untyped,unused-ignore]

    gaps = -torch.cat([times.new_tensor([high]), times, times.new_tensor([low])]).diff()
    begin = gaps.clamp(min=_CLOSED * (high - low) / len(gaps)).log()

    def moved(values: Tensor) -> Tensor:
        return high - (high - low) * values.softmax(0).cumsum(0)[:-1]

    def value(parameters: NDArray[np.float64]) -> float:
        with torch.no_grad():
            found = float(error(moved(torch.from_numpy(parameters))).clamp(min=1e-300).log())
        return found if math.isfinite(found) else _FAR

    def sloped(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        values = torch.tensor(parameters, requires_grad=True)
        found = error(moved(values)).clamp(min=1e-300).log()
        (slope,) = torch.autograd.grad(found, values)
        finite = bool(torch.isfinite(found) & torch.isfinite(slope).all())
        return (float(found.detach()), slope.numpy()) if finite else (_FAR, np.zeros(len(parameters)))

    known = _has_slope(lambda values: error(moved(values)), begin)
    options = {"maxiter": _STEPS, **({} if known else {"eps": _DIFFERENCE})}
    result = minimize(sloped if known else value, begin.numpy(), jac=known, method="L-BFGS-B", options=options)
    return moved(torch.from_numpy(result.x))


def _has_slope(function: Callable[[Tensor], Tensor], values: Tensor) -> bool:
    """Whether torch knows the slope: not where a solver leaves torch, nor beside a level without signal, where
    infinities cancel."""
    values = values.clone().requires_grad_()
    try:
        (slope,) = torch.autograd.grad(function(values), values)
    except RuntimeError:
        return False
    return bool(torch.isfinite(slope).all())


def _joined(first: NoiseLevel, times: Tensor, schedule: Schedule) -> NoiseLevel:
    return NoiseLevel.join(first, schedule.level(times.exp()), NoiseLevel.clean())
