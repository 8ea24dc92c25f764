"""Families of analytic denoisers, and the values of their parameters to try."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from ...analysis.retrieval import copy_distance, other_nearest
from ...bounds import MOST_ITEMS, integer
from ...models.pictures import picture_shape
from ...noise import NoiseLevel
from ...theory.cloud import PointCloud
from ...theory.denoiser import Denoiser
from ...theory.local import LocalCloud, Smoothed
from ...theory.released import FreshlySmoothed, GoldDiff, NearestPoints, PCALocality
from ..shared.model_and_data import ModelAndData, k_means_mixture

#: A denoiser that shares patches has patches of at most this edge, and its images are certain to this error, as a
#: share of their lengths.
_WIDEST_SHARED, _ERROR = 7, 1e-3
#: Its cost is that of all pairs of places. Unless told, each of a family knows as many data points as take so many
#: products for a state, and the one that is chosen as many as take eight times so many.
_PRODUCTS, _CHOSEN = 1 << 32, 1 << 35
#: Temperatures that the exact score is tried at, besides those of all families.
_HOT = (4.0, 8.0)


@dataclass(frozen=True)
class Sweeps:
    """Values to try.

    Attributes:
        ranks: of the Gaussian; the full one is added.
        components: of the mixture, by k-means.
        rank: of the mixture's components, at most.
        local: data points that smoothed, local and released denoisers know; 0 leaves all of these out.
        released: data points that released denoisers know; 0 for as many as local ones.
        sizes: edges of patches, odd.
        widths: of the smoothing, as shares of the median distance between nearest data points.
        thresholds: of the Wiener filter, whose windows are wide where they are small.
        temperatures: of the softmax over points, for each value of a family that has one.
        shared: data points, of the local ones, that the chosen denoisers know which share patches between places; 0 for
            as many as are compared with a state in 2^35 products: 1,140 images of 28 x 28, all of small latents.
        tune_shared: data points, of these, that such denoisers know while one of them is chosen; 0 for as many as are
            compared with a state in 2^32 products: 142 images of 28 x 28.
    """

    ranks: tuple[int, ...] = (0, 1, 4, 16, 64, 256)
    components: tuple[int, ...] = (1, 3, 10, 30, 100)
    rank: int = 64
    local: int = 1000
    sizes: tuple[int, ...] = (3, 5, 7, 11, 15)
    widths: tuple[float, ...] = (0.1, 0.3, 1.0)
    thresholds: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2)
    temperatures: tuple[float, ...] = (1.0, 2.0)
    released: int = 0
    shared: int = 0
    tune_shared: int = 0

    def __post_init__(self) -> None:
        if 0 < self.local < 100 or self.local < 0:
            raise ValueError(
                f"Local denoisers need at least 100 data points, got local = {self.local}; 0 leaves them out."
            )
        integer(self.local, "number of images that local denoisers know", 0, MOST_ITEMS)
        integer(self.released, "number of images that released denoisers know", 0, MOST_ITEMS)
        integer(self.shared, "number of images that denoisers with shared patches know", 0, MOST_ITEMS)
        integer(self.tune_shared, "number of images that shared patches are tuned with", 0, MOST_ITEMS)
        if not self.local and (self.released or self.shared or self.tune_shared):
            raise ValueError(
                "With local = 0, released denoisers and those with shared patches are left out, too; leave out "
                "released, shared and tune_shared."
            )
        for few, many in (("shared", "local"), ("tune_shared", "shared")):
            if getattr(self, few) > (getattr(self, many) or MOST_ITEMS):
                raise ValueError(
                    f"{few} = {getattr(self, few):,} of {many} = {getattr(self, many):,} images are asked for; give "
                    "as many at most."
                )


@dataclass(frozen=True, eq=False)
class Family:
    """What a value means, the values to try, the denoiser of a value and a temperature, and the temperatures.

    Where all of them with many data points would take too long, they are compared with few, and only those that are
    chosen are made again with more: ``images`` are both numbers, and ``remake`` makes those with more.
    """

    what: str
    values: Sequence[float]
    make: Callable[[Any, float], Denoiser]
    temperatures: tuple[float, ...] = (1.0,)
    images: tuple[int, int] | None = None
    remake: Callable[[Any, float], Denoiser] | None = None

    def members(self, name: str, more: bool = False) -> Iterator[tuple[str, Denoiser]]:
        """The denoisers of all values, each at all temperatures, with the name of the family and what they are."""
        make = self.remake if more and self.remake else self.make
        for value, temperature in product(self.values, self.temperatures):
            heated = "" if temperature == 1 else f" at {temperature:g}"
            yield f"{name} {value:g}{heated}", make(value, temperature)


def controls(subject: ModelAndData, sweeps: Sweeps) -> dict[str, Denoiser]:
    """The exact score of as many points as the others know: what their number does."""
    if not sweeps.local:
        return {}
    counts = sweeps.released or sweeps.local, sweeps.local, count_shared(subject, sweeps)[1]
    every = [known_rows(subject, count) for count in counts if count]
    return {f"exact, of {len(rows):,}": PointCloud(rows) for rows in every}


def released(subject: ModelAndData, sweeps: Sweeps) -> dict[str, Denoiser]:
    """Denoisers as their authors released them, at the settings of their configs.

    Kamb's local and equivariant scores are what `local_families` sweeps, at temperature 1.
    """
    if not sweeps.local:
        return {}
    known, gaussian = known_rows(subject, sweeps.released or sweeps.local), subject.gaussian
    nearest = NearestPoints(known)
    found: dict[str, Denoiser] = {
        "PCA locality .005": PCALocality(known, gaussian, 0.005),
        "PCA locality .05": PCALocality(known, gaussian, 0.05),
        "200 nearest": nearest,
        "200 nearest, smoothed": FreshlySmoothed(nearest, generator=torch.Generator().manual_seed(0)),
    }
    if len(subject.model.shape) == 3:
        generator = torch.Generator().manual_seed(0)
        found["GoldDiff"] = GoldDiff(known, gaussian, picture_shape(subject.model.shape), generator=generator)
    return found


def known_rows(subject: ModelAndData, count: int) -> Tensor:
    """``count`` data points for denoisers that cannot have all."""
    return subject.rows[torch.randperm(len(subject.rows), generator=torch.Generator().manual_seed(1))[:count]]


def patch_sizes(subject: ModelAndData, sweeps: Sweeps) -> tuple[list[int], list[int]]:
    """Edges of patches that are no whole images, and those of patches that places share; none of what is no image."""
    if len(subject.model.shape) > 3:
        return [], []
    longest = max(picture_shape(subject.model.shape)[1:])
    sizes = [size for size in sweeps.sizes if size < 2 * longest - 1]
    return sizes, [size for size in sizes if size <= _WIDEST_SHARED]


def count_shared(subject: ModelAndData, sweeps: Sweeps) -> tuple[int, int]:
    """How many of the local data points denoisers know that share patches between places: while one of them is chosen,
    and then."""
    sizes, (channels, height, width) = patch_sizes(subject, sweeps)[1], picture_shape(subject.model.shape)
    if not sizes or not sweeps.local:
        return 0, 0
    products = (height * width) ** 2 * channels * max(sizes) ** 2
    chosen = min(len(subject.rows), sweeps.local, sweeps.shared or max(1, _CHOSEN // products))
    return min(chosen, sweeps.tune_shared or max(1, _PRODUCTS // products)), chosen


def gaussian_families(subject: ModelAndData, sweeps: Sweeps) -> dict[str, Family]:
    """Gaussians of all ranks, and mixtures of all sizes."""
    gaussian, rows = subject.gaussian, subject.rows
    full = len(gaussian.eigenvalues)
    ranks = [*(rank for rank in sweeps.ranks if rank < full), full]
    counts = [count for count in sweeps.components if 8 * count <= len(rows)]
    fitted = lru_cache(partial(k_means_mixture, rows, rank=sweeps.rank))
    return {
        "rank": Family("rank of the Gaussian", ranks, lambda rank, _: gaussian.truncate(rank)),
        "components": Family(
            f"components of the mixture, by k-means, of rank {sweeps.rank} or a quarter of their rows",
            counts,
            lambda count, _: fitted(count),
        ),
    }


def local_families(subject: ModelAndData, sweeps: Sweeps) -> dict[str, Family]:
    """Denoisers that know the data and, but for the first, do not repeat them."""
    known, shape, heat = known_rows(subject, sweeps.local), picture_shape(subject.model.shape), sweeps.temperatures
    cloud, gaussian, (few, more) = PointCloud(known), subject.gaussian, count_shared(subject, sweeps)
    some = torch.arange(min(200, len(known)))
    spacing = float(other_nearest(known, some, apart=copy_distance(known)).median())
    sizes, widths = patch_sizes(subject, sweeps)
    edge = "edge of the patches"

    def patches(rows: Tensor, shared: bool) -> Callable[[int, float], Denoiser]:
        error = _ERROR if shared else None
        return lambda size, temperature: LocalCloud.patches(rows, shape, size, shared, temperature, error)

    every = {
        "tempered": Family(
            "temperature of the exact score's softmax",
            tuple(sorted({*heat, *_HOT})),
            lambda value, _: tempered(subject.cloud, value),
        ),
        "smoothed": Family(
            f"width of the smoothing, over {spacing:.3g}, the median distance of nearest data points",
            sweeps.widths,
            lambda width, temperature: Smoothed(tempered(cloud, temperature), width * spacing),
            heat,
        ),
        "Wiener windows": Family(
            "threshold of the Wiener windows",
            sweeps.thresholds,
            lambda threshold, temperature: LocalCloud.wiener(known, gaussian, threshold, temperature),
            heat,
        ),
    }
    again = ((few, more), patches(known[:more], True)) if few < more else ()
    return every | {
        "patches": Family(edge, sizes, patches(known, False), heat),
        "shared patches": Family(edge, widths, patches(known[:few], True), heat, *again),
    }


def tempered(cloud: PointCloud, temperature: float) -> Denoiser:
    """The exact score with the logits of its softmax divided by a temperature: that of more noise."""
    return lambda x, level: cloud(x, NoiseLevel(level.alpha, level.sigma * temperature**0.5))
