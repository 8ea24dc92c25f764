"""One spectral covariance for every case: ``Sigma = U diag(lambda) U^T + rho (I - U U^T)``.

Full rank (U square), low rank with residual variance rho, isotropic (no U) and stationary (U a cosine transform) differ
only in U and rho. Every formula of the theory is a function of Sigma, and `Covariance.spectral` applies any such
function to rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor

from ..devices import Device, Dtype, find_device, find_dtype
from .blocks import mirror, on_all_cores, slices, triangle
from .cosine import CosineBasis, low_coordinates
from .pieces import Pieces

#: What is within this share of the largest may be rounding, of files in float32.
ROUNDING = 1e-5
SpectralFunction = Callable[[Tensor], Tensor]
#: A gain of each of some coordinates [K], or of all of them.
Gain = Tensor | float

#: Of more variances than these, gains are made piece by piece.
_MANY = 4096


def add(rows: Tensor, gain: Gain, part: Tensor) -> None:
    """rows += gain part in place, [B, K]."""
    if isinstance(gain, Tensor):
        rows.addcmul_(gain, part)
    else:
        rows.add_(part, alpha=gain)


def eigensystem(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues [D] of a covariance matrix [D, D], ascending and none below 0, and eigenvectors [D, D]; float64, CPU.

    Raises:
        ValueError: it is no covariance: it holds NaN or infinities, is not symmetric, or has an eigenvalue that is
            negative by more than rounding in float32.
    """
    matrix = matrix.detach().to("cpu", torch.float64)
    check_symmetric(matrix)
    values, vectors = torch.linalg.eigh(matrix)
    if len(values) and values[0] < -ROUNDING * values[-1].abs():
        raise ValueError(f"A covariance has no negative eigenvalues, but this matrix has {float(values[0]):.4g}.")
    return values.clamp(min=0), vectors


def check_symmetric(matrix: Tensor) -> None:
    """Refuse a matrix [D, D] that is not finite and symmetric."""
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise ValueError(f"A covariance is a square matrix [D, D], but this has the shape {tuple(matrix.shape)}.")
    if not bool(matrix.isfinite().all()):
        raise ValueError("A covariance is finite, but this matrix holds NaN or infinities.")
    difference = float((matrix - matrix.T).abs().amax())
    if difference > ROUNDING * float(matrix.abs().amax()):
        raise ValueError(f"A covariance is symmetric, but entries of this matrix differ by {difference:.4g} across.")


