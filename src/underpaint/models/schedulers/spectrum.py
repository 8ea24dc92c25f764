"""What a scheduler of diffusers does to a spectrum: the variance of its samples of Gaussian data, by eigenvalue.

No network and no sampling: the scheduler's own steps are made on the exact denoiser, and are linear (`respond`).
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...bounds import MOST_STEPS, A, a, integer, is_number, shown
from ...noise import NoiseLevel
from ...sampling.response import Response, respond
from ...theory import modes
from .families import family_of
from .levels import initial_scale, model_output, told_levels

#: Variances of the data, unless others are asked for: from beyond the smallest of natural images to the largest.
EIGENVALUES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
#: Steps that any scheduler can lay, whose levels tell which way it goes.
_TELLING = 10


@dataclass(frozen=True, eq=False)
class Spectrum:
    """What a sampler makes of Gaussian data in a number of steps, along eigenvectors of their covariance.

    Attributes:
        sampler: its name.
        steps: those asked for.
        calls: of the network.
        draws: of noise on the way.
        eigenvalues: variances of the data lambda, [K].
        variance: of the samples, [K].
        initial: the part of it that comes from the noise at the start, [K].
        mean: what becomes of a mean of 1, [K].

    Examples:
        >>> from diffusers import DDIMScheduler
        >>> import underpaint as up
        >>> scheduler = DDIMScheduler(clip_sample=False)
        >>> made = up.spectrum(scheduler, steps=50, eigenvalues=[100.0, 1.0, 0.01])
        >>> made.calls, made.variance.shape
        (50, torch.Size([3]))
    """

    sampler: str
    steps: int
    calls: int
    draws: int
    eigenvalues: Tensor
    variance: Tensor
    initial: Tensor
    mean: Tensor

    @property
    def share(self) -> Tensor:
        """The variance of the samples over that of the data, [K]: below 1 too smooth, above 1 too rough."""
        return self.variance / self.eigenvalues

    def __repr__(self) -> str:
        low, high = float(self.share.min()), float(self.share.max())
        return f"Spectrum({self.sampler}, {self.steps} steps: {low:.3g} to {high:.3g} of the data's variance)"


def spectrum(
    scheduler: Any, steps: int | None = None, eigenvalues: Sequence[float] | Tensor = EIGENVALUES, **options: Any
) -> Spectrum:
    """What a scheduler of diffusers makes of Gaussian data: mean and variance of its samples by eigenvalue, exactly.

    It begins where pipelines do, with nothing but noise. In each step its network is perfect: it answers with the exact
    denoiser at the level that it is told. A copy of the scheduler does all of it, in float64 where it computes so.

    Args:
        scheduler: of a family whose levels are known (`scheduler_levels`), deterministic or not.
        steps: for its `set_timesteps`; None if its timesteps are set.
        eigenvalues: variances of the data, each above 0.
        options: of its `step`, such as ``eta=1.0`` of DDIM or ``s_churn`` of Euler and Heun.

    Raises:
        ValueError: a scheduler without known levels, one that goes to more noise, or one that clips, see `respond`; a
            number of steps that it cannot lay; or an option that its step does not take.

    Examples:
        >>> from diffusers import DDIMScheduler
        >>> import underpaint as up
        >>> scheduler = DDIMScheduler(clip_sample=False)
        >>> for steps in (10, 100):  # share of the variance that the samples keep
        ...     made = up.spectrum(scheduler, steps, eigenvalues=[100.0, 1.0, 0.01])
        ...     (made.variance / made.eigenvalues).round(decimals=2)
        ...
        tensor([0.7000, 0.6900, 0.1400], dtype=torch.float64)
        tensor([0.9600, 0.9600, 0.7800], dtype=torch.float64)
    """
    variances = torch.as_tensor(eigenvalues, dtype=torch.float64).flatten()
    if not len(variances) or not bool((torch.isfinite(variances) & (variances > 0)).all()):
        raise ValueError(f"Eigenvalues are positive, finite numbers, got {variances.tolist()[:6]}.")
    family_of(scheduler)  # which may say that it has none, before its timesteps are set
    _check_options(scheduler, options)
    ready = copy.deepcopy(scheduler)
    if steps is not None:
        _lay(ready, integer(steps, "number of steps", 1, MOST_STEPS))
    levels, name = told_levels(ready), type(scheduler).__name__
    if not _falls(ready, levels):
        raise ValueError(f"{A(name)} goes from data to noise; what it samples is no data.")

    def run(noise: Tensor, mean: Tensor) -> Tensor:
        return _walk(copy.deepcopy(ready), levels, noise, mean, variances, options)

    found: Response = respond(run, len(variances), name)
    count = len(ready.timesteps)
    return Spectrum(
        name,
        count if steps is None else steps,
        count,
        len(found.drawn),
        variances,
        found.variance,
        found.initial.square(),
        found.mean,
    )


def _lay(scheduler: Any, steps: int) -> None:
    """Its `set_timesteps`; ValueError where it cannot lay so few or so many."""
    try:
        scheduler.set_timesteps(steps)
    except (ValueError, ArithmeticError, IndexError, RuntimeError) as error:
        what, reason = A(type(scheduler).__name__), str(error).strip().rstrip(".")
        count = "1 step" if steps == 1 else f"{steps} steps"
        raise ValueError(
            f"{what} cannot lay {count}; ask for another number. Its set_timesteps raises {type(error).__name__}: "
            f"{reason}."
        ) from None


def _falls(scheduler: Any, levels: NoiseLevel) -> bool:
    """Whether a scheduler goes from noise to data. One level does not tell: so those of more steps are looked at, if it
    can lay them."""
    if len(levels) == 1:
        more = copy.deepcopy(scheduler)
        try:
            more.set_timesteps(_TELLING)
            levels = told_levels(more)
        except (ValueError, ArithmeticError, IndexError, RuntimeError):
            return True
    return len(levels) == 1 or bool(levels.ratio[-1] < levels.ratio[0])


def _check_options(scheduler: Any, options: Mapping[str, Any]) -> None:
    """ValueError unless these are switches of the scheduler's `step`, or strengths, which are 0 or more."""
    takes, name = inspect.signature(scheduler.step).parameters, type(scheduler).__name__
    for option, value in options.items():
        default = takes[option].default if option in takes and option != "return_dict" else None
        if not isinstance(default, bool | int | float):
            raise ValueError(f"The step of {a(name)} takes no {option}.")
        switch = isinstance(default, bool)
        if switch != isinstance(value, bool) or (not switch and not (is_number(value) and value >= 0)):
            wanted = "true or false" if switch else "a number, 0 or more"
            raise ValueError(f"The {option} of a step of {a(name)} must be {wanted}, got {shown(value)}.")


