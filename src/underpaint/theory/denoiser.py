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

    Examples:
        >>> import torch
        >>> import underpaint as up
        >>> anything = up.Gaussian.isotropic(torch.zeros(2), variance=1.0)
        >>> asked = up.Gaussian.isotropic(torch.ones(2), variance=1.0)
        >>> x, level = torch.zeros(1, 2), up.EDM()(1.0)
        >>> up.guide(anything, asked, weight=3.0)(x, level)
        tensor([[1.5000, 1.5000]])
    """
    check_weight(weight)
    return lambda x, level: lead(uncond(x, level), cond(x, level), weight)


def check_states(x: Tensor, dimension: int, who: str = "") -> None:
    """Refuse what are no states, rows [B, D] of a floating-point dtype: among whole numbers a mean would lose its
    fractions unsaid.

    Raises:
        ValueError: they are not; ``who`` begins the sentence, as in "The network expects".
    """
    if x.ndim != 2 or x.shape[1] != dimension:
        raise ValueError(f"{who or 'Expected'} rows [B, {dimension}], got a tensor of shape {tuple(x.shape)}.")
    if not x.is_floating_point():
        raise ValueError(f"{who or 'Expected'} rows of a floating-point dtype, got {x.dtype}; take x.float().")


def check_levels(x: Tensor, level: NoiseLevel) -> None:
    """Refuse noise levels that are neither one for all rows [B, D] nor one for each.

    Raises:
        ValueError: they are not.
    """
    if level.alpha.ndim and len(level) != len(x):
        raise ValueError(f"Expected one noise level, or one for each of {len(x)} rows; got {len(level)}.")


def checked(denoise: Denoiser) -> Denoiser:
    """The same denoiser, with an error in place of what is not one estimate for each row: it would be broadcast.

    Raises:
        ValueError: when it is called.
    """

    def call(x: Tensor, level: NoiseLevel) -> Tensor:
        denoised = denoise(x, level)
        if denoised.shape != x.shape or not denoised.is_floating_point():
            raise ValueError(
                f"The denoiser made {tuple(denoised.shape)} of {denoised.dtype} of states {tuple(x.shape)}; it has to "
                "give an estimate for each row."
            )
        return denoised

    return call


def check_weight(weight: float) -> None:
    """Refuse a guidance weight that is no number, or so large that single precision has nothing left of the rest."""
    number(weight, "guidance weight", -1000, 1000)


def lead(uncond: Tensor, cond: Tensor, weight: float) -> Tensor:
    """D_u + w (D_c - D_u)."""
    return uncond + weight * (cond - uncond)
