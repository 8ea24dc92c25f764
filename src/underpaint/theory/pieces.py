"""Functions of many variances from their values at few: polynomials, piece by piece of the spectrum."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

#: How far the variances of a piece lie apart at most, as a factor.
_WIDTH = 4.0
#: Nodes of a piece in single precision, and in double.
_NODES = {torch.float32: 16, torch.float64: 32}
#: Variances that a piece at the wide end has at least; fewer are taken as they are.
_FEWEST = 64
#: Variances whose gains are made at once: with their powers they stay in the processor's cache.
_BLOCK = 1 << 12
#: Variances above 0 below this share of the largest are taken for that: less than the square of any sigma/alpha in use.
_NOTHING = 1e-20


@dataclass(frozen=True, eq=False)
class Pieces:
    """A spectrum in pieces, in each of which a function analytic in lambda > 0 is a polynomial to rounding.

    Every function of Sigma in the theory is such: its singularities lie at -(sigma/alpha)^2 <= 0. Between variances of
    a factor 4 the error of interpolation at N Chebyshev nodes falls as 3^-N (Trefethen 2019, "Approximation Theory
    and Approximation Practice", theorem 8.2).

    Attributes:
        asked: the variances of which functions are asked, float64: the widest ``alone``, then the nodes of each piece.
        bounds: of each piece among the variances.
        place: where in its piece each variance lies, from -1 to 1, [D].
    """

    asked: Tensor
    alone: int
    bounds: tuple[tuple[int, int], ...]
    place: Tensor

    @staticmethod
    def of(variances: Tensor, like: Tensor) -> Pieces:
        """Of descending variances [D], for gains in the dtype and on the device of ``like``."""
        values = variances.double().cpu()
        values = torch.where(values > 0, values.clamp(min=_NOTHING * float(values[0])), 0.0)
        alone, bounds = _cut(values)
        ends = torch.tensor([[float(values[a]), float(values[b - 1])] for a, b in bounds], dtype=torch.float64)
        middle, half = (ends.view(-1, 2) @ torch.tensor([[0.5, 0.5], [0.5, -0.5]], dtype=torch.float64)).unbind(1)
        asked = middle.unsqueeze(1) + half.unsqueeze(1) * _angles(_count(like)).cos()
        place = torch.zeros_like(values)
        for (a, b), at, reach in zip(bounds, middle.tolist(), half.tolist(), strict=True):
            if reach > 0:
                place[a:b] = (values[a:b] - at) / reach
        return Pieces(torch.cat([values[:alone], asked.flatten()]), alone, tuple(bounds), place.to(like))

    def gains(self, known: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Those at all variances, from what is ``known`` of the ones that are asked, [J, M]: [J, b - a] for the slice
        from a to b."""
        count = _count(self.place)
        widest, values = known[:, : self.alone].to(self.place), known[:, self.alone :]
        waves, powers = _polynomial(count)
        coefficients = values.unflatten(1, (len(self.bounds), count)) @ waves @ powers
        pieces = [*zip(self.bounds, coefficients.to(self.place).unbind(1), strict=True)]
        for start in range(0, len(self.place), _BLOCK):
            block = slice(start, min(start + _BLOCK, len(self.place)))
            yield block, self._block(block, widest, pieces)

    def _block(self, block: slice, widest: Tensor, pieces: Sequence[tuple[tuple[int, int], Tensor]]) -> Tensor:
        """Gains of the variances of a block, of the widest and of the coefficients of each piece: [J, C]."""
        raised = _powers(self.place[block], _count(self.place))
        made = [widest[:, block]] if block.start < self.alone else []
        made += [
            own @ raised[:, max(start - block.start, 0) : end - block.start]
            for (start, end), own in pieces
            if start < block.stop and end > block.start
        ]
        return made[0] if len(made) == 1 else torch.cat(made, 1)


def _cut(values: Tensor) -> tuple[int, list[tuple[int, int]]]:
    """How many of the widest are too few for a piece, and the bounds of the pieces after them."""
    rising = values.flip(0).contiguous()
    alone, bounds, start = 0, list[tuple[int, int]](), 0
    while start < len(values):
        end = len(values) - int(torch.searchsorted(rising, float(values[start]) / _WIDTH))
        end = max(end, start + 1)
        if not bounds and end - start < _FEWEST:
            alone = end
        else:
            bounds.append((start, end))
        start = end
    return alone, bounds


def _count(like: Tensor) -> int:
    return _NODES[torch.promote_types(like.dtype, torch.float32)]


def _angles(count: int) -> Tensor:
    return (torch.arange(count, dtype=torch.float64) + 0.5) * math.pi / count


def _powers(place: Tensor, count: int) -> Tensor:
    """1, x, x^2 ... [N, C] of x [C]."""
    powers, known = place.new_empty(count, len(place)), 1
    powers[0], powers[1] = 1, place
    while known < count - 1:
        more = min(known, count - 1 - known)
        torch.mul(powers[1 : 1 + more], powers[known], out=powers[known + 1 : known + 1 + more])
        known += more
    return powers


@cache
def _polynomial(count: int) -> tuple[Tensor, Tensor]:
    """From values at Chebyshev's nodes to the coefficients of his polynomials, and from these to those of powers: one
    after the other, as their product would cancel. [N, N] each, for rows on the left."""
    with torch.inference_mode(False):  # what is kept has to serve gradients, too
        order = torch.arange(count, dtype=torch.float64)
        waves = 2 / count * (_angles(count).unsqueeze(1) * order).cos()
        waves[:, 0] /= 2
        powers = torch.zeros(count, count, dtype=torch.float64)
        powers[0, 0] = powers[1, 1] = 1
        for k in range(2, count):  # T_k = 2 x T_{k-1} - T_{k-2}
            powers[k, 1:] = 2 * powers[k - 1, :-1]
            powers[k] -= powers[k - 2]
        return waves, powers
