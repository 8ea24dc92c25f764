"""Analytic denoisers as their authors released them, which is not in all parts as their papers write them.

They are here to be compared with. What each does was read in the released code and is tested against numbers recorded
from running it; the book's page "What released analytic denoisers compute" says how they differ from the formulas.
Sources: "Studio" is github.com/analytic-diffusion/analytic-diffusion-studio at 79aec54 (Lukoianov et al. 2025, arXiv
2509.09672), "GoldDiff" github.com/shangxinyi/GoldDiff at 4c0ba1d, and "Kamb" github.com/Kambm/convolutional_diffusion
at 6a87f3f (Kamb & Ganguli 2024, arXiv 2412.20292).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ..bounds import MOST_ITEMS, integer, number, positive
from ..noise import NoiseLevel
from . import modes
from .cloud import PointCloud, as_rows, check_points
from .denoiser import Denoiser, check_levels, check_states
from .gaussian import Gaussian
from .local import LocalCloud, remembered
from .windows import Views, mask_views

#: Below it, the Studio and GoldDiff take a diagonal entry of the Wiener filter for 1.
_SMALL = 1e-6
#: Numbers of points that are held beside the states at once.
_BUDGET = 1 << 22


@dataclass(frozen=True, eq=False)
class PCALocality:
    """The Studio's analytic denoiser: windows from the Wiener filter W, and a softmax for each batch of the data.

    The mask W_ij / W_ii is cut at ``share`` of its *largest* entry, and used transposed: coordinate q sees those j
    whose own row has |W_jq / W_jj| above the cut, and may not see itself. The weights of each ``batch`` of points, in
    the order given, sum to 1, and the batches' means are averaged alike, so that the result depends on both: it is no
    posterior mean. `LocalCloud.wiener` is the paper's formula.
    Source: Studio, models/pca_locality.py; shares .005 for Fashion-MNIST, .05 for CIFAR-10, batches of 512.
    """

    points: Tensor
    gaussian: Gaussian
    share: float = 0.02
    batch: int = 512
    temperature: float = 1.0
    _clouds: tuple[LocalCloud, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        integer(self.batch, "number of points in a batch", 1, MOST_ITEMS)
        views = released_views(self.gaussian, self.share)
        parts = self.points.split(self.batch)
        clouds = tuple(LocalCloud(part, views, temperature=self.temperature) for part in parts)
        object.__setattr__(self, "_clouds", clouds)

    def __repr__(self) -> str:
        return f"PCALocality({len(self.points)} points, share {self.share:g}, batches of {self.batch})"

    def __call__(self, x: Tensor, level: NoiseLevel) -> Tensor:
        return self.denoise(x, level)

    def denoise(self, x: Tensor, level: NoiseLevel) -> Tensor:
        """The mean over batches of the mean that each gives, for rows [B, D]."""
        total = torch.zeros_like(x)
        for cloud in self._clouds:
            total += cloud(x, level)
        return total / len(self._clouds)


@dataclass(frozen=True, eq=False)
class NearestPoints:
    """The exact score of the ``count`` points nearest to x / alpha: the Studio's "optimal" denoiser.

    With ``scaled`` off, the nearest are sought as if alpha were 1; one such point is the Studio's "nearest" denoiser.
    Source: Studio, models/optimal.py with the 200 of its configs, and models/nearest_dataset.py.
    """

    points: Tensor
    count: int = 200
    scaled: bool = True
    temperature: float = 1.0

    def __post_init__(self) -> None:
        integer(self.count, "number of nearest points", 1, MOST_ITEMS)
        positive(self.temperature, "temperature of the softmax")
        check_points(self.points)

    def __repr__(self) -> str:
        return f"NearestPoints({self.count} of {len(self.points)} points)"

    def __call__(self, x: Tensor, level: NoiseLevel) -> Tensor:
        return self.denoise(x, level)

    def denoise(self, x: Tensor, level: NoiseLevel) -> Tensor:
        """The mean of the nearest points under their softmax, for rows [B, D]."""
        check_states(x, self.points.shape[1])
        check_levels(x, level)
        alpha, sigma = (v.double().expand(len(x), 1) for v in level.columns(x))
        together = max(1, _BUDGET // (self.points.shape[1] * min(self.count, len(self.points))))
        parts = zip(x.split(together), alpha.split(together), sigma.split(together), strict=True)
        return torch.cat([self._mean(*part) for part in parts])

    def _mean(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        found = as_rows(self.points[self._nearest(x, alpha)], torch.float64)
        squared = (x.double().unsqueeze(1) - alpha.unsqueeze(1) * found).square().sum(2)
        logits = -squared / (2 * self.temperature * sigma.clamp(min=1e-9) ** 2)
        return (logits.softmax(1).unsqueeze(1) @ found).squeeze(1).to(x)

    def _nearest(self, x: Tensor, alpha: Tensor, chunk: int = 8192) -> Tensor:
        """Indices [B, count] of the points y of the largest x.y - alpha |y|^2 / 2."""
        count, start = min(self.count, len(self.points)), 0
        best, index = x.new_empty(len(x), 0), torch.empty(len(x), 0, dtype=torch.long, device=x.device)
        scale = (alpha if self.scaled else torch.ones_like(alpha)).to(x)
        for part in self.points.split(chunk):
            rows = as_rows(part, x.dtype)
            values = torch.addmm(-scale * rows.square().sum(1) / 2, x, rows.T)
            value, place = values.topk(min(count, len(rows)))
            best, index = torch.cat([best, value], 1), torch.cat([index, place + start], 1)
            best, order = best.topk(min(count, best.shape[1]))
            index, start = index.gather(1, order), start + len(part)
        return index


@dataclass(frozen=True, eq=False)
class FreshlySmoothed:
    """A denoiser averaged over noisy copies of the state that are drawn anew at every call: mean_e D(x + width e).

    Two calls on one state differ, so that its flow is no ordinary differential equation, and the width is in units of
    the state, whatever alpha is. `Smoothed` is the formula, with noises that stay.
    Source: Studio, models/scfdm.py, around `NearestPoints` of 200; 10 draws of width .1 in its configs.
    """

    denoiser: Denoiser
    width: float = 0.1
    draws: int = 10
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        number(self.width, "width of the smoothing", 0)
        integer(self.draws, "number of draws", 1, 100_000)

    def __call__(self, x: Tensor, level: NoiseLevel) -> Tensor:
        noise = torch.randn(self.draws, *x.shape, generator=self.generator, dtype=x.dtype).to(x)
        return torch.stack([self.denoiser(x + self.width * step, level) for step in noise]).mean(0)


@dataclass(frozen=True, eq=False)
class GoldDiff:
    """The windows of `PCALocality`, with one softmax over a golden subset of the data for each state.

    Of a pool drawn at random at every call, the ``most`` points nearest to the state at low resolution are kept, and of
    these the K nearest at full resolution. With s = sigma / sqrt(alpha^2 + sigma^2), the pool has ``most`` + (1 - s)
    (N - ``most``) points and K is ``most`` - (1 - s) (``most`` - ``least``). Two calls on one state differ.
    Source: GoldDiff, methods/ours.py and methods/base.py; shares .02 for Fashion-MNIST and .03 for CIFAR-10, ``least``
    N/20 and ``most`` N/10 in its configs, which are the defaults here.

    Attributes:
        shape: (C, H, W) of the images that rows are.
        edge: at most, of the images of low resolution; it has to divide H.
        generator: of the pools; torch's own where there is none.
    """

    points: Tensor
    gaussian: Gaussian
    shape: tuple[int, int, int]
    share: float = 0.02
    least: int = 0
    most: int = 0
    edge: int = 16
    generator: torch.Generator | None = None
    _views: Callable[[NoiseLevel], Sequence[Views]] = field(init=False, repr=False)
    _low: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_points(self.points)
        number_of_points = len(self.points)
        least = integer(self.least or max(1, number_of_points // 20), "least number of points", 1, number_of_points)
        most = integer(self.most or max(least, number_of_points // 10), "most of points", least, number_of_points)
        object.__setattr__(self, "least", least)
        object.__setattr__(self, "most", most)
        object.__setattr__(self, "_views", released_views(self.gaussian, self.share))
        object.__setattr__(self, "_low", self._lowered(as_rows(self.points)))

    def __repr__(self) -> str:
        return f"GoldDiff({self.least} to {self.most} of {len(self.points)} points, share {self.share:g})"

    def __call__(self, x: Tensor, level: NoiseLevel) -> Tensor:
        return self.denoise(x, level)

    def denoise(self, x: Tensor, level: NoiseLevel) -> Tensor:
        """The windows' means over each state's subset, for rows [B, D]."""
        check_states(x, self.points.shape[1])
        check_levels(x, level)
        if not len(x):
            return torch.empty_like(x)
        drawn = torch.rand(len(x), len(self.points), generator=self.generator).to(x.device)
        levels = [level] * len(x) if level.sigma.ndim == 0 else list(level)
        low = self._lowered(x)
        parts = []
        for row, lowered, order, at in zip(x, low, drawn, levels, strict=True):  # each state has points of its own
            chosen = self._golden(row, lowered, order, at)
            parts.append(LocalCloud(self.points[chosen], self._views)(row.unsqueeze(0), at))
        return torch.cat(parts)

    def _golden(self, row: Tensor, lowered: Tensor, order: Tensor, level: NoiseLevel) -> Tensor:
        """Indices of the K points for one state."""
        near = 1 - float(level.sigma / level.norm)
        alpha = level.alpha.to(row)
        pool = order.topk(round(self.most + near * (len(self.points) - self.most)), largest=False).indices
        coarse = (lowered - alpha * self._low[pool]).square().sum(1)
        kept = pool[coarse.topk(self.most, largest=False).indices]
        fine = (row - alpha * as_rows(self.points[kept], row.dtype)).square().sum(1)
        count = max(self.least, round(self.most - near * (self.most - self.least)))
        return kept[fine.topk(count, largest=False).indices]

    def _lowered(self, rows: Tensor) -> Tensor:
        """Rows of images, averaged over squares of pixels: [B, d]."""
        height = self.shape[1]
        edge = max(size for size in range(1, min(self.edge, height) + 1) if height % size == 0)
        return avg_pool2d(rows.view(-1, *self.shape), height // edge).flatten(1)


@dataclass(frozen=True, eq=False)
class BatchPosterior:
    """The exact score of data in which every batch has the same mass, a short last one too.

    D = sum_b p_b(x) D_b(x) / sum_b p_b(x) over batches b with densities p_b, so that each point of a short batch weighs
    more than the others.
    Source: Kamb, utils/idealscore.py, IdealScoreModule (batches of 128); its LocalScoreModule does the same at every
    pixel, and draws the order of the data anew at every call.
    """

    points: Tensor
    batch: int = 128
    _clouds: tuple[PointCloud, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        integer(self.batch, "number of points in a batch", 1, MOST_ITEMS)
        object.__setattr__(self, "_clouds", tuple(PointCloud(part) for part in self.points.split(self.batch)))

    def __repr__(self) -> str:
        return f"BatchPosterior({len(self.points)} points, batches of {self.batch})"

    def __call__(self, x: Tensor, level: NoiseLevel) -> Tensor:
        return self.denoise(x, level)

    def denoise(self, x: Tensor, level: NoiseLevel) -> Tensor:
        """The mean of the batches' means, by their densities, for rows [B, D]."""
        noisy = NoiseLevel(level.alpha, level.sigma.clamp(min=1e-9))  # without noise there is no density
        weights = torch.stack([cloud.log_prob(x, noisy) for cloud in self._clouds]).softmax(0)
        total = torch.zeros_like(x)
        for weight, cloud in zip(weights, self._clouds, strict=True):
            total += weight.unsqueeze(1).to(x) * cloud(x, level)
        return total


def released_views(gaussian: Gaussian, share: float) -> Callable[[NoiseLevel], Sequence[Views]]:
    """The windows of `PCALocality` by level; those of the last level are kept.

    Raises:
        ValueError: the share is not above 0 and at most 1. (At 0 the released code weighs by the filter itself.)
    """
    if positive(share, "share of the largest entry") > 1:
        raise ValueError(f"The share of the largest entry must be at most 1, got {share}.")
    return remembered(lambda level: mask_views(released_mask(gaussian, level, share)))


def released_mask(gaussian: Gaussian, level: NoiseLevel, share: float) -> Tensor:
    """Whether coordinate q sees j, as released: |W_jq / W_jj| >= share max_ik |W_ik / W_ii|. [D, D]."""
    identity = torch.eye(gaussian.dimension, dtype=gaussian.basis.dtype, device=gaussian.basis.device)
    gain = gaussian.covariance.spectral(lambda v: level.alpha * modes.shrinkage(v, level), identity)
    own = gain.diagonal()
    mask = gain / torch.where(own.abs() < _SMALL, torch.ones_like(own), own).unsqueeze(1)
    return (mask.abs() >= share * mask.abs().max()).T
