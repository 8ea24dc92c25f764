"""The shape of single trajectories: how few directions they use, and how nearly they are rotations in a plane.

Source of the measures: WV23, section 2 and its appendix, which take states in variance-preserving form
(`Trajectory.preserving`). Rows are float; sums are taken in float64. Every function maps a stack of states [N, B, D] to
one value, or one curve, a sample.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..noise import NoiseLevel


def variance_shares(states: Tensor) -> Tensor:
    """Share of the variance over time that each principal component of a sample's states explains. [B, N] float64,
    descending.

    From the N x N Gram matrices of the centred states: no D x D work. Shares of a state that never moves are 0.
    """
    centred = (states - states.mean(0)).transpose(0, 1).double()
    values = torch.linalg.eigvalsh(centred @ centred.transpose(1, 2)).flip(1).clamp(min=0)
    return values / values.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)


def components_needed(states: Tensor, share: float = 0.999) -> Tensor:
    """How many principal components explain ``share`` of a sample's variance over time. [B]."""
    return (variance_shares(states).cumsum(1) < share).sum(1) + 1


def principal_plane(states: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates [N, 2] of one sample's states [N, D] in the plane of their first two components, and its basis [D,
    2]."""
    centred = (states - states.mean(0)).double()
    _, _, basis = torch.linalg.svd(centred, full_matrices=False)
    return centred @ basis[:2].T, basis[:2].T


def plane_residual(states: Tensor) -> Tensor:
    """|x_t - P x_t|^2 / |x_t|^2 with P the projection on span(first state, last state). [N, B] float64."""
    x = states.double()
    basis, _ = torch.linalg.qr(torch.stack([x[0], x[-1]], -1))
    inside = torch.einsum("bdk,nbd->nbk", basis, x).square().sum(2)
    return (1 - inside / x.square().sum(2)).clamp(min=0)


def rotation_coordinates(states: Tensor) -> Tensor:
    """Least-squares coordinates (a, b) of x_t = a x_0 + b x_T, with x_0 the last state and x_T the first. [N, B, 2]
    float64."""
    x = states.double()
    edges = torch.stack([x[-1], x[0]], -1)
    gram = edges.transpose(1, 2) @ edges
    return torch.linalg.solve(gram.unsqueeze(0), torch.einsum("bdk,nbd->nbk", edges, x).unsqueeze(-1)).squeeze(-1)


def rotation_error(states: Tensor, level: NoiseLevel, squared: bool = False) -> Tensor:
    """|x_t - alpha_t x_0 - sigma_t x_T|^2 / |x_t|^2, x_0 the last state, x_T the first over its sigma. [N, B] float64.

    ``squared`` puts alpha_t^2 in place of alpha_t, as the authors' script does (alpha-bar for its root); it is a
    different measure, offered for comparison only.
    """
    x = states.double()
    alpha, sigma = (v[:, None, None].to(x.device) for v in (level.alpha, level.sigma))
    predicted = (alpha**2 if squared else alpha) * x[-1] + sigma / sigma[0] * x[0]
    return (x - predicted).square().sum(2) / x.square().sum(2)


def difference_cosines(states: Tensor, lags: tuple[int, ...] = (1, 2, 5, 10)) -> Tensor:
    """Mean over time of the cosine between the differences x_{i+1} - x_i that lie ``lag`` steps apart. [len(lags), B]
    float64."""
    steps = states.double().diff(dim=0)
    unit = steps / steps.norm(dim=2, keepdim=True).clamp(min=1e-300)
    if len(unit) <= max(lags):
        raise ValueError(f"Lag {max(lags)} needs a trajectory of more than {max(lags)} steps, got {len(unit)}.")
    return torch.stack([(unit[lag:] * unit[:-lag]).sum(2).mean(0) for lag in lags])


def edge_angle(states: Tensor) -> Tensor:
    """Angle between the first and the last state, in degrees. [B] float64."""
    first, last = states[0].double(), states[-1].double()
    return torch.rad2deg(torch.acos(torch.cosine_similarity(first, last, dim=1).clamp(-1, 1)))
