"""Schedules beyond the three usual families: the continuous VP-SDE, any pair of functions, and a part of another.

Each is a `Schedule` of `noise`, for networks that were trained on something else than `DDPM`, `EDM` or `Flow`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .noise import NoiseLevel, Schedule, Time, check_steps, float64, preserving

#: Points at which the functions of an `Interpolant` are looked at, and halvings between two of them: together 2^-50.
_POINTS, _HALVINGS = 1025, 40


@dataclass(frozen=True)
class VPSDE:
    """Variance-preserving SDE in continuous time: log alpha = -(beta_min t + (beta_max - beta_min) t^2/2)/2 and sigma^2
    = 1 - alpha^2, for t from ``epsilon`` (data) to 1 (noise).

    Source: Song21, appendix C, eq. 33. Their networks are told 999 t: `wrap` with ``time=999.0``.

    Raises:
        ValueError: the betas are not positive, or epsilon does not lie inside (0, 1).

    Examples:
        >>> import underpaint as up
        >>> up.VPSDE()(0.5)
        NoiseLevel(alpha=0.281183, sigma=0.959654)
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        if not (0 < self.beta_min < math.inf and 0 < self.beta_max < math.inf):
            raise ValueError(f"VPSDE needs positive, finite betas, got {self.beta_min} and {self.beta_max}.")
        if not 0 < self.epsilon < 1:
            raise ValueError(f"The first time of a VPSDE lies inside (0, 1), got {self.epsilon}.")

    def _integral(self, t: Tensor) -> Tensor:
        """The integral of beta from 0 to t, which is log(1 + (sigma/alpha)^2)."""
        return self.beta_min * t + (self.beta_max - self.beta_min) * t**2 / 2

    def __call__(self, t: Time) -> NoiseLevel:
        integral = self._integral(float64(t))
        return NoiseLevel(torch.exp(-integral / 2), torch.sqrt(-torch.expm1(-integral)))

    def time(self, level: NoiseLevel) -> Tensor:
        integral = level.ratio.square().log1p().clamp(max=float(self._integral(float64(1.0))))
        root = torch.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * integral)
        return (2 * integral / (self.beta_min + root)).clamp(self.epsilon, 1)

    def level(self, ratio: float | Tensor) -> NoiseLevel:
        return preserving(ratio)

    def grid(self, steps: int, start: float | None = None) -> NoiseLevel:
        """Evenly spaced times from 1, or from the start, to epsilon; then sigma = 0."""
        check_steps(steps, start)
        first = 1.0 if start is None else float(self.time(self.level(start)))
        return NoiseLevel.join(
            self(torch.linspace(first, self.epsilon, steps, dtype=torch.float64)), NoiseLevel.clean()
        )


@dataclass(frozen=True, eq=False)
class Interpolant:
    """Any schedule x_t = alpha(t) x_0 + sigma(t) eps, from its two functions.

    Source: Albergo et al. 2023 (stochastic interpolants with Gaussian noise). Times are found by bisection.

    Args:
        alpha, sigma: functions of times, tensors of float64 [...] to tensors of the same shape; sigma/alpha falls all
            the way from noise to data.
        noise: the time of the highest noise.
        data: the time of the data, less than ``noise`` or more.

    Raises:
        ValueError: a function gives a value that is negative or not finite, or sigma/alpha rises on its way to data.

    Examples:
        >>> import math
        >>> import underpaint as up
        >>> half = math.pi / 2
        >>> schedule = up.Interpolant(lambda t: (half * t).cos(), lambda t: (half * t).sin())
        >>> schedule(0.5)
        NoiseLevel(alpha=0.707107, sigma=0.707107)
        >>> round(float(schedule.time(schedule.level(1.0))), 6)
        0.5
    """

    alpha: Callable[[Tensor], Tensor | float]
    sigma: Callable[[Tensor], Tensor | float]
    noise: float = 1.0
    data: float = 0.0

    def __post_init__(self) -> None:
        rising = self._angles.diff() > 1e-9
        if self.noise == self.data or bool(rising.any()) or not bool(self._angles[0] > self._angles[-1]):
            where = float(self._times[int(rising.to(torch.uint8).argmax())])
            raise ValueError(
                f"sigma/alpha must fall from noise (t = {self.noise:g}) to data (t = {self.data:g}); it does not from "
                f"t = {where:.4g} on. Are the two times, or the two functions, exchanged?"
            )

    def __repr__(self) -> str:
        ends = (self(end) for end in (self.noise, self.data))
        noise, data = (f"({float(level.alpha):.3g}, {float(level.sigma):.3g})" for level in ends)
        return f"Interpolant(alpha and sigma {noise} at t = {self.noise:g} to {data} at t = {self.data:g})"

    @cached_property
    def _times(self) -> Tensor:
        return torch.linspace(self.noise, self.data, _POINTS, dtype=torch.float64)

    @cached_property
    def _angles(self) -> Tensor:
        return self._angle(self._times)

    def _angle(self, t: Tensor) -> Tensor:
        """atan(sigma/alpha): the ratio in a form that is finite at both ends."""
        level = self(t)
        return torch.atan2(level.sigma, level.alpha)

    def __call__(self, t: Time) -> NoiseLevel:
        t = float64(t)
        with torch.no_grad():
            values = [float64(function(t)).expand(t.shape) for function in (self.alpha, self.sigma)]
        # what is zero but for rounding may come out as -1e-17
        alpha, sigma = (torch.where((value < 0) & (value > -1e-9), 0.0, value) for value in values)
        return NoiseLevel(alpha, sigma)

    def time(self, level: NoiseLevel) -> Tensor:
        return self._time_at(torch.atan2(level.sigma, level.alpha))

    def _time_at(self, angle: Tensor) -> Tensor:
        table = self._angles
        low = (torch.searchsorted(-table, -angle.contiguous(), right=True) - 1).clamp(0, len(table) - 2)
        noisier, cleaner = self._times[low], self._times[low + 1]
        for _ in range(_HALVINGS):
            middle = (noisier + cleaner) / 2
            ahead = self._angle(middle) > angle
            noisier, cleaner = torch.where(ahead, middle, noisier), torch.where(ahead, cleaner, middle)
        inside = torch.where(angle >= table[0], self.noise, (noisier + cleaner) / 2)
        return torch.where(angle <= table[-1], self.data, inside)

    def level(self, ratio: float | Tensor) -> NoiseLevel:
        """The level of that ratio, with the norm that the schedule has there, or at its nearer end."""
        ratio = float64(ratio)
        norm, unit = self(self._time_at(torch.atan(ratio))).norm, preserving(ratio)
        return NoiseLevel(norm * unit.alpha, norm * unit.sigma)

    def grid(self, steps: int, start: float | None = None) -> NoiseLevel:
        """Evenly spaced times from the noise, or from the start, to the data; the last level is (1, 0)."""
        check_steps(steps, start)
        first = self.noise if start is None else float(self._time_at(torch.atan(float64(start))))
        noisy = float(self(self.data).sigma) > 0
        times = torch.linspace(first, self.data, steps if noisy else steps + 1, dtype=torch.float64)
        return NoiseLevel.join(self(times[:steps]), NoiseLevel.clean())


