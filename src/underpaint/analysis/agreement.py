"""How well an analytic denoiser explains a network, level by level."""

from __future__ import annotations

import torch
from torch import Tensor

from ..noise import NoiseLevel
from ..sampling.trajectory import Trajectory
from ..theory.denoiser import Denoiser


def noised(rows: Tensor, level: NoiseLevel, seed: int = 0) -> Tensor:
    """States alpha x0 + sigma eps of rows [B, D] at N levels, with one noise a row for all of them. [N, B, D]."""
    noise = torch.randn(rows.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(rows)
    alpha, sigma = (v[:, None, None].to(rows) for v in (level.alpha, level.sigma))
    return alpha * rows + sigma * noise


def denoised_at(denoise: Denoiser, states: Tensor, level: NoiseLevel) -> Tensor:
    """What a denoiser says at states [N, B, D], state i at level i. [N, B, D]."""
    with torch.no_grad():
        return torch.stack([denoise(x, at) for x, at in zip(states, level, strict=True)])


def along(trajectory: Trajectory, denoise: Denoiser) -> Tensor:
    """What another denoiser says at the states of a trajectory, [N, B, D]."""
    return denoised_at(denoise, trajectory.x[:-1], trajectory.level[:-1])


def explained_shares(network: Tensor, analytic: Tensor, mean: Tensor) -> Tensor:
    """1 - |D_net - D|^2 / (mean over samples of |D_net - mu|^2), for denoised rows [N, B, D] about the data mean [D].
    [N, B] float64, of which the mean over samples is `explained_variance`.

    About the mean, because at high noise every denoiser returns the mean and any two would seem to agree.
    """
    error = (network - analytic).double().square().sum(2)
    return 1 - error / (network - mean).double().square().sum(2).mean(1, keepdim=True)


def explained_variance(network: Tensor, analytic: Tensor, mean: Tensor) -> Tensor:
    """1 - sum |D_net - D|^2 / sum |D_net - mu|^2 over samples, for denoised rows [N, B, D] about the data mean [D].
    [N] float64."""
    return explained_shares(network, analytic, mean).mean(1)


def pixel_r2(network: Tensor, analytic: Tensor) -> Tensor:
    """1 - |D_net - D|^2 / (D var_j D_net,j): r^2 against the variance among the numbers of each denoised row itself,
    for rows [N, B, D]. [N, B] float64.

    It is high where images have dark and bright parts: the data mean alone scores close to 1 at high noise, where every
    denoised image is nearly the mean. `explained_shares`, about the mean, says what was learned beyond it.
    Source: calculate_r2_score of the Analytic Diffusion Studio (github.com/analytic-diffusion/analytic-diffusion-studio
    at 79aec54), whose tables give its mean over images.
    """
    error = (network - analytic).double().square().sum(2)
    return 1 - error / (network.double().var(2) * network.shape[2])


def stacked_weights(network: Tensor, answers: Tensor, least: float = 0.02) -> Tensor:
    """Weights w >= 0 [N, K] that make |D_net - sum_k w_k D_k|^2 smallest at each level, over rows [N, B, D] and the
    answers of K denoisers [K, N, B, D]; those below ``least`` are left out, and the others fitted anew.

    Source: Breiman 1996, "Stacked regressions" (weights that are not negative); Lawson & Hanson 1974 (scipy's nnls).
    """
    weights = torch.zeros(len(network), len(answers), dtype=torch.float64)
    for row, rows, parts in zip(weights, network, answers.transpose(0, 1), strict=True):
        target, columns = rows.double().flatten(), parts.double().flatten(1)
        heavy = _not_negative(columns, target) >= least
        heavy[(columns - target).square().sum(1).argmin()] = True  # the nearest alone, where no weight is above 0
        row[heavy] = _not_negative(columns[heavy], target)
        if not bool(row.any()):
            row[heavy] = 1 / heavy.sum()
    return weights


def _not_negative(columns: Tensor, target: Tensor) -> Tensor:
    """Least squares of a target [n] by columns [K, n], with weights >= 0 [K]."""
    from scipy.optimize import nnls  # type: ignore[import-untyped,unused-ignore]

    basis, factor = torch.linalg.qr(columns.T)  # the factor has the same least squares as the columns, in K rows
    return torch.from_numpy(nnls(factor.numpy(), (basis.T @ target).numpy())[0])


def score_explained_variance(trajectory: Trajectory, analytic: Tensor) -> Tensor:
    """The same for the score, (alpha D - x)/sigma^2: close to 1 for anything at high noise, so nothing follows from
    it. [N]."""
    alpha, sigma = (v[:-1, None, None].to(trajectory.x) for v in (trajectory.level.alpha, trajectory.level.sigma))
    ours, theirs = ((alpha * d - trajectory.x[:-1]) / sigma**2 for d in (trajectory.denoised, analytic))
    return 1 - (ours - theirs).double().square().sum((1, 2)) / ours.double().square().sum((1, 2))


def mean_squared_error(a: Tensor, b: Tensor) -> Tensor:
    """Mean square difference of rows, per number: [..., B, D] -> [..., B] float64."""
    return (a - b).double().square().mean(-1)
