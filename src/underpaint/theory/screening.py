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
#: Patches are bounded again, more finely, where more than one in so many are left by coarse bounds.
_REFINED = 16
#: So many patches are weighed before all others, where they are small.
_ASKED = 1024


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
        coarse: edges of the coarse bands.
        some: patches of all kinds, centred, [n, S] float32, which tell at once about what weights there are.
        loss: by how much, at most, log-weights and bounds in float32 are off as shares of |z| |p|.
    """

    centre: Tensor
    basis: Tensor
    edges: tuple[int, ...]
    coarse: tuple[int, ...]
    some: Tensor
    loss: float

    @property
    def reach(self) -> float:
        """The length of the centre."""
        return float(self.centre.norm())

    @staticmethod
    def of(patches: Tensor) -> Screen:
        """The principal directions of patches [n, S], float32 or float64, which are some of those to be screened."""
        centre = patches.double().mean(0)
        rows, size = patches.double() - centre, patches.shape[1]
        known, rank = min(_KNOWN, size), max(1, min(_MOST, size // 3))
        basis = torch.linalg.eigh((rows.T @ rows).cpu()).eigenvectors.flip(1)[:, :known].float()
        product = basis.double().T @ basis.double()
        product.diagonal().sub_(1)
        loss = 3 * float(product.norm()) + 32 * torch.finfo(torch.float32).eps
        edges, few = {round(rank * 2 ** (k / 2)) for k in range(2 * size.bit_length())}, max(1, rank // 4)
        fine, coarse = (
            (*sorted(edge for edge in all_edges if edge < known), known)
            for all_edges in (edges, {few << k for k in range(size.bit_length())})
        )
        chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[: _asked(size)]
        return Screen(centre, basis.to(patches.device), fine, coarse, rows[chosen.to(rows.device)].float(), loss)

    def shadows(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Leading coordinates and lengths in all bands, [n, W] float32, of centred rows [n, S]: coarse and fine."""
        rows = rows.to(self.basis)
        known, outside = rows @ self.basis, []
        if known.shape[1] < rows.shape[1]:
            outside = [torch.addmm(rows, known, self.basis.T, alpha=-1).norm(dim=1, keepdim=True)]
        return _banded(known, self.coarse, outside), _banded(known, self.edges, outside)


def _asked(size: int) -> int:
    """How many patches of a size: they take no more room than the basis, or little."""
    return min(_ASKED, max(_KNOWN, 2**17 // size))


def _banded(known: Tensor, edges: tuple[int, ...], outside: list[Tensor]) -> Tensor:
    bands = [known[:, a:b].norm(dim=1, keepdim=True) for a, b in pairwise(edges)]
    return torch.cat([known[:, : edges[0]], *bands, *outside], 1)


@dataclass(frozen=True, eq=False)
class _Block:
    """Centred patches [n, S], half their squared lengths times (alpha/sigma)^2 [n], values [n, C], and coarse and fine
    shadows, then minus the half lengths, then ones, [n, W + 2]."""

    patches: Tensor
    half_norms: Tensor
    values: Tensor
    coarse: Tensor
    fine: Tensor

    @staticmethod
    def of(patches: Tensor, values: Tensor, square: float, screen: Screen) -> _Block:
        rows = patches - screen.centre.to(patches)
        half_norms = square / 2 * rows.square().sum(1)
        ends = torch.stack([-half_norms, torch.ones_like(half_norms)], 1).float()
        coarse, fine = (torch.cat([shadows, ends], 1) for shadows in screen.shadows(rows))
        return _Block(rows, half_norms, values, coarse, fine)


@dataclass(eq=False)
class _Group:
    """Queries [g, S] that look at the same blocks of patches, and what they have found.

    Where most of a block could not be left out, the next blocks are read whole, and at least twice as many after every
    such failure, so that screening costs next to nothing where it does not serve.

    Attributes:
        coarse: shadows of the queries, then ones, then minus the log-weight that a patch has to reach, [g, W + 2].
        fine: the same of finer bounds.
        matter: log-weights so far below the sum matter, [g].
        reached: a log-weight that some patch has, [g] float64.
    """

    queries: Tensor
    coarse: Tensor
    fine: Tensor
    matter: Tensor
    reached: Tensor
    sums: SoftmaxMean = field(default_factory=SoftmaxMean)
    _wait: int = 0
    _pause: int = 0

    @torch.no_grad()
    def kept(self, block: _Block) -> Tensor | None:
        """Which patches may reach what matters to any query; None for all of them."""
        if self._wait:
            self._wait -= 1
            return None
        if isinstance(self.sums.top, Tensor):
            self.reached = torch.maximum(self.reached, self.sums.log_sum)
        self.coarse[:, -1] = self.fine[:, -1] = self.matter - self.reached
        kept = _within_reach(block.coarse, self.coarse)
        if 5 * len(kept) > 4 * len(block.coarse):  # finer bounds would not help
            self._wait = self._pause = 4 * self._pause + 3
            return None
        if _REFINED * len(kept) > len(block.coarse):
            kept = kept[_within_reach(block.fine.index_select(0, kept), self.fine)]
        few = 2 * len(kept) <= len(block.coarse)
        self._wait = self._pause = 0 if few else 2 * self._pause + 1
        return kept

    def add(self, block: _Block) -> None:
        kept = self.kept(block)
        few = (block.patches, block.half_norms, block.values)
        if kept is not None:
            few = (few[0].index_select(0, kept), few[1].index_select(0, kept), few[2].index_select(0, kept))
        if len(few[0]):
            self.sums.add(torch.addmm(-few[1], self.queries, few[0].T), few[2])


def _within_reach(patches: Tensor, queries: Tensor) -> Tensor:
    """Which of patches [n, W] may reach what matters to any of queries [g, W]; what is not a number is kept."""
    return (~((patches @ queries.T).amax(1) < 0)).nonzero().squeeze(1)


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
    order = alike(shadows[1])
    matter, ends = (margin + rounding).double(), torch.ones_like(shadows[1][:, :2])
    coarse, fine = (torch.cat([found, ends], 1) for found in shadows)
    some, groups = screen.some, []
    heaviest = square / 2 * some.square().sum(1)
    for part in order.split(together):
        reached = torch.addmm(-heaviest, centred[part].detach().to(some), some.T).amax(1).double() - rounding[part]
        groups.append(_Group(centred[part], coarse[part], fine[part], matter[part], reached))
    for patches, values in blocks:
        block = _Block.of(patches, values, square, screen)
        for group in groups:
            group.add(block)
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