@dataclass(frozen=True, eq=False)
class Truncated:
    """A part of a schedule, for a network that is only good there: its levels with ``low`` <= sigma/alpha <= ``high``.

    Grids begin at ``high``, and end with a step from no less than ``low`` to sigma = 0. A `Model` on it may not be
    asked outside. Where a grid begins below pure noise, its first state holds signal, too: let a `Gaussian` bring it
    there (`teleport` on a grid of `respend`, or ``gaussian.sample``).

    Raises:
        ValueError: not 0 <= low < high, no noise at all, or a grid that is to start above ``high``.

    Examples:
        >>> import underpaint as up
        >>> schedule = up.Truncated(up.EDM(), high=10.0)
        >>> schedule.grid(steps=4)
        NoiseLevel(5 levels, sigma/alpha 10 to 0)
    """

    schedule: Schedule
    low: float = 0.0
    high: float = math.inf

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high:
            raise ValueError(f"A schedule is cut to 0 <= low < high in sigma/alpha, got {self.low} and {self.high}.")

    @property
    def ratios(self) -> tuple[float, float]:
        """The lowest and highest sigma/alpha."""
        return self.low, self.high

    def __call__(self, t: Time) -> NoiseLevel:
        return self.schedule(t)

    def time(self, level: NoiseLevel) -> Tensor:
        return self.schedule.time(self.schedule.level(level.ratio.clamp(self.low, self.high)))

    def level(self, ratio: float | Tensor) -> NoiseLevel:
        return self.schedule.level(ratio)

    def grid(self, steps: int, start: float | None = None) -> NoiseLevel:
        """The grid of the whole schedule from the highest level of this part, its spacing kept in proportion where it
        would reach below the lowest."""
        if start is not None and start > self.high * (1 + 1e-6):
            raise ValueError(f"This schedule is cut at sigma/alpha = {self.high:g}; a grid cannot start at {start:g}.")
        top = float(self.schedule.grid(1).ratio[0])
        first = min(self.high, top) if start is None else min(start, self.high)
        grid = self.schedule.grid(steps, None if first == top else first)
        ratio = grid.ratio[:-1]
        if float(ratio[-1]) >= self.low:
            return grid
        return NoiseLevel.join(self.schedule.level(_raised(ratio, self.low)), NoiseLevel.clean())


def _raised(ratio: Tensor, low: float) -> Tensor:
    """Falling ratios, whose logarithms are drawn together so that the last is ``low``; an infinite first one stays."""
    infinite, logs = ratio[ratio.isinf()], ratio[ratio.isfinite()].log()
    if len(logs) < 2:
        return torch.cat([infinite, logs.exp().clamp(min=low)])
    share = (math.log(low) - logs[0]) / (logs[-1] - logs[0])
    return torch.cat([infinite, torch.exp(logs[0] + share * (logs - logs[0]))])
