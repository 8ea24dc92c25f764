"""Softmax means over many patches, of which only those are read in full that can matter."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from .shadows import multiplies_halves
from .softmax import SoftmaxMean

#: No more leading coordinates of a patch than these bound its log-weight, in bfloat16, and no more are known in all.
_MOST, _HALVED, _KNOWN = 24, 128, 256
#: Patches are bounded again, more finely, where more than one in so many are left by coarse bounds.
_REFINED = 16
#: So many patches are weighed before all others, where they are small.
_ASKED = 512
#: Half an ulp of bfloat16 for each factor of a product, and a little for the product of these and for their bound.
_ROUNDED = 2.1 * 2**-8
#: Patches that are weighed together, queries that are bounded together, and bounds that stay in the cache of a CPU.
_CACHED, _TEAM, _BOUNDED = 4096, 1024, 1 << 20
#: Coordinates by which queries are seen to be alike.
_ALIKE = 8
#: Whether one of some numbers is positive is told by the signs of the same bits as integers, which are quicker.
_BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16}
_LOG2E = math.log2(math.e)
#: Weights are at most 2 to this power: float32 holds sums of 2^60 of them.
_ROOM = 64.0
#: Where more of some patches than this matter, none are left out.
_MOSTLY, _FOREVER = 0.6, 1 << 62


@dataclass(frozen=True, eq=False)
class Screen:
    """Principal directions of patches, from which log-weights are bounded.

    With P the projection on R leading ones and Q_1, Q_2, ... those on bands of half an octave of all others,

        z.p <= Pz.Pp + |Q_1 z| |Q_1 p| + |Q_2 z| |Q_2 p| + ...

    by Cauchy and Schwarz in each band. Bands serve, for noise is alike in all directions, and patches are not.

    In ``halves`` all that is multiplied is rounded to bfloat16: on processors that have instructions for it, a product
    of all coordinates takes less time than one of a few in float32. What the rounding of both factors can move is
    bounded by |z| |p| times 2.1/256, one length more.

    Attributes:
        centre: [S], from which patches are seen.
        basis: leading directions, [S, K], orthonormal but for rounding.
        stages: edges of the bands, R first, of coarse bounds and of finer ones.
        some: patches of all kinds, centred, [n, S] float32, which tell at once about what weights there are.
        loss: by how much, at most, log-weights and bounds in float32 are off as shares of |z| |p|.
    """

    centre: Tensor
    basis: Tensor
    stages: tuple[tuple[int, ...], ...]
    some: Tensor
    loss: float
    halves: bool

    @property
    def reach(self) -> float:
        """The length of the centre."""
        return float(self.centre.norm())

    @staticmethod
    def of(patches: Tensor, halves: bool | None = None) -> Screen:
        """The principal directions of patches [n, S], float32 or float64, which are some of those to be screened; in
        ``halves`` where the processor multiplies them, unless it is said."""
        halves = multiplies_halves(patches.device) if halves is None else halves
        centre = patches.double().mean(0)
        rows, size = patches.double() - centre, patches.shape[1]
        known = min(_KNOWN, size)
        basis = torch.linalg.eigh((rows.T @ rows).cpu()).eigenvectors.flip(1)[:, :known].float()
        product = basis.double().T @ basis.double()
        product.diagonal().sub_(1)
        loss = 3 * float(product.norm()) + 32 * torch.finfo(torch.float32).eps
        chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[: _asked(size)]
        some = rows[chosen.to(rows.device)].float()
        return Screen(centre, basis.to(patches.device), _stages(size, known, halves), some, loss, halves)

    def shadows(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Leading coordinates and lengths in all bands, [n, W] float32 for each stage, of centred rows [n, S]."""
        rows = rows.to(self.basis)
        known, others = rows @ self.basis, []
        if known.shape[1] < rows.shape[1]:
            others = [torch.addmm(rows, known, self.basis.T, alpha=-1).norm(dim=1, keepdim=True)]
        if self.halves:
            others.append(_ROUNDED**0.5 * rows.norm(dim=1, keepdim=True))
        return tuple(_banded(known, edges, others) for edges in self.stages)

    def told(self, values: Tensor) -> Tensor:
        """Columns [n, M] whose sum is the values [n] to float32."""
        left, parts = values.float(), []
        for _ in range(3 if self.halves else 1):
            parts.append(left.bfloat16() if self.halves else left)
            left = left - parts[-1].float()
        return torch.stack(parts, 1)

    def facing(self, shadows: Tensor, *columns: Tensor) -> Tensor:
        """Shadows and columns as they are multiplied, [n, W + 2 M]."""
        return torch.cat([shadows.bfloat16() if self.halves else shadows, *columns], 1)


