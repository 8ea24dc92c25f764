"""Models whose network is an analytic denoiser, with their data: what is to be found about them is known."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from underpaint.data.datasets import ImageData
from underpaint.models.model import Model
from underpaint.noise import EDM
from underpaint.recipes.shared.model_and_data import HeldOut, ModelAndData
from underpaint.theory.cloud import PointCloud
from underpaint.theory.denoiser import Denoiser
from underpaint.theory.gaussian import Gaussian
from underpaint.theory.mixture import Mixture

SHAPE = (1, 6, 6)
SCHEDULE = EDM(0.01, 20.0)


def data(count: int = 400, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows [N, 36] in [-1, 1] of neighbouring pixels that are alike, in two classes of different mean, and labels."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.arange(6.0)
    smooth = torch.linalg.cholesky(torch.exp(-(place.unsqueeze(1) - place).abs() / 2))
    images = smooth @ torch.randn(count, 6, 6, generator=generator) @ smooth.T
    labels = torch.arange(count) % 2
    mean = torch.where(labels == 0, 0.5, -0.5).view(-1, 1, 1) * (place > 2)
    return (0.3 * images + mean).clamp(-1, 1).flatten(1), labels


def subject(denoise: dict[int | None, Denoiser] | None = None, labelled: bool = True) -> ModelAndData:
    """Data, their denoisers, and a model that is one of them: ``denoise`` by class label, None for any; by default the
    data's Gaussian."""
    rows, labels = data()
    gaussian = Gaussian.fit(rows)
    mixture, cloud = Mixture.fit(rows, labels), PointCloud(rows)
    known = denoise or {None: gaussian}
    null = len(known) - 1 or None

    def network(states: Tensor, time: Tensor, condition: Any) -> Tensor:
        chosen = known[None if condition is None or int(condition[0]) == null else int(condition[0])]
        return chosen(states.flatten(1), SCHEDULE(time)).view_as(states)

    model = Model(
        network, SCHEDULE, "x0", SHAPE, "analytic", classes=null or 0, null_class=null, notes={"data": "known"}
    )
    images = ImageData(rows.view(-1, *SHAPE), "known", "400 known images", labels if labelled else None)
    fresh, kinds = data(60, seed=1)
    held = HeldOut(fresh, kinds if labelled else None, "60 others")
    about = {"Gaussian": "of the data"}
    return ModelAndData(model, images, rows, gaussian, mixture, cloud, None, None, about, held=held)
