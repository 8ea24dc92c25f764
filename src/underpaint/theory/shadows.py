"""Bounds of inner products with many points, from the coarsest to the finest: what need not be read in full."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

#: No more principal coordinates than these are kept of a point.
_MOST = 1024
#: Coordinates are known up to R / 32, R / 16, ..., R; lengths are of half octaves: R / 2^(k/2).
_STAGES, _OCTAVES = (32, 16, 8, 4, 2, 1), 10
#: Half an ulp of bfloat16 for each factor of a product and for the product, and a little for the products of these.
_HALVES = 3.05 * 2**-8


@dataclass(frozen=True, eq=False)
class Shadow:
    """What is known of rows [n, D] by blocks: coordinates [n, w], and the lengths that bound all that is not in them or
    in earlier blocks, [n, W]."""

    coordinates: tuple[Tensor, ...]
    lengths: tuple[Tensor, ...]


class Shadows:
    """Coordinates of points [N, D] on an orthonormal basis [D, R], in blocks, the leading ones first.

    With P the projection on the first of them and Q_1, Q_2, ... those on bands of all other directions, x.y is at most

        Px.Py + |Q_1 x| |Q_1 y| + |Q_2 x| |Q_2 y| + ...

    by Cauchy and Schwarz in each band. Bands serve, for noise is alike in all directions, and data are not. They are
    N (R + 68) numbers or fewer, made when they are first asked for.

    With ``halves`` coordinates are rounded to bfloat16: on processors that multiply it this takes a third of the time.
    What three roundings can move is bounded by |Px| |Py| times 3/256, one length more.

    Args:
        rows: the points that a slice names, [n, D] in the working dtype.
        squares: their squared lengths [N], float64.
        basis: [D, R], orthonormal but for rounding.
    """

    def __init__(
        self, rows: Callable[[slice], Tensor], squares: Tensor, basis: Tensor, chunk: int, halves: bool = False
    ) -> None:
        rank = basis.shape[1]
        self._edges = sorted({rank // share for share in _STAGES if rank // share} | {rank})
        octaves = {round(rank / 2 ** (k / 2)) for k in range(_OCTAVES + 1)}
        self._bands = sorted({edge for edge in octaves if edge >= self._edges[0]} | set(self._edges))
        self._rows, self._squares, self._basis, self._chunk = rows, squares, basis, chunk
        self._kept = torch.bfloat16 if halves else basis.dtype
        #: what a coordinate costs, in numbers of a point that is read in full
        self.price = 0.4 if halves else 1.0
        product = basis.double().T @ basis.double()
        product.diagonal().sub_(1)
        #: by how much, at most, inner products are off as shares of |x| |y|: the basis is not quite orthonormal
        self.loss = float(product.norm()) + 32 * torch.finfo(basis.dtype).eps

    @cached_property
    def _inside(self) -> Tensor:
        """Whether a coordinate lies in a band, ones and zeros [R, W] float64."""
        place = torch.bucketize(torch.arange(self._bands[-1]), torch.tensor(self._bands), right=True)
        return torch.nn.functional.one_hot(place, len(self._bands)).double()

    @property
    def widths(self) -> list[int]:
        """Coordinates in each block."""
        return [b - a for a, b in pairwise([0, *self._edges])]

    @cached_property
    def points(self) -> Shadow:
        """Of all points."""
        count, kept = len(self._squares), None
        for start in range(0, count, self._chunk):
            part = slice(start, start + self._chunk)
            found = self.cast(self._rows(part), self._squares[part])
            kept = kept or Shadow(
                *(
                    tuple(block.new_empty(count, block.shape[1]) for block in of)
                    for of in (found.coordinates, found.lengths)
                )
            )
            for block, values in zip(
                (*kept.coordinates, *kept.lengths), (*found.coordinates, *found.lengths), strict=True
            ):
                block[part] = values
        return kept or Shadow((), ())

    def query(self, x: Tensor) -> Shadow:
        """Of states x [B, D], float64."""
        return self.cast(x.to(self._basis.dtype), x.square().sum(1))

    def cast(self, rows: Tensor, squares: Tensor) -> Shadow:
        """Of rows [n, D] of squared lengths [n] float64."""
        coordinates = rows @ self._basis
        parts = coordinates.double().square() @ self._inside.to(rows.device)
        rest = (squares - parts.sum(1)).clamp(min=0)
        inside = parts[:, 1:].sqrt() + self.loss * squares.sqrt().unsqueeze(1)
        outside = torch.cat([inside, (rest + self.loss * squares).sqrt().unsqueeze(1)], 1)
        lengths = [outside[:, self._bands.index(edge) :] for edge in self._edges]
        if self._kept != coordinates.dtype:
            before = _HALVES**0.5 * parts.cumsum(1).sqrt()
            lengths = [
                torch.cat([after, before[:, [self._bands.index(edge)]]], 1)
                for after, edge in zip(lengths, self._edges, strict=True)
            ]
        blocks = tuple(coordinates[:, a:b].to(self._kept) for a, b in pairwise([0, *self._edges]))
        return Shadow(blocks, tuple(found.to(rows.dtype) for found in lengths))


def refined(estimate: Tensor, query: Shadow, stage: int, coordinates: Tensor) -> Tensor:
    """Estimates [B, n] of points [n, w] with one more block added."""
    known = query.coordinates[stage]
    if known.dtype == estimate.dtype:
        return torch.addmm(estimate, known, coordinates.T)
    return estimate + known @ coordinates.T


def bounded(estimate: Tensor, query: Shadow, stage: int, lengths: Tensor) -> Tensor:
    """Bounds [B, n] from above, of estimates with as many blocks and lengths [n, W]."""
    return torch.addmm(estimate, query.lengths[stage], lengths.T)


def multiplies_halves(device: torch.device) -> bool:
    """Whether the processor has instructions for products of bfloat16."""
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    known = torch.cpu.get_capabilities()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


def taken(rows: Tensor, index: Tensor | slice) -> Tensor:
    """Rows by their indices, or a slice of them, which is a view."""
    return rows[index] if isinstance(index, slice) else rows.index_select(0, index)


def principal_basis(rows: Tensor) -> Tensor:
    """The leading eigenvectors of rows [n, D] about the origin, [D, R] with R about D/3, at most 1,024, in their
    dtype: a third of the coordinates of an image hold nearly all of it."""
    count, dimension = rows.shape
    rank = max(1, min(dimension // 3, _MOST, count))
    leading = rows[: max(2 * rank, 256)]
    if len(leading) < dimension:
        basis = torch.linalg.qr(leading.T @ torch.linalg.eigh(leading @ leading.T).eigenvectors.flip(1)[:, :rank]).Q
        return torch.linalg.qr(rows.T @ (rows @ basis)).Q  # a power iteration, on all of them
    return torch.linalg.qr(torch.linalg.eigh(rows.T @ rows).eigenvectors.flip(1)[:, :rank]).Q
