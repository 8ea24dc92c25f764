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
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from ..noise import NoiseLevel
from ..theory.denoiser import Denoiser
from ..theory.gaussian import Gaussian
from .solvers import Solver, Step

_NODES = 24

#: How the step into sigma = 0 is made.
Ending = Literal["flow", "denoised"]
#: Variants by name: the order, and c for the corrector.
EXPONENTIALS = {f"exponential-{n}{'c' if c else ''}": (n, c) for n in (1, 2, 3) for c in (False, True)}


def gaussian_exponential(
    gaussian: Gaussian, order: int = 1, corrector: bool = False, ending: Ending = "flow"
) -> Solver:
    """A solver of the given order (1, 2 or 3), one call a step, that is exact for Gaussians of this covariance.

    Args:
        gaussian: statistics of the data, full or low rank.
        order: how many calls the extrapolation of Q rests on; built up with the history, 1 into sigma = 0.
        corrector: redo each step with the call made at its end among the nodes, as UniPC (Zhao23) does; no extra call.
        ending: how the step into sigma = 0 is made: along the Gaussian's "flow", as exact as all others; or as samplers
            of diffusers and EDM make it, with the image that was "denoised" in the last call. A network that knows the
            noise left in x from the image is better taken at its word: the flow keeps half of it in wide directions.

    Raises:
        ValueError: another order or ending.
    """
    if order not in (1, 2, 3):
        raise ValueError(f"The Gaussian exponential integrator has order 1, 2 or 3, got {order}.")
    if ending not in get_args(Ending):
        raise ValueError(f"The Gaussian exponential integrator ends by 'flow' or 'denoised', got {ending!r}.")
    covariance = gaussian.covariance
    variances = covariance.variances

    def solve(denoise: Denoiser, x: Tensor, level: NoiseLevel) -> Iterator[Step]:
        mean = gaussian.mean.to(x.dtype)
        time = level.log_ratio
        # centred states y = (x - alpha mu) in the coordinates of the covariance; Q of the latest calls, newest first
        state = covariance.analyse(x - level.alpha[0].to(x) * mean)
        before, past = state, deque[tuple[int, Tensor]](maxlen=order + 1)
        for i, (here, there) in enumerate(pairwise(level)):
            denoised = denoise(x, here)
            past.appendleft((i, local_mean(covariance.analyse(denoised - mean), state, variances, here)))
            if corrector and i:
                state = advance(before, list(past), time, i - 1, level, variances)
            if there.sigma == 0 and ending == "denoised":
                yield there.alpha.to(x) * denoised, denoised
                return
            before = state
            usable = 1 if there.sigma == 0 else order
            state = advance(state, list(past)[:usable], time, i, level, variances)
            x = there.alpha.to(x) * mean + covariance.synthesise(state).to(x.dtype)
            yield x, denoised

    return solve


def named_exponential(name: str, gaussian: Gaussian) -> Solver:
    """One of `EXPONENTIALS`, that ends as other samplers do."""
    return gaussian_exponential(gaussian, *EXPONENTIALS[name], ending="denoised")


def local_mean(denoised: Tensor, state: Tensor, variances: Tensor, level: NoiseLevel) -> Tensor:
    """Q from the centred denoised image and state, in coordinates."""
    eps = (state - level.alpha.to(state) * denoised) / level.sigma.to(state)
    return denoised - (variances * level.alpha / level.sigma).to(state) * eps


def advance(
    state: Tensor, past: list[tuple[int, Tensor]], time: Tensor, i: int, level: NoiseLevel, variances: Tensor
) -> Tensor:
    """The step from level i to i + 1 with Q interpolated through ``past`` (index of its level, Q)."""
    here, there = level[i], level[i + 1]
    # a level with alpha = 0 lies infinitely far back and says nothing of the slope
    nodes = [(j, q) for j, q in past if torch.isfinite(time[j])] or past[:1]
    ratio = ((variances * there.alpha**2 + there.sigma**2) / (variances * here.alpha**2 + here.sigma**2)).sqrt()
    if len(nodes) == 1:
        weights = [there.alpha - ratio * here.alpha]
    else:
        weights = [there.alpha * w for w in _weights(variances, time[[j for j, _ in nodes]], time[i], time[i + 1])]
    state = ratio.to(state) * state
    for weight, (_, q) in zip(weights, nodes, strict=True):
        state = state + weight.to(state) * q
    return state


def _weights(variances: Tensor, nodes: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """sqrt(lambda + s'^2) times the integral of l_j(t) s^2 / (lambda + s^2)^(3/2) dt, t = log s from end to start. [J,
    K].

    l_j are the Lagrange polynomials of the nodes. Gauss-Legendre in t: the integrand is smooth, 24 nodes reach
    rounding.
    """
    points, quadrature = _gauss_legendre(_NODES)
    t = end + (points + 1) / 2 * (start - end)
    square = (2 * t).exp().unsqueeze(1)
    whole = variances + square
    kernel = square * (variances + (2 * end).exp()).sqrt() / (whole * whole.sqrt())
    weights = []
    for j, node in enumerate(nodes):
        others = torch.cat([nodes[:j], nodes[j + 1 :]])
        lagrange = ((t.unsqueeze(1) - others) / (node - others)).prod(1)
        weights.append(((start - end) / 2 * quadrature * lagrange) @ kernel)
    return torch.stack(weights)


@cache
def _gauss_legendre(count: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [-1, 1] from the eigenvalues of the Jacobi matrix (Golub & Welsch 1969)."""
    with torch.inference_mode(False):  # what is kept has to serve gradients, too
        k = torch.arange(1, count, dtype=torch.float64)
        side = k / (4 * k**2 - 1).sqrt()
        nodes, vectors = torch.linalg.eigh(torch.diag(side, 1) + torch.diag(side, -1))
        return nodes, 2 * vectors[0] ** 2
