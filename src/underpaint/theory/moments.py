"""Mean and covariance of data, accumulated in one pass and merged exactly, in float64 throughout.

For much data, see `sums`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


def check_rows(data: Tensor, dimension: int | None = None) -> Tensor:
    """Return data if it is a finite floating [B, D] tensor (of the given D); else say what it is.

    Raises:
        ValueError: wrong rank, wrong D, not floating point, or NaN or infinite entries.
    """
    if data.ndim != 2:
        raise ValueError(
            f"Expected rows [B, D], got a tensor of shape {tuple(data.shape)}; flatten images with .flatten(1)."
        )
    if not data.shape[1]:
        raise ValueError("Expected rows [B, D] of at least one number each, got a dimension of 0.")
    if dimension is not None and data.shape[1] != dimension:
        raise ValueError(f"Expected rows of dimension {dimension}, got {data.shape[1]}.")
    if not data.is_floating_point():
        raise ValueError(f"Expected floating-point rows, got {data.dtype}; scale pixels to [-1, 1] first.")
    if not bool(torch.isfinite(data).all()):
        raise ValueError(
            f"Data holds {int((~torch.isfinite(data)).sum())} NaN or infinite values; remove those rows first."
        )
    return data


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean [D] and scatter [D, D] (sum of centred outer products) in float64.

    Immutable: `update` and `merge` return new moments. Partial moments merge by Chan, Golub & LeVeque 1983, so the
    result does not depend on how the data were split, up to float64 rounding.

    Examples:
        >>> import torch
        >>> import underpaint as up
        >>> rows = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
        >>> moments = up.Moments.of(rows[:1]).merge(up.Moments.of(rows[1:]))
        >>> moments.mean, moments.count
        (tensor([1.5000], dtype=torch.float64), 4)
    """

    count: int
    mean: Tensor
    scatter: Tensor

    def __repr__(self) -> str:
        return f"Moments({self.count} rows, dimension {len(self.mean)})"

    @staticmethod
    def empty(dimension: int) -> Moments:
        return Moments(
            0, torch.zeros(dimension, dtype=torch.float64), torch.zeros(dimension, dimension, dtype=torch.float64)
        )

    @staticmethod
    def of(data: Tensor | Iterable[Tensor]) -> Moments:
        """Moments of rows [N, D], or of an iterable of such batches."""
        if isinstance(data, Tensor):
            return Moments.empty(check_rows(data).shape[1]).update(data)
        total: Moments | None = None
        for batch in data:
            total = (total or Moments.empty(check_rows(batch).shape[1])).update(batch)
        if total is None:
            raise ValueError("Moments need at least one batch of rows; the data were empty.")
        return total

    @property
    def dimension(self) -> int:
        return len(self.mean)

    @property
    def covariance(self) -> Tensor:
        """Unbiased covariance [D, D], float64.

        Raises:
            ValueError: fewer than two rows have been seen.
        """
        if self.count < 2:
            raise ValueError(f"A covariance needs at least 2 rows, got {self.count}.")
        return self.scatter / (self.count - 1)

    def update(self, batch: Tensor, chunk: int = 8192) -> Moments:
        """Add rows [B, D]; the float64 working copy is at most ``chunk`` rows."""
        total = self
        for rows in check_rows(batch, self.dimension).split(chunk):
            rows = rows.detach().to("cpu", torch.float64)
            mean = rows.mean(0)
            centred = rows - mean
            total = total.merge(Moments(len(rows), mean, centred.T @ centred))
        return total

    def merge(self, other: Moments) -> Moments:
        """The moments of both data sets together."""
        if other.dimension != self.dimension:
            raise ValueError(f"Cannot merge moments of dimension {self.dimension} and {other.dimension}.")
        if not self.count or not other.count:
            return other if other.count else self
        count = self.count + other.count
        shift = other.mean - self.mean
        scatter = self.scatter + other.scatter
        scatter.addr_(shift, shift, alpha=self.count * other.count / count)
        return Moments(count, self.mean + shift * (other.count / count), scatter)
