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

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from ..bounds import number
from ..noise import NoiseLevel
from ..theory import modes
from ..theory.covariance import Covariance, add
from ..theory.denoiser import Denoiser
from ..theory.gaussian import Gaussian
from .solvers import Draw, Solver, Step, anew

_NODES = 24
#: Variances times calls whose gains are asked for at once.
_TOGETHER = 1 << 10
#: In the place of an infinite log(sigma/alpha).
_FAR = 300.0

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
        mean, dtype, unit = gaussian.mean.to(x.dtype), x.dtype, anew(draw)
        gains = partial(_gains, level=level, order=order, corrector=corrector, eta=eta, rule=rule)
        calls = range(len(level) - 1 - int(ending == "denoised" and level.sigma[-1] == 0))  # those that a step follows
        by_call = gains_by_call(gains, known.asked, calls)
        # the centred state y = (x - alpha mu) in coordinates of the covariance; Q of former calls, newest first
        state, past = known.split(x, level.alpha[0].to(x) * mean), list[Tensor]()
        covariance, images = known, list[Tensor]()  # denoised images, while they may be needed in the place of Q
        for i, (here, there) in enumerate(pairwise(level)):
            denoised = denoise(x, here)
            del x  # what a step holds is 1 + order + 1 states, and what it makes
            if there.sigma == 0 and ending == "denoised":
                yield there.alpha.to(denoised) * denoised, denoised
                return
            own = next(by_call)
            past.insert(0, known.split(denoised, mean))
            if above > 0 and covariance is known:
                images = [past[0].clone(), *images][:order]
            if covariance is known and here.ratio < above:
                alone = torch.tensor([i])
                _follow(gains(known.asked, alone, step=False)[0], state, past, known)
                covariance, past, images = unknown, images, []  # without a covariance, Q is the denoised image
                _follow(gains(unknown.asked, alone, corrector=False)[0], state, past, unknown)
                by_call = gains_by_call(gains, unknown.asked, calls[i + 1 :])
            else:
                _follow(own, state, past, covariance)
            del past[order + corrector - 1 :]
            if eta:
                state = state + _noise(unit(denoised.to(dtype)), here, there, covariance, eta)
            x = known.join(state).to(dtype).add_(mean, alpha=float(there.alpha))
            yield x, denoised
            del denoised

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


def local_mean(denoised: Tensor, state: Tensor, covariance: Covariance, level: NoiseLevel) -> Tensor:
    """Q from the centred denoised image and state, in coordinates of the covariance."""
    return covariance.combine(partial(_recognised, level=level), [denoised, state])


def advance(state: Tensor, past: Sequence[Seen], here: NoiseLevel, there: NoiseLevel, covariance: Covariance) -> Tensor:
    """The step from here to there with Q interpolated through ``past`` (its level, Q), in coordinates."""
    # a level with alpha = 0 lies infinitely far back, and says nothing of the slope
    nodes = [(level, q) for level, q in past if level.alpha > 0] or list(past[:1])
    times = torch.stack([level.log_ratio for level, _ in nodes])

    def factors(variances: Tensor) -> Tensor:
        """Of the state, and of each Q: [1 + J, M]."""
        ratio = modes.psi(variances, here, there)
        terms = _constant(ratio, here, there).unsqueeze(0)
        if len(nodes) > 1:
            beyond = there.alpha * _integrals(variances, times[:-1], here.log_ratio, there.log_ratio)
            terms = torch.cat([terms, beyond])
        return torch.cat([ratio.unsqueeze(0), _differences(times) @ terms])

    return covariance.combine(factors, [state, *(q for _, q in nodes)])


