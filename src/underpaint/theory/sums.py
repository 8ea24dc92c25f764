"""Mean and covariance of much data: sums in place, of which either all that decides the covariance is kept or a sketch.

Products are taken in the dtype of the rows, and added up in float64.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from .blocks import mirror, on_all_cores, slices, triangle
from .cosine import cosine_transform, low_frequencies
from .covariance import Covariance

#: Coordinates of low frequencies, at most, whose covariance is kept whole.
_TOGETHER = 1024


class Sketch(Protocol):
    """What is kept of rows x_i about a centre, so that their covariance can be had at the end.

    Products are cut into blocks of a fixed size, each on one thread: the result does not depend on how many threads
    there are, to the last bit.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what is kept in the end."""

    def empty(self) -> Tensor:
        """What is kept of no rows."""

    def add(self, kept: Tensor, rows: Tensor) -> Tensor:
        """What is kept once rows [B, D] are added; ``kept`` is used up."""

    def merge(self, kept: Tensor, other: Tensor) -> Tensor:
        """What is kept of the rows of both; ``kept`` is used up."""

    def covariance(self, kept: Tensor, total: Tensor, count: int, dtype: torch.dtype = torch.float32) -> Covariance:
        """The unbiased covariance of ``count`` rows, of which this was kept and ``total`` [D] is the sum."""


class _Linear(ABC):
    """A sketch that is a linear function of the scatter S = sum_i x_i x_i^T, in float64: those of parts add up."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Of what is kept."""

    def empty(self) -> Tensor:
        return torch.zeros(self.shape, dtype=torch.float64)

    def add(self, kept: Tensor, rows: Tensor) -> Tensor:
        self.accumulate(kept, rows)
        return kept

    def merge(self, kept: Tensor, other: Tensor) -> Tensor:
        return kept.add_(other)

    def covariance(self, kept: Tensor, total: Tensor, count: int, dtype: torch.dtype = torch.float32) -> Covariance:
        centred = kept / (count - 1)
        self.accumulate(centred, total.unsqueeze(0), -1 / (count * (count - 1)))
        return self.finish(centred, count, dtype)

    @abstractmethod
    def accumulate(self, kept: Tensor, rows: Tensor, weight: float = 1.0) -> None:
        """Add that of ``weight`` X^T X to ``kept``, for rows X [B, D]: products in their dtype, sums in float64."""

    @abstractmethod
    def finish(self, kept: Tensor, count: int, dtype: torch.dtype) -> Covariance:
        """The covariance of ``count`` rows of which this was kept; ``kept`` is used up."""


@dataclass(frozen=True)
class Full(_Linear):
    """All of S, [D, D]; blocks below the diagonal alone are computed. ``rank`` truncates it when it is complete."""

    dimension: int
    rank: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.dimension, self.dimension

    def accumulate(self, kept: Tensor, rows: Tensor, weight: float = 1.0) -> None:
        def block(place: tuple[slice, slice]) -> None:
            i, j = place
            kept[i, j].add_(rows[:, i].T @ rows[:, j], alpha=weight)

        on_all_cores(block, triangle(self.dimension))

    def finish(self, kept: Tensor, count: int, dtype: torch.dtype) -> Covariance:
        mirror(kept)
        return Covariance.of(kept, self.rank, dtype, most=count - 1)


@dataclass(frozen=True)
class Rows:
    """The rows themselves, [N, D] in their dtype: all of the covariance where they are no more than dimensions, by
    their products with each other, in N^2 D operations. ``rank`` truncates it."""

    count: int
    dimension: int
    rank: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.count, self.dimension

    def empty(self) -> Tensor:
        return torch.empty(0, self.dimension)

    def add(self, kept: Tensor, rows: Tensor) -> Tensor:
        return self.merge(kept, rows)

    def merge(self, kept: Tensor, other: Tensor) -> Tensor:
        return torch.cat([kept, other]) if len(kept) else other

    def covariance(self, kept: Tensor, total: Tensor, count: int, dtype: torch.dtype = torch.float32) -> Covariance:
        return Covariance.of_rows(kept, total / count, self.rank, dtype)


