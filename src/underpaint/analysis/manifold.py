"""The images around a sample: directions to move it in, and how far each stays on the manifold of images.

Source: WV23, section on the local manifold: principal components of the endpoint estimate over a trajectory are
directions in which the sample can be varied and remains an image.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..bounds import SEEDS, shown
from ..files import read_tensors
from ..noise import NoiseLevel
from ..sampling.trajectory import Trajectory
from ..theory.denoiser import Denoiser
from ..theory.gaussian import Gaussian


@dataclass(frozen=True, eq=False)
class Direction:
    """A unit vector for each of B samples, rows [B, D].

    ``share`` [B] is the part of the variance over time that it explains, where it is a principal component of a
    trajectory.
    """

    name: str
    rows: Tensor
    share: Tensor | None = None


def principal_directions(states: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Principal components over time of each sample's states [N, B, D]: unit rows [count, B, D], variance shares
    [count, B].

    From the N x N Gram matrices, in float64. Each points the way that the states went, from the first to the last.

    Raises:
        ValueError: more components are asked for than N states have.
    """
    _check_component(count, len(states))
    centred = (states - states.mean(0)).transpose(0, 1).double()
    values, weights = torch.linalg.eigh(centred @ centred.transpose(1, 2))
    leading = weights.flip(2)[..., :count].transpose(1, 2) @ centred
    forward = (leading * (centred[:, -1] - centred[:, 0]).unsqueeze(1)).sum(2, keepdim=True)
    unit = torch.where(forward < 0, -1.0, 1.0) * leading / leading.norm(dim=2, keepdim=True).clamp(min=1e-300)
    shares = values.flip(1)[:, :count].clamp(min=0) / values.sum(1, keepdim=True).clamp(min=1e-300)
    return unit.transpose(0, 1).to(states), shares.T


def check_direction(text: str, steps: int, dimension: int, gaussian: Gaussian | None = None) -> None:
    """Refuse a direction that `find_direction` will not find along a trajectory of ``steps`` steps, before it is run.

    Raises:
        ValueError: as `find_direction`.
    """
    if text.endswith(".safetensors"):
        _from_file(text, dimension)
        return
    kind, number = _read_name(text)
    if kind == "data":
        _data_component(gaussian, number)
    elif kind in ("x0", "eps"):
        _check_component(number, steps)


def find_direction(text: str, trajectory: Trajectory, gaussian: Gaussian | None = None) -> Direction:
    """The direction that a user names, for each sample of a trajectory.

    ``x0:K`` and ``eps:K`` are the K-th principal components (from 1) of the endpoint and noise estimates over time,
    ``data:K`` that of the data, ``random:SEED`` a random one, and a .safetensors file holds one tensor of D numbers.

    Raises:
        ValueError: another name, a component that does not exist, or a file without such a tensor.
    """
    finders: dict[str, Callable[[int], tuple[Tensor, Tensor | None]]] = {
        "x0": lambda k: _component(trajectory.denoised, k),
        "eps": lambda k: _component(trajectory.eps, k),
        "data": lambda k: (_data_component(gaussian, k), None),
        "random": lambda k: (torch.randn(trajectory.x.shape[2], generator=torch.Generator().manual_seed(k)), None),
    }
    if text.endswith(".safetensors"):
        rows, share = _from_file(text, trajectory.x.shape[2]), None
    else:
        kind, number = _read_name(text)
        rows, share = finders[kind](number)
    rows = (rows / rows.norm(dim=-1, keepdim=True)).to(trajectory.x).expand_as(trajectory.final)
    return Direction(Path(text).stem if text.endswith(".safetensors") else text, rows, share)


def _read_name(text: str) -> tuple[str, int]:
    """Kind and number of a direction that is no file; ValueError if it is of another form."""
    found = re.fullmatch(r"(x0|eps|data|random)(?::(\d{1,10}))?", text)
    if not found or int(found[2] or 0) >= SEEDS:
        raise ValueError(
            f"Unknown direction {shown(text)}: give x0:K, eps:K or data:K (a principal component, from 1), "
            "random:SEED, or a .safetensors file."
        )
    return found[1], int(found[2] or found[1] != "random")


def _check_component(k: int, states: int) -> None:
    if states < 2:
        raise ValueError(f"A principal component over time needs at least 2 steps, got {states}.")
    if not 1 <= k < states:
        raise ValueError(f"{states} states have principal components 1 to {states - 1}, got {k}.")


def _component(states: Tensor, k: int) -> tuple[Tensor, Tensor]:
    directions, shares = principal_directions(states, k)
    return directions[-1], shares[-1]


def _data_component(gaussian: Gaussian | None, k: int) -> Tensor:
    if gaussian is None:
        raise ValueError("Components of the data need the data's statistics; give them with --gaussian.")
    if not gaussian.covariance.rank:
        raise ValueError("The data's statistics are the same in all directions, and have no components.")
    if not 1 <= k <= gaussian.covariance.rank:
        raise ValueError(f"The data's statistics have components 1 to {gaussian.covariance.rank}, got {k}.")
    return gaussian.basis[:, k - 1]


def _from_file(path: str, dimension: int) -> Tensor:
    tensors = read_tensors(path)
    if len(tensors) != 1 or next(iter(tensors.values())).numel() != dimension:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items()) or "nothing"
        raise ValueError(f"{path} holds {shapes}; expected one tensor of {dimension} numbers.")
    (rows,) = tensors.values()
    if not bool(torch.isfinite(rows).all()) or not bool(rows.any()):
        raise ValueError(f"The direction in {path} must be finite and not zero.")
    return rows.double().flatten()


def denoise_around(
    denoise: Denoiser, points: Tensor, level: NoiseLevel, draws: int = 8, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Noise points [P, D] to a level and denoise them: mean result [P, D], root mean square of what changed [P].

    The second is sqrt(mean |x - D(alpha x + sigma eps)|^2 / D) over ``draws`` noises, float64: how far the denoiser
    pulls a point towards the manifold of images. The same noises serve all points, so that their differences are free
    of them.
    """
    generator = torch.Generator().manual_seed(seed)
    alpha, sigma = level.columns(points)
    total, squared = torch.zeros_like(points), torch.zeros(len(points), dtype=torch.float64)
    for _ in range(draws):
        noise = torch.randn(points.shape[1], generator=generator, dtype=torch.float64).to(points)
        denoised = denoise(alpha * points + sigma * noise, level)
        total += denoised
        squared += (points - denoised).double().square().mean(1).cpu()
    return total / draws, (squared / draws).sqrt()


def kept(shift: Tensor, direction: Tensor, distance: Tensor) -> Tensor:
    """v . (D(x + s v) - D(x - s v)) / 2s, for shifts [..., D] between the two, unit directions v and distances s. [...]
    float64.

    1: the denoiser keeps the move, the direction lies on the manifold; 0: it takes the move for noise and undoes it.
    """
    return (shift.double() * direction.double()).sum(-1) / (2 * distance)
