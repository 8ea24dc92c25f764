"""Samples of a model's own, in the place of data that are not at hand."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...data.datasets import ImageData
from ...models.model import Model
from ...progress import Progress, silent
from ...sampling.solvers import find_solver
from ...sampling.trajectory import initial_noise, sample
from .request import Conditioning, find_denoiser

#: How samples are drawn unless told otherwise.
STEPS, SOLVER = 25, "dpmpp-2m"


def own_states(
    model: Model,
    case: Conditioning,
    seeds: Sequence[int],
    steps: int = STEPS,
    solver: str = SOLVER,
    batch: int = 64,
    progress: Progress = silent,
) -> Tensor:
    """The states [N, D] that a model ends at from the noise of seeds, in a case."""
    solve, level, denoise = find_solver(solver), model.schedule.grid(steps), find_denoiser(model, case)
    parts = [seeds[first : first + batch] for first in range(0, len(seeds), batch)]
    advance = progress("own samples", len(parts) * steps)
    noise = (initial_noise(part, model.dimension, level[0]) for part in parts)
    return torch.cat([sample(denoise, x, level, solve, lambda *_: advance(), steps).final for x in noise])


def own_data(model: Model, case: Conditioning, seeds: range, progress: Progress) -> tuple[ImageData, Tensor]:
    """Samples as data, in words which and how, and as the model's rows [N, D]."""
    rows = own_states(model, case, seeds, progress=progress)
    source = f"{told(model, case, seeds)}, in the place of data"
    return ImageData(2 * model.images(rows) - 1, f"samples of {model.name}", source), rows


def told(model: Model, case: Conditioning, seeds: range, steps: int = STEPS, solver: str = SOLVER) -> str:
    """Which samples, and how they are drawn, in words."""
    what = "samples" if case == Conditioning() else f"samples ({case})"
    return f"{what} of {model.name}, seeds {seeds[0]} to {seeds[-1]}, {steps} steps of {solver}"
