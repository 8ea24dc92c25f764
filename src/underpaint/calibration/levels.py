"""Where to call the denoiser: the levels at which steps of the Gaussian exponential integrator lose least.

Along a fine solution it is known what the denoiser saw, so that the error of a step between any two of its levels can
be had without a call. Which N levels make the least sum of them is a shortest path, as in GITS (Chen et al. 2024); here
the steps are of third order, and their errors are weighed, mode by mode, by what the Gaussian's flow leaves of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

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
#: Coordinates, and seeds, that say what a step loses.
_COORDINATES, _DRAWN = 2048, 32
#: The longest step, in units of the mean step of the fewest calls.
_LONGEST = 2.2


def step_losses(fine: FineSolution, covariance: Covariance, calls: int) -> Tensor:
    """What a step from level i to level j loses, geometric mean over the seeds: [L, L], infinite where it is too long.

    The step is of third order and corrected, from the fine solution's own states, with calls before it that are as far
    apart. A geometric mean, because a few seeds on the border between two images would decide a plain one.

    Every number of a coordinate goes its own way, so that some of them tell: of more than 2,048, the widest half of so
    many, and a random half of the others, each for several.

    Args:
        fine: solution of B seeds; of the first 32 of them.
        covariance: in whose coordinates it is.
        calls: fewest of a path that is to be found.
    """
    count, (fine, covariance, weights) = len(fine.level), _thinned(fine, covariance)
    longest = min(count - 1, max(2, round(_LONGEST * count / calls)))
    lengths = np.unique(np.geomspace(1, longest, _LENGTHS).round().astype(int)).tolist()
    losses = torch.full((count, count), float("inf"), dtype=torch.float64)
    parts = zip(fine.seen, fine.states, fine.level, strict=True)
    means = [local_mean(seen, state, covariance, level) for seen, state, level in parts]
    for i in range(count - 1):
        most = min(longest, count - 1 - i)
        tried = [length for length in lengths if length < most] + [most]
        lost = [_loss(fine, means, covariance, weights, i, length) for length in tried]
        between = np.interp(np.log(np.arange(1, most + 1)), np.log(tried), np.log(np.maximum(lost, 1e-12)))
        losses[i, i + 1 : i + 1 + most] = torch.from_numpy(between).exp()
    return losses


def losing_numbers(steps: int, seeds: int, coordinates: int) -> int:
    """Numbers that `step_losses` holds at most: states, images and local means in some coordinates, and a basis."""
    known, few = min(coordinates, _COORDINATES), min(seeds, _DRAWN)
    return 4 * steps * few * known + 2 * known**2 + 4 * steps**2


def _thinned(fine: FineSolution, covariance: Covariance) -> tuple[FineSolution, Covariance, Tensor]:
    """A solution in some of its coordinates, as a covariance of no other ones has them; and what each stands for."""
    variances = covariance.variances
    if len(variances) > _COORDINATES:
        order, widest = variances.argsort(descending=True, stable=True), _COORDINATES // 2
        drawn = torch.randperm(len(order) - widest, generator=torch.Generator().manual_seed(0))[:widest].sort().values
        kept = torch.cat([order[:widest], order[widest:][drawn]])
        weights = torch.ones(len(kept), dtype=torch.float64)
        weights[widest:] = (len(order) - widest) / widest
    else:
        kept, weights = torch.arange(len(variances)), torch.ones(len(variances), dtype=torch.float64)
    states, seen = (_chosen(rows, kept).to(fine.device) for rows in (fine.states, fine.seen))
    whole = Covariance(variances[kept], torch.eye(len(kept), dtype=states.dtype, device=states.device))
    chosen = replace(fine, states=states, seen=seen, seeds=fine.seeds[:_DRAWN])
    return chosen, whole, weights.to(states.device)


def _chosen(rows: Tensor, kept: Tensor) -> Tensor:
    """Some coordinates of some seeds; level by level, as all may lie in a file."""
    return torch.stack([level[:_DRAWN].index_select(1, kept.to(rows.device)) for level in rows])


def _loss(
    fine: FineSolution, means: Sequence[Tensor], covariance: Covariance, weights: Tensor, i: int, length: int
) -> float:
    """Of one step, with the nodes i + length, i, i - length and i - 2 length as far as there are such."""
    past = [(fine.level[k], means[k]) for k in range(i + length, max(i - 2 * length, 0) - 1, -length)]
    there = fine.level[i + length]
    led = advance(fine.states[i], past, fine.level[i], there, covariance)
    left = covariance.gains(lambda values: modes.psi(values, there, NoiseLevel.clean()), led)
    error = (((led - fine.states[i + length]) * left).double().square() @ weights / weights.sum()).sqrt()
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