def _walk(
    scheduler: Any, levels: NoiseLevel, noise: Tensor, mean: Tensor, variances: Tensor, options: dict[str, Any]
) -> Tensor:
    """The scheduler's steps from unit noise [P, K] to samples [P, K], for data of mean [P, 1] and variances [K]."""
    takes = inspect.signature(scheduler.step).parameters
    given: dict[str, Any] = {"generator": torch.Generator().manual_seed(0)} if "generator" in takes else {}
    given |= options
    x, mean = initial_scale(scheduler) * noise[:, None, None], mean[:, None, None]
    before, last, times = None, None, scheduler.timesteps
    for i, (t, level) in enumerate(zip(times, levels, strict=False)):
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(x, t)  # some count by it
        gain = modes.shrinkage(variances, level)
        output = model_output(scheduler, gain * x + (1 - level.alpha * gain) * mean, x, level)
        if "prev_timestep" in takes:  # UnCLIP's is told where it goes
            given["prev_timestep"] = times[i + 1] if i + 1 < len(times) else None
        if "timestep_back" in takes:  # CogVideoX's DPM-Solver is told where it comes from
            x, before = scheduler.step(output, before, t, last, x, **given, return_dict=False)
        else:
            x = scheduler.step(output, t, x, **given, return_dict=False)[0]
        x, last = x.double(), t
    return x[:, 0, 0]
