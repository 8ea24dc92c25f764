"""Bounds of inner products with many points, from the coarsest to the finest: what need not be read in full."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

#: No more principal coordinates than these are kept of a point.
_MOST = 1024
#: Coordinates are known up to R / 32, R / 16, ..., R; lengths are of half octaves: R / 2^(k/2).
_STAGES, _OCTAVES = (32, 16, 8, 4, 2, 1), 10


#: What is known of rows [n, D], block by block: coordinates [n, w], and beside them the lengths of all later bands.
Shadow = list[Tensor]


class Shadows:
    """Coordinates of points [N, D] on an orthonormal basis [D, R], in blocks, the leading ones first.

    With P the projection on the first of them and Q_1, Q_2, ... those on bands of all other directions, x.y is at most

        Px.Py + |Q_1 x| |Q_1 y| + |Q_2 x| |Q_2 y| + ...

    by Cauchy and Schwarz in each band. Bands serve, for noise is alike in all directions, and data are not. They are
    N (R + 36) numbers or fewer, made when they are first asked for.

    Args:
        rows: the points that a slice names, [n, D] in the working dtype.
        squares: their squared lengths [N], float64.
        basis: [D, R], orthonormal but for rounding.
    """

    def __init__(self, rows: Callable[[slice], Tensor], squares: Tensor, basis: Tensor, chunk: int) -> None:
        rank = basis.shape[1]
        self._edges = sorted({rank // share for share in _STAGES if rank // share} | {rank})
        halves = {round(rank / 2 ** (k / 2)) for k in range(_OCTAVES + 1)}
        self._bands = sorted({edge for edge in halves if edge >= self._edges[0]} | set(self._edges))
        self._rows, self._squares, self._basis, self._chunk = rows, squares, basis, chunk
        product = basis.double().T @ basis.double()
        product.diagonal().sub_(1)
        #: by how much, at most, inner products are off as shares of |x| |y|: the basis is not quite orthonormal
        self.loss = float(product.norm()) + 32 * torch.finfo(basis.dtype).eps

    @property
    def widths(self) -> list[int]:
        """Coordinates in each block."""
        return [b - a for a, b in pairwise([0, *self._edges])]

    @cached_property
    def _points(self) -> Shadow:
        """Of all points."""
        count, blocks = len(self._squares), None
        for start in range(0, count, self._chunk):
            part = slice(start, start + self._chunk)
            found = self.cast(self._rows(part), self._squares[part])
            blocks = blocks or [block.new_empty(count, block.shape[1]) for block in found]
            for block, values in zip(blocks, found, strict=True):
                block[part] = values
        return blocks or []

    def query(self, x: Tensor) -> Shadow:
        """Of states x [B, D], float64."""
        return self.cast(x.to(self._basis.dtype), x.square().sum(1))

    def cast(self, rows: Tensor, squares: Tensor) -> Shadow:
        """Of rows [n, D] of squared lengths [n] float64."""
        coordinates = rows @ self._basis
        parts = [coordinates[:, a:b].double().square().sum(1) for a, b in pairwise([0, *self._bands])]
        rest = (squares - torch.stack(parts).sum(0)).clamp(min=0)
        inside = torch.stack(parts[1:], 1).sqrt() if parts[1:] else coordinates.new_empty(len(rows), 0)
        inside = inside + self.loss * squares.sqrt().unsqueeze(1)
        lengths = torch.cat([inside, (rest + self.loss * squares).sqrt().unsqueeze(1)], 1).to(rows.dtype)
        later = [self._bands.index(edge) for edge in self._edges]
        edges = pairwise([0, *self._edges])
        return [torch.cat([coordinates[:, a:b], lengths[:, k:]], 1) for (a, b), k in zip(edges, later, strict=True)]

    def refine(self, estimate: Tensor, query: Shadow, stage: int, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Estimates [B, n] of points with one more block added, and their bounds from above."""
        return self.refined(estimate, query, stage, taken(self._points[stage], index))

    def refined(self, estimate: Tensor, query: Shadow, stage: int, block: Tensor) -> tuple[Tensor, Tensor]:
        """The same for points whose block is given."""
        width, known = self.widths[stage], query[stage]
        estimate = torch.addmm(estimate, known[:, :width], block[:, :width].T)
        return estimate, torch.addmm(estimate, known[:, width:], block[:, width:].T)


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
