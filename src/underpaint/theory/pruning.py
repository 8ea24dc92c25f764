"""Which points of a cloud need not be read in full: told by a sample whether to try, and point by point by bounds."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .shadows import Shadow, Shadows, bounded, multiplies_halves, principal_basis, refined, taken
from .softmax import SoftmaxMean

#: What it takes to find out what could be left out, in numbers read.
_ATTEMPT = 1e6


@dataclass(frozen=True, eq=False)
class Outlook:
    """What is known of a call before points are read.

    Attributes:
        floor: a log-weight that is reached, [B, 1].
        slack: what one that matters may lack of the largest, [B, 1].
        matter: the share of points that matter to any row, of a few: of these one is the nearest to each row.
        expected: the same, of all points, from how far apart the few are.
        pays: whether bounds may leave out so many points that it takes less time to look for them.
    """

    floor: Tensor
    slack: Tensor
    matter: float = 1.0
    expected: float = 1.0
    pays: bool = False


@dataclass(frozen=True, eq=False)
class Pruning:
    """What is left out of the softmax over points [N, D], whose log-weights are x.y - (alpha/sigma)^2 |y|^2 / 2.

    Attributes:
        rows: points by their indices, [n, D] in the working dtype.
        half_norms: their half squared lengths, [N] float64.
        basis: directions [D, R] on which points are bounded; without, the leading ones of the points, when asked for.
        together: how many points are looked at together.
        margin: how far below the largest a log-weight does not matter.
    """

    rows: Callable[[Tensor | slice], Tensor]
    half_norms: Tensor
    basis: Tensor | None
    together: int
    margin: float

    @cached_property
    def _some(self) -> tuple[Tensor, Tensor]:
        """Points that tell, in a call, what could be spared, and their half squared norms."""
        count = len(self.half_norms)
        chosen = torch.randperm(count, generator=torch.Generator().manual_seed(0))
        chosen = chosen[: max(1, min(128, self.together, count // 64))].sort().values.to(self.half_norms.device)
        return self.rows(chosen), self.half_norms[chosen]

    @cached_property
    def _some_shadows(self) -> Shadow:
        rows, half_norms = self._some
        return self._shadows.cast(rows, 2 * half_norms)

    @cached_property
    def _apart(self) -> list[float]:
        """Half the squared distances of two of the points, the smallest first."""
        return (torch.pdist(self._some[0]).square() / 2).sort().values.tolist()

    def _expected(self, square: float, batch: int) -> float:
        """The share of points that matter to some of so many different states, noised points: beside those nearest to
        the point, of which the two nearest of some tell, those at the distance d weigh less by about
        (alpha/sigma)^2 d^2 / 2."""
        if not len(self._apart):
            return 1.0
        near = bisect_right(self._apart, self._apart[0] + self.margin / square) if square > 0 else len(self._apart)
        return 1 - (1 - near / len(self._apart)) ** batch

    @cached_property
    def _hidden(self) -> Tensor:
        """What all coordinates leave open of a log-weight times sigma/alpha, [n] for some points, where the state holds
        noise in the directions outside of them."""
        outside = self._some[0].shape[1] - sum(self._shadows.widths)
        return self._some_shadows.lengths[-1][:, 0] * outside**0.5

    @cached_property
    def _shadows(self) -> Shadows:
        first, device = self._some[0], self.half_norms.device
        if self.basis is not None:
            basis = torch.linalg.qr(self.basis.to(device, torch.float64)).Q.to(first.dtype)
        else:
            chosen = torch.randperm(len(self.half_norms), generator=torch.Generator().manual_seed(1))[:8192]
            basis = principal_basis(self.rows(chosen.to(device)))
        halves = first.dtype == torch.float32 and multiplies_halves(device)
        return Shadows(self.rows, 2 * self.half_norms, basis, self.together, halves)

    def outlook(self, exact: Tensor, square: Tensor, rounding: Tensor) -> Outlook:
        """Of states scaled by alpha/sigma^2 [B, D] float64, (alpha/sigma)^2 and a bound on the error of log-weights."""
        expected = self._expected(max(square.flatten().tolist()), len(exact))
        if expected > 0.5:
            return Outlook(rounding, rounding)
        rows, half_norms = self._some
        logits = torch.addmm((-square * half_norms).to(rows), exact.to(rows), rows.T)
        top, slack = logits.amax(1, keepdim=True), self.margin + 4 * rounding
        short = logits - (top - slack).to(logits)
        matter, dimension = _share(short), rows.shape[1]
        if matter > 0.5:
            return Outlook(top, slack, matter, expected)
        left = _share(short + square.sqrt().to(short) * self._hidden)
        least = left * 2 * dimension + self._shadows.widths[0] * self._shadows.price + _ATTEMPT / len(self.half_norms)
        return Outlook(top, slack, matter, expected, least <= (1 + matter) * dimension)

    def relevant(self, exact: Tensor, square: Tensor, outlook: Outlook, sums: SoftmaxMean) -> Iterator[Tensor | slice]:
        """Indices of all points that can matter, chunk by chunk; a point is left out whose bound is not near enough to
        the largest log-weight known. All of them, where to tell them apart costs more."""
        count, device, dtype = len(self.half_norms), exact.device, self._some[0].dtype
        chunks = [slice(start, min(start + self.together, count)) for start in range(0, count, self.together)]
        if not outlook.pays:
            yield from chunks
            return
        query, known, top = self._shadows.query(exact), self._shadows.points, outlook.floor
        plan: list[int] = []  # the blocks after which points are left out
        far = (2 * self.half_norms.max()).sqrt()
        slack = outlook.slack + 4 * self._shadows.loss * exact.norm(dim=1, keepdim=True) * far
        for part in self._parts(len(exact)):
            top = torch.clamp(top, min=sums.top).double()
            estimate, stage = (-square * self.half_norms[part]).to(dtype), 0
            index: Tensor | slice = part
            found = torch.arange(part.start, min(part.stop, count), device=device)
            while stage <= (plan or [0])[-1] and len(found):
                estimate = refined(estimate, query, stage, taken(known.coordinates[stage], index))
                if not plan or stage in plan:
                    top = torch.maximum(top, self._exactly(exact, square, found[estimate.argmax(1)]))
                if not plan:
                    plan, cost = self._cheapest(square, query, (top - slack).to(estimate))
                    if cost > (1 + outlook.matter) * exact.shape[1]:
                        yield from chunks
                        return
                if stage in plan:
                    bounds = bounded(estimate, query, stage, taken(known.lengths[stage], index))
                    kept = ((bounds - (top - slack).to(estimate)).amax(0) >= 0).nonzero().squeeze(1)
                    estimate, found = estimate.index_select(1, kept), found[kept]
                    index = found
                stage += 1
            if len(found):
                yield from found.split(self.together)

    def _exactly(self, exact: Tensor, square: Tensor, index: Tensor) -> Tensor:
        """Log-weights of one point for each row, [B, 1] float64."""
        product = (exact * self.rows(index).double()).sum(1, keepdim=True)
        return product - square * self.half_norms[index].unsqueeze(1)

    def _cheapest(self, square: Tensor, query: Shadow, floor: Tensor) -> tuple[list[int], float]:
        """After which blocks to leave points out, by a sample, and how much there is to do, in numbers read a point.

        Where more than half of the points stay, to pick them out costs more than to go on with all."""
        done, share, plan, costs = 0.0, 1.0, [], []
        estimate, sample = (-square * self._some[1]).to(floor), self._some_shadows
        for stage, width in enumerate(self._shadows.widths):
            done += share * width * self._shadows.price
            estimate = refined(estimate, query, stage, sample.coordinates[stage])
            left = _share(bounded(estimate, query, stage, sample.lengths[stage]) - floor)
            costs.append(done + left * 2 * self._some[0].shape[1])
            if 2 * left < share:
                plan.append(stage)
                share = left
        last = costs.index(min(costs))
        return [*(stage for stage in plan if stage < last), last], min(costs)

    def _parts(self, batch: int) -> list[slice]:
        """All points, in parts whose bounds take no more room than a chunk of points."""
        size = self.together * max(1, self._some[0].shape[1] // batch)
        return [slice(start, start + size) for start in range(0, len(self.half_norms), size)]


def _share(short: Tensor) -> float:
    """Of points, of which any row says by [B, n] that they are not short of what matters."""
    best = short.amax(0).tolist()
    return sum(value >= 0 for value in best) / len(best)
