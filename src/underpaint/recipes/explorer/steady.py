"""Seeds whose picture stays when their noise changes a little: those that are not on a border between two pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...sampling.trajectory import initial_noise, sample
from ...theory.denoiser import Denoiser
from ..shared.request import Sampler

#: The noise z of a seed becomes sqrt(1 - s²) z + s z' with as much of another seed's z'; and how many others are tried.
SHARE, DRAWS = 0.1, 2
#: Seeds of the other noises.
_OTHERS = 1_000_000


def moved_by_other_noise(
    sampler: Sampler, denoise: Denoiser, seeds: Sequence[int], share: float = SHARE, draws: int = DRAWS
) -> Tensor:
    """How far the finished picture of each seed moves when its noise changes a little: root mean square per number of
    the state, the farthest of ``draws`` changes, [seed].

    A smooth flow moves it by about ``share`` times the spread of the data. Much more than that is another picture.
    """
    level, dimension = sampler.level, sampler.model.dimension
    start = initial_noise(seeds, dimension, level[0])
    others = [initial_noise([_OTHERS + draws * seed + k for seed in seeds], dimension, level[0]) for k in range(draws)]
    starts = torch.stack([start, *((1 - share**2) ** 0.5 * start + share * other for other in others)])
    finals = sample(denoise, starts.flatten(0, 1), level, sampler.solve, every=len(level)).final.unflatten(
        0, starts.shape[:2]
    )
    return (finals[1:] - finals[0]).double().square().mean(2).sqrt().amax(0)


def steadiest(moved: Tensor, count: int) -> int:
    """The first of ``count`` neighbours whose largest value is the smallest."""
    return int(moved.unfold(0, count, 1).amax(1).argmin())
