"""Where to call the denoiser: the levels at which steps of the Gaussian exponential integrator lose least.

Along a fine solution it is known what the denoiser saw, so that the error of a step between any two of its levels can
be had without a call. Which N levels make the least sum of them is a shortest path, as in GITS (Chen et al. 2024); here
the steps are of third order, and their errors are weighed, mode by mode, by what the Gaussian's flow leaves of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..noise import NoiseLevel
from ..sampling.exponential import advance, local_mean
from ..theory import modes
from ..theory.covariance import Covariance
from .solution import FineSolution

#: Lengths of step whose errors are computed; between them log(error) is interpolated in log(length).
_LENGTHS = 24
#: The longest step, in units of the mean step of the fewest calls.
_LONGEST = 2.2


def step_losses(fine: FineSolution, covariance: Covariance, calls: int) -> Tensor:
    """What a step from level i to level j loses, geometric mean over the seeds: [L, L], infinite where it is too long.

    The step is of third order and corrected, from the fine solution's own states, with calls before it that are as far
    apart. A geometric mean, because a few seeds on the border between two images would decide a plain one.

    Args:
        fine: solution of B seeds; memory beside it is O(B K).
        covariance: in whose coordinates it is.
        calls: fewest of a path that is to be found.
    """
    count = len(fine.level)
    longest = min(count - 1, max(2, round(_LONGEST * count / calls)))
    lengths = np.unique(np.geomspace(1, longest, _LENGTHS).round().astype(int)).tolist()
    losses = torch.full((count, count), float("inf"), dtype=torch.float64)
    for i in range(count - 1):
        most = min(longest, count - 1 - i)
        tried = [length for length in lengths if length < most] + [most]
        lost = [_loss(fine, covariance, i, length) for length in tried]
        between = np.interp(np.log(np.arange(1, most + 1)), np.log(tried), np.log(np.maximum(lost, 1e-12)))
        losses[i, i + 1 : i + 1 + most] = torch.from_numpy(between).exp()
    return losses


def _loss(fine: FineSolution, covariance: Covariance, i: int, length: int) -> float:
    """Of one step, with the nodes i + length, i, i - length and i - 2 length as far as there are such."""
    indices = range(i + length, max(i - 2 * length, 0) - 1, -length)
    past = [(fine.level[k], local_mean(fine.seen[k], fine.states[k], covariance, fine.level[k])) for k in indices]
    there = fine.level[i + length]
    led = advance(fine.states[i], past, fine.level[i], there, covariance)
    left = covariance.gains(lambda values: modes.psi(values, there, NoiseLevel.clean()), led)
    error = ((led - fine.states[i + length]) * left).double().square().mean(1).sqrt()
    return float(error.clamp(min=1e-12).log().mean().exp())


def shortest_path(losses: Tensor, count: int) -> tuple[int, ...]:
    """The indices of ``count`` levels from the first to the last, of least sum of the losses [L, L] between them.

    Raises:
        ValueError: there is none.
    """
    size = len(losses)
    best = torch.full((size,), float("inf"), dtype=losses.dtype)
    best[0] = 0
    before: list[Tensor] = []
    for _ in range(count - 1):
        best, index = (best.unsqueeze(1) + losses).min(0)
        before.append(index)
    if not bool(torch.isfinite(best[-1])):
        raise ValueError(f"No path of {count} levels leads through {size}.")
    path = [size - 1]
    for index in reversed(before):
        path.append(int(index[path[-1]]))
    return tuple(reversed(path))


def smoothed(level: NoiseLevel, path: Sequence[int], passes: int = 2) -> Tensor:
    """log(sigma/alpha) along a path, each drawn to the middle of its neighbours; the ends (of finite ones) stay."""
    time = level.log_ratio[torch.tensor(path)].clone()
    first = int(not bool(torch.isfinite(time[0])))
    for _ in range(passes):
        inner = time[first:]
        inner[1:-1] = (inner[:-2] + 2 * inner[1:-1] + inner[2:]) / 4
    return time
