"""The exact score of a data set: a mixture of points, streamed in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..noise import NoiseLevel
from .denoiser import check_states
from .moments import check_rows
from .softmax import SoftmaxMean


def as_rows(points: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Points as floating rows; bytes b stand for b/127.5 - 1."""
    return points.to(dtype).div_(127.5).sub_(1) if points.dtype == torch.uint8 else points.to(dtype)


@dataclass(frozen=True, eq=False)
class PointCloud:
    """Data points [N, D], each with the same mass: D(x) = softmax_i(-|x - alpha x_i|^2 / 2 sigma^2) X.

    Its flow ends on a data point: generation as retrieval.
    Source: Karras22, eq. 57 and appendix B.3, and WV23's delta mixture.

    The points stay where and as they are: on a GPU, in a memory-mapped file (`torch.from_file`, or `torch.from_numpy`
    of a mapped array), or as the bytes of images, of which b stands for b/127.5 - 1. Beside them a cloud holds one
    float64 number a point, and a call O(chunk (B + D)), whatever N. ``chunk`` points are looked at together; 0 stands
    for what is fast: 512 on a CPU, where they stay in the cache, and 16,384 elsewhere.

    The expansion |x|^2 - 2 x.y + |y|^2 loses digits in float32. Where the rounding error of a log-weight could pass
    ``tolerance`` (small sigma), the points that float32 leaves in question are weighed again in float64. Data whose
    mean is far from the origin are centred first.

    With ``basis``, any [D, R] (the leading eigenvectors of the data serve best), a call reads in full only points that
    can matter, so that its cost falls with sigma. With P the projection on the span of the basis, x.y is at most
    Px.Py + |x - Px| |y - Py|, the inner product of the *shadows* (Px, |x - Px|) in R + 1 dimensions: shadows bound
    every log-weight. What is passed over is certain to weigh less in sum than the rounding unit of the dtype, and to
    move the result by less than that times the diameter of the data. Shadows take N (R + 1) numbers.
    """

    points: Tensor
    chunk: int = 0
    tolerance: float = 1e-3
    basis: Tensor | None = None
    mean: Tensor = field(init=False)
    _origin: Tensor | None = field(init=False, repr=False, default=None)
    _half_norms: Tensor = field(init=False, repr=False)
    _shadows: Tensor | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        if self.points.ndim != 2 or not (self.points.dtype == torch.uint8 or self.points.is_floating_point()):
            check_rows(self.points)  # says what is wrong; whether all are finite is seen below, chunk by chunk
        if not len(self.points):
            raise ValueError("A point cloud needs at least one point.")
        sums = [(rows.sum(0), _half_norms(rows)) for rows in map(check_rows, self._exact())]
        mean = torch.stack([total for total, _ in sums]).sum(0) / len(self.points)
        about_zero = torch.cat([part for _, part in sums])
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "_half_norms", about_zero)
        if mean.square().sum() > about_zero.mean():  # the mean's square is more than the variance
            object.__setattr__(self, "_origin", mean)
            object.__setattr__(self, "_half_norms", torch.cat([_half_norms(rows) for rows in self._exact()]))
        if self.basis is not None:
            self._cast_shadows(self.basis)

    def __repr__(self) -> str:
        basis = "" if self.basis is None else f", shadows on {self.basis.shape[1]} directions"
        return f"PointCloud({len(self.points)} points, dimension {self.dimension}{basis})"

    def _cast_shadows(self, basis: Tensor) -> None:
        if basis.ndim != 2 or len(basis) != self.dimension:
            raise ValueError(f"Expected a basis [{self.dimension}, R], got a tensor of shape {tuple(basis.shape)}.")
        orthonormal = torch.linalg.qr(basis.to(self.points.device, torch.float64)).Q
        object.__setattr__(self, "basis", orthonormal)
        shadows = [_shadow(rows, orthonormal).to(self._dtype) for rows in self._exact()]
        object.__setattr__(self, "_shadows", torch.cat(shadows))

    @staticmethod
    def of_class(points: Tensor, labels: Tensor, label: int, basis: Tensor | None = None) -> PointCloud:
        """The cloud of the points [N, D] whose label is ``label``, of labels [N]; they are copied as they are stored.

        Raises:
            ValueError: labels do not match the points, or none has the label.
        """
        if labels.shape != points.shape[:1]:
            raise ValueError(f"Expected {len(points)} labels, got {tuple(labels.shape)}.")
        known = labels.unique().tolist()
        chosen = (labels == label).nonzero().squeeze(1) if label in known else torch.empty(0, dtype=torch.long)
        if not len(chosen):
            raise ValueError(f"No point has the label {label}; the labels are {known}.")
        return PointCloud(points[chosen.to(points.device)], basis=basis)

    @property
    def dimension(self) -> int:
        return self.points.shape[1]

    @property
    def _together(self) -> int:
        return self.chunk or (512 if self.points.device.type == "cpu" else 16_384)

    @property
    def _dtype(self) -> torch.dtype:
        return torch.float64 if self.points.dtype == torch.float64 else torch.float32

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> PointCloud:
        points = self.points if dtype is None else as_rows(self.points, dtype)
        return PointCloud(points.to(device), self.chunk, self.tolerance, self.basis)

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
        squared = self._shifted(x, level).square().sum(1) / variance
        return log_sum - math.log(len(self.points)) - 0.5 * (squared + self.dimension * (2 * math.pi * variance).log())

    def _exact(self) -> Iterator[Tensor]:
        """The points in float64 about the origin, chunk by chunk."""
        return (self._rows(part, torch.float64) for part in self.points.split(self._together))

    def _rows(self, points: Tensor, dtype: torch.dtype) -> Tensor:
        rows = as_rows(points, dtype)
        return rows if self._origin is None else rows - self._origin.to(dtype)

    def _shifted(self, x: Tensor, level: NoiseLevel) -> Tensor:
        """The state about alpha times the origin, float64."""
        rows = x.double()
        return rows if self._origin is None else rows - level.columns(rows)[0] * self._origin

    def _posterior(self, x: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """log sum_i w_i [B] float64, and the mean under w [B, D].

        log w_i = (alpha x.y_i - alpha^2 |y_i|^2 / 2) / sigma^2, with x and y taken from the origin.
        """
        check_states(x, self.dimension)
        alpha, sigma = level.alpha.unsqueeze(-1).to(x.device), level.sigma.unsqueeze(-1).clamp(min=1e-9).to(x.device)
        square, exact = (alpha / sigma) ** 2, alpha / sigma**2 * self._shifted(x, level)
        rows, error = exact.to(self._dtype), self._rounding(exact.detach(), square)
        careful = self._dtype != torch.float64 and float(error.max()) > self.tolerance
        sums = SoftmaxMean()
        for part, half_norms in self._relevant(exact.detach(), square, error):
            block, bias = self._rows(part, self._dtype), -square * half_norms
            logits = torch.addmm(bias.to(block), rows, block.T)
            if careful:
                best = torch.clamp(logits.amax(1, keepdim=True), min=sums.top)
                near = (logits >= best - 2 * error - self._margin).any(0).nonzero().squeeze(1)
                block = self._rows(part[near], torch.float64)
                logits = torch.addmm(bias[..., near], exact, block.T)
            if len(block):
                sums.add(logits, block)
        mean = sums.mean if self._origin is None else sums.mean + self._origin
        return sums.log_sum, mean.to(x.dtype)

    def _rounding(self, exact: Tensor, square: Tensor) -> Tensor:
        """A bound on the error of log-weights in the working dtype, [B, 1]: products of lengths to 16,384 were seen to
        be off by up to 3 eps |x| |y|."""
        largest = float((2 * self._half_norms.max()).sqrt())
        size = exact.norm(dim=1, keepdim=True) * largest + square * largest**2 / 2
        return 4 * torch.finfo(self._dtype).eps * size

    @property
    def _margin(self) -> float:
        """N points whose log-weights lie this far below the largest weigh less in sum than the rounding unit."""
        return math.log(len(self.points) / torch.finfo(self._dtype).eps)

    def _relevant(self, exact: Tensor, square: Tensor, error: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Points as they are stored and their half squared norms, chunk by chunk: all that can matter."""
        kept = None if self._shadows is None else self._unpruned(exact, square, error)
        if kept is None or 2 * len(kept) > len(self.points):  # to pick out most of them costs more than it saves
            yield from zip(self.points.split(self._together), self._half_norms.split(self._together), strict=True)
        else:
            yield from ((self.points[index], self._half_norms[index]) for index in kept.split(self._together))

    def _unpruned(self, exact: Tensor, square: Tensor, error: Tensor) -> Tensor:
        """Indices of the points that shadows cannot rule out for all rows.

        First the point of the largest bound, whose true log-weight the largest of all cannot be below; then all points
        whose bound comes within the margin of it.
        """
        tops = [bounds.max(1) for bounds in self._bounds(exact, square)]
        best = torch.stack([top.values for top in tops]).argmax(0, keepdim=True)
        found = (torch.stack([top.indices for top in tops]).gather(0, best) + best * self._together).squeeze(0)
        likely = (exact * self._rows(self.points[found], torch.float64)).sum(1, keepdim=True)
        floor = likely - square * self._half_norms[found].unsqueeze(1) - self._margin - 2 * error
        return torch.cat([(bounds >= floor).any(0) for bounds in self._bounds(exact, square)]).nonzero().squeeze(1)

    def _bounds(self, exact: Tensor, square: Tensor) -> Iterator[Tensor]:
        """Bounds of the log-weights from above, chunk by chunk [B, n]."""
        assert self._shadows is not None
        assert self.basis is not None
        query = _shadow(exact, self.basis).to(self._dtype)
        for shadows, half_norms in zip(
            self._shadows.split(self._together), self._half_norms.split(self._together), strict=True
        ):
            yield torch.addmm((-square * half_norms).to(shadows), query, shadows.T)


def _half_norms(rows: Tensor) -> Tensor:
    return rows.square().sum(1) / 2


def _shadow(rows: Tensor, basis: Tensor) -> Tensor:
    """(P y, |y - P y|) of rows [B, D], P y in coordinates on the basis: [B, R + 1], each as long as its row."""
    inside = rows @ basis
    return torch.cat([inside, (rows - inside @ basis.T).norm(dim=1, keepdim=True)], 1)
