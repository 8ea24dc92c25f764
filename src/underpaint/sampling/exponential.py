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

With noise, D is a martingale: what it will be is, on average, what it is. So at eta = 1 extrapolation gains nothing in
the mean. What it adds is variance, along what the network has just recognised, where a step of order 1 adds it along
all that the Gaussian knows. The whole line adds too much of it; half of it, the line's value at the middle of the step,
is the midpoint rule of SDE-DPM-Solver++ (Lu22), with Q in the place of D.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from ..bounds import number
from ..noise import NoiseLevel
from ..theory import modes
from ..theory.covariance import Covariance
from ..theory.denoiser import Denoiser
from ..theory.gaussian import Gaussian
from .solvers import Draw, Solver, Step, anew

_NODES = 24

#: How the step into sigma = 0 is made.
Ending = Literal["flow", "denoised"]
#: What is taken of the polynomial through past Q: its integral, or its value at the middle of the step.
Rule = Literal["integral", "midpoint"]
#: A level, and Q of the call that was made there, in coordinates.
Seen = tuple[NoiseLevel, Tensor]
#: Variants by name: the order, and c for the corrector.
EXPONENTIALS = {f"exponential-{n}{'c' if c else ''}": (n, c) for n in (1, 2, 3) for c in (False, True)}