@dataclass(frozen=True)
class LowRank(_Linear):
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

    def accumulate(self, kept: Tensor, rows: Tensor, weight: float = 1.0) -> None:
        omega = self.omega.to(rows.dtype)
        tested = rows.new_empty(len(rows), self.width)

        def test(part: slice) -> None:
            torch.mm(rows[part], omega, out=tested[part])

        def pull(part: slice) -> None:
            kept[part, :-1].add_(rows[:, part].T @ tested, alpha=weight)
            kept[part, -1].add_(rows[:, part].square().sum(0, dtype=torch.float64), alpha=weight)

        on_all_cores(test, slices(len(rows)))
        on_all_cores(pull, slices(self.dimension))

    def finish(self, kept: Tensor, count: int, dtype: torch.dtype) -> Covariance:
        sketch, trace = kept[:, :-1], kept[:, -1].sum()
        omega = self.omega.double()
        core = omega.T @ sketch
        values, vectors = torch.linalg.eigh((core + core.T) / 2)
        # a direction that holds nothing but rounding, of which the asymmetry tells the size, would be divided by it
        held = values > torch.linalg.matrix_norm(core - core.T) + 1e-14 * values[-1]
        root = sketch @ (vectors[:, held] / values[held].sqrt())
        basis, singular, _ = torch.linalg.svd(root, full_matrices=False)
        rank = min(self.rank, count - 1)
        values, basis = singular[:rank].square(), basis[:, :rank]
        rest = self.dimension - len(values)
        residual = max(0.0, float(trace - values.sum()) / rest) if rest else 0.0
        return Covariance(values, basis.to(dtype).contiguous(), residual)


@dataclass(frozen=True)
class Stationary(_Linear):
    """The covariance of the channels at each frequency of the 2-D DCT, [H W, C, C], for images (C, H, W); and after it,
    in one row of numbers, that of all channels of the ``side`` x ``side`` lowest frequencies together, [K, K]."""

    image: tuple[int, int, int]
    side: int = 0

    @staticmethod
    def usual(image: tuple[int, int, int]) -> Stationary:
        """With as many low frequencies together as are a quarter of all at most, and some `_TOGETHER` coordinates."""
        channels, height, width = image
        return Stationary(image, min(math.isqrt(_TOGETHER // channels), min(height, width) // 2))

    @property
    def together(self) -> int:
        """K."""
        return self.image[0] * self.side**2

    @property
    def shape(self) -> tuple[int, ...]:
        channels, height, width = self.image
        return (height * width * channels**2 + self.together**2,)

    def _parts(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Views: the blocks [F, C, C], and what is together [K, K]."""
        blocks, low = kept.split([len(kept) - self.together**2, self.together**2])
        channels = self.image[0]
        return blocks.view(-1, channels, channels), low.view(self.together, self.together)

    def accumulate(self, kept: Tensor, rows: Tensor, weight: float = 1.0) -> None:
        lowest = low_frequencies(self.image[1:], self.side)

        def transform(part: slice) -> tuple[Tensor, Tensor]:
            spectrum = cosine_transform(rows[part].unflatten(1, self.image)).flatten(2)
            low = spectrum[:, :, lowest].mT.flatten(1)
            return torch.einsum("ncf,nkf->fck", spectrum, spectrum), low.T @ low

        for found in on_all_cores(transform, slices(len(rows))):
            for place, part in zip(self._parts(kept), found, strict=True):
                place.add_(part, alpha=weight)

    def finish(self, kept: Tensor, count: int, dtype: torch.dtype) -> Covariance:
        blocks, low = self._parts(kept)
        return Covariance.stationary(blocks, self.image[1:], dtype, low if self.side else None)


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
        self.kept = sketch.empty()

    def add(self, rows: Tensor) -> None:
        """Add rows [B, D]; products are taken in their dtype."""
        centred = rows - self.centre.to(rows.dtype)
        self.count += len(rows)
        self.total += column_sums(centred)
        self.kept = self.sketch.add(self.kept, centred)

    def merge(self, other: Sums) -> None:
        """Add the sums of other rows about the same centre."""
        if not torch.equal(self.centre, other.centre):
            raise ValueError("Sums about different centres do not add up.")
        self.count += other.count
        self.total += other.total
        self.kept = self.sketch.merge(self.kept, other.kept)

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
        return self.sketch.covariance(self.kept, self.total, self.count, dtype)


def column_sums(rows: Tensor) -> Tensor:
    """The sum of rows [B, D] in float64, [D]: the same for any number of threads."""
    return torch.cat(on_all_cores(lambda part: rows[:, part].sum(0, dtype=torch.float64), slices(rows.shape[1])))
