"""The Gaussian exponential integrator: the Gaussian's flow is its exact part, the network's local mean is extrapolated.

Write the denoiser, along each mode, as that of the Gaussian with its mean moved by Q:

    D = mu + [lambda (x~ - mu) + s~^2 Q] / (lambda + s~^2)    so    Q = (D - mu) - (lambda alpha / sigma) eps,

with eps = (x - alpha D)/sigma. Q is what the network believes the mean of the image to be, given what it has recognised
so far: 0 for the Gaussian itself, constant for any Gaussian of the same covariance. With y = x~ - mu and
z = y / sqrt(lambda + s~^2) the probability flow is

    dz / dlog s~ = -s~^2 Q / (lambda + s~^2)^(3/2),

which is integrated exactly for Q a polynomial in log s~ through the latest calls. The first order has the closed form
y' = psi y + (1 - psi) Q, psi = sqrt((lambda + s~'^2)/(lambda + s~^2)), finite down to s~' = 0: from call to call the
flow of a Gaussian whose mean is corrected. With lambda = 0 it is DPM-Solver++ (Lu22) of the same order. (The same with
the residual D - D_G in place of Q is exact for one mean only.)

With noise on the way, of strength eta, the same holds for the SDE that keeps all marginals (`modes.transition`): in its
drift, (1 + eta^2)(x~ - D)/s~, Q stands as before, and the step is a Gaussian's transition with a corrected mean,

    y' = g y + (1 - g) Q + noise,    g = psi^(1 + eta^2).

At eta = 1 and order 1 its mean is that of x' given x for data of any kind, as D alone decides it; only the covariance
is taken from the Gaussian.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from ..bounds import number
from ..noise import NoiseLevel
from ..theory import modes
from ..theory.covariance import Covariance, SpectralFunction
from ..theory.denoiser import Denoiser
from ..theory.gaussian import Gaussian
from .solvers import Solver, Step

_NODES = 24
#: Variances for which weights are integrated; of more, they are interpolated.
_TABLE = 4096

#: How the step into sigma = 0 is made.
Ending = Literal["flow", "denoised"]
#: Draws unit noise like the rows it is given.
Draw = Callable[[Tensor], Tensor]
#: Variants by name: the order, and c for the corrector.
EXPONENTIALS = {f"exponential-{n}{'c' if c else ''}": (n, c) for n in (1, 2, 3) for c in (False, True)}


def gaussian_exponential(
    gaussian: Gaussian,
    order: int = 1,
    corrector: bool = False,
    ending: Ending = "flow",
    eta: float = 0.0,
    draw: Draw = torch.randn_like,
) -> Solver:
    """A solver of the given order (1, 2 or 3), one call a step, that is exact for Gaussians of this covariance.

    Args:
        gaussian: statistics of the data, full or low rank.
        order: how many calls the extrapolation of Q rests on; built up with the history, 1 into sigma = 0.
        corrector: redo each step with the call made at its end among the nodes, as UniPC (Zhao23) does; no extra call.
        ending: how the step into sigma = 0 is made: along the Gaussian's "flow", as exact as all others; or as samplers
            of diffusers and EDM make it, with the image that was "denoised" in the last call. A network that knows the
            noise left in x from the image is better taken at its word: the flow keeps half of it in wide directions.
        eta: strength of the noise that each step adds: 0 is the flow, 1 the reverse SDE (`gaussian_ancestral`).
        draw: what draws that noise.

    Raises:
        ValueError: another order or ending, or a strength that is none.
    """
    if order not in (1, 2, 3):
        raise ValueError(f"The Gaussian exponential integrator has order 1, 2 or 3, got {order}.")
    if ending not in get_args(Ending):
        raise ValueError(f"The Gaussian exponential integrator ends by 'flow' or 'denoised', got {ending!r}.")
    covariance, eta = gaussian.covariance, number(eta, "strength eta of the added noise", 0.0, 1e3)

    def solve(denoise: Denoiser, x: Tensor, level: NoiseLevel) -> Iterator[Step]:
        mean = gaussian.mean.to(x.dtype)
        levels = list(level)
        # centred states y = (x - alpha mu) in coordinates of the covariance; Q of the latest calls, newest first
        state = covariance.split(x - levels[0].alpha.to(x) * mean)
        before, past = state, deque[tuple[NoiseLevel, Tensor]](maxlen=order + 1)
        added: Tensor | float = 0.0
        for i, (here, there) in enumerate(pairwise(levels)):
            denoised = denoise(x, here)
            past.appendleft((here, local_mean(covariance.split(denoised - mean), state, covariance, here)))
            if corrector and i:
                state = advance(before, list(past), levels[i - 1], here, covariance, eta) + added
            if there.sigma == 0 and ending == "denoised":
                yield there.alpha.to(x) * denoised, denoised
                return
            before = state
            usable = 1 if there.sigma == 0 else order
            state = advance(state, list(past)[:usable], here, there, covariance, eta)
            if eta:
                added = _noise(draw(x), here, there, covariance, eta)
                state = state + added
            x = torch.add(covariance.join(state).to(x.dtype), mean, alpha=float(there.alpha))
            yield x, denoised

    return solve


def gaussian_ancestral(
    gaussian: Gaussian,
    eta: float = 1.0,
    draw: Draw = torch.randn_like,
    order: int = 1,
    corrector: bool = False,
    ending: Ending = "denoised",
) -> Solver:
    """A stochastic solver, one call a step: the mean of each step is the network's, its covariance the Gaussian's.

    At strength 1 these are mean and covariance of x' given x. DDPM and ancestral samplers take x0-hat for x0 there, and
    so lose the variance that x0 still has; here a step of any length keeps the variance of Gaussian data.
    Source: `modes.transition`; its mean is DDPM's (Ho et al. 2020, eq. 7). The best isotropic variance is that of Bao
    et al. 2022 (Analytic-DPM, arXiv 2201.06503).

    Args, and what is raised: as of `gaussian_exponential`.
    """
    return gaussian_exponential(gaussian, order, corrector, ending, eta, draw)


def named_exponential(name: str, gaussian: Gaussian) -> Solver:
    """One of `EXPONENTIALS`, that ends as other samplers do."""
    return gaussian_exponential(gaussian, *EXPONENTIALS[name], ending="denoised")


def local_mean(denoised: Tensor, state: Tensor, covariance: Covariance, level: NoiseLevel) -> Tensor:
    """Q from the centred denoised image and state, in coordinates of the covariance."""
    alpha, sigma = float(level.alpha), float(level.sigma)

    def factors(variances: Tensor) -> Tensor:
        """Of D and of the state: Q = D - (lambda alpha / sigma^2)(y - alpha D)."""
        weight = variances * alpha / sigma**2
        return torch.stack([1 + weight * alpha, -weight])

    return covariance.combine(factors, [denoised, state])


def advance(
    state: Tensor,
    past: Sequence[tuple[NoiseLevel, Tensor]],
    here: NoiseLevel,
    there: NoiseLevel,
    covariance: Covariance,
    eta: float = 0.0,
) -> Tensor:
    """The step from here to there with Q interpolated through ``past`` (its level, Q), in coordinates; of strength
    ``eta``, its mean."""
    # a level with alpha = 0 lies infinitely far back and says nothing of the slope
    nodes = [(level, q) for level, q in past if level.alpha > 0] or past[:1]
    (alpha, sigma), (to_alpha, to_sigma) = ((float(level.alpha), float(level.sigma)) for level in (here, there))
    weigh = None
    if len(nodes) > 1:
        times = [float(level.log_ratio) for level, _ in nodes]
        weigh = _weighing(covariance.stored, times, float(here.log_ratio), float(there.log_ratio), 1 + eta**2)

    def factors(variances: Tensor) -> Tensor:
        """Of the state, and of each Q: [1 + J, M]."""
        ratio = ((variances * to_alpha**2 + to_sigma**2) / (variances * alpha**2 + sigma**2)).sqrt()
        if eta:
            ratio = ratio * modes.correlation(variances, here, there) ** eta**2
        weights = (to_alpha - ratio * alpha).unsqueeze(0) if weigh is None else to_alpha * weigh(variances)
        return torch.cat([ratio.unsqueeze(0), weights])

    return covariance.combine(factors, [state, *(q for _, q in nodes)])


def _noise(unit: Tensor, here: NoiseLevel, there: NoiseLevel, covariance: Covariance, eta: float) -> Tensor:
    """What a step of strength eta adds, made of unit noise [B, D], in coordinates for `Covariance.combine`."""

    def factors(variances: Tensor) -> Tensor:
        return modes.transition(variances, here, there, eta)[1].sqrt().unsqueeze(0)

    return covariance.combine(factors, [covariance.split(unit)])


def _weighing(
    variances: Tensor, nodes: Sequence[float], start: float, end: float, power: float = 1.0
) -> SpectralFunction:
    """`_weights` as a function of variances; for more of them than a table has, by interpolation in it."""

    def exact(values: Tensor) -> Tensor:
        return _weights(values, nodes, start, end, power)

    return exact if len(variances) <= _TABLE else _tabulated(exact, float(variances.min()), float(variances.max()))


def _weights(
    variances: Tensor,
    nodes: Sequence[float] | Tensor,
    start: float | Tensor,
    end: float | Tensor,
    power: float = 1.0,
) -> Tensor:
    """(lambda + s'^2)^(p/2) times the integral of p l_j(t) s^2 / (lambda + s^2)^(1 + p/2) dt, t = log s from end to
    start; p = 1 + eta^2, 1 for the flow. [J, M].

    l_j are the Lagrange polynomials of the nodes. Gauss-Legendre in t: the integrand is smooth, 24 nodes reach
    rounding.
    """
    nodes, end = torch.as_tensor(nodes, dtype=torch.float64), torch.as_tensor(end, dtype=torch.float64)
    points, quadrature = _gauss_legendre(_NODES)
    t = end + (points + 1) / 2 * (start - end)
    square = (2 * t).exp().unsqueeze(1)
    whole = variances + square
    kernel = power * square / whole * ((variances + (2 * end).exp()) / whole) ** (power / 2)
    weights = []
    for j, node in enumerate(nodes):
        others = torch.cat([nodes[:j], nodes[j + 1 :]])
        lagrange = ((t.unsqueeze(1) - others) / (node - others)).prod(1)
        weights.append((start - end) / 2 * quadrature * lagrange)
    return torch.stack(weights) @ kernel


def _tabulated(function: SpectralFunction, lowest: float, highest: float) -> SpectralFunction:
    """A function [J, M] of variances between two, by cubics through a table that is even in log(lambda): to 1e-9 of its
    largest value, where it is smooth in log(lambda).

    Variances below 1e-20 of the highest are taken for that: less than the square of any sigma/alpha in use.
    """
    if not highest > 0:
        return lambda values: function(values[:1]).expand(-1, len(values))
    low = max(lowest, 1e-20 * highest)
    inner = _TABLE - 3  # a node below the range, and two above
    step = max(math.log(highest / low), 1e-6) / (inner - 1)
    table = function((math.log(low) + step * (torch.arange(_TABLE, dtype=torch.float64) - 1)).exp())

    def interpolated(values: Tensor) -> Tensor:
        place = (values.clamp(min=low).log() - math.log(low)) / step
        left = place.floor().clamp(0, inner - 1).long()
        u = place - left
        total = -u * (u - 1) * (u - 2) / 6 * table[:, left]
        total += (u + 1) * (u - 1) * (u - 2) / 2 * table[:, left + 1]
        total -= (u + 1) * u * (u - 2) / 2 * table[:, left + 2]
        return total.add_((u + 1) * u * (u - 1) / 6 * table[:, left + 3])

    return interpolated


@cache
def _gauss_legendre(count: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [-1, 1] from the eigenvalues of the Jacobi matrix (Golub & Welsch 1969)."""
    with torch.inference_mode(False):  # what is kept has to serve gradients, too
        k = torch.arange(1, count, dtype=torch.float64)
        side = k / (4 * k**2 - 1).sqrt()
        nodes, vectors = torch.linalg.eigh(torch.diag(side, 1) + torch.diag(side, -1))
        return nodes, 2 * vectors[0] ** 2
