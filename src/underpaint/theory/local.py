"""Denoisers that know all the data, and yet make new images: smoothed, local, and shared between places.

The exact score ends on a data point. Blurring it, or letting each pixel weigh the data by its surroundings alone, each
takes a step from there towards what networks do.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import torch
from torch import Tensor

from ..bounds import integer, number, positive
from ..noise import NoiseLevel
from . import modes
from .cloud import as_rows, check_points
from .denoiser import Denoiser, check_levels, check_states
from .gaussian import Gaussian
from .screening import Screen, patch_means, screened_means
from .softmax import SoftmaxMean
from .windows import Views, cheapest, check_edge, gathered, mask_views, patch_views

#: The share of all weights that may be left out, in errors asked for: then images of a fifth of the largest entry on
#: average are certain to be within it.
_LEFT_OUT = 1 / 6
#: Screens that are kept, and windows, about, that one is made of.
_MOST_SCREENS, _SAMPLED = 1024, 16_384


@dataclass(frozen=True, eq=False)
class Smoothed:
    """A denoiser averaged over a neighbourhood of the state: E_e[D(x + alpha width e)], e ~ N(0, I).

    Of the exact score it is the smoothed closed-form model, whose samples are barycentres of data points rather than
    the points; ``width``, in units of the data, is to be seen against the distances between them. Width 0 changes
    nothing. The mean is taken over ``draws`` noises and their opposites, the same for every row and call, so that the
    flow is one of an ordinary differential equation and affine denoisers stay what they are.
    Source: Scarvelis, Saez de Ocariz Borde & Solomon 2023, "Closed-form diffusion models", arXiv 2310.12395.
    """

    denoiser: Denoiser
    width: float
    draws: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        integer(self.draws, "number of draws", 0, 100_000)
        if not 0 <= self.width < math.inf or self.draws < 1:
            raise ValueError(f"Smoothing needs a width >= 0 and at least 1 draw, got {self.width} and {self.draws}.")

    def __call__(self, x: Tensor, level: NoiseLevel) -> Tensor:
        if self.width == 0 or not len(x):
            return self.denoiser(x, level)
        check_states(x, x.shape[-1])
        check_levels(x, level)
        generator, total = torch.Generator().manual_seed(self.seed), torch.zeros_like(x)
        for _ in range(self.draws):
            noise = torch.randn(x.shape[1], generator=generator, dtype=torch.float64).to(x)
            step = level.columns(x)[0] * self.width * noise
            total += self.denoiser(x + step, level) + self.denoiser(x - step, level)
        return total / (2 * self.draws)


@dataclass(frozen=True, eq=False)
class LocalCloud:
    """Data points [N, D] of which every place of an image sees only its own window: for a place with window w,

        D(x)_centre = sum_i softmax_i(-|x_w - alpha p_i|^2 / 2 sigma^2) (centre of p_i),

    where p_i are the windows of the data at that place or, shared, at all places of its kind. With one window that is
    the whole image it is the exact score. What such denoisers make are mosaics of patches of the data.

    Above 1, a ``temperature`` flattens the softmax, whose logits it divides; windows stay those of the level.

    Bytes stand for b/127.5 - 1, as in `PointCloud`; where float32 could lose more than ``tolerance`` of a log-weight,
    products are taken in float64. Memory: the points once, and O(budget) numbers in a call (at least those of the
    windows of one image with one other). Cost: B N L S products, with sharing B N L^2 S.

    With ``error``, places that share windows leave out those whose log-weights are certain to be too small: no denoised
    image is further from the one of all windows than ``error`` times its own length. That is checked after the call,
    and rows for which it is not certain are taken again from all windows. No noise is assumed in the state.
    """

    points: Tensor
    views: Callable[[NoiseLevel], Sequence[Views]]
    tolerance: float = 1e-3
    budget: int = 1 << 22
    temperature: float = 1.0
    error: float | None = None
    _largest: float = field(init=False, repr=False)
    _screens: dict[Views, Screen] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        positive(self.temperature, "temperature of the softmax")
        if self.error is not None and not 0 < self.error < 1:
            raise ValueError(f"The relative error of a denoised image must lie between 0 and 1, got {self.error}.")
        check_points(self.points)
        parts = (as_rows(part).abs().max() for part in self.points.split(8192))
        object.__setattr__(self, "_largest", float(torch.stack(list(parts)).max()))

    def __repr__(self) -> str:
        return f"LocalCloud({len(self.points)} points, dimension {self.points.shape[1]})"

    @staticmethod
    def patches(
        points: Tensor,
        shape: tuple[int, int, int],
        size: int | Callable[[NoiseLevel], int],
        equivariant: bool = True,
        temperature: float = 1.0,
        error: float | None = None,
    ) -> LocalCloud:
        """Square patches of an odd ``size``, which may depend on the level, about each pixel of images (C, H, W).

        Local: each pixel knows the patches at its own place. Local and equivariant: it knows those of all places,
        except that a patch which an edge of the image cuts is compared with patches that are cut alike, for an edge can
        be seen. A size of 2 max(H, W) - 1 or more is the exact score.
        Source: Kamb & Ganguli 2024, "An analytic theory of creativity in convolutional diffusion models", arXiv
        2412.20292 (the local score and the equivariant local score with broken boundaries).
        """
        channels, height, width = shape
        if points.shape[1:] != (channels * height * width,):
            raise ValueError(
                f"Expected rows [N, {channels * height * width}] of images {shape}, got {points.shape[1:]}."
            )
        if not callable(size):
            check_edge(size)
        cut = lru_cache(maxsize=32)(lambda edge: patch_views(shape, edge, equivariant))

        def views(level: NoiseLevel) -> Sequence[Views]:
            return cut(size(level) if callable(size) else size)

        return LocalCloud(points, views, temperature=temperature, error=error)

    @staticmethod
    def wiener(points: Tensor, gaussian: Gaussian, threshold: float = 0.02, temperature: float = 1.0) -> LocalCloud:
        """Each coordinate looks where the best linear denoiser of the data looks.

        Coordinate q sees j where |W_qj| > threshold W_qq, with W = alpha^2 Sigma (alpha^2 Sigma + sigma^2)^-1 the
        Wiener filter of the data's Gaussian; threshold 0 is the exact score. Memory: W, [D, D].
        Source: Lukoianov et al. 2025, "Locality in image diffusion models emerges from data statistics", arXiv
        2509.09672, whose threshold is the default.
        """

        number(threshold, "threshold of the Wiener filter", 0)

        def views(level: NoiseLevel) -> Sequence[Views]:
            identity = torch.eye(gaussian.dimension, dtype=gaussian.basis.dtype, device=gaussian.basis.device)
            gain = gaussian.covariance.spectral(lambda v: level.alpha * modes.shrinkage(v, level), identity)
            seen = (gain.abs() > threshold * gain.diagonal().unsqueeze(1)).fill_diagonal_(True)
            return mask_views(seen)

        return LocalCloud(points, remembered(views), temperature=temperature)

    def __call__(self, x: Tensor, level: NoiseLevel) -> Tensor:
        return self.denoise(x, level)

    def denoise(self, x: Tensor, level: NoiseLevel) -> Tensor:
        """An estimate of x0 for rows [B, D] at one level or at one level a row; sigma = 0 gives the nearest patches."""
        check_states(x, self.points.shape[1])
        check_levels(x, level)
        denoised = torch.empty_like(x)
        if not len(x):
            return denoised
        if level.alpha.ndim:  # windows depend on the level: rows of one level go together
            pairs, which = torch.stack([level.alpha, level.sigma], 1).unique(dim=0, return_inverse=True)
            for i, (alpha, sigma) in enumerate(pairs):
                denoised[which == i] = self.denoise(x[which == i], NoiseLevel(alpha, sigma))
            return denoised
        every = self.views(level)
        for views in every:
            denoised[:, views.centres] = self._look(x, level, views).to(x.dtype)
        if self.error is not None and any(views.shared for views in every):
            bad = ~self._within(denoised.detach(), self.error)
            if bool(bad.any()):
                denoised[bad] = replace(self, error=None).denoise(x[bad], level)
        return denoised

    def _within(self, denoised: Tensor, error: float) -> Tensor:
        """Which images [B, D] are certain to be within the error, relative to their own lengths.

        A share e of all weights that is left out moves a mean m by e |m - m_left|, m_left being that of what was left
        out; no entry of it is larger than the largest of all.
        """
        size = denoised.double().norm(dim=1)
        moved = _LEFT_OUT * error * (size + self._largest * denoised.shape[1] ** 0.5)
        return moved * (1 + error) <= error * size

    def _look(self, x: Tensor, level: NoiseLevel, views: Views) -> Tensor:
        """Posterior means of the centres, [B, L, C]."""
        alpha, sigma = float(level.alpha), self.temperature**0.5 * max(float(level.sigma), 1e-9)
        look = self._share if views.shared else self._stay
        return look(x, alpha / sigma**2, (alpha / sigma) ** 2, views)

    def _stay(self, x: Tensor, scale: float, square: float, views: Views) -> Tensor:
        """Of places that know their own windows only."""
        (places, size), dimension = views.windows.shape, x.shape[1] + 1
        weigh, width = cheapest(views)
        batch = max(1, min(len(x), self.budget // (places * width)))
        chunk = max(1, self.budget // max(batch * places, places * size if weigh is gathered else places, dimension))
        if weigh is not gathered and x.device.type == "cpu":
            chunk = max(1, chunk // 4)  # stays in the cache
        centres, means = views.centres.to(self.points.device), []
        kept = self._kept
        for rows in x.split(batch):
            scaled = scale * rows.double()
            dtype = self._dtype(scaled, square, size)
            logits_of, sums = weigh(scaled.to(dtype), views, square), defaultdict[int, SoftmaxMean](SoftmaxMean)
            for part in self.points.split(chunk):
                stored, first = as_rows(part, dtype), 0
                values = stored.T.index_select(0, centres.flatten()).to(kept).view(*centres.shape, -1).mT
                for logits in logits_of(stored):
                    sums[first].add(logits, values[first : first + len(logits)])
                    first += len(logits)
            means.append(torch.cat([found.mean for found in sums.values()]).transpose(0, 1))
        return torch.cat(means)

    def _share(self, x: Tensor, scale: float, square: float, views: Views) -> Tensor:
        """Of places that share their windows."""
        places, size = views.windows.shape
        cpu, count = x.device.type == "cpu", places * len(self.points)
        screened = self.error is not None and count >= 4 * 2048
        block = max(1, min(2048 if cpu and not screened else 16_384, self.budget // size))
        together = max(1, min(64 if cpu else 4096, self.budget // block))
        means = []
        for rows in x.split(max(1, self.budget // (places * size))):
            scaled = scale * rows.double()
            dtype = self._dtype(scaled, square, size)
            asked = scaled[:, views.windows].flatten(0, 1).to(dtype)
            if self.error is None or not screened:
                mean = patch_means(asked, square, self._blocks(views, dtype, block, block), together)
            else:
                blocks = self._blocks(views, dtype, block, block // 4)  # soon something is known
                screen, longest = self._screen(views), self._largest * size**0.5
                margin = math.log(count / (_LEFT_OUT * self.error))
                mean = screened_means(asked, square, blocks, together, screen, longest, margin)
            means.append(mean.view(len(rows), places, -1))
        return torch.cat(means)

    def _blocks(self, views: Views, dtype: torch.dtype, block: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Windows of the data at all places [n, S], and their centres [n, C], block by block."""
        places, kept = len(views.windows), self._kept
        windows, centres = views.windows.to(self.points.device), views.centres.to(self.points.device)
        start, end = 0, max(1, first // places)
        while len(part := self.points[start:end]):
            start, end = end, end + max(1, block // places)
            found = as_rows(part[:, windows].flatten(0, 1), dtype), as_rows(part[:, centres].flatten(0, 1), kept)
            yield from zip(*(values.split(block) for values in found), strict=True)

    def _screen(self, views: Views) -> Screen:
        """Made once for the views, of images spread over all; of the last levels, where views depend on them."""
        if views not in self._screens:
            while len(self._screens) >= _MOST_SCREENS:
                self._screens.pop(next(iter(self._screens)))
            places, size = views.windows.shape
            asked = max(1, min(_SAMPLED, 8 * self.budget // size))
            windows = views.windows[:: -(-places // asked)].to(self.points.device)
            images = self.points[:: -(-len(self.points) * len(windows) // asked)]
            self._screens[views] = Screen.of(as_rows(images[:, windows].flatten(0, 1)))
        return self._screens[views]

    @property
    def _kept(self) -> torch.dtype:
        """What weights and means are in: float32 holds them, once the largest log-weight is taken away."""
        return torch.float64 if self.points.dtype == torch.float64 else torch.float32

    def _dtype(self, scaled: Tensor, square: float, size: int) -> torch.dtype:
        """float32 unless the rounding of a log-weight of windows of ``size`` could pass the tolerance in it."""
        if self.points.dtype == torch.float64:
            return torch.float64
        longest, scaled = self._largest * size**0.5, scaled.detach()
        query = min(float(scaled.norm(dim=1).max()), float(scaled.abs().max()) * size**0.5)
        error = 4 * torch.finfo(torch.float32).eps * (query * longest + square * longest**2 / 2)
        return torch.float32 if error <= self.tolerance else torch.float64


def remembered(views: Callable[[NoiseLevel], Sequence[Views]]) -> Callable[[NoiseLevel], Sequence[Views]]:
    """The same views by level; those of the last level are kept."""
    last: dict[tuple[float, float], Sequence[Views]] = {}

    def found(level: NoiseLevel) -> Sequence[Views]:
        key = (float(level.alpha), float(level.sigma))
        if key not in last:
            last.clear()
            last[key] = views(level)
        return last[key]

    return found
