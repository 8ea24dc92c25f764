"""What happens along one eigenvector of Gaussian data with variance lambda: closed forms, each written once.

All functions take eigenvalues [K] and levels [] or [N] and return float64 tensors [K] or [N, K].
Source: WV23 (arXiv 2303.02490), section 3 and appendix; restated for any (alpha, sigma).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..noise import NoiseLevel, Schedule


def _variance(eigenvalues: Tensor, level: NoiseLevel) -> Tensor:
    """Variance of the noisy state along each mode: alpha^2 lambda + sigma^2."""
    eigenvalues = torch.as_tensor(eigenvalues, dtype=torch.float64)
    return level.alpha.unsqueeze(-1) ** 2 * eigenvalues + level.sigma.unsqueeze(-1) ** 2


def shrinkage(eigenvalues: Tensor, level: NoiseLevel) -> Tensor:
    """alpha lambda / (alpha^2 lambda + sigma^2): the gain of the optimal denoiser along each mode.

    At sigma = 0 it is 1/alpha, also for lambda = 0, where the state has no component to multiply.

    Examples:
        >>> import torch
        >>> import underpaint as up
        >>> up.modes.shrinkage(torch.tensor([4.0, 0.25]), up.EDM()(2.0))
        tensor([0.5000, 0.0588], dtype=torch.float64)
    """
    variance, alpha = _variance(eigenvalues, level), level.alpha.unsqueeze(-1)
    gain = alpha * eigenvalues / variance
    return torch.where(variance > 0, gain, 1 / alpha)


def psi(eigenvalues: Tensor, here: NoiseLevel, there: NoiseLevel) -> Tensor:
    """sqrt((sigma'^2 + lambda alpha'^2) / (sigma^2 + lambda alpha^2)): how the probability flow scales a mode from
    here to there.

    A direction without variance that starts at sigma = 0 holds nothing to scale; it is given 0.

    Examples:
        >>> import torch
        >>> import underpaint as up
        >>> up.modes.psi(torch.tensor([4.0, 0.0]), up.EDM()(2.0), up.NoiseLevel.clean())
        tensor([0.7071, 0.0000], dtype=torch.float64)
    """
    start = _variance(eigenvalues, here)
    return torch.where(start > 0, (_variance(eigenvalues, there) / start).sqrt(), 0.0)


def correlation(eigenvalues: Tensor, here: NoiseLevel, there: NoiseLevel) -> Tensor:
    """Of the states at two levels under the forward process, along each mode: sqrt((lambda + s'^2)/(lambda + s^2)) with
    s = sigma/alpha and s' the less noisy of the two.

    With alpha = 0 at one level it is 0; a direction without variance at either level is given 0.
    """
    noisy, clean = _variance(eigenvalues, here), _variance(eigenvalues, there)
    one, other = here.alpha.unsqueeze(-1) ** 2 * clean, there.alpha.unsqueeze(-1) ** 2 * noisy
    low, high = torch.minimum(one, other), torch.maximum(one, other)
    return torch.where(high > 0, (low / high).sqrt(), 0.0)


def transition(eigenvalues: Tensor, here: NoiseLevel, there: NoiseLevel, eta: float) -> tuple[Tensor, Tensor]:
    """Gain and added variance of a mode from here to there, under the SDE that keeps all marginals at strength eta:
    psi c^(eta^2) and (sigma'^2 + lambda alpha'^2)(1 - c^(2 eta^2)), with the `correlation` c.

    With s = sigma/alpha and x~ = x/alpha, down to less noise it is dx~ = (1 + eta^2)(x~ - D)/s ds + eta sqrt(2 s) dW,
    and up to more noise the same with 1 - eta^2: eta = 0 is the probability flow, eta = 1 the reverse SDE, or the
    forward process. Source: Karras22, eq. 6 with beta = eta^2/s, solved for linear D; Pierret24 for eta = 1.
    """
    kept = correlation(eigenvalues, here, there) ** eta**2
    variance = _variance(eigenvalues, there) * (1 - kept**2)
    return psi(eigenvalues, here, there) * kept, variance


def xi(eigenvalues: Tensor, start: NoiseLevel, level: NoiseLevel) -> Tensor:
    """alpha lambda / sqrt((sigma^2 + lambda alpha^2)(sigma_T^2 + lambda alpha_T^2)): the mode in the endpoint
    estimate."""
    return shrinkage(eigenvalues, level) * psi(eigenvalues, start, level)


def xi_rate(eigenvalues: Tensor, start: NoiseLevel, schedule: Schedule, t: Tensor) -> Tensor:
    """d xi / dt at times t [N] of any schedule: -xi (1 - phi^2) dlog(sigma/alpha)/dt, the last factor by autograd. [N,
    K]."""
    with torch.enable_grad():
        time = t.detach().to(torch.float64).requires_grad_()
        (rate,) = torch.autograd.grad(schedule(time).log_ratio.sum(), time)
    level = schedule(t)
    remaining = 1 - emergence(eigenvalues, level) ** 2
    return -xi(eigenvalues, start, level) * remaining * rate.unsqueeze(-1)


def emergence(eigenvalues: Tensor, level: NoiseLevel) -> Tensor:
    """phi = xi(t)/xi(0) = sqrt(lambda/(lambda + (sigma/alpha)^2)): how much of a feature the endpoint estimate shows.

    phi^2 is a sigmoid in log-SNR: 1/2 at sigma/alpha = sqrt(lambda); phi is steepest in log sigma at sqrt(2 lambda).
    """
    alpha = level.alpha.unsqueeze(-1)
    eigenvalues = torch.as_tensor(eigenvalues, dtype=torch.float64)
    variance = _variance(eigenvalues, level)
    return torch.where(variance > 0, alpha * (eigenvalues / variance).sqrt(), 1.0)


def emergence_ratio(eigenvalues: Tensor) -> Tensor:
    """The ratio sigma/alpha at which a mode shows half of its final variance: sqrt(lambda).

    Examples:
        >>> import torch
        >>> import underpaint as up
        >>> up.modes.emergence_ratio(torch.tensor([4.0, 0.25]))
        tensor([2.0000, 0.5000], dtype=torch.float64)
    """
    return torch.as_tensor(eigenvalues, dtype=torch.float64).sqrt()


def gain(eigenvalues: Tensor, level: NoiseLevel) -> Tensor:
    """sqrt(lambda/(sigma^2 + lambda alpha^2)): displacement of the final image for a unit perturbation at the level."""
    return psi(eigenvalues, level, NoiseLevel.clean())
