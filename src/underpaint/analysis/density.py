"""The flow from data back to noise, and the density of data that it tells."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..noise import NoiseLevel
from ..theory.denoiser import Denoiser, checked
from ..theory.gaussian import Gaussian


@dataclass(frozen=True, eq=False)
class Density:
    """log p of K states [K] float64 in nats, and the standard error of each from the random probes, [K].

    The same probes serve all states: differences between near states are surer than the errors say.
    """

    log_prob: Tensor
    error: Tensor


def flow_to_noise(
    denoise: Denoiser, x: Tensor, level: NoiseLevel, callback: Callable[[Tensor, int], None] | None = None
) -> Tensor:
    """Solve the probability flow backwards, from data x [B, D] to noise: states at level[0].

    With alpha = cos a, sigma = sin a and u = log tan(a/2) the flow is dz/du = cos(a) z - D(z), up to pure noise. Heun's
    rule, of second order in the number of levels.

    Args:
        denoise: called twice a level.
        x: data, taken as states of the cleanest level (with alpha, without noise).
        level: from noisy to clean, sigma > 0: a grid without its last level.
        callback: told each state [B, D], of norm alpha^2 + sigma^2 = 1, and the index of its level, from the cleanest.

    Raises:
        ValueError: levels that do not fall, or one without noise.
    """
    if level.alpha.ndim != 1 or not bool((level.sigma > 0).all()) or not bool((level.ratio.diff() < 0).all()):
        raise ValueError(f"The way back runs along falling levels with noise, got {level!r}.")
    asked, turned = checked(denoise), _turned(level)
    alphas, gaps = turned.alpha.to(x), -_log_tangent(turned).diff().to(x)

    def slope(state: Tensor, i: int) -> Tensor:
        return alphas[i] * state - asked(state, turned[i])

    state = alphas[-1] * x
    with torch.no_grad():
        for i in range(len(level) - 1, -1, -1):
            if callback is not None:
                callback(state, i)
            if i:
                first, gap = slope(state, i), gaps[i - 1]
                state = state + gap / 2 * (first + slope(state + gap * first, i - 1))
    return level.norm[0].to(x) * state


def _turned(level: NoiseLevel) -> NoiseLevel:
    """The same levels with alpha^2 + sigma^2 = 1."""
    return NoiseLevel(level.alpha / level.norm, level.sigma / level.norm)


def _log_tangent(turned: NoiseLevel) -> Tensor:
    """log tan(a/2) for alpha = cos a, sigma = sin a."""
    return turned.sigma.log() - turned.alpha.log1p()


def flow_log_prob(
    denoise: Denoiser,
    x: Tensor,
    level: NoiseLevel,
    gaussian: Gaussian | None = None,
    probes: int = 4,
    seed: int = 0,
    callback: Callable[[], None] | None = None,
) -> Density:
    """log density of x [K, D], as states over alpha, among data with the noise of the cleanest level, by the flow.

    log p_low(z_low) = log p_high(z_high) + int (D cos a - tr dD/dz) du along the flow of `flow_to_noise`, from low to
    high. The trace is estimated by Hutchinson's v . J v with random signs, J v by a central difference of the denoiser.
    Source: Song et al. 2021, arXiv 2011.13456, appendix D.2.

    Args:
        denoise: called three times a level: twice with K rows, once with 2 probes K, those of a state side by side.
        level: from noisy to clean, sigma > 0.
        gaussian: of the data, for the density at the noisiest level; without it that of the noise alone.
        probes: 2 or more.

    Raises:
        ValueError: as `flow_to_noise`, or too few probes.
    """
    if probes < 2:
        raise ValueError(f"An error needs two probes or more, got {probes}.")
    generator = torch.Generator().manual_seed(seed)
    signs = (2 * torch.randint(0, 2, (probes, 1, x.shape[1]), generator=generator) - 1).to(x)
    traces, turned = torch.zeros(len(level), probes, len(x), dtype=torch.float64), _turned(level)

    def trace(state: Tensor, i: int) -> None:
        step = 1e-2 * turned.sigma[i].to(x)
        pair = torch.stack([state + side * signs for side in (step, -step)])  # [2, probes, K, D]
        here, there = denoise(pair.flatten(0, 2), turned[i]).view_as(pair)
        traces[i] = ((here - there) * signs).sum(2, dtype=torch.float64).cpu() / (2 * float(step))
        if callback is not None:
            callback()

    top = flow_to_noise(denoise, x, turned, trace)
    dimension, place = x.shape[1], _log_tangent(turned)
    known = gaussian or Gaussian.isotropic(torch.zeros(dimension), 0.0)
    grown = -torch.trapezoid(dimension * turned.alpha[:, None, None] - traces, place, dim=0)  # levels fall
    high = known.log_prob(top.cpu().to(known.mean), turned[0]).double() + dimension * turned.alpha[-1].log()
    return Density(high + grown.mean(0), grown.std(0) / math.sqrt(probes))
