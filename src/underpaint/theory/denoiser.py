"""The one interface that solvers see, and how denoisers combine."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..bounds import number
from ..noise import NoiseLevel

#: (x [B, D], level) -> E[x0 | x] [B, D]. Networks and analytic distributions alike.
Denoiser = Callable[[Tensor, NoiseLevel], Tensor]


def guide(uncond: Denoiser, cond: Denoiser, weight: float) -> Denoiser:
    """Classifier-free guidance, D_u + w (D_c - D_u), of any two denoisers (Ho & Salimans 2022; w = 1 is D_c).

    Raises:
        ValueError: the weight is beyond `check_weight`.
    """
    check_weight(weight)
    return lambda x, level: lead(uncond(x, level), cond(x, level), weight)


def check_weight(weight: float) -> None:
    """Refuse a guidance weight that is no number, or so large that single precision has nothing left of the rest."""
    number(weight, "guidance weight", -1000, 1000)


def lead(uncond: Tensor, cond: Tensor, weight: float) -> Tensor:
    """D_u + w (D_c - D_u)."""
    return uncond + weight * (cond - uncond)
