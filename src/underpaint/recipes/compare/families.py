"""Families of analytic denoisers, swept through their parameters: which of them says what the network says?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from ...analysis import agreement
from ...analysis.retrieval import copy_distance, other_nearest
from ...bounds import MOST_ITEMS, integer
from ...models.pictures import picture_shape
from ...noise import NoiseLevel
from ...progress import Progress, silent
from ...theory.cloud import PointCloud
from ...theory.denoiser import Denoiser
from ...theory.local import LocalCloud, Smoothed
from ...theory.released import FreshlySmoothed, GoldDiff, NearestPoints, PCALocality
from ...theory.stitched import Stitched
from ..shared.model_and_data import ModelAndData, k_means_mixture
from ..shared.results import quantity

#: A denoiser that shares patches has patches of at most this edge, and unless told knows as many data points as take so
#: many products for a state: its cost is that of all pairs of places. Its images are certain to this error, relative to
#: their lengths.
_WIDEST_SHARED, _PRODUCTS, _ERROR = 7, 1 << 32, 1e-3
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
        shared: data points, of the local ones, that denoisers know which share patches between places; 0 for as many as
            are compared with a state in four thousand million products: 142 images of 28 x 28, all of small latents.
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

    def __post_init__(self) -> None:
        if 0 < self.local < 100 or self.local < 0:
            raise ValueError(
                f"Local denoisers need at least 100 data points, got local = {self.local}; 0 leaves them out."
            )
        integer(self.local, "number of images that local denoisers know", 0, MOST_ITEMS)
        integer(self.released, "number of images that released denoisers know", 0, MOST_ITEMS)
        integer(self.shared, "number of images that denoisers with shared patches know", 0, MOST_ITEMS)


@dataclass(frozen=True, eq=False)
class States:
    """States [M, B, D] at M levels, what the network makes of them, and the data mean [D]."""

    level: NoiseLevel
    x: Tensor
    network: Tensor
    mean: Tensor

    @staticmethod
    def noised(rows: Tensor, level: NoiseLevel, denoise: Denoiser, mean: Tensor, seed: int = 0) -> States:
        """Rows of data, noised to each level."""
        x = agreement.noised(rows, level, seed)
        return States(level, x, agreement.denoised_at(denoise, x, level), mean)

    def joined(self, other: States) -> States:
        """The states of both."""
        x, network = (torch.cat(pair, 1) for pair in ((self.x, other.x), (self.network, other.network)))
        return States(self.level, x, network, self.mean)

    def answers(self, denoise: Denoiser) -> Tensor:
        """What a denoiser makes of the states, [M, B, D]."""
        return agreement.denoised_at(denoise, self.x, self.level)

    def explained(self, denoise: Denoiser) -> Tensor:
        """Shares of the network that a denoiser explains, [M, B]; see `agreement.explained_shares`."""
        return agreement.explained_shares(self.network, self.answers(denoise), self.mean)


@dataclass(frozen=True, eq=False)
class Family:
    """What a value means, the values to try, the denoiser of a value and a temperature, and the temperatures."""

    what: str
    values: Sequence[float]
    make: Callable[[Any, float], Denoiser]
    temperatures: tuple[float, ...] = (1.0,)

    def members(self, name: str) -> Iterator[tuple[str, Denoiser]]:
        """The denoisers of all values, each at all temperatures, with the name of the family and what they are."""
        for value, temperature in product(self.values, self.temperatures):
            heated = "" if temperature == 1 else f" at {temperature:g}"
            yield f"{name} {value:g}{heated}", self.make(value, temperature)


@dataclass(frozen=True, eq=False)
class Sweep:
    """What the members of a family explain, on states that are not among those shown."""

    what: str
    values: tuple[float, ...]
    explained: Tensor = quantity(
        "explained variance of the denoised image about the data mean, [value, temperature, level]"
    )
    temperatures: tuple[float, ...] = (1.0,)

    @property
    def by_value(self) -> Tensor:
        """At the best temperature of each value and level, [value, level]."""
        return self.explained.max(1).values


@dataclass(frozen=True, eq=False)
class Swept:
    """All members of all families, and what was found of them on the tuning states.

    Attributes:
        found: by family.
        calibrated: of all families but the Gaussians, the denoiser that takes each level's best member.
        members: every one of them, by name.
        answers: of every member at some coordinates of the states, [K, M, B, d].
    """

    found: dict[str, Sweep]
    calibrated: dict[str, Denoiser]
    members: dict[str, Denoiser]
    answers: Tensor


def sweep(subject: ModelAndData, sweeps: Sweeps, states: States, progress: Progress = silent) -> Swept:
    """Every family on the states.

    Choosing members by the network's own answers is a calibration, as in the sources of those denoisers.
    """
    offered = gaussian_families(subject, sweeps) | (local_families(subject, sweeps) if sweeps.local else {})
    families = {name: family for name, family in offered.items() if family.values}
    advance = progress("sweeps", sum(len(family.values) * len(family.temperatures) for family in families.values()))
    some = sketch(states.network.shape[2])
    found: dict[str, Sweep] = {}
    calibrated: dict[str, Denoiser] = {}
    members: dict[str, Denoiser] = {}
    answers = [torch.empty(0, *states.network[..., some].shape)]
    for name, family in families.items():
        made, explained = dict[str, Denoiser](), []
        for label, member in family.members(name):
            made[label], answer = member, states.answers(member)
            explained.append(agreement.explained_variance(states.network, answer, states.mean))
            answers.append(answer[None, ..., some])
            advance()
        shape = len(family.values), len(family.temperatures), len(states.level)
        every = torch.stack(explained)
        found[name] = Sweep(family.what, tuple(family.values), every.view(shape), family.temperatures)
        members |= made
        if name != "rank":
            calibrated[name] = Stitched.best(states.level, made, every)
    return Swept(found, calibrated, members, torch.cat(answers))


def sketch(dimension: int, most: int = 2048) -> Tensor:
    """Coordinates of a state that least squares look at: drawn, where there are more than enough."""
    return torch.randperm(dimension, generator=torch.Generator().manual_seed(0))[:most]


def controls(subject: ModelAndData, sweeps: Sweeps) -> dict[str, Denoiser]:
    """The exact score of as many points as the others know: what their number does."""
    if not sweeps.local:
        return {}
    counts = sweeps.released or sweeps.local, sweeps.local, count_shared(subject, sweeps)
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


def count_shared(subject: ModelAndData, sweeps: Sweeps) -> int:
    """How many of the local data points denoisers know that share patches between places."""
    sizes, (channels, height, width) = patch_sizes(subject, sweeps)[1], picture_shape(subject.model.shape)
    if not sizes or not sweeps.local:
        return 0
    products = (height * width) ** 2 * channels * max(sizes) ** 2
    return min(len(subject.rows), sweeps.local, sweeps.shared or max(1, _PRODUCTS // products))


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
    few, cloud, gaussian = known[: count_shared(subject, sweeps)], PointCloud(known), subject.gaussian
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
    return every | {
        "patches": Family(edge, sizes, patches(known, False), heat),
        "shared patches": Family(edge, widths, patches(few, True), heat),
    }


def tempered(cloud: PointCloud, temperature: float) -> Denoiser:
    """The exact score with the logits of its softmax divided by a temperature: that of more noise."""
    return lambda x, level: cloud(x, NoiseLevel(level.alpha, level.sigma * temperature**0.5))
