"""Softmax means over many patches, of which only those are read in full that can matter."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from .softmax import SoftmaxMean

#: No more leading coordinates of a patch than these bound its log-weight, and no more than these are known in all.
_MOST, _KNOWN = 24, 256


@dataclass(frozen=True, eq=False)
class Screen:
    """Principal directions of patches, from which log-weights are bounded.

    With P the projection on R leading ones and Q_1, Q_2, ... those on bands of half an octave of all others,

        z.p <= Pz.Pp + |Q_1 z| |Q_1 p| + |Q_2 z| |Q_2 p| + ...

    by Cauchy and Schwarz in each band. Bands serve, for noise is alike in all directions, and patches are not.

    Attributes:
        centre: [S], from which patches are seen.
        basis: leading directions, [S, K], orthonormal but for rounding.
        edges: of the bands, R first.
        loss: by how much, at most, log-weights and bounds in float32 are off as shares of |z| |p|.
    """

    centre: Tensor
    basis: Tensor
    edges: tuple[int, ...]
    loss: float

    @property
    def reach(self) -> float:
        """The length of the centre."""
        return float(self.centre.norm())

    @staticmethod
    def of(patches: Tensor) -> Screen:
        """The principal directions of patches [n, S], float32 or float64."""
        centre = patches.double().mean(0)
        rows, size = patches.double() - centre, patches.shape[1]
        known, rank = min(_KNOWN, size), max(1, min(_MOST, size // 3))
        basis = torch.linalg.eigh((rows.T @ rows).cpu()).eigenvectors.flip(1)[:, :known].float()
        product = basis.double().T @ basis.double()
        product.diagonal().sub_(1)
        loss = 3 * float(product.norm()) + 32 * torch.finfo(torch.float32).eps
        edges = {round(rank * 2 ** (k / 2)) for k in range(2 * size.bit_length())}
        within = tuple(sorted(edge for edge in edges if edge < known))
        return Screen(centre, basis.to(patches.device), (*within, known), loss)

    def shadows(self, rows: Tensor) -> Tensor:
        """Leading coordinates and lengths in all bands, [n, W] float32, of centred rows [n, S]."""
        rows = rows.to(self.basis)
        known = rows @ self.basis
        parts = [known[:, : self.edges[0]]]
        parts += [known[:, a:b].norm(dim=1, keepdim=True) for a, b in pairwise(self.edges)]
        if known.shape[1] < rows.shape[1]:
            parts.append(torch.addmm(rows, known, self.basis.T, alpha=-1).norm(dim=1, keepdim=True))
        return torch.cat(parts, 1)


@dataclass(eq=False)
class _Group:
    """Queries [g, S] that look at the same blocks of patches, and what they have found.

    A block is screened after the first; where most of one could not be left out, blocks are read whole for a while, and
    for twice as long after every such failure, so that screening costs next to nothing where it does not serve.

    Attributes:
        shadows: of the queries, then ones, then minus the log-weight that a patch has to reach, [g, W + 2].
        matter: log-weights so far below the sum matter, [g].
    """

    queries: Tensor
    shadows: Tensor
    matter: Tensor
    sums: SoftmaxMean = field(default_factory=SoftmaxMean)
    _wait: int = 1
    _pause: int = 0

    @torch.no_grad()
    def kept(self, shadows: Tensor) -> Tensor | None:
        """Which patches of shadows [n, W + 2] may reach what matters to any query; None for all of them."""
        if self._wait:
            self._wait -= 1
            return None
        self.shadows[:, -1] = self.matter - self.sums.log_sum
        kept = (~((self.shadows @ shadows.T).amax(0) < 0)).nonzero().squeeze(1)  # what is not a number is kept
        if 2 * len(kept) > len(shadows):
            self._wait = self._pause = 2 * self._pause + 1
            return None
        self._pause = 0
        return kept


def patch_means(scaled: Tensor, square: float, blocks: Iterable[tuple[Tensor, Tensor]], together: int) -> Tensor:
    """sum_i w_i v_i / sum_i w_i for scaled queries z = alpha x / sigma^2 [Q, S]: means [Q, C].

    log w_i = z.p_i - (alpha/sigma)^2 |p_i|^2 / 2 for the patches p_i [n, S] and values v_i [n, C] of each block.
    Queries are taken ``together``, so that their log-weights of a block stay in the cache.
    """
    queries = scaled.split(together)
    sums = [SoftmaxMean() for _ in queries]
    for patches, values in blocks:
        half_norms = square / 2 * patches.square().sum(1)
        for query, found in zip(queries, sums, strict=True):
            found.add(torch.addmm(-half_norms, query, patches.T), values)
    return torch.cat([found.mean for found in sums])


def screened_means(
    scaled: Tensor,
    square: float,
    blocks: Iterable[tuple[Tensor, Tensor]],
    together: int,
    screen: Screen,
    longest: float,
    margin: float,
) -> Tensor:
    """The same, without patches whose log-weights are certain to lie further than ``margin`` below the log of the sum
    of all weights. ``longest`` bounds the lengths of patches; alike queries go together."""
    rounding = screen.loss * (scaled.detach().norm(dim=1) + square * longest) * (longest + screen.reach)
    centred = scaled - square * screen.centre.to(scaled)
    shadows = screen.shadows(centred.detach())
    order = alike(shadows)
    ones, matter = torch.ones_like(shadows[:, :1]), (margin + rounding).double()
    shadows = torch.cat([shadows, ones, ones], 1)
    groups = [_Group(centred[part], shadows[part], matter[part]) for part in order.split(together)]
    for patches, values in blocks:
        rows = patches - screen.centre.to(patches)
        half_norms = square / 2 * rows.square().sum(1)
        bounds = torch.cat([screen.shadows(rows), -half_norms.unsqueeze(1).float(), ones.new_ones(len(rows), 1)], 1)
        for group in groups:
            kept = group.kept(bounds)
            few = (rows, half_norms, values) if kept is None else tuple(v[kept] for v in (rows, half_norms, values))
            if len(few[0]):
                group.sums.add(torch.addmm(-few[1], group.queries, few[0].T), few[2])
    means = torch.cat([group.sums.mean for group in groups])
    return torch.empty_like(means).index_copy(0, order, means)


def alike(coordinates: Tensor, least: int = 64) -> Tensor:
    """An order [Q] of rows [Q, R] in which neighbours are alike: halves of halves, along the coordinate that varies
    most, down to ``least`` rows; all halves but the last are of a multiple of them."""
    parts = [torch.arange(len(coordinates), device=coordinates.device)]
    while any(len(part) > least for part in parts):
        parts = [half for part in parts for half in _halved(part, coordinates, least)]
    return torch.cat(parts)


def _halved(part: Tensor, coordinates: Tensor, least: int) -> tuple[Tensor, ...]:
    if len(part) <= least:
        return (part,)
    rows = coordinates[part]
    by_size = rows[:, rows.var(0).argmax()].argsort()
    middle = -(-(len(part) // 2) // least) * least
    return part[by_size[:middle]], part[by_size[middle:]]
