"""What a report is about: a model, its data, and every analytic denoiser of those data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .. import assets
from ..data.datasets import ImageData, load_data
from ..data.store import gaussian_provenance, load_gaussian
from ..metrics.features import FeatureSet, load_features, load_statistics
from ..metrics.frechet import Statistics
from ..models.load import load_model
from ..models.model import Model
from ..noise import NoiseLevel
from ..sampling.trajectory import Solver, Trajectory, initial_noise, sample
from ..theory.cloud import PointCloud
from ..theory.denoiser import Denoiser
from ..theory.gaussian import Gaussian
from ..theory.mixture import Mixture
from .progress import Progress, silent


@dataclass(frozen=True, eq=False)
class Subject:
    """A model with its data and their Gaussian, mixture and exact denoisers, all on rows in [-1, 1].

    ``features`` and ``reference``, the feature space of Fréchet distances and the test split's statistics in it, are
    None for data of which the box has no classifier. ``about`` says in words what each denoiser was made from.
    """

    model: Model
    data: ImageData
    gaussian: Gaussian
    mixture: Mixture
    cloud: PointCloud
    features: FeatureSet | None
    reference: Statistics | None
    about: dict[str, str]

    def analytic(self) -> dict[str, Denoiser]:
        """The analytic denoisers by name, from the coarsest to the finest."""
        return {"Gaussian": self.gaussian, "mixture": self.mixture, "exact": self.cloud}

    def images(self, rows: Tensor) -> Tensor:
        return self.model.images(rows)

    def sample(
        self,
        denoise: Denoiser,
        seeds: Sequence[int],
        level: NoiseLevel,
        solver: Solver,
        task: str = "sampling",
        progress: Progress = silent,
        batch: int = 64,
        every: int = 1,
    ) -> Trajectory:
        """Trajectories for seeds, ``batch`` at a time; a seed's start does not depend on its batch."""
        parts = [seeds[start : start + batch] for start in range(0, len(seeds), batch)]
        advance = progress(task, len(parts) * (len(level) - 1))
        return Trajectory.join(
            [
                sample(
                    denoise,
                    initial_noise(part, self.model.dimension, level[0]),
                    level,
                    solver,
                    lambda *_: advance(),
                    every,
                )
                for part in parts
            ]
        )


def load_subject(
    model: str | Path = "fashion-mnist",
    data: str | Path | None = None,
    components: int = 10,
    progress: Progress = silent,
) -> Subject:
    """Load a model and its data (the model's own unless given), and fit the analytic denoisers.

    The Gaussian of a data set in the box is that of its complete training split, whatever part of it is on this
    machine; mixture and exact score use the images that are here. The mixture has one component a class, or
    ``components`` k-means clusters where there are no labels.

    Raises:
        ValueError: the model or data cannot be loaded, do not fit each other, or the model does not say what it was
        trained on.
    """
    advance = progress("loading model and data", 4)
    loaded = load_model(model)
    advance()
    name = data if data is not None else loaded.notes.get("data")
    if name is None:
        raise ValueError(f"{loaded.name} does not say what it was trained on; give its data (a name or a folder).")
    images = load_data(name, shape=loaded.shape)
    rows = images.rows()
    advance()
    if assets.folder(str(name)):
        gaussian = load_gaussian(str(name))
        fitted = f"all {gaussian_provenance(str(name))['count']:,} training images of {name}"
    else:
        gaussian, fitted = Gaussian.fit(images.batches()), images.source
    advance()
    labels = images.labels if images.labels is not None else cluster(rows, components)
    kind = "classes" if images.labels is not None else "k-means clusters"
    about = {
        "Gaussian": f"full-rank Gaussian of {fitted}",
        "mixture": f"{len(labels.unique())} full-rank Gaussians, one for each of the {kind} of {images.source}",
        "exact": f"exact score of {images.source}",
    }
    mixture = Mixture.fit(rows, labels)
    advance()
    boxed = assets.folder(str(name))
    features, reference = (
        (load_features(boxed / "classifier"), load_statistics("test", boxed / "classifier")) if boxed else (None, None)
    )
    return Subject(loaded, images, gaussian, mixture, PointCloud(rows), features, reference, about)


def cluster(rows: Tensor, components: int, seed: int = 0) -> Tensor:
    """k-means labels [N] for rows [N, D], clusters of a single row joined to label 0 so that each has a covariance."""
    from sklearn.cluster import MiniBatchKMeans

    fitted = MiniBatchKMeans(min(components, max(1, len(rows) // 2)), random_state=seed, n_init=3).fit(rows.numpy())
    labels = torch.from_numpy(fitted.labels_).long()
    lonely = torch.bincount(labels) < 2
    return torch.where(lonely[labels], (~lonely).nonzero()[0], labels)
