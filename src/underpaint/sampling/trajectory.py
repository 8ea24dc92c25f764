"""A recorded trajectory, and the one loop that records it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps

import torch
from torch import Tensor

from ..bounds import check_seeds, integer, is_whole
from ..noise import NoiseLevel
from ..theory.denoiser import Denoiser, checked
from .solvers import Solver, check_solver, dpmpp_2m

#: callback(index, x, denoised) after step `index` (from 0), with the state after it.
Callback = Callable[[int, Tensor, Tensor], None]
#: Levels whose norms are as near to 1 as this preserve the variance.
_PRESERVED = 1e-6


@dataclass(frozen=True, eq=False)
class Trajectory:
    """What happened along a grid: state i pairs with level i.

    Attributes:
        x: states [N+1, B, D].
        denoised: the denoiser at states 0 .. N-1, [N, B, D].
        level: the N+1 levels.
        nfe: calls of the denoiser for each sample.

    Examples:
        >>> import torch
        >>> import underpaint as up
        >>> gaussian = up.Gaussian.isotropic(torch.zeros(3), variance=1.0)
        >>> level = up.EDM().grid(steps=8)
        >>> run = up.sample(gaussian, up.initial_noise(range(4), 3, level[0]), level)
        >>> run.x.shape, run.denoised.shape, run.nfe
        (torch.Size([9, 4, 3]), torch.Size([8, 4, 3]), 8)
    """

    x: Tensor
    denoised: Tensor
    level: NoiseLevel
    nfe: int

    def __repr__(self) -> str:
        _, batch, dimension = self.x.shape
        return f"Trajectory({len(self)} steps, {batch} samples, dimension {dimension}, {self.nfe} calls)"

    @property
    def final(self) -> Tensor:
        """The last state [B, D]."""
        return self.x[-1]

    @property
    def eps(self) -> Tensor:
        """The noise estimate (x - alpha D)/sigma at states 0 .. N-1, [N, B, D]."""
        alpha, sigma = (v[:-1, None, None].to(self.x) for v in (self.level.alpha, self.level.sigma))
        return (self.x[:-1] - alpha * self.denoised) / sigma

    @property
    def preserving(self) -> Trajectory:
        """The same run in variance-preserving form, states and levels over sqrt(alpha^2 + sigma^2).

        The shape of a path depends on how its states are scaled: where the noise is 80 times the data, all of it is the
        noise growing less. This is the scale in which WV23 speaks of planes, rotations and angles.
        """
        norm = self.level.norm
        if float((norm - 1).abs().max()) < _PRESERVED:
            return self
        level = NoiseLevel(self.level.alpha / norm, self.level.sigma / norm)
        return Trajectory(self.x / norm[:, None, None].to(self.x), self.denoised, level, self.nfe)

    def __len__(self) -> int:
        return len(self.denoised)

    def rows(self, index: int | slice | Tensor) -> Trajectory:
        """The same trajectory for some of the samples."""
        index = slice(int(index), int(index) + 1 or None) if is_whole(index) else index
        return Trajectory(self.x[:, index], self.denoised[:, index], self.level, self.nfe)

    @staticmethod
    def join(parts: Sequence[Trajectory]) -> Trajectory:
        """Put batches that were sampled on one grid side by side."""
        x, denoised = (torch.cat(tensors, 1) for tensors in zip(*((p.x, p.denoised) for p in parts), strict=True))
        return Trajectory(x, denoised, parts[0].level, parts[0].nfe)


class NotFinite(ValueError):
    """Sampling ended in NaN or infinity."""


def initial_noise(
    seeds: Sequence[int], dimension: int, level: NoiseLevel, dtype: torch.dtype = torch.float32
) -> Tensor:
    """x_T = sigma_T eps [len(seeds), D], one CPU generator per seed: a seed gives the same noise in any batch, on any
    device.

    Raises:
        ValueError: no seeds, a seed that is no whole number of 32 bits, a dimension below 1, or a dtype without
            fractions.

    Examples:
        >>> import torch
        >>> import underpaint as up
        >>> level = up.EDM().grid(steps=8)
        >>> two = up.initial_noise([7, 8], dimension=3, level=level[0])
        >>> torch.equal(up.initial_noise([8], 3, level[0])[0], two[1])
        True
    """
    check_seeds(seeds)
    integer(dimension, "dimension", 1, 2**40)
    if not dtype.is_floating_point:
        raise ValueError(f"Noise is of a floating-point dtype, got {dtype}.")
    rows = [torch.randn(dimension, generator=torch.Generator().manual_seed(int(seed)), dtype=dtype) for seed in seeds]
    return level.sigma.to(dtype) * torch.stack(rows)


class SeededNoise:
    """Unit noise that belongs to seeds; see `seeded_noise`."""

    def __init__(self, seeds: Sequence[int]) -> None:
        check_seeds(seeds)
        self.seeds = tuple(map(int, seeds))
        self._generators = [torch.Generator().manual_seed(seed) for seed in self.seeds]
        self._begun = False

    def __repr__(self) -> str:
        return f"SeededNoise(of {len(self.seeds)} seeds)"

    def __call__(self, x: Tensor) -> Tensor:
        """Of each row its own generator's next."""
        if len(x) != len(self.seeds):
            raise ValueError(f"There are {len(self.seeds)} seeds for {len(x)} rows.")
        for _ in range(1 if self._begun else 2):  # what is drawn first is the initial noise
            rows = [torch.randn(x.shape[1:], generator=generator, dtype=x.dtype) for generator in self._generators]
        self._begun = True
        return torch.stack(rows).to(x.device)

    def anew(self) -> SeededNoise:
        """The same from its beginning."""
        return SeededNoise(self.seeds)


