"""Noise levels and schedules.

A *noise level* is the pair (alpha, sigma) of the forward process ``x_t = alpha_t x_0 + sigma_t eps``; time is only a
label for it. A schedule maps its own time to levels, and back. Everything above this module speaks of levels alone, so
that any denoiser works with any schedule.

Sources: Ho et al. 2020 (linear betas), Rombach et al. 2022 (scaled-linear), Nichol & Dhariwal 2021 (cosine),
Karras22 (EDM grid), Lipman et al. 2023 and Esser et al. 2024 (rectified flow and its time shift).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from .bounds import MOST_STEPS, integer, shown

Time = float | Tensor
Betas = Literal["linear", "scaled-linear", "cosine"]


def float64(value: float | Tensor) -> Tensor:
    """A number or tensor as levels and times are held: float64, on the CPU."""
    return torch.as_tensor(value, dtype=torch.float64, device="cpu")


@dataclass(frozen=True, eq=False)
class NoiseLevel:
    """One level, or a grid of N: ``alpha`` and ``sigma`` are float64 CPU tensors of shape [] or [N].

    Raises:
        ValueError: a value is negative or not finite, the shapes differ, or alpha and sigma are both zero.

    Examples:
        >>> import underpaint as up
        >>> level = up.NoiseLevel(alpha=0.6, sigma=0.8)
        >>> level
        NoiseLevel(alpha=0.6, sigma=0.8)
        >>> round(float(level.ratio), 4)
        1.3333
        >>> up.NoiseLevel.join(level, up.NoiseLevel.clean())
        NoiseLevel(2 levels, sigma/alpha 1.33333 to 0)
    """

    alpha: Tensor
    sigma: Tensor

    def __post_init__(self) -> None:
        if any(torch.is_complex(torch.as_tensor(value)) for value in (self.alpha, self.sigma)):
            raise ValueError("A noise level needs real alpha and sigma, got complex numbers.")
        alpha, sigma = float64(self.alpha), float64(self.sigma)
        if alpha.shape != sigma.shape and alpha.ndim and sigma.ndim:
            raise ValueError(f"alpha and sigma need one shape, got {tuple(alpha.shape)} and {tuple(sigma.shape)}.")
        alpha, sigma = torch.broadcast_tensors(alpha, sigma)
        for name, value in (("alpha", alpha), ("sigma", sigma)):
            if not bool((torch.isfinite(value) & (value >= 0)).all()):
                raise ValueError(f"A noise level needs finite {name} >= 0, got {value.tolist()}.")
        if bool(((alpha == 0) & (sigma == 0)).any()):
            raise ValueError("A noise level needs alpha > 0 or sigma > 0; both are zero.")
        object.__setattr__(self, "alpha", alpha)
        object.__setattr__(self, "sigma", sigma)

    @property
    def ratio(self) -> Tensor:
        """Noise-to-signal ratio sigma/alpha; infinite where alpha = 0."""
        return self.sigma / self.alpha

    @property
    def log_ratio(self) -> Tensor:
        """log(sigma/alpha), minus half the log-SNR; infinite at either end."""
        return self.sigma.log() - self.alpha.log()

    @property
    def norm(self) -> Tensor:
        """sqrt(alpha^2 + sigma^2): 1 for variance-preserving levels."""
        return torch.hypot(self.alpha, self.sigma)

    def __len__(self) -> int:
        return len(self.alpha)

    def __getitem__(self, index: int | slice | Tensor) -> NoiseLevel:
        chosen = object.__new__(NoiseLevel)  # of levels that were checked
        object.__setattr__(chosen, "alpha", self.alpha[index])
        object.__setattr__(chosen, "sigma", self.sigma[index])
        return chosen

    def __iter__(self) -> Iterator[NoiseLevel]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        if self.alpha.ndim == 0:
            return f"NoiseLevel(alpha={self.alpha:.6g}, sigma={self.sigma:.6g})"
        return f"NoiseLevel({len(self)} levels, sigma/alpha {float(self.ratio[0]):.6g} to {float(self.ratio[-1]):.6g})"

    @staticmethod
    def clean() -> NoiseLevel:
        """The level of data: alpha = 1, sigma = 0."""
        return NoiseLevel(float64(1.0), float64(0.0))

    @staticmethod
    def join(*levels: NoiseLevel) -> NoiseLevel:
        """Concatenate levels and grids into one grid."""
        return NoiseLevel(
            torch.cat([level.alpha.reshape(-1) for level in levels]),
            torch.cat([level.sigma.reshape(-1) for level in levels]),
        )

    def columns(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma in the dtype and on the device of x [B, D], shaped to multiply it: [] or [B, 1]."""
        alpha, sigma = self.alpha.to(x), self.sigma.to(x)
        return (alpha, sigma) if alpha.ndim == 0 else (alpha.unsqueeze(-1), sigma.unsqueeze(-1))


