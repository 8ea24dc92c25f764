"""The exact score of a data set: a mixture of points, streamed in bounded memory."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..noise import NoiseLevel
from .moments import check_rows

#: Points whose log-weight lies this far below the largest cannot change a float64 sum of 10^6 of them.
_NEGLIGIBLE = 50.0


@dataclass(frozen=True, eq=False)
class PointCloud:
    """Data points [N, D], each with the same mass: D(x) = softmax_i(-|x - alpha x_i|^2 / 2 sigma^2) X.

    Its flow ends on a data point: generation as retrieval. Memory: the points twice, and O(B (chunk + D)) in a call,
    whatever N.
    Source: Karras22, eq. 57 and appendix B.3, and WV23's delta mixture.

    The expansion |x|^2 - 2 x.y + |y|^2 loses digits in float32. The data are therefore centred, and where the rounding
    error of a log-weight could pass `tolerance` (small sigma), the points that float32 leaves in question are weighed
    again in float64.
    """

    points: Tensor
    chunk: int = 8192
    tolerance: float = 1e-4
    centre: Tensor = field(init=False)
    _centred: Tensor = field(init=False, repr=False)
    _half_norms: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        points = check_rows(self.points)
        if not len(points):
            raise ValueError("A point cloud needs at least one point.")
        centre = torch.stack([part.double().sum(0) for part in points.split(self.chunk)]).sum(0) / len(points)
        half_norms = [(part.double() - centre).square().sum(1) / 2 for part in points.split(self.chunk)]
        object.__setattr__(self, "centre", centre)
        object.__setattr__(self, "_centred", points - centre.to(points.dtype))
        object.__setattr__(self, "_half_norms", torch.cat(half_norms))

    @property
    def dimension(self) -> int:
        return self.points.shape[1]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> PointCloud:
        return PointCloud(self.points.to(device=device, dtype=dtype), self.chunk, self.tolerance)

    def __call__(self, x: Tensor, level: NoiseLevel) -> Tensor:
        return self.denoise(x, level)

    def denoise(self, x: Tensor, level: NoiseLevel) -> Tensor:
        """E[x0 | x] for rows [B, D]; sigma = 0 gives the nearest point."""
        return self._posterior(x, level)[1]

    def score(self, x: Tensor, level: NoiseLevel) -> Tensor:
        """(alpha D(x) - x) / sigma^2, rows [B, D]; needs sigma > 0."""
        alpha, sigma = level.columns(x)
        return (alpha * self.denoise(x, level) - x) / sigma**2

    def log_prob(self, x: Tensor, level: NoiseLevel) -> Tensor:
        """log density of the noisy data at a level with sigma > 0. [B] float64."""
        log_sum = self._posterior(x, level)[0]
        variance = level.sigma.to(log_sum) ** 2
        centred = x.double() - level.columns(log_sum)[0] * self.centre
        squared = centred.square().sum(1) / variance
        return log_sum - math.log(len(self.points)) - 0.5 * (squared + self.dimension * (2 * math.pi * variance).log())

    def _posterior(self, x: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """log-sum-exp of the weights less |x - alpha centre|^2 / 2 sigma^2 [B] float64, and the mean [B, D].

        With y the centred points, log w_i = (alpha x.y_i - alpha^2 |y_i|^2 / 2) / sigma^2.
        """
        if x.ndim != 2 or x.shape[1] != self.dimension:
            raise ValueError(f"Expected rows [B, {self.dimension}], got a tensor of shape {tuple(x.shape)}.")
        alpha, sigma = level.alpha.unsqueeze(-1).to(x.device), level.sigma.unsqueeze(-1).clamp(min=1e-9).to(x.device)
        scale, square = alpha / sigma**2, (alpha / sigma) ** 2
        exact = x.double() - alpha * self.centre
        rows = exact.to(self._centred.dtype)
        # Rounding of a log-weight: products of lengths to 16,384 were seen to be off by up to 3 eps |x| |y|.
        largest = float((2 * self._half_norms.max()).sqrt())
        error = 4 * torch.finfo(rows.dtype).eps * scale * exact.detach().norm(dim=1, keepdim=True) * largest
        recheck = rows.dtype != torch.float64 and float(error.max()) > self.tolerance
        top = torch.full((len(x), 1), -math.inf, dtype=torch.float64, device=x.device)
        mass, mean = torch.zeros_like(top), torch.zeros_like(rows, dtype=torch.float64)
        for part, block, half_norms in zip(
            *(tensor.split(self.chunk) for tensor in (self.points, self._centred, self._half_norms)), strict=True
        ):
            logits = scale * (rows @ block.T).double() - square * half_norms
            if recheck:
                best = torch.maximum(top, logits.amax(1, keepdim=True))
                kept = (logits >= best - 2 * error - _NEGLIGIBLE).any(0).nonzero().squeeze(1)
                block, half_norms = part[kept].double() - self.centre, half_norms[kept]
                logits = scale * (exact @ block.T) - square * half_norms
            if not len(block):
                continue
            peak = torch.maximum(top, logits.amax(1, keepdim=True))
            weights, shrink = (logits - peak).exp(), (top - peak).exp()
            mass = mass * shrink + weights.sum(1, keepdim=True)
            mean = mean * shrink + (weights.to(block.dtype) @ block).double()
            top = peak
        return (top + mass.log()).squeeze(1), (self.centre + mean / mass).to(x.dtype)
