"""What one picture resembles on its way: the nearest training images, and what the exact score of those would paint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...analysis.retrieval import nearest, other_nearest
from ...analysis.summary import Summary
from ...data.datasets import ImageData, load_data
from ...models.model import Model
from ...noise import NoiseLevel
from ...progress import Progress, silent
from ...theory.cloud import PointCloud
from ..shared.model_and_data import encode
from ..shared.request import Request, Sampler, describe, find_denoiser, only
from ..shared.results import picture, quantity
from .painting import estimates


@dataclass(frozen=True, eq=False)
class TrainingImages:
    """Training images, and their exact denoiser on the model's rows."""

    data: ImageData
    cloud: PointCloud

    def images(self, index: Tensor) -> Tensor:
        """Images [..., C, H, W] in [0, 1] of the data points at indices [...]."""
        rows = self.data.rows(index.flatten())
        return ((rows + 1) / 2).reshape(*index.shape, *self.data.shape)


def load_training_images(model: Model, progress: Progress = silent) -> TrainingImages:
    """The model's own training images, as far as they are on this machine.

    Raises:
        ValueError: the model does not name its data, or they are not here.
    """
    name = model.notes.get("data")
    if name is None:
        raise ValueError(f"{model.name} does not name the data that it was trained on, so nothing can be looked up.")
    data = load_data(name, shape=model.image_shape)
    return TrainingImages(data, PointCloud(encode(model, data, progress)))


@dataclass(frozen=True)
class NearestSettings:
    """How many ``neighbours`` to show, at how many levels."""

    neighbours: int = 3
    levels: int = 9

    def __post_init__(self) -> None:
        if self.neighbours < 1 or self.levels < 2:
            raise ValueError(f"Look up 1 neighbour or more at 2 levels or more, got {self.neighbours}, {self.levels}.")


@dataclass(frozen=True, eq=False)
class NearestImages:
    """The nearest training images to one sample's estimates on its way; the last level is the finished picture.

    Distances are root mean squares per number of the state.
    """

    setup: dict[str, Any]
    source: str
    level: NoiseLevel = quantity()
    step: tuple[int, ...] = quantity("steps of the grid before the estimate")
    distance: Tensor = quantity("distance of the network's x0-hat to its nearest training images, [level, neighbour]")
    exact: Tensor = quantity("distance of the exact score's x0-hat, at the network's state, to the nearest, [level]")
    between: Summary = quantity("distance of training images to the nearest other, over some of them")
    index: Tensor = quantity("which training images, [level, neighbour]")
    estimates: Tensor = picture()
    exact_estimates: Tensor = picture()
    neighbours: Tensor = picture()


def find_nearest_images(
    sampler: Sampler,
    request: Request,
    lookup: NearestSettings | None = None,
    progress: Progress = silent,
    library: TrainingImages | None = None,
) -> NearestImages:
    """Sample the first seed, and find the training images nearest to its estimates.

    Raises:
        ValueError: as `load_library`, several conditions, or more neighbours than there are images.
    """
    case, model, lookup = only(request, sampler), sampler.model, lookup or NearestSettings()
    run = sampler.sample(find_denoiser(model, case), request.seeds[:1], progress)
    library = library or load_training_images(model, progress)
    cloud, root = library.cloud, model.dimension**0.5
    steps = torch.linspace(0, len(run), min(lookup.levels, len(run) + 1)).round().long().unique()
    wanted = estimates(run)[steps]
    exact = torch.cat([cloud.denoise(run.x[i], run.level[i]) for i in steps.tolist()])
    distance, index = nearest(cloud.points, wanted, lookup.neighbours)
    some = torch.randperm(len(cloud.points), generator=torch.Generator().manual_seed(0))[:256]
    return NearestImages(
        setup=describe(sampler, case, request.seeds[:1]),
        source=library.data.source,
        level=run.level[steps],
        step=tuple(steps.tolist()),
        distance=distance / root,
        exact=nearest(cloud.points, exact)[0][:, 0] / root,
        between=Summary.of(other_nearest(cloud.points, some)[:, 0] / root),
        index=index,
        estimates=model.images(wanted),
        exact_estimates=model.images(exact),
        neighbours=library.images(index),
    )
