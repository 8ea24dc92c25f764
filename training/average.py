"""Averages of the weights whose length is chosen after the training.

Along the way the loop keeps two averages of power-function profile, and copies of both from time to time. The average
of any other width, as of any earlier step, is nearly a linear combination of these copies; it is found by least squares
between profiles. The width is the standard deviation of the profile as a share of the steps so far.

Source: Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models", section 3 and
appendix C.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from underpaint.files import read_tensors, write_tensors

State = dict[str, Tensor]

#: Widths of the two averages that are kept during the training.
WIDTHS = (0.05, 0.1)


def exponent(width: float) -> float:
    """gamma of the profile p(t) ~ t^gamma on [0, T] whose standard deviation is ``width`` times T.

    width^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)), of whose solutions the largest is taken.

    Raises:
        ValueError: no profile of a gamma >= 0 is as wide; a plain mean has 1/sqrt(12), .2887.
    """
    if not 0 < width < 1 / math.sqrt(12):
        raise ValueError(f"The width of an average lies between 0 and {1 / math.sqrt(12):.4f}, got {width:g}.")
    inverse = width**-2
    roots = np.roots([1, 7, 16 - inverse, 12 - inverse])
    return float(roots[np.isreal(roots)].real.max())


def kept_share(step: int, gamma: float) -> float:
    """How much of the average stays at this step, of which the first is 1: (1 - 1/step)^(gamma + 1)."""
    return (1 - 1 / step) ** (gamma + 1)


def overlap(steps: Tensor, gammas: Tensor, other_steps: Tensor, other_gammas: Tensor) -> Tensor:
    """Inner products [N, M] of N profiles with M others: the integral of p_a p_b over time, where
    p(t) = (gamma + 1) t^gamma / T^(gamma + 1) up to step T."""
    a, b = steps.double()[:, None], other_steps.double()[None, :]
    ga, gb = gammas.double()[:, None], other_gammas.double()[None, :]
    ratio = a / b
    power = torch.where(ratio < 1, ratio**gb, ratio ** (-ga))
    return (ga + 1) * (gb + 1) * power / ((ga + gb + 1) * torch.maximum(a, b))


def combination(steps: Tensor, gammas: Tensor, step: float, gamma: float) -> Tensor:
    """Weights [N] of N averages that come nearest to the profile of (step, gamma), float64."""
    wanted = overlap(steps, gammas, torch.tensor([step]), torch.tensor([gamma]))
    return torch.linalg.lstsq(overlap(steps, gammas, steps, gammas), wanted, driver="gelsd").solution.squeeze(1)


def keep_copies(folder: Path, step: int, averages: dict[float, State]) -> None:
    """Write the averages as of a step to ``folder``, one file each."""
    for width, state in averages.items():
        write_tensors(folder / f"{step:08d}-{width:g}.safetensors", state, {"step": step, "width": width})


def reconstruct(folder: Path, width: float, step: int | None = None) -> State:
    """The average of that width as of a step (of the last), made of the copies in ``folder``.

    Raises:
        ValueError: there are no copies, or no average is as wide.
    """
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise ValueError(f"{folder} holds no copies of averages; the training loop writes them.")
    names = [path.stem.split("-") for path in paths]
    steps = torch.tensor([float(number) for number, _ in names])
    gammas = torch.tensor([exponent(float(kept)) for _, kept in names])
    weights = combination(steps, gammas, float(steps.max() if step is None else step), exponent(width))
    total: dict[str, Tensor] = {}
    for path, weight in zip(paths, weights.tolist(), strict=True):
        for name, tensor in read_tensors(path).items():
            if name in total and tensor.is_floating_point():
                total[name].add_(tensor.double(), alpha=weight)
            else:  # what is counted and not learned is taken from the last copy
                total[name] = weight * tensor.double() if tensor.is_floating_point() else tensor
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in total.items()}