def seeded_noise(seeds: Sequence[int]) -> SeededNoise:
    """What draws unit noise like rows [len(seeds), D], again and again, for stochastic solvers: one CPU generator per
    seed, which goes on from where `initial_noise` left it. A solver begins it anew in each run, so that one solver
    gives the same images twice.

    Raises:
        ValueError: as `initial_noise`; when it is called, there are more rows or fewer.

    Examples:
        >>> import torch
        >>> import underpaint as up
        >>> draw, again = up.seeded_noise([7, 8]), up.seeded_noise([7, 8])
        >>> torch.equal(draw(torch.zeros(2, 3)), again(torch.zeros(2, 3)))
        True
    """
    return SeededNoise(seeds)


def sample(
    denoise: Denoiser,
    x: Tensor,
    level: NoiseLevel,
    solver: Solver | None = None,
    callback: Callback | None = None,
    every: int = 1,
) -> Trajectory:
    """Solve the probability-flow ODE from x [B, D] at level[0] along the grid, and record it.

    Args:
        denoise: network or analytic denoiser.
        x: start states [B, D]; their dtype and device are kept throughout.
        level: N+1 levels from noisy to clean.
        solver: DPM-Solver++ 2M unless given: second order, one call a step, and at home on every schedule. Heun's
            trapezoid takes two calls and needs a first step that is not too long: where a grid begins with hardly any
            signal (cosine betas, zero terminal SNR), it gives huge values in few steps.
        callback: called after each step, for progress or inspection.
        every: keep each ``every``-th state (the first and the last always); memory is 2 (N/every + 1) B D numbers.

    Raises:
        ValueError: x is not [B, D], the grid is not decreasing in noise, or a state becomes NaN or infinite.

    Examples:
        >>> import torch
        >>> import underpaint as up
        >>> covariance = up.Covariance(torch.tensor([4.0, 0.25]), torch.eye(2))
        >>> gaussian = up.Gaussian(torch.zeros(2), covariance)
        >>> level = up.EDM().grid(steps=20)
        >>> x = up.initial_noise(range(4), gaussian.dimension, level[0])
        >>> run = up.sample(gaussian, x, level, up.heun)
        >>> run.final.shape, run.nfe
        (torch.Size([4, 2]), 39)
    """
    check_grid(level)
    _check_states(x)
    solve = dpmpp_2m if solver is None else check_solver(solver)
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}.")
    integer(every, "number of steps between states that are kept", 1, 2**31)
    calls, asked = 0, checked(denoise)

    @wraps(denoise, (), ())  # a solver may ask what it is used for
    def counted(state: Tensor, at: NoiseLevel) -> Tensor:
        nonlocal calls
        calls += 1
        return asked(state, at)

    steps = len(level) - 1
    kept = [*range(0, steps, every), steps]
    states, estimates = x.new_empty((len(kept), *x.shape)), x.new_empty((len(kept) - 1, *x.shape))
    states[0], place, index = x, 1, 0
    with torch.no_grad():
        for state, denoised in solve(counted, x, level):
            if kept[place - 1] == index:
                estimates[place - 1] = denoised
            if kept[place] == index + 1:
                states[place] = state
                place += 1
            if callback is not None:
                callback(index, state, denoised)
            index += 1
            del state, denoised  # which the next step does not need any more
    if not bool(torch.isfinite(states[-1]).all()):
        raise NotFinite("Sampling gave NaN or infinite values; check the model's prediction type, schedule and dtype.")
    return Trajectory(states, estimates, level[torch.tensor(kept)], calls)


def _check_states(x: Tensor) -> None:
    if x.ndim != 2 or not x.numel():
        raise ValueError(f"Expected start states [B, D], got a tensor of shape {tuple(x.shape)}.")
    if not x.is_floating_point():
        raise ValueError(f"Expected start states of a floating-point dtype, got {x.dtype}; take x.float().")
    if not bool(torch.isfinite(x).all()):
        raise ValueError("The start states hold NaN or infinite values.")


def check_grid(level: NoiseLevel) -> None:
    """Raise ValueError unless the grid has two levels or more, of strictly falling noise-to-signal ratio."""
    if level.alpha.ndim != 1 or len(level) < 2:
        raise ValueError(f"A grid needs at least two levels, got {level!r}.")
    if not bool((level.ratio.diff() < 0).all()):
        raise ValueError(f"Levels must fall in noise from first to last, got ratios {level.ratio.tolist()[:6]}...")