def gains_by_call(
    gains: Callable[[Tensor, Tensor], Tensor], variances: Tensor, calls: Sequence[int]
) -> Iterator[Tensor]:
    """The gains of one call after another, from what makes those of some [n] of them: several at once, as what it takes
    to ask hardly grows with them; not so many that they are large themselves."""
    together = max(1, _TOGETHER // len(variances))
    for first in range(0, len(calls), together):
        yield from gains(variances, torch.tensor(calls[first : first + together]))


def _follow(gains: Tensor, state: Tensor, past: Sequence[Tensor], covariance: Covariance) -> None:
    """The newest of the ``past``, a denoised image, becomes Q, and then the state the next one; in their places."""
    for (of_image, of_state, ratio, *of_each), (y, *known) in covariance.along(gains, state, *past):
        known[0].mul_(of_image)
        add(known[0], of_state, y)
        y.mul_(ratio)
        for gain, q in zip(of_each, known, strict=False):  # the first steps know few of them
            add(y, gain, q)


def _gains(
    variances: Tensor,
    calls: Tensor,
    level: NoiseLevel,
    order: int,
    corrector: bool,
    eta: float,
    rule: Rule,
    step: bool = True,
) -> Tensor:
    """What calls at some levels [n] make of image and state, which is Q; and of the state and of each Q, the newest
    first, which is the next state, or with ``step=False`` this one corrected: [n, 3 + J, M].

    The polynomial through the calls in Newton's form: each term is an integral of the product of (t - t_j) over the
    newest nodes, times the divided difference of Q at one node more. The corrector, once Q is seen at the end of a
    step, adds the next term to what the step led to; the state at its beginning is not needed.
    """
    here, there, nodes = level[calls], level[calls + 1], _nodes(level, order)
    steps = torch.cat([calls[:1] - 1, calls]).clamp(min=0)
    integrals = _integrals(variances, nodes[steps, :-1], nodes[steps, 0], nodes[steps + 1, 0], 1 + eta**2, rule)
    ratio = _ratio(variances, here, there, eta) if step else integrals.new_ones(len(calls), len(variances))
    terms = integrals.new_zeros(len(calls), order + 1, len(variances))  # one for each divided difference
    degree, infinite = torch.arange(1, order + 1), int(level.alpha[0] == 0)
    if step:
        most = torch.where(there.sigma > 0, (calls - infinite).clamp(max=order - 1), 0)
        terms[:, 0] = _constant(ratio, here, there)
        terms[:, 1:] = (there.alpha.unsqueeze(1) * (degree <= most.unsqueeze(1))).unsqueeze(2) * integrals[1:]
    if corrector:
        last = (calls - infinite).clamp(max=order)
        left = ratio.unsqueeze(1) * (here.alpha.unsqueeze(1) * (degree == last.unsqueeze(1))).unsqueeze(2)
        terms[:, 1:] += left * integrals[:-1]
    of_each = _differences(nodes[calls]) @ terms
    if corrector and infinite:  # Q at the first level was taken for all on the way to the next, and now the newest is
        left = (ratio * here.alpha.unsqueeze(1) * (calls == 1).unsqueeze(1)).unsqueeze(1)
        of_each[:, :2] += left * torch.tensor([[1.0], [-1.0]])
    return torch.cat([_recognised(variances, here), ratio.unsqueeze(1), of_each[:, : order + corrector]], 1)


def _recognised(variances: Tensor, level: NoiseLevel) -> Tensor:
    """Q = D - (lambda alpha / sigma^2)(y - alpha D): gains of image and state, [..., 2, M]."""
    alpha = level.alpha.unsqueeze(-1)
    weight = variances * (alpha / level.sigma.unsqueeze(-1).square())
    return torch.stack([1 + weight * alpha, -weight], -2)


def _ratio(variances: Tensor, here: NoiseLevel, there: NoiseLevel, eta: float) -> Tensor:
    """What a step leaves of the state along each mode."""
    ratio = modes.psi(variances, here, there)
    return ratio * modes.correlation(variances, here, there) ** eta**2 if eta else ratio


def _constant(ratio: Tensor, here: NoiseLevel, there: NoiseLevel) -> Tensor:
    """What a step makes of a Q that stays as it is."""
    return there.alpha.unsqueeze(-1) - ratio * here.alpha.unsqueeze(-1)


def _nodes(level: NoiseLevel, order: int) -> Tensor:
    """log(sigma/alpha) of each of N levels and of the ``order`` before it, newest first, [N, 1 + order]; where it is
    infinite, or there is no such level, a number that is finite and no other's."""
    time = level.log_ratio.nan_to_num(posinf=_FAR, neginf=-_FAR)
    before = torch.arange(order, 0, -1, dtype=torch.float64) + _FAR
    return torch.cat([before, time]).unfold(0, order + 1, 1).flip(1)


def _differences(nodes: Tensor) -> Tensor:
    """The share of each node in the divided differences of the first, of the first two, and so on: [..., J, J]."""
    own = torch.eye(nodes.shape[-1], dtype=torch.bool)
    gaps = torch.where(own, 1.0, nodes.unsqueeze(-1) - nodes.unsqueeze(-2))
    return gaps.reciprocal().cumprod(-1).triu()


def _noise(unit: Tensor, here: NoiseLevel, there: NoiseLevel, covariance: Covariance, eta: float) -> Tensor:
    """What a step of strength eta adds, made of unit noise [B, D], in coordinates for `Covariance.combine`."""

    def factors(variances: Tensor) -> Tensor:
        return modes.transition(variances, here, there, eta)[1].sqrt().unsqueeze(0)

    return covariance.combine(factors, [covariance.split(unit)])


def _integrals(
    variances: Tensor, nodes: Tensor, start: Tensor, end: Tensor, power: float = 1.0, rule: Rule = "integral"
) -> Tensor:
    """(lambda + s'^2)^(p/2) times the integrals of p w_j(t) s^2 / (lambda + s^2)^(1 + p/2) dt, t = log s from end to
    start, where w_j are the products of (t - t_k) over the first j of nodes [..., J]; p = 1 + eta^2, 1 for the flow.
    [..., J, M].

    Gauss-Legendre in t: the integrand is smooth, 24 nodes reach rounding. By the midpoint rule, w_j stands at the
    middle.
    """
    points, measure = _gauss_legendre(_NODES)
    start, end = start.unsqueeze(-1), end.unsqueeze(-1)
    t = end + (points + 1) / 2 * (start - end)
    square = (2 * t).exp().unsqueeze(-1)
    whole = variances + square
    left = (variances + (2 * end).exp().unsqueeze(-1)) / whole
    kernel = square / whole
    del whole
    kernel *= left.sqrt_() if power == 1 else power * left ** (power / 2)
    place = t if rule == "integral" else (start + end) / 2
    products = (place.unsqueeze(-2) - nodes.unsqueeze(-1)).cumprod(-2)
    return (products * (measure * (start - end) / 2).unsqueeze(-2)) @ kernel


@cache
def _gauss_legendre(count: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [-1, 1] from the eigenvalues of the Jacobi matrix (Golub & Welsch 1969)."""
    with torch.inference_mode(False):  # what is kept has to serve gradients, too
        k = torch.arange(1, count, dtype=torch.float64)
        side = k / (4 * k**2 - 1).sqrt()
        nodes, vectors = torch.linalg.eigh(torch.diag(side, 1) + torch.diag(side, -1))
        return nodes, 2 * vectors[0] ** 2