@dataclass(frozen=True, eq=False)
class Covariance:
    """Eigenvalues [R] (float64, CPU, descending), orthonormal basis [D, R], and the residual variance outside its span.

    The basis decides dtype and device of all products; eigenvalues stay in float64, where gains are computed.

    Examples:
        >>> import torch
        >>> import underpaint as up
        >>> basis = torch.eye(3)[:, :2]
        >>> covariance = up.Covariance(torch.tensor([4.0, 1.0]), basis, residual=0.1)
        >>> covariance.matrix()
        tensor([[4.0000, 0.0000, 0.0000],
                [0.0000, 1.0000, 0.0000],
                [0.0000, 0.0000, 0.1000]], dtype=torch.float64)
    """

    eigenvalues: Tensor
    basis: Tensor
    residual: float = 0.0

    def __post_init__(self) -> None:
        if self.basis.ndim != 2 or self.eigenvalues.shape != self.basis.shape[1:]:
            raise ValueError(
                f"A covariance needs eigenvalues [R] and a basis [D, R], got {tuple(self.eigenvalues.shape)} and "
                f"{tuple(self.basis.shape)}."
            )
        if self.rank > self.dimension:
            raise ValueError(f"A basis of {self.rank} vectors does not fit in {self.dimension} dimensions.")
        if self.dimension < 1 or not self.basis.dtype.is_floating_point or self.eigenvalues.is_complex():
            raise ValueError(
                f"A covariance has at least one dimension, real eigenvalues and a basis of a floating-point dtype; got "
                f"{self.dimension}, {self.eigenvalues.dtype} and {self.basis.dtype}."
            )
        stored: Any = self.basis  # a basis that is a transform of cosines stores none of it
        if isinstance(stored, Tensor) and not bool(torch.isfinite(stored).all()):
            raise ValueError("The basis of a covariance holds NaN or infinities.")
        values = self.eigenvalues.detach().to("cpu", torch.float64)
        if not bool((torch.isfinite(values) & (values >= 0)).all()) or not 0 <= self.residual < float("inf"):
            raise ValueError("Eigenvalues and residual variance must be finite and >= 0.")
        object.__setattr__(self, "eigenvalues", values)

    def __repr__(self) -> str:
        total = self.eigenvalues.sum() + (self.dimension - self.rank) * self.residual
        return f"Covariance(dimension {self.dimension}, rank {self.rank}, total variance {total:.3g})"

    @staticmethod
    def isotropic(dimension: int, variance: float, dtype: Dtype = torch.float32) -> Covariance:
        """``variance`` times the identity; no basis at all."""
        return Covariance(
            torch.empty(0, dtype=torch.float64), torch.empty(dimension, 0, dtype=find_dtype(dtype)), variance
        )

    @staticmethod
    def stationary(
        blocks: Tensor, size: tuple[int, int], dtype: Dtype = torch.float32, low: Tensor | None = None
    ) -> Covariance:
        """Diagonal in the 2-D DCT: a C x C covariance of the channels at each frequency, blocks [H W, C, C].

        The nearest such matrix to any other keeps its blocks; images whose statistics do not depend on the place are
        nearly of this form. Those of real images do, at low frequencies above all: ``low`` [K, K], K = C s^2, is the
        covariance of all channels of the s x s lowest frequencies (`low_coordinates`), in place of their blocks.

        Raises:
            ValueError: ``low`` has not the size of a square of frequencies.
        """
        there = find_dtype(dtype)
        values, vectors = torch.linalg.eigh(blocks.detach().to("cpu", torch.float64))
        values, rotation = values.flatten(), None
        if low is not None:
            places = low_coordinates(size, blocks.shape[-1], len(low))
            values[places], rotation = torch.linalg.eigh(low.detach().to("cpu", torch.float64))
            vectors[places // blocks.shape[-1]] = torch.eye(blocks.shape[-1], dtype=torch.float64)
            rotation = rotation.to(there)
        values, order = values.clamp(min=0).sort(descending=True, stable=True)
        # the basis is a matrix in all that is asked of it, but not to the type checker
        return Covariance(values, cast(Tensor, CosineBasis(vectors.to(there), order, size, rotation)))

    @staticmethod
    def of(
        matrix: Tensor, rank: int | None = None, dtype: Dtype = torch.float32, most: int | None = None
    ) -> Covariance:
        """Eigendecompose a symmetric positive semi-definite [D, D] matrix in float64 on the CPU.

        ``rank`` keeps the leading directions and gives the others their mean variance, so that the trace is kept.
        Eigenvalues that are negative by rounding are set to 0, and so are all beyond the first ``most``: those of N
        rows are not zero in N - 1 directions at most, which alone are kept.

        Raises:
            ValueError: as `eigensystem`.
        """
        there = find_dtype(dtype)  # before the work
        values, vectors = eigensystem(matrix)
        kept = min(len(values), len(values) if most is None else most)
        full = Covariance(values.flip(0)[:kept], vectors.flip(1)[:, :kept].contiguous())
        return (full if rank is None else full.truncate(rank)).to(dtype=there)

    @staticmethod
    def of_rows(rows: Tensor, mean: Tensor, rank: int | None = None, dtype: Dtype = torch.float32) -> Covariance:
        """The unbiased covariance of rows [N, D] about their mean [D], by the eigenvalues of their N x N products.

        It has N - 1 directions, fewer where rows repeat each other, and no variance outside them; or ``rank`` of these,
        and the mean variance of the others elsewhere. X^T X and X X^T have the same eigenvalues but for zeros, and if
        X X^T v = l v, then X^T v is an eigenvector of X^T X. Work: O(N^2 D), which is less than O(D^3) for N < D.
        """
        there, (count, dimension) = find_dtype(dtype), rows.shape
        mean = mean.double()
        products = torch.empty(count, count, dtype=torch.float64)

        def block(place: tuple[slice, slice]) -> None:
            i, j = place
            products[i, j] = (rows[i].double() - mean) @ (rows[j].double() - mean).T

        on_all_cores(block, triangle(count))
        mirror(products)
        values, vectors = torch.linalg.eigh(products / (count - 1))
        values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
        held = min(int((values > count * torch.finfo(torch.float64).eps * values[0]).sum()), count - 1)
        kept = held if rank is None else min(rank, held)
        columns = [(rows[:, d].double() - mean[d]).T @ vectors[:, :kept] for d in slices(dimension)]
        basis = torch.linalg.qr(torch.cat(columns)).Q
        rest = dimension - kept
        residual = float(values[kept:held].sum()) / rest if rest else 0.0
        return Covariance(values[:kept], basis.to(there), residual)

    @property
    def dimension(self) -> int:
        return self.basis.shape[0]

    @property
    def rank(self) -> int:
        return self.basis.shape[1]

    @property
    def full(self) -> bool:
        """Whether the basis spans everything, so that no residual direction exists."""
        return self.rank == self.dimension

    @property
    def kind(self) -> str:
        """Its form: "full", "low-rank" (with a residual variance) or "stationary" (in a basis of cosines)."""
        stored: Any = self.basis
        if isinstance(stored, CosineBasis):
            return "stationary"
        return "full" if self.full else "low-rank"

    @property
    def spectrum(self) -> Tensor:
        """All D eigenvalues, the residual variance repeated, float64."""
        rest = torch.full((self.dimension - self.rank,), self.residual, dtype=torch.float64)
        return torch.cat([self.eigenvalues, rest])

    @property
    def total(self) -> float:
        """The total variance, the trace."""
        return float(self.eigenvalues.sum()) + (self.dimension - self.rank) * self.residual

    @property
    def effective_rank(self) -> float:
        """exp(-sum_k p_k log p_k), p_k the shares of the eigenvalues in the trace: D if all are equal, 1 if one is all,
        0 where nothing varies.

        Source: Roy & Vetterli 2007, "The effective rank: a measure of effective dimensionality".
        """
        if not self.total > 0:
            return 0.0
        shares = self.spectrum / self.total
        return float(torch.special.entr(shares).sum().exp())

    def components_for(self, share: float) -> int:
        """How many of the largest eigenvalues make up this share of the total variance; none where nothing varies."""
        if not self.total > 0:
            return 0
        sums = self.spectrum.sort(descending=True).values.cumsum(0)
        return min(int((sums < share * sums[-1]).sum()) + 1, self.dimension)

    def truncate(self, rank: int) -> Covariance:
        """Keep ``rank`` leading directions; the residual variance takes the mean of what is dropped (same trace)."""
        if not 0 <= rank <= self.dimension or rank != int(rank):
            raise ValueError(f"rank must lie between 0 and the dimension {self.dimension}, got {rank}.")
        if rank >= self.rank:
            return self
        dropped = self.spectrum[rank:]
        return Covariance(self.eigenvalues[:rank], self.basis[:, :rank].contiguous(), float(dropped.mean()))

    def to(self, device: Device | None = None, dtype: Dtype | None = None) -> Covariance:
        """The basis on a device and in a dtype, each as torch has it or by its name."""
        basis = self.basis.to(device=find_device(device), dtype=find_dtype(dtype))
        return self if basis is self.basis else replace(self, basis=basis)  # which would look at all of it again

    def matrix(self) -> Tensor:
        """The dense [D, D] matrix in float64: for tests and small problems."""
        basis = self.basis.to("cpu", torch.float64)[:, :]
        dense = (basis * (self.eigenvalues - self.residual)) @ basis.T
        dense.diagonal().add_(self.residual)
        return dense

    @property
    def variances(self) -> Tensor:
        """The variance of each coordinate that `analyse` returns, float64."""
        outside = 0 if self.full else self.dimension
        return torch.cat([self.eigenvalues, torch.full((outside,), self.residual, dtype=torch.float64)])

    @cached_property
    def stored(self) -> Tensor:
        """The variances along the basis, and the one outside it where there is an outside: [M] float64."""
        if self.full:
            return self.eigenvalues
        return torch.cat([self.eigenvalues, torch.tensor([self.residual], dtype=torch.float64)])

    def gains(self, function: SpectralFunction, like: Tensor) -> Tensor:
        """g(variance) of each coordinate of ``like`` [..., K], in its dtype and on its device: [..., K].

        ``function`` maps variances [M] (float64) to gains [..., M]. It is asked once for each variance that is stored:
        for the residual one not D times.
        """
        gains = function(self.stored).to(like)
        if self.full:
            return gains
        inside, outside = gains[..., : self.rank], gains[..., self.rank :]
        return torch.cat([inside, outside.expand(*outside.shape[:-1], like.shape[-1] - self.rank)], -1)

    @property
    def asked(self) -> Tensor:
        """The variances of which `along` needs gains, [M] float64: those that are stored, or few of many."""
        return self.stored if self._pieces is None else self._pieces.asked

    def along(self, gains: Tensor, *parts: Tensor) -> Iterator[tuple[Sequence[Gain], tuple[Tensor, ...]]]:
        """Gains, and the parts of coordinates that they are for, some coordinates after others: views, to be changed in
        place (`mul_` and `add`).

        Each coordinate is met once. Outside the basis a gain is one number; of a full basis of many variances gains are
        made block by block, from few values of a function that is analytic in them (`Pieces`).

        Args:
            gains: functions of the variances that are `asked`, [J, M].
            parts: coordinates that `split` gave, or `combine` made of such, [B, K].
        """
        return self._along(self._pieces, gains, parts)

    def _along(
        self, pieces: Pieces | None, gains: Tensor, parts: Sequence[Tensor]
    ) -> Iterator[tuple[Sequence[Gain], tuple[Tensor, ...]]]:
        if pieces is not None:
            for place, some in pieces.gains(gains):
                yield some.unbind(), tuple(part[:, place] for part in parts)
        elif self.full:
            yield gains.to(parts[0]).unbind(), tuple(parts)
        else:
            if self.rank:
                yield gains[:, :-1].to(parts[0]).unbind(), tuple(part[:, : self.rank] for part in parts)
            yield gains[:, -1].tolist(), tuple(part[:, self.rank :] for part in parts)

    def combine(self, function: SpectralFunction, parts: Sequence[Tensor], own: bool = False) -> Tensor:
        """sum_j g_j(Sigma) part_j of J parts in coordinates [B, K]; ``function`` maps variances [M] to gains [J, M],
        and is analytic in them. Where the first part is the caller's ``own`` to lose, the sum takes its place."""
        total, pieces = parts[0] if own else parts[0].clone(), self._pieces_like(parts[0])
        gains = function(self.stored if pieces is None else pieces.asked)
        for (first, *others), (sums, *rest) in self._along(pieces, gains, [total, *parts[1:]]):
            sums.mul_(first)
            for gain, part in zip(others, rest, strict=True):
                add(sums, gain, part)
        return total

    def _pieces_like(self, like: Tensor) -> Pieces | None:
        """The spectrum in pieces, where it is one of many variances in order."""
        pieces = self._pieces
        if pieces is None or (pieces.place.dtype == like.dtype and pieces.place.device == like.device):
            return pieces
        return Pieces.of(self.eigenvalues, like)

    @cached_property
    def _pieces(self) -> Pieces | None:
        if self.rank <= _MANY or not bool((self.eigenvalues.diff() <= 0).all()):
            return None
        return Pieces.of(self.eigenvalues, torch.empty(0, dtype=self.basis.dtype, device=self.basis.device))

    def split(self, rows: Tensor, less: Tensor | float = 0.0) -> Tensor:
        """Rows [B, D], less a mean, in coordinates for `combine`: on the basis [B, R] twice, and as they are [B, D],
        where it is not full. A tensor of its own.

        The first take the gains along the basis, all others the one outside it, and `join` puts them together: with one
        product, not the two of `analyse`. They are not orthonormal.
        """
        if self.full:
            return (rows - less).to(self.basis.dtype) @ self.basis
        basis, rank = self.basis, self.rank
        coordinates = torch.empty(len(rows), 2 * rank + self.dimension, dtype=basis.dtype, device=basis.device)
        work = coordinates[:, 2 * rank :].copy_(rows).sub_(less)
        if rank:
            coordinates[:, :rank] = work @ basis
            coordinates[:, rank : 2 * rank] = coordinates[:, :rank]
        return coordinates

    def join(self, coordinates: Tensor) -> Tensor:
        """The rows [B, D] of coordinates that `split` gave, or `combine` made of such; a tensor of its own."""
        if self.full:
            return coordinates @ self.basis.T
        inside, same, rows = coordinates.split([self.rank, self.rank, self.dimension], 1)
        return torch.addmm(rows, inside - same, self.basis.T)

    def analyse(self, rows: Tensor) -> Tensor:
        """Rows [B, D] as coordinates on the basis [B, R], followed by the part outside its span [B, D] where there is
        one.

        In these coordinates every g(Sigma) is a product with g(variances): one product with the basis at either end
        serves any number of them.
        """
        work = rows.to(self.basis.dtype)
        inside = work @ self.basis
        return inside if self.full else torch.cat([inside, torch.addmm(work, inside, self.basis.T, alpha=-1)], 1)

    def synthesise(self, coordinates: Tensor) -> Tensor:
        """The rows [B, D] of the coordinates that `analyse` gave."""
        if self.full:
            return coordinates @ self.basis.T
        return torch.addmm(coordinates[:, self.rank :], coordinates[:, : self.rank], self.basis.T)

    def spectral(self, function: SpectralFunction, rows: Tensor) -> Tensor:
        """g(Sigma) applied to rows [B, D].

        ``function`` maps eigenvalues [K] (float64) to gains [K], or to [B, K] for one function a row. Two products with
        the basis, whatever the function.
        """
        work = rows.to(self.basis.dtype)
        gains = function(self.eigenvalues).to(work)
        if self.full:
            result = ((work @ self.basis) * gains) @ self.basis.T
        else:
            rest = function(torch.tensor([self.residual], dtype=torch.float64)).to(work)
            result = rest * work
            if self.rank:
                result = result + ((work @ self.basis) * (gains - rest)) @ self.basis.T
        return result.to(rows.dtype)
