"""What a report is about: a model, its data, and every analytic denoiser of those data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ... import assets
from ...bounds import MOST_ITEMS, check_seeds, integer, shown
from ...data.datasets import ImageData, load_data
from ...data.labels import LEAVE_OUT
from ...data.splits import plain_split
from ...data.store import gaussian_provenance, load_gaussian
from ...files import read_json
from ...metrics.features import FeatureSet, load_features, load_statistics
from ...metrics.frechet import Statistics, frechet_score
from ...metrics.scenes import Reader, load_reader
from ...models.model import Model
from ...noise import NoiseLevel
from ...progress import Progress, silent
from ...sampling.solvers import Solver
from ...sampling.trajectory import Trajectory, initial_noise, sample
from ...theory.cloud import PointCloud
from ...theory.covariance import Covariance
from ...theory.denoiser import Denoiser
from ...theory.gaussian import Gaussian
from ...theory.mixture import Mixture
from ...theory.moments import Moments
from ...version import __version__
from .own_samples import own_data
from .request import Conditioning, check_statistics, find_denoiser, load_on, network_calls

#: So many of the items of the data that were left out are named in results; all are counted.
_NAMED = 20


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Rows [N, D] of the data that no denoiser of the data knows, to judge them on, with labels if known; ``source``
    says in words where they are from."""

    rows: Tensor
    labels: Tensor | None
    source: str