@runtime_checkable
class Schedule(Protocol):
    """A map from a family's own time to noise levels. Grids run from noise to data and end at sigma = 0 exactly once.

    A schedule with an attribute ``ratios``, (lowest, highest) sigma/alpha, is a part of another (`Truncated`): a
    `Model` on it may not be asked outside.

    Examples:
        >>> import underpaint as up
        >>> isinstance(up.EDM(), up.Schedule)
        True
    """

    def __call__(self, t: Time) -> NoiseLevel:
        """The level at time t (a number or a tensor)."""

    def time(self, level: NoiseLevel) -> Tensor:
        """The time at which this schedule has the level's noise-to-signal ratio, kept within the schedule's range."""

    def level(self, ratio: float | Tensor) -> NoiseLevel:
        """The level of this family with the given noise-to-signal ratio, inside the range or not."""

    def grid(self, steps: int, start: float | None = None) -> NoiseLevel:
        """steps + 1 levels from the ratio ``start`` (default: the schedule's own first level) to sigma = 0."""


def check_steps(steps: int, start: float | None = None) -> None:
    """Raise ValueError for a grid of no step or of too many, or one that begins at no noise-to-signal ratio."""
    if steps < 1:
        raise ValueError(f"A grid needs at least 1 step, got {steps}.")
    integer(steps, "number of steps of a grid", 1, MOST_STEPS)
    if start is not None and not start > 0:
        raise ValueError(f"A grid begins at a positive noise-to-signal ratio, got {start}.")


def preserving(ratio: float | Tensor) -> NoiseLevel:
    """The level of a ratio with alpha^2 + sigma^2 = 1."""
    ratio = float64(ratio)
    norm = torch.hypot(torch.ones_like(ratio), ratio)
    return NoiseLevel(1 / norm, torch.where(torch.isinf(ratio), 1.0, ratio / norm))


def make_betas(kind: Betas, steps: int, first: float, last: float) -> Tensor:
    """beta_t of the DDPM family, [steps] float64. 'cosine' ignores first and last (Nichol & Dhariwal 2021, eq. 17)."""
    integer(steps, "number of betas", 0, 1_000_000)
    if kind == "linear":
        return torch.linspace(first, last, steps, dtype=torch.float64)
    if kind == "scaled-linear":
        return torch.linspace(first**0.5, last**0.5, steps, dtype=torch.float64) ** 2
    if kind == "cosine":
        angle = (torch.arange(steps + 1, dtype=torch.float64) / steps + 0.008) / 1.008 * math.pi / 2
        bar = angle.cos() ** 2
        return (1 - bar[1:] / bar[:-1]).clamp(max=0.999)
    raise ValueError(f"Unknown beta schedule {kind!r}; choose 'linear', 'scaled-linear' or 'cosine'.")


@dataclass(frozen=True, eq=False)
class DDPM:
    """Variance-preserving schedule with discrete times 0 .. T-1: alpha = sqrt(abar_t), sigma = sqrt(1 - abar_t).

    Between its steps log(sigma/alpha) is interpolated linearly in t, so that the SNR is continuous and decreasing.
    Source: Ho et al. 2020, eq. 4. `betas` may also be given as a tensor [T].

    Examples:
        >>> import underpaint as up
        >>> schedule = up.DDPM.stable_diffusion()
        >>> schedule(500)
        NoiseLevel(alpha=0.525674, sigma=0.850686)
        >>> schedule.grid(steps=4)
        NoiseLevel(5 levels, sigma/alpha 14.6146 to 0)
        >>> round(float(schedule.time(schedule(500))), 6)
        500.0
    """

    betas: Betas | Tensor = "linear"
    steps: int = 1000
    first: float = 1e-4
    last: float = 0.02

    def __repr__(self) -> str:
        table = self.betas if isinstance(self.betas, str) else "table"
        return f"DDPM({table}, {len(self.log_ratios)} steps)"

    @staticmethod
    def stable_diffusion() -> DDPM:
        """The scaled-linear schedule of Stable Diffusion: beta from 0.00085 to 0.012 in 1000 steps."""
        return DDPM("scaled-linear", 1000, 0.00085, 0.012)

    @cached_property
    def log_ratios(self) -> Tensor:
        """log(sigma/alpha) at t = 0 .. T-1, float64."""
        given = self.betas
        beta = make_betas(given, self.steps, self.first, self.last) if isinstance(given, str) else float64(given)
        if beta.ndim != 1 or len(beta) < 2 or not bool(((beta > 0) & (beta < 1)).all()):
            raise ValueError(f"Betas must be at least two numbers inside (0, 1), got {shown(beta.tolist())}.")
        log_bar = torch.log1p(-beta).cumsum(0)
        return 0.5 * (torch.log(-torch.expm1(log_bar)) - log_bar)

    def __call__(self, t: Time) -> NoiseLevel:
        t = torch.as_tensor(t, dtype=torch.float64, device="cpu")
        table = self.log_ratios
        low = t.detach().floor().clamp(0, len(table) - 2).long()
        log_ratio = table[low] + (t - low) * (table[low + 1] - table[low])
        # sigmoid keeps both ends exact: alpha^2 = sigmoid(-2 log r), sigma^2 = sigmoid(2 log r)
        return NoiseLevel(torch.sigmoid(-2 * log_ratio).sqrt(), torch.sigmoid(2 * log_ratio).sqrt())

    def time(self, level: NoiseLevel) -> Tensor:
        table, log_ratio = self.log_ratios, level.log_ratio
        low = (torch.searchsorted(table, log_ratio.contiguous(), right=True) - 1).clamp(0, len(table) - 2)
        t = low + (log_ratio - table[low]) / (table[low + 1] - table[low])
        return t.clamp(0, len(table) - 1)

    def level(self, ratio: float | Tensor) -> NoiseLevel:
        return preserving(ratio)

    def grid(self, steps: int, start: float | None = None) -> NoiseLevel:
        """Whole times, evenly spaced from the start down to 0, then sigma = 0."""
        check_steps(steps, start)
        if start is None and steps > len(self.log_ratios):
            most = len(self.log_ratios)
            raise ValueError(f"A schedule of {most:,} steps has no grid of {steps:,}; take {most:,} at most.")
        first = float(len(self.log_ratios) - 1 if start is None else self.time(self.level(start)))
        times = torch.linspace(first, 0, steps, dtype=torch.float64)
        if start is None:
            times = times.round()
        return NoiseLevel.join(self(times), NoiseLevel.clean())


