"""Nudge a trajectory on its way and see how far the final image moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..noise import NoiseLevel
from ..sampling.trajectory import Solver, Trajectory, sample
from ..theory import modes
from ..theory.denoiser import Denoiser
from ..theory.gaussian import Gaussian


@dataclass(frozen=True, eq=False)
class Perturbation:
    """Displacements of final images after a nudge along component k at level i of a trajectory.

    Attributes:
        level: the M levels at which nudges were made.
        components: indices of the K principal components.
        size: length of the nudges, [M, K].
        along: displacement along the same component, divided by the nudge, [M, K, B]; the theory's gain predicts it.
        total: length of the whole displacement, divided by the nudge, [M, K, B].
        predicted: sqrt(lambda/(sigma^2 + lambda alpha^2)), [M, K].
        final: the displaced final images, [M, K, B, D].
    """

    level: NoiseLevel
    components: Tensor
    size: Tensor
    along: Tensor
    total: Tensor
    predicted: Tensor
    final: Tensor


def perturb(
    denoise: Denoiser,
    trajectory: Trajectory,
    gaussian: Gaussian,
    steps: list[int],
    components: list[int],
    strength: float = 0.5,
    solver: Solver | None = None,
    callback: Any = None,
) -> Perturbation:
    """Add ``strength`` standard deviations of the noisy state along each component at each step, and sample on.

    For Gaussian data every nudge then moves the final image by strength * sqrt(lambda_k), at whatever level it is made.
    All components and samples of one step go through the denoiser as one batch. Source: WV23, section on perturbations.
    """
    directions = gaussian.basis[:, components].T.to(trajectory.x)
    values = gaussian.eigenvalues[components]
    batch, dimension = trajectory.x.shape[1:]
    sizes, finals = [], []
    for step in steps:
        here = trajectory.level[step]
        sizes.append(strength * (here.alpha**2 * values + here.sigma**2).sqrt())
        nudges = sizes[-1].to(trajectory.x)[:, None, None] * directions[:, None, :]
        start = (trajectory.x[step] + nudges).reshape(-1, dimension)
        moved = sample(denoise, start, trajectory.level[step:], solver, callback, every=len(trajectory)).final
        finals.append(moved.reshape(len(components), batch, dimension))
    final, size = torch.stack(finals), torch.stack(sizes)
    shift = (final - trajectory.final).double()
    level = trajectory.level[torch.tensor(steps)]
    return Perturbation(
        level=level,
        components=torch.tensor(components),
        size=size,
        along=torch.einsum("mkbd,kd->mkb", shift, directions.double()) / size.unsqueeze(-1),
        total=shift.norm(dim=-1) / size.unsqueeze(-1),
        predicted=modes.gain(values, level),
        final=final,
    )
