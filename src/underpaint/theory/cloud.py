"""The exact score of a data set: a mixture of points, streamed in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from ..devices import Device, Dtype, find_device, find_dtype
from ..noise import NoiseLevel
from .denoiser import check_levels, check_states
from .moments import check_rows
from .pruning import Outlook, Pruning
from .shadows import taken
from .softmax import SoftmaxMean

#: To copy a point costs as much as its product with so many states.
_COPIED = 16


def as_rows(points: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Points as floating rows; bytes b stand for b/127.5 - 1."""
    return points.to(dtype).div_(127.5).sub_(1) if points.dtype == torch.uint8 else points.to(dtype)


def check_points(points: Tensor) -> None:
    """Refuse what are no data points: some finite rows [N, D] of a floating-point dtype or of bytes.

    Raises:
        ValueError: they are not.
    """
    if points.ndim != 2 or not (points.dtype == torch.uint8 or points.is_floating_point()):
        check_rows(points)  # says what is wrong
    if not len(points):
        raise ValueError("A point cloud needs at least one point.")
    for part in points.split(8192):
        check_rows(as_rows(part, torch.float64 if points.dtype == torch.float64 else torch.float32))


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
    can matter, so that its cost falls with sigma: see `Shadows`. What is passed over is certain to weigh less in sum
    than the rounding unit of the dtype, and to move the result by less than that times the diameter of the data.

    With ``error`` as well or alone (there is a basis then, of the data's own components), each denoised image is
    certain to be within ``error`` times its own length of the exact one: points are passed over whose weights, in sum,
    could not move it further; rounding of log-weights counts in full. No noise is assumed in the state. The bound is
    computed for each row after the call, and rows that do not meet it are taken again from all points in float64. The
    basis and N (R + 36) numbers, R about D/3 and at most 1,024, are made at the first call that can use them; the
    tolerance is 2 ``error`` then, at most .01.

    Examples:
        >>> import torch
        >>> import underpaint as up
        >>> points = up.PointCloud(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
        >>> points(torch.tensor([[0.9, 0.8]]), up.EDM()(0.1))
        tensor([[1., 1.]])
    """

    points: Tensor
    chunk: int = 0
    tolerance: float = 1e-3
    basis: Tensor | None = None
    error: float | None = None
    mean: Tensor = field(init=False)
    _origin: Tensor | None = field(init=False, repr=False, default=None)
    _half_norms: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.points.ndim != 2 or not (self.points.dtype == torch.uint8 or self.points.is_floating_point()):
            check_rows(self.points)  # says what is wrong; whether all are finite is seen below, chunk by chunk
        if not len(self.points):
            raise ValueError("A point cloud needs at least one point.")
        if self.error is not None and not 0 < self.error < 1:
            raise ValueError(f"The relative error of a denoised image must lie between 0 and 1, got {self.error}.")
        sums = [(rows.sum(0), _half_norms(rows)) for rows in map(check_rows, self._exact())]
        mean = torch.stack([total for total, _ in sums]).sum(0) / len(self.points)
        about_zero = torch.cat([part for _, part in sums])
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "_half_norms", about_zero)
        if mean.square().sum() > about_zero.mean():  # the mean's square is more than the variance
            object.__setattr__(self, "_origin", mean)
            object.__setattr__(self, "_half_norms", torch.cat([_half_norms(rows) for rows in self._exact()]))
        if self.basis is not None and (self.basis.ndim != 2 or len(self.basis) != self.dimension):
            raise ValueError(
                f"Expected a basis [{self.dimension}, R], got a tensor of shape {tuple(self.basis.shape)}."
            )

    def __repr__(self) -> str:
        basis = "" if self.basis is None else f", shadows on {self.basis.shape[1]} directions"
        error = "" if self.error is None else f", error {self.error:g}"
        return f"PointCloud({len(self.points)} points, dimension {self.dimension}{basis}{error})"

    @cached_property
    def _pruning(self) -> Pruning:
        def rows(index: Tensor | slice) -> Tensor:
            return self._rows(taken(self.points, index), self._dtype)

        return Pruning(rows, self._half_norms, self.basis, self._together, self._margin)

    @staticmethod
    def of_class(
        points: Tensor, labels: Tensor, label: int, basis: Tensor | None = None, error: float | None = None
    ) -> PointCloud:
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
        return PointCloud(points[chosen.to(points.device)], basis=basis, error=error)

    @property
    def dimension(self) -> int:
        return self.points.shape[1]

    @property
    def _together(self) -> int:
        return self.chunk or (512 if self.points.device.type == "cpu" else 16_384)

    @property
    def _dtype(self) -> torch.dtype:
        return torch.float64 if self.points.dtype == torch.float64 else torch.float32

    def to(self, device: Device | None = None, dtype: Dtype | None = None) -> PointCloud:
        """On a device and in a dtype, each as torch has it or by its name."""
        wanted = find_dtype(dtype)
        points = self.points if wanted is None else as_rows(self.points, wanted)
        return PointCloud(points.to(find_device(device)), self.chunk, self.tolerance, self.basis, self.error)

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
        if len(x) != 1:  # one state may be asked at many levels
            check_levels(x, level)
        if not len(x):
            return x.new_empty(0, dtype=torch.float64), torch.empty_like(x)
        alpha, sigma = level.alpha.unsqueeze(-1).to(x.device), level.sigma.unsqueeze(-1).clamp(min=1e-9).to(x.device)
        square, exact = (alpha / sigma) ** 2, alpha / sigma**2 * self._shifted(x, level)
        log_sum, mean, within = self._scan(exact, square, self._rounding(exact.detach(), square))
        if not bool(within.all()):  # taken again, all in float64
            bad = ~within
            log_sum, mean = log_sum.clone(), mean.to(torch.float64, copy=True)
            squares = square[bad] if square.ndim > 1 else square
            log_sum[bad], mean[bad], _ = self._scan(exact[bad], squares, torch.full_like(exact[bad][:, :1], math.inf))
        return log_sum, mean.to(x.dtype)

    def _scan(self, exact: Tensor, square: Tensor, rounding: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log sums [B], means [B, D], and which rows are certain to be within the error [B].

        ``rounding`` bounds the error of float32 log-weights [B, 1]; infinite, all is done in float64.
        """
        allowed, worst = self.tolerance if self.error is None else min(2 * self.error, 0.01), float(rounding.max())
        careful = self._dtype != torch.float64 and not worst <= allowed
        outlook, known = Outlook(rounding, rounding), exact.detach()
        if (self.basis is not None or self.error is not None) and math.isfinite(worst):
            outlook = self._pruning.outlook(known, square, rounding)
        rows, sums = exact.to(self._dtype), SoftmaxMean()
        lost = (0 * rounding, 0.0) if careful and math.isfinite(worst) else (rounding, worst)
        spread, enough = self._spread_matters(lost[1]), len(rows) / (len(rows) + _COPIED)
        for index in self._pruning.relevant(known, square, outlook, sums):
            part, half_norms = taken(self.points, index), taken(self._half_norms, index)
            block, bias = self._rows(part, self._dtype), -square * half_norms
            logits = torch.addmm(bias.to(block), rows, block.T)
            if careful or enough >= min(outlook.matter, outlook.expected):
                best = torch.clamp(logits.detach().amax(1, keepdim=True), min=sums.top)
                near = (~(logits < best - 2 * rounding - self._margin)).any(0).nonzero().squeeze(1)
                if careful:
                    block = self._rows(taken(part, near), torch.float64)
                    logits, half_norms = torch.addmm(bias[..., near], exact, block.T), half_norms[near]
                elif len(near) < enough * len(block):
                    block, logits, half_norms = block[near], logits.index_select(1, near), half_norms[near]
            if len(block):
                sums.add(logits, block, half_norms.to(logits) if spread else None)
        mean = sums.mean if self._origin is None else sums.mean + self._origin
        return sums.log_sum, mean, self._within(sums, mean.detach(), *lost)

    def _spread_matters(self, rounding: float) -> bool:
        """Whether what is certain has to be told from how far apart the points are that weigh most: not where
        three quarters of the length of the data's mean would do if they were as far apart as any."""
        if self.error is None:
            return False
        return not self._moved_at_most(rounding) <= 0.75 * self.error * self._length_of_mean

    def _moved_at_most(self, rounding: float) -> float:
        """By what is left out and by rounding, whatever the points are that weigh most."""
        assert self.error is not None
        return (2 * self._left_out + 1.05 * rounding) * self._farthest * (1 + self.error)

    def _within(self, sums: SoftmaxMean, mean: Tensor, rounding: Tensor, worst: float) -> Tensor:
        """Which means [B, D] are certain to be within the error, relative to their own lengths; all, where none is
        asked for or nothing was left out or rounded.

        Weights that were left out, a share e of all in sum, move a mean m by e |m - m_left|, m_left being the mean of
        the points left out. Errors t_i of log-weights move m by the covariance of the factors e^t_i with the points: to
        first order by at most the root mean square of t_i times the deviation of the points, and by at most 1.05 times
        that for t_i up to .01. Of the largest t_i, that of a point has the share that its length has of the largest.
        Where the sums do not know the points' lengths, all count as the largest.
        """
        if self.error is None or not math.isfinite(worst):
            return torch.ones(len(mean), dtype=torch.bool, device=mean.device)
        length = torch.linalg.vector_norm(mean, dim=1, dtype=torch.float64)
        if not sums.know_others:
            return self._moved_at_most(worst) <= self.error * length
        inside = torch.linalg.vector_norm(sums.mean.detach(), dim=1, dtype=torch.float64)
        squares = 2 * sums.mean_of_others.detach().double()
        spread = (squares * torch.addcmul(squares, inside, inside, value=-1).clamp(min=0)).sqrt()
        moved = 2 * self._left_out * self._farthest + 1.05 / max(self._farthest, 1e-300) * rounding.squeeze(1) * spread
        return moved * (1 + self.error) <= self.error * length

    @cached_property
    def _farthest(self) -> float:
        """The largest distance of a point from the origin."""
        return float((2 * self._half_norms.max()).sqrt())

    @cached_property
    def _length_of_mean(self) -> float:
        return float(self.mean.norm())

    def _rounding(self, exact: Tensor, square: Tensor) -> Tensor:
        """A bound on the error of log-weights in the working dtype, [B, 1]: products of lengths to 16,384 were seen to
        be off by up to 3 eps |x| |y|."""
        size = exact.norm(dim=1, keepdim=True) * self._farthest + square * self._farthest**2 / 2
        return 4 * torch.finfo(self._dtype).eps * size

    @property
    def _left_out(self) -> float:
        """N points whose log-weights lie so far below the largest that they do not matter weigh in sum less than the
        rounding unit, or than a 64th of the error."""
        return torch.finfo(self._dtype).eps if self.error is None else self.error / 64

    @property
    def _margin(self) -> float:
        """How far that is."""
        return math.log(len(self.points) / self._left_out)


def _half_norms(rows: Tensor) -> Tensor:
    return rows.square().sum(1) / 2