@dataclass(frozen=True)
class EDM:
    """Variance-exploding schedule whose time is sigma itself (alpha = 1), on the grid of Karras22 eq. 5.

    Examples:
        >>> import underpaint as up
        >>> up.EDM(sigma_min=0.01, sigma_max=50.0).grid(steps=3).sigma
        tensor([5.0000e+01, 2.4013e+00, 1.0000e-02, 0.0000e+00], dtype=torch.float64)
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(f"EDM needs 0 < sigma_min < sigma_max, got {self.sigma_min} and {self.sigma_max}.")
        if not self.rho > 0:
            raise ValueError(f"EDM needs rho > 0, got {self.rho}.")

    def __call__(self, t: Time) -> NoiseLevel:
        sigma = torch.as_tensor(t, dtype=torch.float64, device="cpu")
        return NoiseLevel(torch.ones_like(sigma), sigma)

    def time(self, level: NoiseLevel) -> Tensor:
        return level.ratio.clamp(self.sigma_min, self.sigma_max)

    def level(self, ratio: float | Tensor) -> NoiseLevel:
        return self(ratio)

    def grid(self, steps: int, start: float | None = None) -> NoiseLevel:
        """Karras levels: evenly spaced in sigma^(1/rho), then sigma = 0."""
        check_steps(steps, start)
        sigma = spaced_ratios(steps, self.sigma_max if start is None else start, self.sigma_min, self.rho)
        return NoiseLevel.join(self(sigma), NoiseLevel.clean())


@dataclass(frozen=True)
class Flow:
    """Rectified flow: alpha = 1 - t, sigma = t for t in [0, 1], with the time shift of Esser et al. 2024 on its grid.

    ``shift`` s moves grid times u to s u / (1 + (s - 1) u); it changes where the grid lies, not what a time means.

    Examples:
        >>> import underpaint as up
        >>> up.Flow(shift=3.0).grid(steps=4).sigma
        tensor([1.0000, 0.9000, 0.7500, 0.5000, 0.0000], dtype=torch.float64)
    """

    shift: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.shift < math.inf:
            raise ValueError(f"The time shift of a flow must be positive and finite, got {self.shift}.")

    def __call__(self, t: Time) -> NoiseLevel:
        t = torch.as_tensor(t, dtype=torch.float64, device="cpu")
        return NoiseLevel(1 - t, t)

    def time(self, level: NoiseLevel) -> Tensor:
        return level.sigma / (level.alpha + level.sigma)

    def level(self, ratio: float | Tensor) -> NoiseLevel:
        ratio = float64(ratio)
        t = torch.where(torch.isinf(ratio), 1.0, ratio / (1 + ratio))
        return self(t)

    def grid(self, steps: int, start: float | None = None) -> NoiseLevel:
        """Evenly spaced times, shifted; the first is t = 1 (alpha = 0) unless ``start`` says otherwise."""
        check_steps(steps, start)
        first = 1.0 if start is None else float(self.time(self.level(start)))
        unshifted = first / (self.shift - (self.shift - 1) * first)
        u = torch.linspace(unshifted, 0, steps + 1, dtype=torch.float64)
        return self(self.shift * u / (1 + (self.shift - 1) * u))


def spaced_ratios(count: int, high: float, low: float, rho: float = math.inf) -> Tensor:
    """``count`` ratios from high to low, even in ratio^(1/rho); rho = inf is even in log. [count] float64."""
    integer(count, "number of levels", 1, MOST_STEPS + 1)
    if not 0 < low < high < math.inf:
        raise ValueError(f"Ratios must run from a high to a lower positive value, got {high} to {low}.")
    u = torch.linspace(0, 1, count, dtype=torch.float64)
    if math.isinf(rho):
        return torch.exp(math.log(high) + u * (math.log(low) - math.log(high)))
    return (high ** (1 / rho) + u * (low ** (1 / rho) - high ** (1 / rho))) ** rho
