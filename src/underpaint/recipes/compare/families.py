"""Families of analytic denoisers, swept through a parameter: which of them says what the network says?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
from ..shared.model_and_data import ModelAndData, k_means_mixture
from ..shared.results import quantity

#: A denoiser that shares patches knows one of so many data points: its cost is that of all pairs of places.
_SHARED = 50


@dataclass(frozen=True)
class Sweeps:
    """Values to try.

    Attributes:
        ranks: of the Gaussian; the full one is added.
        components: of the mixture, by k-means.
        rank: of the mixture's components, at most.
        local: data points that smoothed and local denoisers know; those that share patches know one in fifty. 0 leaves
            both out.
        sizes: edges of patches, odd.
        widths: of the smoothing, as shares of the median distance between nearest data points.
    """

    ranks: tuple[int, ...] = (0, 1, 4, 16, 64, 256)
    components: tuple[int, ...] = (1, 3, 10, 30, 100)
    rank: int = 64
    local: int = 1000
    sizes: tuple[int, ...] = (3, 7, 15, 31)
    widths: tuple[float, ...] = (0.1, 0.3, 1.0)

    def __post_init__(self) -> None:
        if 0 < self.local < 100 or self.local < 0:
            raise ValueError(f"Local denoisers need at least 100 data points (0: leave them out), got {self.local}.")
        integer(self.local, "number of images that local denoisers know", 0, MOST_ITEMS)


@dataclass(frozen=True, eq=False)
class States:
    """States [M, B, D] at M levels, what the network makes of them, and the data mean [D]."""

    level: NoiseLevel
    x: Tensor
    network: Tensor
    mean: Tensor

    @staticmethod
    def noised(rows: Tensor, level: NoiseLevel, denoise: Denoiser, mean: Tensor, count: int) -> States:
        """``count`` of the rows, drawn without replacement, noised to each level."""
        chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:count]
        x = agreement.noised(rows[chosen], level)
        return States(level, x, agreement.denoised_at(denoise, x, level), mean)

    def explained(self, denoise: Denoiser) -> Tensor:
        """Shares of the network that a denoiser explains, [M, B]; see `agreement.explained_shares`."""
        return agreement.explained_shares(self.network, agreement.denoised_at(denoise, self.x, self.level), self.mean)


@dataclass(frozen=True, eq=False)
class Family:
    """What a value means, the values to try, and the denoiser of each."""

    what: str
    values: Sequence[float]
    make: Callable[[Any], Denoiser]


@dataclass(frozen=True, eq=False)
class Sweep:
    """What the members of a family explain."""

    what: str
    values: tuple[float, ...]
    explained: Tensor = quantity("explained variance of the denoised image about the data mean, [value, level]")

    def best(self, level: NoiseLevel, at: NoiseLevel) -> Any:
        """The best value at that of the sweep's levels which is nearest to ``at``."""
        return self.values[int(self.explained[:, (level.log_ratio - at.log_ratio).abs().argmin()].argmax())]


def sweep(
    subject: ModelAndData, sweeps: Sweeps, states: States, progress: Progress = silent
) -> tuple[dict[str, Sweep], dict[str, Denoiser]]:
    """Every family on the states; and, of the families that generalise, the denoiser that takes each level's best
    value.

    Choosing the value by the network's own answers is a calibration, as in the sources of those denoisers.
    """
    offered = gaussian_families(subject, sweeps) | (local_families(subject, sweeps) if sweeps.local else {})
    families = {name: family for name, family in offered.items() if family.values}
    advance = progress("sweeps", sum(len(family.values) for family in families.values()))
    found, calibrated = {}, {}
    for name, family in families.items():
        explained = []
        for value in family.values:
            explained.append(states.explained(family.make(value)).mean(1))
            advance()
        found[name] = Sweep(family.what, tuple(family.values), torch.stack(explained))
        if name not in ("rank", "components"):
            calibrated[name] = calibrate(family, found[name], states.level)
    if sweeps.local:
        calibrated["Wiener windows"] = LocalCloud.wiener(known_rows(subject, sweeps.local), subject.gaussian)
    return found, calibrated


def calibrate(family: Family, found: Sweep, level: NoiseLevel) -> Denoiser:
    """The family's best member at each level."""
    made: Mapping[Any, Denoiser] = {value: family.make(value) for value in family.values}
    return lambda x, at: made[found.best(level, at)](x, at)


def known_rows(subject: ModelAndData, count: int) -> Tensor:
    """``count`` data points for denoisers that cannot have all."""
    return subject.rows[torch.randperm(len(subject.rows), generator=torch.Generator().manual_seed(1))[:count]]


def gaussian_families(subject: ModelAndData, sweeps: Sweeps) -> dict[str, Family]:
    """Gaussians of all ranks, and mixtures of all sizes."""
    gaussian, rows = subject.gaussian, subject.rows
    full = len(gaussian.eigenvalues)
    ranks = [*(rank for rank in sweeps.ranks if rank < full), full]
    counts = [count for count in sweeps.components if 8 * count <= len(rows)]
    return {
        "rank": Family("rank of the Gaussian", ranks, gaussian.truncate),
        "components": Family(
            f"components of the mixture, by k-means, of rank {sweeps.rank} or a quarter of their rows",
            counts,
            lambda count: k_means_mixture(rows, count, sweeps.rank),
        ),
    }


def local_families(subject: ModelAndData, sweeps: Sweeps) -> dict[str, Family]:
    """Denoisers that know the data and do not repeat them."""
    known, shape = known_rows(subject, sweeps.local), picture_shape(subject.model.shape)
    few, cloud = known[: max(1, sweeps.local // _SHARED)], PointCloud(known)
    some = torch.arange(min(200, len(known)))
    spacing = float(other_nearest(known, some, apart=copy_distance(known)).median())
    sizes = [size for size in sweeps.sizes if size < 2 * max(shape[1:]) - 1]
    smoothed = Family(
        f"width of the smoothing, over {spacing:.3g}, the median distance of nearest data points",
        sweeps.widths,
        lambda width: Smoothed(cloud, width * spacing),
    )
    if len(subject.model.shape) > 3:  # patches are of images
        return {"smoothed": smoothed}
    return {
        "smoothed": smoothed,
        "patches": Family("edge of the patches", sizes, lambda size: LocalCloud.patches(known, shape, size, False)),
        "shared patches": Family("edge of the patches", sizes, lambda size: LocalCloud.patches(few, shape, size)),
    }
