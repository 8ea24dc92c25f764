"""Mean and covariance of data, accumulated in one pass and merged exactly.

`Moments` are small, immutable and float64 throughout. `Sums` are for much data: they add in place, take the products in
the dtype of the rows, and keep either the whole scatter or a `Sketch` of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from .covariance import Covariance, cosine_transform

_Part = TypeVar("_Part")
_Result = TypeVar("_Result")
#: Edge of the blocks that products are cut into.
_BLOCK = 512


def check_rows(data: Tensor, dimension: int | None = None) -> Tensor:
    """Return data if it is a finite floating [B, D] tensor (of the given D); else say what it is.

    Raises:
        ValueError: wrong rank, wrong D, not floating point, or NaN or infinite entries.
    """
    if data.ndim != 2:
        raise ValueError(
            f"Expected rows [B, D], got a tensor of shape {tuple(data.shape)}; flatten images with .flatten(1)."
        )
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


class Sketch(Protocol):
    """What is kept of a scatter S = sum_i x_i x_i^T: a linear function of S, so that those of parts of the data add up.

    The products are cut into blocks of a fixed size, each on one thread: the result does not depend on how many threads
    there are, to the last bit.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what is kept, float64."""

    def add(self, kept: Tensor, rows: Tensor, weight: float = 1.0) -> None:
        """Add that of ``weight`` X^T X to ``kept``, for rows X [B, D]: products in their dtype, sums in float64."""

    def covariance(self, kept: Tensor, dtype: torch.dtype = torch.float32) -> Covariance:
        """The covariance of which this was kept; ``kept`` is used up."""


@dataclass(frozen=True)
class Full:
    """All of S, [D, D]; blocks below the diagonal alone are computed. ``rank`` truncates it when it is complete."""

    dimension: int
    rank: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.dimension, self.dimension

    @property
    def _blocks(self) -> list[tuple[slice, slice]]:
        parts = _slices(self.dimension)
        return [(below, part) for i, below in enumerate(parts) for part in parts[: i + 1]]

    def add(self, kept: Tensor, rows: Tensor, weight: float = 1.0) -> None:
        def block(place: tuple[slice, slice]) -> None:
            i, j = place
            kept[i, j].add_(rows[:, i].T @ rows[:, j], alpha=weight)

        _on_all_cores(block, self._blocks)

    def covariance(self, kept: Tensor, dtype: torch.dtype = torch.float32) -> Covariance:
        for i, j in self._blocks:
            if i != j:
                kept[j, i] = kept[i, j].T
        return Covariance.of(kept, self.rank, dtype)


@dataclass(frozen=True)
class LowRank:
    """S Omega for a random Omega [D, K], K = ``oversampling`` x rank, and the diagonal of S: [D, K + 1].

    The one-pass Nystrom approximation S ~ (S Omega) (Omega^T S Omega)^+ (S Omega)^T, truncated to ``rank``; what its
    eigenvalues lack of the trace becomes the residual variance. Source: Tropp, Yurtsever, Udell & Cevher 2017,
    arXiv 1706.05736. The expected nuclear-norm error is at most (1 + R/(K - R - 1)) times that of the best of rank R.
    """

    dimension: int
    rank: int
    oversampling: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.rank <= self.dimension:
            raise ValueError(f"rank must lie between 1 and the dimension {self.dimension}, got {self.rank}.")
        if self.oversampling < 1:
            raise ValueError(
                f"A sketch must be at least as wide as the rank: oversampling >= 1, got {self.oversampling}."
            )

    @property
    def width(self) -> int:
        """K."""
        return min(self.dimension, int(self.oversampling * self.rank))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.dimension, self.width + 1

    @cached_property
    def omega(self) -> Tensor:
        """The test matrix [D, K]."""
        return torch.randn(self.dimension, self.width, generator=torch.Generator().manual_seed(self.seed))

    def add(self, kept: Tensor, rows: Tensor, weight: float = 1.0) -> None:
        omega = self.omega.to(rows.dtype)
        tested = rows.new_empty(len(rows), self.width)

        def test(part: slice) -> None:
            torch.mm(rows[part], omega, out=tested[part])

        def pull(part: slice) -> None:
            kept[part, :-1].add_(rows[:, part].T @ tested, alpha=weight)
            kept[part, -1].add_(rows[:, part].square().sum(0, dtype=torch.float64), alpha=weight)

        _on_all_cores(test, _slices(len(rows)))
        _on_all_cores(pull, _slices(self.dimension))

    def covariance(self, kept: Tensor, dtype: torch.dtype = torch.float32) -> Covariance:
        sketch, trace = kept[:, :-1], kept[:, -1].sum()
        omega = self.omega.double()
        core = omega.T @ sketch
        values, vectors = torch.linalg.eigh((core + core.T) / 2)
        # a direction that holds nothing but rounding, of which the asymmetry tells the size, would be divided by it
        held = values > torch.linalg.matrix_norm(core - core.T) + 1e-14 * values[-1]
        root = sketch @ (vectors[:, held] / values[held].sqrt())
        basis, singular, _ = torch.linalg.svd(root, full_matrices=False)
        values, basis = singular[: self.rank].square(), basis[:, : self.rank]
        rest = self.dimension - len(values)
        residual = max(0.0, float(trace - values.sum()) / rest) if rest else 0.0
        return Covariance(values, basis.to(dtype).contiguous(), residual)


@dataclass(frozen=True)
class Stationary:
    """The covariance of the channels at each frequency of the 2-D DCT, [H W, C, C], for images (C, H, W)."""

    image: tuple[int, int, int]

    @property
    def shape(self) -> tuple[int, ...]:
        channels, height, width = self.image
        return height * width, channels, channels

    def add(self, kept: Tensor, rows: Tensor, weight: float = 1.0) -> None:
        def transform(part: slice) -> Tensor:
            spectrum = cosine_transform(rows[part].unflatten(1, self.image)).flatten(2)
            return torch.einsum("ncf,nkf->fck", spectrum, spectrum)

        for block in _on_all_cores(transform, _slices(len(rows))):
            kept.add_(block, alpha=weight)

    def covariance(self, kept: Tensor, dtype: torch.dtype = torch.float32) -> Covariance:
        return Covariance.stationary(kept, self.image[1:], dtype)


class Sums:
    """Count, sum and sketch of rows about a fixed centre [D], in float64 and added to in place.

    Sums about one centre merge by addition. The centre (the mean of some of the data) keeps the products small, so that
    float32 has digits enough for them; its distance from the mean is taken out, exactly, at the end.
    """

    def __init__(self, sketch: Sketch, centre: Tensor) -> None:
        self.sketch = sketch
        self.centre = centre.float().double()  # a centre that float32 rows can be moved by without rounding it
        self.count = 0
        self.total = torch.zeros(len(centre), dtype=torch.float64)
        self.kept = torch.zeros(sketch.shape, dtype=torch.float64)

    def add(self, rows: Tensor) -> None:
        """Add rows [B, D]; products are taken in their dtype."""
        centred = rows - self.centre.to(rows.dtype)
        self.count += len(rows)
        self.total += column_sums(centred)
        self.sketch.add(self.kept, centred)

    def merge(self, other: Sums) -> None:
        """Add the sums of other rows about the same centre."""
        if not torch.equal(self.centre, other.centre):
            raise ValueError("Sums about different centres do not add up.")
        self.count += other.count
        self.total += other.total
        self.kept += other.kept

    @property
    def mean(self) -> Tensor:
        """[D] float64."""
        return self.centre + self.total / max(self.count, 1)

    def covariance(self, dtype: torch.dtype = torch.float32) -> Covariance:
        """The unbiased covariance, in the form that the sketch gives it.

        Raises:
            ValueError: fewer than two rows have been seen.
        """
        if self.count < 2:
            raise ValueError(f"A covariance needs at least 2 rows, got {self.count}.")
        kept = self.kept / (self.count - 1)
        self.sketch.add(kept, self.total.unsqueeze(0), weight=-1 / (self.count * (self.count - 1)))
        return self.sketch.covariance(kept, dtype)


def column_sums(rows: Tensor) -> Tensor:
    """The sum of rows [B, D] in float64, [D]: the same for any number of threads."""
    return torch.cat(_on_all_cores(lambda part: rows[:, part].sum(0, dtype=torch.float64), _slices(rows.shape[1])))


def _slices(length: int) -> list[slice]:
    return [slice(start, min(start + _BLOCK, length)) for start in range(0, length, _BLOCK)]


def _on_all_cores(work: Callable[[_Part], _Result], parts: list[_Part]) -> list[_Result]:
    """The results for all parts, in order, each from one thread: a product that is shared out among threads would
    depend, in its last bits, on how many there are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # OpenMP counts threads for each thread anew, so every worker has to be told
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(work, parts))
    finally:
        torch.set_num_threads(threads)
