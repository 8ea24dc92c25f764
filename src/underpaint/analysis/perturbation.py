"""Nudge a trajectory on its way and see how far the final image moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ..noise import NoiseLevel
from ..sampling.solvers import Solver
from ..sampling.trajectory import Trajectory, sample
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
    directions = gaussian.basis[:, components].T.to(trajectory.x).unsqueeze(1)
    values = gaussian.eigenvalues[components]
    sizes, finals = [], []
    for step in steps:
        here = trajectory.level[step]
        sizes.append(strength * (here.alpha**2 * values + here.sigma**2).sqrt())
        nudges = sizes[-1].to(trajectory.x)[:, None, None] * directions
        finals.append(carry_on(denoise, trajectory, step, nudges, solver, callback))
    final, size = torch.stack(finals), torch.stack(sizes)
    along, total = displacement(final - trajectory.final, directions, size.unsqueeze(-1))
    level = trajectory.level[torch.tensor(steps)]
    return Perturbation(level, torch.tensor(components), size, along, total, modes.gain(values, level), final)


def carry_on(
    denoise: Denoiser,
    trajectory: Trajectory,
    step: int,
    nudges: Tensor,
    solver: Solver | None = None,
    callback: Any = None,
) -> Tensor:
    """Add nudges [K, B or 1, D] to the states at a step and sample on, as one batch: final states [K, B, D].

    At the last state nothing is left to sample, so that the nudge itself is seen.

    Raises:
        ValueError: there is no such step.
    """
    if not 0 <= step < len(trajectory.x):
        raise ValueError(f"A trajectory of {len(trajectory)} steps has states 0 to {len(trajectory)}, got {step}.")
    moved = trajectory.x[step] + nudges
    if step == len(trajectory):
        return moved
    tail = trajectory.level[step:]
    final = sample(denoise, moved.flatten(0, 1), tail, solver, callback, every=len(trajectory)).final
    return final.unflatten(0, moved.shape[:2])


def displacement(shift: Tensor, direction: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """Displacement along a unit direction [..., D] and its whole length, for a unit of nudge: [..., B] float64.

    ``shift`` [..., B, D] is the change of the final state, ``size`` [..., B] the signed length of the nudge behind it.
    """
    shift = shift.double()
    return (shift * direction.double()).sum(-1) / size, shift.norm(dim=-1) / size.abs()


def linear_gain(denoise: Denoiser, directions: Tensor, level: NoiseLevel, solver: Solver | None = None) -> Tensor:
    """Where a linear flow takes unit nudges [B, D] made at level[0]: the change of the final state [B, D].

    For a Gaussian ``sqrt(Sigma (sigma^2 + alpha^2 Sigma)^-1) v``, in closed form, which along an eigenvector is
    `modes.gain`. Any other denoiser that is affine in x (guidance between Gaussians) is integrated along the levels.
    """
    if len(level) == 1:
        return directions
    if isinstance(denoise, Gaussian):
        return denoise.covariance.spectral(lambda v: modes.gain(v, level[0]), directions)
    origin = torch.zeros_like(directions[:1])
    final = sample(denoise, torch.cat([directions, origin]), level, solver, every=len(level)).final
    return final[:-1] - final[-1]


def gradient_dissimilarity(images: Tensor, others: Tensor, smallest: int = 8) -> Tensor:
    """One minus the cosine between the gradients of two images [..., C, H, W], averaged over scales. [...] in 0..2.

    Scales are halved while both edges keep ``smallest`` pixels. 0: the same edges, whatever brightness and contrast; 1:
    nothing in common; 2: inverted. A stand-in for learned perceptual distances where no network is at hand; images
    without any edge are 0 from each other and 1 from all others.
    """
    pairs = [torch.broadcast_to(x, torch.broadcast_shapes(images.shape, others.shape)) for x in (images, others)]
    shape, (a, b) = pairs[0].shape[:-3], (x.reshape(-1, *x.shape[-3:]).double() for x in pairs)
    scales = []
    while True:
        scales.append(_one_minus_cosine(_gradients(a), _gradients(b)))
        if min(a.shape[-2:]) < 2 * smallest:
            return torch.stack(scales).mean(0).reshape(shape)
        a, b = avg_pool2d(a, 2), avg_pool2d(b, 2)


def feature_dissimilarity(features: Tensor, others: Tensor) -> Tensor:
    """One minus the cosine between features [..., F] of two images. [...] float64, in 0..2."""
    return _one_minus_cosine(features.double(), others.double())


def _gradients(images: Tensor) -> Tensor:
    """Forward differences of images [B, C, H, W] down and across, as one vector each."""
    return torch.cat([images.diff(dim=-2).flatten(1), images.diff(dim=-1).flatten(1)], 1)


def _one_minus_cosine(a: Tensor, b: Tensor) -> Tensor:
    norms = a.norm(dim=-1) * b.norm(dim=-1)
    both_blank = (a.norm(dim=-1) == 0) & (b.norm(dim=-1) == 0)
    cosine = (a * b).sum(-1) / norms.clamp(min=1e-300)
    return torch.where(both_blank, 0.0, 1 - cosine).clamp(0, 2)