@dataclass(frozen=True, eq=False)
class ModelAndData:
    """A model with its data and their Gaussian, mixture and exact denoisers, all on the model's own rows.

    Attributes:
        model: the network; ``denoise`` is the network in the ``case`` that is looked at (a class or a prompt, guided).
        data, rows: the images, and the same as the model's rows [N, D]: pixels in [-1, 1], or latents.
        gaussian, mixture, cloud: the analytic denoisers of those rows, without regard to the case.
        features, reference: the space of Fréchet distances of images and the test split's statistics in it; None for
            data of which the box has no classifier.
        reader: finds the objects of emoji scenes; None for other data.
        about: what each denoiser was made from, in words.
        held: rows that mixture and exact score do not know, where some were asked for.
        own: the data are samples of the model itself, which say nothing of those that it was trained on.
        fitted: the Gaussian is that of ``rows`` and of no others.
    """

    model: Model
    data: ImageData
    rows: Tensor
    gaussian: Gaussian
    mixture: Mixture
    cloud: PointCloud
    features: FeatureSet | None
    reference: Statistics | None
    about: dict[str, str]
    reader: Reader | None = None
    case: Conditioning = field(default_factory=Conditioning)
    held: HeldOut | None = None
    own: bool = False
    fitted: bool = False

    @property
    def denoise(self) -> Denoiser:
        return find_denoiser(self.model, self.case)

    @property
    def calls(self) -> int:
        """Calls of the network for each call of ``denoise``."""
        return network_calls(self.model, self.case)

    def described(self, solver: str, steps: int) -> dict[str, Any]:
        """Who, what, and from which data, in JSON types."""
        return {
            "version": __version__,
            "model": self.model.name,
            "shape": list(self.model.shape),
            "data": self.data.source,
            "data_left_out": {"count": len(self.data.left_out), "items": list(self.data.left_out[:_NAMED])},
            "condition": str(self.case),
            "schedule": type(self.model.schedule).__name__,
            "solver": solver,
            "steps": steps,
        }

    def analytic(self) -> dict[str, Denoiser]:
        """The analytic denoisers by name, from the coarsest to the finest."""
        return {"Gaussian": self.gaussian, "mixture": self.mixture, "exact": self.cloud}

    def images(self, rows: Tensor) -> Tensor:
        """Rows [..., D] as images [..., C, H, W] in [0, 1]."""
        return self.model.images(rows)

    def directions(self, rows: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        """What directions [K, D] of row space look like: added to the mean image, ``scale`` of each. [K, C, H, W] in
        [0, 1]; for a pixel model the direction alone about grey."""
        if self.model.autoencoder is None:
            return self.images(rows / rows.abs().amax(-1, keepdim=True))
        return self.images(self.gaussian.mean + torch.as_tensor(scale).reshape(-1, 1).to(rows) * rows)

    def change(self, rows: Tensor, plain: Tensor) -> Tensor:
        """Images of rows less those of plain rows, about grey, all by one factor so that the largest change shows
        fully."""
        difference = self.images(rows) - self.images(plain)
        return 0.5 + 0.5 * difference / difference.abs().max().clamp(min=1e-12)

    def frechet(self, rows: Tensor) -> float:
        """Fréchet distance of the images of rows [N, D] to the test split; NaN where the box has no features."""
        return float("nan") if self.features is None else self.distance(self.features_of(rows))

    def features_of(self, rows: Tensor) -> Tensor:
        """The features [N, F] of the images of rows [N, D], where the box has features."""
        assert self.features is not None
        return self.features.extract(2 * self.images(rows).flatten(1) - 1)

    def distance(self, features: Tensor) -> float:
        """Fréchet distance of features [N, F] to the test split; NaN where the box has no features."""
        if self.features is None or self.reference is None:
            return float("nan")
        return frechet_score(Statistics.of(Moments.of(features), self.features.name), self.reference).value

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


@dataclass(frozen=True)
class Sources:
    """Where a study's model and data come from.

    Attributes:
        model: a name that `load_model` takes, or a model.
        data: as `load_data` takes them; None for the model's own.
        split, column, labelled: of the data, as for `load_data`.
        gaussian: a file of statistics, in place of fitting the Gaussian to the data.
        device, dtype: names of the network's; states stay on the CPU in float32.
        samples: so many of the model's own samples in the place of data that are not at hand.
    """

    model: str | Model = "fashion-mnist"
    data: str | None = None
    split: str = "train"
    column: str | None = None
    labelled: bool = True
    gaussian: str | None = None
    device: str | None = None
    dtype: str | None = None
    samples: int | None = None

    def __post_init__(self) -> None:
        if self.samples is not None:
            integer(self.samples, "number of samples in the place of data", 20, MOST_ITEMS)
            if self.data is not None:
                raise ValueError(f"Give data ({shown(self.data)}) or a number of samples in their place, not both.")
            if self.column is not None or plain_split(self.split) != "train" or not self.labelled:
                raise ValueError(
                    "A split, a column and labels are of data; leave them out where samples stand for the data."
                )

    @property
    def place(self) -> str:
        """What a user writes for the model, or its name."""
        return self.model.name if isinstance(self.model, Model) else self.model

    def load(self) -> Model:
        """The model alone."""
        return load_on(self.model, self.device, self.dtype)


def load_model_and_data(
    sources: Sources,
    components: int = 10,
    case: Conditioning | None = None,
    progress: Progress = silent,
    held_out: int = 0,
    model: Model | None = None,
    first: int = 0,
) -> ModelAndData:
    """Load a model, unless it is loaded already, and its data, and fit the analytic denoisers.

    With ``held_out``, so many images that denoisers of the data do not know are there to judge them on: of the test
    split where training data have one here, else set aside from the data, at most a fifth of them (or two).

    Where samples stand for data, they are those of the case, from the seed ``first`` on.

    The Gaussian of a data set in the box is that of its complete training split, whatever part of it is on this
    machine; mixture and exact score use the images that are here. The mixture has one component a class, or
    ``components`` k-means clusters where there are no labels.

    Raises:
        ValueError: the model, data or statistics cannot be loaded, do not fit each other, the model does not say what
        it was trained on, or does not take the case's condition.
    """
    advance = progress("loading the model", 1)
    loaded, case = model or sources.load(), case or Conditioning()
    find_denoiser(loaded, case)
    given = _given_statistics(sources, loaded)
    advance()
    images, rows, held = _own(sources, loaded, case, first, progress) or _data(sources, loaded, held_out, progress)
    name = "" if sources.samples else str(sources.data or loaded.notes["data"])
    known, fitted = given or find_gaussian(loaded, name, images, rows)
    labels = with_labels(images) if images.labels is not None else cluster(rows, components)
    kind = "classes" if images.labels is not None else "k-means clusters"
    smallest = int(labels.unique(return_counts=True)[1].min())
    # too few rows leave directions without variance, of which a mixture would be certain
    rank = None if smallest > 2 * rows.shape[1] else max(1, smallest // 4)
    about = {
        "Gaussian": f"{_form(known.covariance)} Gaussian of {fitted}",
        "mixture": f"{len(labels.unique())} {_rank(rank, rows.shape[1])} Gaussians, one for each of the {kind} of "
        f"{images.source}",
        "exact": f"exact score of {images.source}",
    }
    mixture = Mixture.fit(rows, labels, rank)
    features, reference, reader = find_quality_measures(assets.folder(name))
    return ModelAndData(
        loaded,
        images,
        rows,
        known,
        mixture,
        PointCloud(rows, error=1e-3),
        features,
        reference,
        about,
        reader,
        case,
        held,
        sources.samples is not None,
        fitted == images.source,
    )


def _own(
    sources: Sources, model: Model, case: Conditioning, first: int, progress: Progress
) -> tuple[ImageData, Tensor, None] | None:
    """Samples of the model, where they were asked for in the place of data."""
    if sources.samples is None:
        return None
    seeds = range(first, first + sources.samples)
    check_seeds(seeds)
    return *own_data(model, case, seeds, progress), None


def _data(
    sources: Sources, model: Model, held_out: int, progress: Progress
) -> tuple[ImageData, Tensor, HeldOut | None]:
    """The images, the model's rows of them, and what is set aside to judge on."""
    name = sources.data if sources.data is not None else model.notes.get("data")
    if name is None:
        raise ValueError(
            f"{model.name} does not say what it was trained on; give its data (--data, a name or a folder), or for a "
            "report a number of its own samples to stand for them (--samples)."
        )
    images, apart, whence = hold_out(
        load_data(name, sources.split, model.image_shape, sources.column, sources.labelled),
        lambda: load_data(name, "test", model.image_shape, sources.column, sources.labelled),
        held_out,
        sources.split,
    )
    check_several(images)
    _check_classes(images)
    rows = encode(model, images, progress)
    return images, rows, None if apart is None else HeldOut(encode(model, apart), apart.labels, whence)


def check_several(images: ImageData) -> None:
    """Refuse a single image: it has no covariance."""
    if len(images) < 2:
        raise ValueError(f"Statistics of data need at least 2 images, got {images.source}; give more.")


def _check_classes(images: ImageData) -> None:
    """Refuse labelled images of which a class has one alone: there is no Gaussian of it."""
    if images.labels is not None:
        labels, counts = with_labels(images).unique(return_counts=True)
        single = [images.classes.get(label, "without a label") for label in labels[counts < 2].tolist()]
        if single:
            raise ValueError(
                f"One image alone is of the class {single[0]} ({images.source}); a Gaussian of a class needs two at "
                f"least. Give more of it, or none. {LEAVE_OUT}"
            )


def hold_out(
    images: ImageData, test: Callable[[], ImageData], count: int, split: str = "train"
) -> tuple[ImageData, ImageData | None, str]:
    """Images to know, and ``count`` others to judge on, drawn without replacement, and where those are from, in words.

    Raises:
        ValueError: there are fewer than five images.
    """
    if not count:
        return images, None, ""
    if plain_split(split) == "train":
        try:
            held = test().take(count)
            return images, held, f"{len(held):,} images of the test split of {images.name}"
        except ValueError:  # there is none here
            pass
    if len(images) < 5:
        raise ValueError(f"To set some aside, at least 5 images are needed; {images.name} has {len(images)}.")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    count = min(count, max(2, len(images) // 5))
    held, known = images.picked(order[:count]), images.picked(order[count:].sort().values)
    source = f"{images.source}; {count:,} of them are set aside to judge on"
    whence = f"{count:,} of the data, set aside: denoisers of the data do not know them, the network may"
    return replace(known, source=source), held, whence


def _given_statistics(sources: Sources, model: Model) -> tuple[Gaussian, str] | None:
    """The Gaussian of the file that is given, if one is, and what it is of, in words."""
    if sources.gaussian is None:
        return None
    known = load_gaussian(sources.gaussian)
    check_statistics(sources.gaussian, known, model)
    return known, f"the statistics {sources.gaussian}"


def find_gaussian(model: Model, name: str, images: ImageData, rows: Tensor) -> tuple[Gaussian, str]:
    """The Gaussian of the data, and what it is of, in words: that of the box for a model's own data there; else one
    fitted to the rows."""
    if assets.folder(name) and model.notes.get("data") == name:
        return load_gaussian(name), f"all {gaussian_provenance(name)['count']:,} training images of {name}"
    return Gaussian.fit(rows, rank=largest_rank(rows)), images.source


def encode(model: Model, images: ImageData, progress: Progress = silent, batch: int = 64) -> Tensor:
    """Images as the model's rows [N, D], a batch at a time through a latent model's autoencoder."""
    if model.autoencoder is None:
        return model.rows(images.rows().unflatten(1, images.shape))
    parts = range(0, len(images), batch)
    advance = progress("encoding the data", len(parts))
    rows = []
    for start in parts:
        rows.append(model.rows(images.rows(slice(start, start + batch)).unflatten(1, images.shape)))
        advance()
    return torch.cat(rows)


def with_labels(images: ImageData) -> Tensor:
    """Labels [N] for a mixture: images without one are a component of their own, after all others."""
    labels = images.labels if images.labels is not None else torch.empty(0, dtype=torch.long)
    return torch.where(labels < 0, labels.max() + 1, labels)


def largest_rank(rows: Tensor, limit: int = 4096) -> int | None:
    """None (full) up to a dimension of ``limit``, above it as many components as memory and data allow."""
    return None if rows.shape[1] <= limit else min(len(rows) // 2, 512)


def _form(covariance: Covariance) -> str:
    return covariance.kind if covariance.kind == "stationary" else _rank(covariance.rank, covariance.dimension)


def _rank(rank: int | None, dimension: int) -> str:
    return "full-rank" if rank in (None, dimension) else f"rank-{rank}"


def find_quality_measures(boxed: Path | None) -> tuple[FeatureSet | None, Statistics | None, Reader | None]:
    """What the box has to judge images of these data with."""
    if boxed is None or not (boxed / "classifier").is_dir():
        return None, None, None
    folder = boxed / "classifier"
    reference = load_statistics("test", folder)
    if "objects" not in read_json(folder / "config.json"):
        return load_features(folder), reference, None
    reader = load_reader(folder)
    return reader.space, reference, reader


def cluster(rows: Tensor, components: int, seed: int = 0) -> Tensor:
    """k-means labels [N] for rows [N, D], clusters of a single row joined to label 0 so that each has a covariance."""
    from sklearn.cluster import MiniBatchKMeans

    fitted = MiniBatchKMeans(min(components, max(1, len(rows) // 2)), random_state=seed, n_init=3).fit(rows.numpy())
    labels = torch.from_numpy(fitted.labels_).long()
    lonely = torch.bincount(labels) < 2
    return torch.where(lonely[labels], (~lonely).nonzero()[0], labels)


def k_means_mixture(rows: Tensor, components: int, rank: int) -> Mixture:
    """Clusters by k-means, each of a rank that leaves it with many more rows than directions."""
    labels = cluster(rows, components)
    clusters = [rows[labels == label] for label in labels.unique()]
    ranks = [max(1, min(rank, rows.shape[1], len(part) // 4)) for part in clusters]
    parts = [Gaussian.fit(part, kept) for part, kept in zip(clusters, ranks, strict=True)]
    return Mixture(torch.tensor([float(len(part)) for part in clusters]), tuple(parts))