def _stages(size: int, known: int, halves: bool) -> tuple[tuple[int, ...], ...]:
    """Edges of bands. In halves few coordinates take no less time than many: there is one stage."""
    rank = min(known, _HALVED) if halves else max(1, min(_MOST, size // 3))
    fine = {round(rank * 2 ** (k / 2)) for k in range(2 * size.bit_length())}
    coarse = {max(1, rank // 4) << k for k in range(size.bit_length())}
    return tuple(
        (*sorted(edge for edge in edges if edge < known), known) for edges in ((fine,) if halves else (coarse, fine))
    )


def _asked(size: int) -> int:
    """How many patches of a size: they take no more room than the basis, or little."""
    return min(_ASKED, max(_KNOWN, 2**17 // size))


def _banded(known: Tensor, edges: tuple[int, ...], others: list[Tensor]) -> Tensor:
    bands = [known[:, a:b].norm(dim=1, keepdim=True) for a, b in pairwise(edges)]
    return torch.cat([known[:, : edges[0]], *bands, *others], 1)


@dataclass(frozen=True, eq=False)
class _Block:
    """Centred patches and half their squared lengths times -(alpha/sigma)^2 in bits [n, S + 1], values and ones
    [C + 1, n], and shadows, then minus the half lengths, then ones, by stages."""

    patches: Tensor
    values: Tensor
    shadows: tuple[Tensor, ...]

    @staticmethod
    def of(patches: Tensor, values: Tensor, square: float, screen: Screen) -> _Block:
        rows = patches - screen.centre.to(patches)
        lengths = -square / 2 * rows.square().sum(1)
        told = screen.told(lengths)
        shadows = tuple(screen.facing(found, told, torch.ones_like(told)) for found in screen.shadows(rows))
        full = torch.cat([rows, _LOG2E * lengths.unsqueeze(1)], 1)
        return _Block(full, torch.cat([values.T, torch.ones_like(values.T[:1])]), shadows)


@dataclass(eq=False)
class _Group:
    """Alike queries, which read the same patches, and what they have found.

    Attributes:
        queries: centred and in bits, then ones, [g, S + 1].
        reached: a log-weight that the sum of all weights reaches, [g] float64; weights are relative to it.
        sums: weighted sums of the values, and of ones, [C + 1, g].
    """

    queries: Tensor
    reached: Tensor
    sums: Tensor | float = 0.0

    def add(self, patches: Tensor, values: Tensor) -> None:
        """Weigh patches [n, S + 1] and values [C + 1, n]."""
        bits = torch.addmm((-_LOG2E * self.reached).to(patches).unsqueeze(1), self.queries, patches.T)
        if float(bits.detach().amax()) > _ROOM:
            more = bits.detach().amax(1).clamp(min=0).float()
            self.reached = self.reached + more.double() / _LOG2E
            self.sums, bits = self.sums * torch.exp2(-more), bits - more.unsqueeze(1)
        self.sums = self.sums + values @ bits.to(values.dtype).exp2_().T

    @property
    def known(self) -> Tensor:
        """What the log of the sum of all weights reaches by now, [g] float64."""
        if not isinstance(self.sums, Tensor):
            return self.reached
        return self.reached + self.sums.detach()[-1].double().clamp(min=1).log()


@dataclass(eq=False)
class _Team:
    """Groups of as many queries each, for which one product bounds the patches of a block.

    Where most of a block could not be left out, the next blocks are read whole, and at least twice as many after every
    such failure, so that screening costs next to nothing where it does not serve.

    Attributes:
        screen: what bounds log-weights.
        groups: of queries [g, S].
        shadows: of all of these, then ones, by stages; minus the log-weight that a patch has to reach comes after them.
        matter: log-weights so far below the sum matter, [G g] float64.
        wait: blocks that are read whole before the next attempt.
    """

    screen: Screen
    groups: tuple[_Group, ...]
    shadows: tuple[Tensor, ...]
    matter: Tensor
    wait: int = 0
    _pause: int = 0

    @staticmethod
    def of(
        scaled: Tensor,
        together: int,
        square: float,
        screen: Screen,
        rounding: Tensor,
        shadows: Iterable[Tensor],
        margin: float,
    ) -> _Team:
        """Of centred queries [G g, S]. Some patches tell what is reached, and whether so many matter that it would take
        longer to leave out the others."""
        some, ones = screen.some, torch.ones_like(screen.told(rounding))
        logits = torch.addmm(-square / 2 * some.square().sum(1), scaled.detach().to(some), some.T)
        reached, matter = logits.amax(1).double() - rounding, margin + rounding
        logits.sub_((reached - matter).to(logits).unsqueeze(1))
        share = (logits.unflatten(0, (-1, together)).amax(1) >= 0).float().mean()
        queries = torch.cat([_LOG2E * scaled, torch.ones_like(scaled[:, :1])], 1)
        groups = (_Group(*own) for own in zip(queries.split(together), reached.split(together), strict=True))
        facing = tuple(screen.facing(found, ones) for found in shadows)
        return _Team(screen, tuple(groups), facing, matter, _FOREVER if float(share) > _MOSTLY else 0)

    @torch.no_grad()
    def kept(self, block: _Block) -> list[Tensor] | None:
        """Which patches may reach what matters to any query of each group; None for all of them."""
        if self.wait:
            self.wait -= 1
            return None
        least = self.screen.told(self.matter - torch.cat([group.known for group in self.groups]))
        if not bool(least.isfinite().all()):
            return None
        coarse, *finer = (torch.cat([own, least], 1) for own in self.shadows)
        kept, count = _within_reach(block.shadows[0], coarse, len(self.groups)), len(block.patches)
        left = sum(len(found) for found in kept) / (count * len(kept))
        if left > 0.8:  # finer bounds would not help
            self.wait = self._pause = 4 * self._pause + 3
            return None
        for queries, patches in zip(finer, block.shadows[1:], strict=True):
            if _REFINED * left > 1:
                parts = zip(kept, queries.chunk(len(kept)), strict=True)
                kept = [found[_within_reach(patches.index_select(0, found), own)[0]] for found, own in parts]
                left = sum(len(found) for found in kept) / (count * len(kept))
        self.wait = self._pause = 0 if left <= 0.5 else 2 * self._pause + 1
        return kept

    def add(self, block: _Block) -> None:
        kept = self.kept(block)
        for i, group in enumerate(self.groups):
            patches, values = block.patches, block.values
            if kept is not None:
                patches, values = patches.index_select(0, kept[i]), values.index_select(1, kept[i])
            for some, known in zip(patches.split(_CACHED), values.split(_CACHED, 1), strict=True):
                if len(some):
                    group.add(some, known)


def _within_reach(patches: Tensor, queries: Tensor, groups: int = 1) -> list[Tensor]:
    """Which of patches [n, W] may reach what matters to any of the queries [g, W] of each group."""
    bits, size = _BITS[queries.dtype], max(1, _BOUNDED // len(queries))
    parts = patches.split(size if queries.device.type == "cpu" else len(patches) or 1)
    best = [(queries @ part.T).view(bits).unflatten(0, (groups, -1)).amax(1) for part in parts]
    return [own.nonzero().squeeze(1) for own in torch.cat(best, 1) >= 0]


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
    centred, rounding = scaled - square * screen.centre.to(scaled), rounding.double()
    shadows = screen.shadows(centred.detach())
    order = alike(shadows[-1][:, :_ALIKE])
    whole = len(order) // together * together
    teams = [
        _Team.of(
            centred[part],
            min(together, len(part)),
            square,
            screen,
            rounding[part],
            (found[part] for found in shadows),
            margin,
        )
        for part in (*order[:whole].split(max(1, _TEAM // together) * together), order[whole:])
        if len(part)
    ]
    for patches, values in blocks:
        block = _Block.of(patches, values, square, screen)
        for team in teams:
            team.add(block)
    sums = torch.cat([torch.as_tensor(group.sums) for team in teams for group in team.groups], 1)
    means = (sums[:-1] / sums[-1]).T
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
