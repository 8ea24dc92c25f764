"""Solvers of the probability-flow ODE dx~/ds~ = (x~ - D)/s~, with x~ = x/alpha and s~ = sigma/alpha.

Each is a generator that reads like its algorithm and works for any (alpha, sigma): steps are written in D and
eps = (x - alpha D)/sigma, which stay finite at alpha = 0 and as sigma -> 0.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

from ..bounds import shown
from ..noise import NoiseLevel
from ..theory.denoiser import Denoiser

#: One step of a solver: the state after it, and the denoised image at the state before it.
Step = tuple[Tensor, Tensor]
#: solver(denoise, x, level) yields one Step for each interval of the grid.
Solver = Callable[[Denoiser, Tensor, NoiseLevel], Iterator[Step]]
#: Draws unit noise like the rows it is given.
Draw = Callable[[Tensor], Tensor]


def ddim_step(x: Tensor, denoised: Tensor, here: NoiseLevel, there: NoiseLevel) -> Tensor:
    """alpha' D + (sigma'/sigma)(x - alpha D): exact where D is constant (Song et al. 2021, eq. 12; Euler in s~)."""
    shrink = there.sigma / here.sigma
    return shrink.to(x) * x + (there.alpha - shrink * here.alpha).to(x) * denoised


def euler(denoise: Denoiser, x: Tensor, level: NoiseLevel) -> Iterator[Step]:
    """First order, one call a step; equal to deterministic DDIM.

    Examples:
        >>> import torch
        >>> import underpaint as up
        >>> gaussian = up.Gaussian.isotropic(torch.zeros(1), variance=1.0)
        >>> level = up.EDM().grid(steps=10)
        >>> up.sample(gaussian, up.initial_noise([0], 1, level[0]), level, up.euler).nfe
        10
    """
    for here, there in pairwise(level):
        denoised = denoise(x, here)
        x = ddim_step(x, denoised, here, there)
        yield x, denoised


def ancestral(draw: Draw = torch.randn_like) -> Solver:
    """A stochastic solver, one call a step, of first order: x' is drawn from p(x' | x, x0) with x0-hat in place of x0.

    With q = (s~'/s~)^2: x' = alpha' (1 - q) D + (alpha sigma'^2 / (alpha' sigma^2)) x + sigma' sqrt(1 - q) eps.
    Source: Ho et al. 2020, eq. 7, for any alpha and sigma; equal to DDIM at eta = 1 (Song et al. 2021, eq. 16).

    Args:
        draw: unit noise like the rows that it is given, such as `seeded_noise`.
    """

    def solve(denoise: Denoiser, x: Tensor, level: NoiseLevel) -> Iterator[Step]:
        unit = anew(draw)
        for here, there in pairwise(level):
            denoised = denoise(x, here)
            shrink = there.sigma / there.alpha * here.alpha / here.sigma
            fresh = 1 - shrink**2
            x = (there.alpha * fresh).to(x) * denoised + (shrink * there.sigma / here.sigma).to(x) * x
            if there.sigma > 0:
                x = x + (there.sigma * fresh.sqrt()).to(x) * unit(x)
            yield x, denoised

    return solve


def heun(denoise: Denoiser, x: Tensor, level: NoiseLevel) -> Iterator[Step]:
    """Second order, two calls a step (one for a step to sigma = 0 or from alpha = 0): Karras22, algorithm 1, for any
    alpha.

    The trapezoid in s~ is x' = x'_euler + alpha' (s~' - s~)(eps' - eps)/2. It is of use where steps in s~ are short
    beside the width of the data or the level they end at: not on a first step from a level with little signal, from
    s~ = 6000 to 10, say.

    Examples:
        >>> import torch
        >>> import underpaint as up
        >>> gaussian = up.Gaussian.isotropic(torch.zeros(1), variance=1.0)
        >>> level = up.EDM().grid(steps=10)
        >>> up.sample(gaussian, up.initial_noise([0], 1, level[0]), level, up.heun).nfe
        19
    """
    for here, there in pairwise(level):
        denoised = denoise(x, here)
        moved = ddim_step(x, denoised, here, there)
        if there.sigma > 0 and here.alpha > 0:
            eps = _eps(x, denoised, here)
            correction = _eps(moved, denoise(moved, there), there) - eps
            moved = moved + (there.alpha * (there.ratio - here.ratio) / 2).to(x) * correction
        x = moved
        yield x, denoised


def _eps(x: Tensor, denoised: Tensor, level: NoiseLevel) -> Tensor:
    alpha, sigma = level.columns(x)
    return (x - alpha * denoised) / sigma


def dpm_solver(order: int) -> Solver:
    """DPM-Solver++ multistep of order 2 or 3, one call a step (Lu22, algorithm 2 and appendix).

    In l = -log s~ the linear part is solved exactly and D is extrapolated through past calls. The order is built up
    with the history and falls again at the end: order 1 into sigma = 0, and below 15 steps at most order 2 just before.

    The third order is the published rule, and that of diffusers. It gives the curvature half the weight of its
    integral, so that its measured order is 2, with a small constant.

    Examples:
        >>> import torch
        >>> import underpaint as up
        >>> gaussian = up.Gaussian.isotropic(torch.zeros(1), variance=1.0)
        >>> level = up.EDM().grid(steps=20)
        >>> x = up.initial_noise([0], 1, level[0])
        >>> exact = gaussian.flow(x, level[0], level[-1])
        >>> first = up.sample(gaussian, x, level, up.euler).final
        >>> second = up.sample(gaussian, x, level, up.dpmpp_2m).final
        >>> bool((second - exact).abs() < (first - exact).abs())
        True
    """
    if order not in (2, 3):
        raise ValueError(f"DPM-Solver++ multistep is offered in order 2 or 3, got {order}.")

    def solve(denoise: Denoiser, x: Tensor, level: NoiseLevel) -> Iterator[Step]:
        steps, time = len(level) - 1, -level.log_ratio
        past: deque[Tensor] = deque(maxlen=order)
        for i, (here, there) in enumerate(pairwise(level)):
            past.appendleft(denoise(x, here))
            allowed = 1 if there.sigma == 0 else 2 if i == steps - 2 and steps < 15 else order
            x = _multistep(x, list(past)[:allowed], time[: i + 2], here, there)
            yield x, past[0]

    return solve


def _multistep(x: Tensor, past: list[Tensor], time: Tensor, here: NoiseLevel, there: NoiseLevel) -> Tensor:
    """One step with the polynomial through ``past`` (newest first); its degree is the length less one.

    A level with alpha = 0 lies infinitely far back: divided by that, its slope is 0, as it should be.
    """
    first = ddim_step(x, past[0], here, there)
    if len(past) == 1:
        return first
    h = time[-1] - time[-2]
    decay = torch.expm1(-h)
    r0 = (time[-2] - time[-3]) / h
    slope0 = (past[0] - past[1]) / r0.to(x)
    if len(past) == 2:
        return first - (there.alpha * decay / 2).to(x) * slope0
    r1 = (time[-3] - time[-4]) / h
    slope1 = (past[1] - past[2]) / r1.to(x)
    curve = (slope0 - slope1) / (r0 + r1).to(x)
    slope = slope0 + r0.to(x) * curve
    first = first + (there.alpha * (decay / h + 1)).to(x) * slope
    return first - (there.alpha * ((decay + h) / h**2 - 0.5)).to(x) * curve


dpmpp_2m: Solver = dpm_solver(2)
dpmpp_3m: Solver = dpm_solver(3)

#: name -> (solver, calls of the denoiser for a grid of N steps that ends at sigma = 0)
SOLVERS: dict[str, tuple[Solver, Callable[[int], int]]] = {
    "euler": (euler, lambda steps: steps),
    "heun": (heun, lambda steps: 2 * steps - 1),
    "dpmpp-2m": (dpmpp_2m, lambda steps: steps),
    "dpmpp-3m": (dpmpp_3m, lambda steps: steps),
}


def check_solver(given: Solver) -> Solver:
    """What is given, if it may be a solver.

    Raises:
        ValueError: it cannot be called.
    """
    if not callable(given):
        raise ValueError(
            f"A solver is a function, such as underpaint.euler or underpaint.heun, got {shown(given)}; "
            "underpaint.sampling.solvers.find_solver gives the one of a name."
        )
    return given


def anew(draw: Draw) -> Draw:
    """What draws noise, as at the beginning of a run: noise that belongs to seeds begins again."""
    begin: Callable[[], Draw] | None = getattr(draw, "anew", None)
    return draw if begin is None else begin()


def find_solver(name: str) -> Solver:
    """The solver of that name ('ddim' is 'euler'); raises ValueError with the names on offer.

    Examples:
        >>> import underpaint as up
        >>> up.find_solver("ddim") is up.euler
        True
    """
    try:
        return SOLVERS["euler" if name == "ddim" else name][0]
    except (KeyError, TypeError):
        raise ValueError(f"Unknown solver {name!r}; choose one of ddim, {', '.join(SOLVERS)}.") from None