def gaussian_exponential(
    gaussian: Gaussian,
    order: int = 1,
    corrector: bool = False,
    ending: Ending = "flow",
    eta: float = 0.0,
    draw: Draw = torch.randn_like,
    rule: Rule = "integral",
    above: float = 0.0,
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
        rule: what steps take of the polynomial through the latest Q: its "integral", or its value at the "midpoint" of
            log(sigma/alpha), which bears long steps with noise better.
        above: the ratio sigma/alpha down to which the Gaussian is taken at its word. Steps from lower levels do without
            its covariance: they are those of DPM-Solver++, or, with noise, of SDE-DPM-Solver++.

    Raises:
        ValueError: another order, ending or rule, or a strength or ratio that is none.

    Examples:
        >>> import torch
        >>> import underpaint as up
        >>> covariance = up.Covariance(torch.tensor([4.0, 0.25]), torch.eye(2))
        >>> gaussian = up.Gaussian(torch.zeros(2), covariance)
        >>> level = up.EDM().grid(steps=3)
        >>> x = up.initial_noise(range(4), gaussian.dimension, level[0])
        >>> run = up.sample(gaussian, x, level, up.gaussian_exponential(gaussian))
        >>> torch.allclose(run.final, gaussian.flow(x, level[0], level[-1]), atol=1e-4)
        True
    """
    if order not in (1, 2, 3):
        raise ValueError(f"The Gaussian exponential integrator has order 1, 2 or 3, got {order}.")
    if ending not in get_args(Ending):
        raise ValueError(f"The Gaussian exponential integrator ends by 'flow' or 'denoised', got {ending!r}.")
    if rule not in get_args(Rule):
        raise ValueError(f"The Gaussian exponential integrator steps by 'integral' or 'midpoint', got {rule!r}.")
    known, eta = gaussian.covariance, number(eta, "strength eta of the added noise", 0.0, 1e3)
    above = number(above, "ratio above which the covariance counts", 0.0, 1e9)
    # made only where it is of use: a covariance looks through the whole of its basis
    unknown = replace(known, eigenvalues=torch.zeros_like(known.eigenvalues), residual=0.0) if above > 0 else known

    def solve(denoise: Denoiser, x: Tensor, level: NoiseLevel) -> Iterator[Step]:
        mean = gaussian.mean.to(x.dtype)
        levels, dtype, unit = [*level], x.dtype, anew(draw)
        # centred states y = (x - alpha mu) in coordinates of the covariance; Q of the latest calls, newest first
        state, past = known.split(x, levels[0].alpha.to(x) * mean), list[Seen]()
        covariance, images = known, list[Seen]()  # denoised images, while they may be needed in the place of Q
        for i, (here, there) in enumerate(pairwise(levels)):
            denoised = denoise(x, here)
            del x  # what a step holds is 1 + order + 1 states, and what it makes
            image, kept = known.split(denoised, mean), above > 0 and covariance is known
            if kept:
                images = [(here, image), *images][:order]
            past.insert(0, (here, local_mean(image, state, covariance, here, own=not kept)))
            if corrector and i:
                state = corrected(state, past, levels[i - 1], covariance, eta, rule)
            if kept and here.ratio < above:
                covariance, past, images = unknown, images, []  # without a covariance, Q is the denoised image
            if there.sigma == 0 and ending == "denoised":
                yield there.alpha.to(denoised) * denoised, denoised
                return
            usable = 1 if there.sigma == 0 else order
            state = advance(state, past[:usable], here, there, covariance, eta, rule, own=True)
            del past[order:]
            if eta:
                state = state + _noise(unit(denoised.to(dtype)), here, there, covariance, eta)
            x = known.join(state).to(dtype).add_(mean, alpha=float(there.alpha))
            yield x, denoised

    return solve


def gaussian_ancestral(
    gaussian: Gaussian,
    eta: float = 1.0,
    draw: Draw = torch.randn_like,
    order: int = 2,
    corrector: bool = True,
    ending: Ending = "denoised",
    rule: Rule = "midpoint",
    above: float | None = None,
) -> Solver:
    """A stochastic solver, one call a step: the mean of each step is the network's, its covariance the Gaussian's where
    the network knows no more than that.

    At strength 1 and order 1 these are mean and covariance of x' given x. DDPM and ancestral samplers take x0-hat for
    x0 there, and so lose the variance that x0 still has; here a step of any length keeps the variance of Gaussian data.
    Source: `modes.transition`; its mean is DDPM's (Ho et al. 2020, eq. 7). The best isotropic variance is that of Bao
    et al. 2022 (Analytic-DPM, arXiv 2201.06503).

    Args, and what is raised: as of `gaussian_exponential`, but ``above`` is by default the largest standard deviation
    of the data. At less noise a network begins to see which image it is, and the Gaussian's noise would undo that: from
    there on, steps are SDE-DPM-Solver++'s, which the corrector takes once more. With ``above=0.0`` the covariance
    counts in all steps, as it should for data that are Gaussian.

    Examples:
        >>> import torch
        >>> import underpaint as up
        >>> gaussian = up.Gaussian.isotropic(torch.zeros(1), variance=4.0)
        >>> level = up.EDM().grid(steps=3)
        >>> x = up.initial_noise(range(4000), 1, level[0])
        >>> draw = up.seeded_noise(range(4000))
        >>> solver = up.gaussian_ancestral(gaussian, draw=draw, above=0.0)
        >>> made = up.sample(gaussian, x, level[:-1], solver).final
        >>> bool(0.9 < made.var() / (4 + level.sigma[-2] ** 2) < 1.1)
        True
    """
    if above is None:
        above = float(gaussian.covariance.stored.max()) ** 0.5
    return gaussian_exponential(gaussian, order, corrector, ending, eta, draw, rule, above)


def named_exponential(name: str, gaussian: Gaussian) -> Solver:
    """One of `EXPONENTIALS`, that ends as other samplers do."""
    return gaussian_exponential(gaussian, *EXPONENTIALS[name], ending="denoised")


def local_mean(denoised: Tensor, state: Tensor, covariance: Covariance, level: NoiseLevel, own: bool = False) -> Tensor:
    """Q from the centred denoised image, which may be the caller's ``own`` to lose, and state, in coordinates of the
    covariance."""
    alpha, sigma = float(level.alpha), float(level.sigma)

    def factors(variances: Tensor) -> Tensor:
        """Of D and of the state: Q = D - (lambda alpha / sigma^2)(y - alpha D)."""
        weight = variances * (alpha / sigma**2)
        return torch.stack([1 + weight * alpha, -weight])

    return covariance.combine(factors, [denoised, state], own, simple=True)


def advance(
    state: Tensor,
    past: Sequence[Seen],
    here: NoiseLevel,
    there: NoiseLevel,
    covariance: Covariance,
    eta: float = 0.0,
    rule: Rule = "integral",
    own: bool = False,
) -> Tensor:
    """The step from here to there with Q interpolated through ``past`` (its level, Q), in coordinates; of strength
    ``eta``, its mean. It takes the place of a state that is the caller's ``own`` to lose."""
    nodes = _finite(past)

    def factors(variances: Tensor) -> Tensor:
        """Of the state, and of each Q: [1 + J, M]."""
        ratio = _ratio(variances, here, there, eta)
        if len(nodes) == 1:
            return torch.stack([ratio, _constant(ratio, here, there)])
        times = [_time(level) for level, _ in nodes]
        weights = _weights(variances, times, _time(here), _time(there), 1 + eta**2, rule)
        return torch.cat([ratio.unsqueeze(0), weights.mul_(float(there.alpha))])

    return covariance.combine(factors, [state, *(q for _, q in nodes)], own, simple=len(nodes) == 1)


def corrected(
    state: Tensor,
    past: Sequence[Seen],
    here: NoiseLevel,
    covariance: Covariance,
    eta: float = 0.0,
    rule: Rule = "integral",
) -> Tensor:
    """What a step from here would have led to, had it known the Q that was seen at its end, the first of ``past``; in
    place of the state that it led to without.

    A polynomial through one node more differs by the product of (t - t_j) over the former nodes, times the divided
    difference of all (Newton's form), so that one integral is enough and the state at the beginning is not needed.
    """
    there, former = past[0][0], _finite(past[1:])
    nodes = [past[0], *former]

    def factors(variances: Tensor) -> Tensor:
        """Of the state, and of each Q: [1 + J, M]."""
        if former[0][0].alpha == 0:  # Q at that level was taken for all, and now the newest is
            weight, shares = _constant(_ratio(variances, here, there, eta), here, there), [1.0, -1.0]
        else:
            times = [_time(level) for level, _ in nodes]
            weight = float(there.alpha) * _integral(variances, times[1:], _time(here), times[0], 1 + eta**2, rule)
            shares = [1 / math.prod(t - other for other in times if other != t) for t in times]
        return torch.stack([torch.ones_like(weight), *(share * weight for share in shares)])

    return covariance.combine(factors, [state, *(q for _, q in nodes)], own=True)


def _time(level: NoiseLevel) -> float:
    """log(sigma/alpha)."""
    return math.log(float(level.sigma) / float(level.alpha))


def _finite(past: Sequence[Seen]) -> list[Seen]:
    """Those that say something of the slope: a level with alpha = 0 lies infinitely far back."""
    return [(level, q) for level, q in past if level.alpha > 0] or list(past[:1])


def _ratio(variances: Tensor, here: NoiseLevel, there: NoiseLevel, eta: float) -> Tensor:
    """What a step leaves of the state along each mode."""
    (alpha, sigma), (to_alpha, to_sigma) = ((float(level.alpha), float(level.sigma)) for level in (here, there))
    ratio = ((variances * to_alpha**2 + to_sigma**2) / (variances * alpha**2 + sigma**2)).sqrt()
    return ratio * modes.correlation(variances, here, there) ** eta**2 if eta else ratio


def _constant(ratio: Tensor, here: NoiseLevel, there: NoiseLevel) -> Tensor:
    """What a step makes of a Q that stays as it is."""
    return float(there.alpha) - ratio * float(here.alpha)


def _noise(unit: Tensor, here: NoiseLevel, there: NoiseLevel, covariance: Covariance, eta: float) -> Tensor:
    """What a step of strength eta adds, made of unit noise [B, D], in coordinates for `Covariance.combine`."""

    def factors(variances: Tensor) -> Tensor:
        return modes.transition(variances, here, there, eta)[1].sqrt().unsqueeze(0)

    return covariance.combine(factors, [covariance.split(unit)])


def _weights(
    variances: Tensor,
    nodes: Sequence[float] | Tensor,
    start: float | Tensor,
    end: float | Tensor,
    power: float = 1.0,
    rule: Rule = "integral",
) -> Tensor:
    """(lambda + s'^2)^(p/2) times the integral of p l_j(t) s^2 / (lambda + s^2)^(1 + p/2) dt, t = log s from end to
    start; p = 1 + eta^2, 1 for the flow. [J, M].

    l_j are the Lagrange polynomials of the nodes. Gauss-Legendre in t: the integrand is smooth, 24 nodes reach
    rounding. By the midpoint rule, l_j stands at the middle.
    """
    places = torch.as_tensor(nodes, dtype=torch.float64)
    t, measure, kernel = _quadrature(variances, start, end, power, rule)
    gaps = places.unsqueeze(1) - places
    shares = (t - places.unsqueeze(1)) / (gaps + torch.eye(len(places), dtype=gaps.dtype)).unsqueeze(2)  # [J, J, 24]
    own = torch.eye(len(places), dtype=torch.bool).unsqueeze(2)
    return (torch.where(own, 1.0, shares).prod(1) * measure) @ kernel


def _integral(
    variances: Tensor, nodes: Sequence[float], start: float, end: float, power: float = 1.0, rule: Rule = "integral"
) -> Tensor:
    """The same with the product of all (t - t_j) in place of l_j. [M]."""
    t, measure, kernel = _quadrature(variances, start, end, power, rule)
    for node in nodes:
        measure = measure * (t - node)
    return measure @ kernel


def _quadrature(
    variances: Tensor, start: float | Tensor, end: float | Tensor, power: float, rule: Rule
) -> tuple[Tensor, Tensor, Tensor]:
    """Places t of the polynomial, the measure dt of each [24], and what stands beside it, [24, M]."""
    points, quadrature = _gauss_legendre(_NODES)
    end = torch.as_tensor(end, dtype=torch.float64)
    t = end + (points + 1) / 2 * (start - end)
    square = (2 * t).exp().unsqueeze(1)
    whole = variances + square
    left = (variances + (2 * end).exp()) / whole
    kernel = square / whole * (left.sqrt() if power == 1 else power * left ** (power / 2))
    places = t if rule == "integral" else torch.full_like(t, float(start + end) / 2)
    return places, (start - end) / 2 * quadrature, kernel


@cache
def _gauss_legendre(count: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [-1, 1] from the eigenvalues of the Jacobi matrix (Golub & Welsch 1969)."""
    with torch.inference_mode(False):  # what is kept has to serve gradients, too
        k = torch.arange(1, count, dtype=torch.float64)
        side = k / (4 * k**2 - 1).sqrt()
        nodes, vectors = torch.linalg.eigh(torch.diag(side, 1) + torch.diag(side, -1))
        return nodes, 2 * vectors[0] ** 2
