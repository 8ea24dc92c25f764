"""Convert what a network predicts to the denoised image E[x0 | x], and back.

With x = alpha x0 + sigma eps:  v = alpha eps - sigma x0 (Salimans & Ho 2022),  flow velocity u = eps - x0 (Lipman et
al. 2023),  score s = (alpha x0 - x) / sigma^2 (Tweedie). Written for any (alpha, sigma), not only alpha^2 + sigma^2 =
1.
"""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from .noise import NoiseLevel

Prediction = Literal["x0", "eps", "v", "flow", "score"]
PREDICTIONS: tuple[str, ...] = get_args(Prediction)


def _unknown(kind: str) -> ValueError:
    return ValueError(f"Unknown prediction type {kind!r}; choose one of {', '.join(PREDICTIONS)}.")


def to_denoised(output: Tensor, x: Tensor, level: NoiseLevel, kind: Prediction) -> Tensor:
    """The denoised x0 [B, D] that a network's output of the given kind stands for, at state x [B, D] and its level.

    'eps' and 'score' leave x0 undetermined at alpha = 0 and give infinities there; 'x0', 'v' and 'flow' do not.
    """
    alpha, sigma = level.columns(x)
    match kind:
        case "x0":
            return output
        case "eps":
            return (x - sigma * output) / alpha
        case "v":
            return (alpha * x - sigma * output) / (alpha**2 + sigma**2)
        case "flow":
            return (x - sigma * output) / (alpha + sigma)
        case "score":
            return (x + sigma**2 * output) / alpha
    raise _unknown(kind)


def from_denoised(denoised: Tensor, x: Tensor, level: NoiseLevel, kind: Prediction) -> Tensor:
    """The inverse of `to_denoised`: what a network of the given kind would put out. All but 'x0' need sigma > 0."""
    alpha, sigma = level.columns(x)
    match kind:
        case "x0":
            return denoised
        case "eps":
            return (x - alpha * denoised) / sigma
        case "v":
            return (alpha * x - (alpha**2 + sigma**2) * denoised) / sigma
        case "flow":
            return (x - (alpha + sigma) * denoised) / sigma
        case "score":
            return (alpha * denoised - x) / sigma**2
    raise _unknown(kind)
