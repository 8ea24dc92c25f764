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
#: sigma/alpha above which eps - eps-hat, divided by alpha, is not an image: in float32, rounding alone is 3 % of it.
_MOST_NOISE = 5e5


def _unknown(kind: str) -> ValueError:
    return ValueError(f"Unknown prediction type {kind!r}; choose one of {', '.join(PREDICTIONS)}.")


def to_denoised(output: Tensor, x: Tensor, level: NoiseLevel, kind: Prediction) -> Tensor:
    """The denoised x0 [B, D] that a network's output of the given kind stands for, at state x [B, D] and its level.

    Raises:
        ValueError: an unknown kind; an output that is not of the states' shape, which would be broadcast; or 'eps' or
            'score' at a level without signal, where they say nothing of x0.

    Examples:
        >>> import torch
        >>> import underpaint as up
        >>> level = up.DDPM()(500)
        >>> x0, eps = torch.ones(1, 2), torch.tensor([[0.5, -0.5]])
        >>> x = level.alpha * x0 + level.sigma * eps
        >>> up.to_denoised(eps, x, level, "eps")
        tensor([[1.0000, 1.0000]])
    """
    _check_pair(output, x)
    if kind in ("eps", "score"):
        _check_signal(level, kind)
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


def _check_pair(output: Tensor, x: Tensor) -> None:
    if output.shape != x.shape:
        raise ValueError(
            f"States and what a network put out are rows [B, D] alike, got {tuple(x.shape)} and {tuple(output.shape)}."
        )
    if not (output.is_floating_point() and x.is_floating_point()):
        raise ValueError(
            f"States and what a network put out are of floating-point dtypes, got {x.dtype} and {output.dtype}."
        )


def _check_signal(level: NoiseLevel, kind: Prediction) -> None:
    highest = float(level.ratio.max())
    if highest > _MOST_NOISE:
        raise ValueError(
            f"At sigma/alpha = {highest:.3g} there is no signal, and a network that predicts {kind!r} has no estimate "
            "of the image; begin at a lower level, for example with schedule.grid(steps, start=100.0), or teleport "
            "past it."
        )


def from_denoised(denoised: Tensor, x: Tensor, level: NoiseLevel, kind: Prediction) -> Tensor:
    """The inverse of `to_denoised`: what a network of the given kind would put out. All but 'x0' need sigma > 0.

    Raises:
        ValueError: an unknown kind, or images that are not of the states' shape.

    Examples:
        >>> import torch
        >>> import underpaint as up
        >>> level = up.NoiseLevel(alpha=0.6, sigma=0.8)
        >>> x0, eps = torch.ones(1, 2), torch.tensor([[0.5, -0.5]])
        >>> x = level.alpha * x0 + level.sigma * eps
        >>> up.from_denoised(x0, x, level, "v")
        tensor([[-0.5000, -1.1000]])
    """
    _check_pair(denoised, x)
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
