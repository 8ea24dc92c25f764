"""Coefficients of a plan, fitted along a path through the levels of a fine solution, and followed at any levels.

They are fitted step by step: the denoiser is called at the states that the steps before have led to, and the next state
is fitted to where the fine solution is at the next level. So each step also mends what those before it have missed.

What is made small is the mean over seeds of the distance, not of its square: a few seeds on the border between two
images end in the wrong one, a hundred times as far away as the rest, and a square would be theirs alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..noise import NoiseLevel
from ..sampling.fitted import LOOK_BACK, TERMS, Plan, Seen, combine, flown, step_terms
from ..sampling.use import guidance_of
from ..theory.denoiser import Denoiser
from ..theory.gaussian import Gaussian
from .solution import FineSolution, distances

#: Ridge of the least squares, as a share of each term's own square. Calls that follow closely on each other say almost
#: the same: what a step of third order makes of them is, with 28 calls, 1e-4 of each.
RIDGE = 1e-8
#: Square of the least distance that a row's weight knows, as a share of the median's.
_FLOOR = 1e-2
#: Numbers that are held in double precision at once.
BLOCK = 1 << 23


@dataclass(frozen=True, eq=False)
class Run:
    """One pass through N levels: state before each call and at the end, images seen, coefficients of each step [F],
    error of each seed [B]; ``path`` are the indices of the levels in the fine solution, empty if they are others."""

    path: tuple[int, ...]
    level: NoiseLevel
    states: list[Tensor]
    seen: list[Tensor]
    coefficients: list[Tensor]
    errors: Tensor

    @property
    def loss(self) -> float:
        return float(self.errors.mean())


class Fit:
    """Fits coefficients along paths through the levels of a fine solution, and counts its calls.

    Where the rows of the denoiser have several weights of guidance, each coefficient is a straight line in their
    logarithm, unless a fit is not ``ranged``.
    """

    def __init__(self, denoise: Denoiser, gaussian: Gaussian, fine: FineSolution, ranged: bool = True) -> None:
        self.denoise, self.gaussian, self.fine = denoise, gaussian, fine
        self.covariance, self.calls = gaussian.covariance, 0
        weights = guidance_of(denoise, len(fine.seeds)) if ranged else None
        self.lean = None if weights is None else weights.log().unsqueeze(1)

    def run(self, path: tuple[int, ...], known: Run | None = None) -> Run:
        """Fit along a path; what it has in common with the beginning of a known run is not done again."""
        same = 0
        while known and same < min(len(path), len(known.path)) and path[same] == known.path[same]:
            same += 1
        level = self.fine.level[torch.tensor(path)]
        states, seen = (known.states[:same], known.seen[:same]) if known else ([], [])
        fitted = known.coefficients[: max(same - 1, 0)] if known else []
        for i in range(same, len(path)):
            if i:
                fitted.append(self.fitted(level, states, seen, self.fine.state(path[i])))
            self.advance(level, states, seen, fitted)
        fitted.append(self.fitted(level, states, seen, self.fine.final))
        return self._ended(path, level, states, seen, fitted)

    def follow(
        self, level: NoiseLevel, coefficients: Sequence[Tensor], known: Run | None = None, first: int = 0
    ) -> Run:
        """With given levels and coefficients, fitting nothing; calls before ``first`` are those of a known run."""
        states, seen = (known.states[:first], known.seen[:first]) if known else ([], [])
        for _ in range(first, len(level)):
            self.advance(level, states, seen, coefficients)
        return self._ended((), level, states, seen, coefficients)

    def refitted(self, run: Run) -> Run:
        """The run with its last step fitted to the end of the fine solution, which takes no call."""
        last = self.fitted(run.level, run.states[:-1], run.seen, self.fine.final)
        return self._ended(run.path, run.level, run.states[:-1], run.seen, [*run.coefficients[:-1], last])

    def advance(
        self, level: NoiseLevel, states: list[Tensor], seen: list[Tensor], coefficients: Sequence[Tensor]
    ) -> None:
        """Come to the next level and call the denoiser there: one more of ``states`` and of ``seen``."""
        i = len(seen)
        states.append(self.arrived(level, states, seen, coefficients[i - 1]) if i else self._landed(level[0]))
        seen.append(self._see(states[i], level[i]))

    def arrived(self, level: NoiseLevel, states: list[Tensor], seen: list[Tensor], coefficients: Tensor) -> Tensor:
        """Where the step from the last call leads."""
        start, terms = self.terms(level, states, seen)
        return start + combine(coefficients, terms)

    def terms(self, level: NoiseLevel, states: list[Tensor], seen: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Of the step from the last call: the Gaussian's flow [B, K], and what its coefficients multiply [F, B, K]; in
        a range of guidance, then the same times its logarithm."""
        i = len(seen) - 1
        there = level[i + 1] if i + 1 < len(level) else NoiseLevel.clean()
        past: list[Seen] = [(level[j], states[j], seen[j]) for j in range(i, -1, -1)]
        terms = self.beyond(past, there)
        if self.lean is not None:
            terms = torch.cat([terms, self.lean.to(terms) * terms])
        return flown(states[i], level[i], there, self.covariance), terms

    def beyond(self, past: Sequence[Seen], there: NoiseLevel) -> Tensor:
        """What the coefficients of a step multiply, from all calls so far, the newest first: [F, B, K]."""
        return step_terms(past[:LOOK_BACK], there, self.covariance)

    def fitted(self, level: NoiseLevel, states: list[Tensor], seen: list[Tensor], wanted: Tensor) -> Tensor:
        """Coefficients of the step from the last call that lead nearest to what is wanted [B, K]."""
        start, terms = self.terms(level, states, seen)
        return nearest_fit(terms, wanted - start)

    def _ended(
        self,
        path: tuple[int, ...],
        level: NoiseLevel,
        states: list[Tensor],
        seen: list[Tensor],
        coefficients: Sequence[Tensor],
    ) -> Run:
        end = self.arrived(level, states, seen, coefficients[-1])
        errors = distances(end, self.fine.final, self.gaussian.dimension)
        return Run(path, level, [*states, end], seen, list(coefficients), errors)

    def _landed(self, level: NoiseLevel) -> Tensor:
        return flown(self.fine.state(0), self.fine.level[0], level, self.covariance)

    def _see(self, state: Tensor, level: NoiseLevel) -> Tensor:
        self.calls += 1
        gaussian = self.gaussian
        x = level.alpha.to(state) * gaussian.mean + gaussian.covariance.synthesise(state)
        with torch.no_grad():
            return gaussian.covariance.analyse(self.denoise(x, level) - gaussian.mean)


def plan_of(run: Run, start: NoiseLevel) -> Plan:
    """The plan of a run, which jumps from the level where noise is drawn."""
    parts = len(run.coefficients[0]) // TERMS  # of the first step, which has one call: 2 where there are slopes
    coefficients = torch.zeros(parts, len(run.level), LOOK_BACK * TERMS, dtype=torch.float64)
    for i, fitted in enumerate(run.coefficients):
        coefficients[:, i, : len(fitted) // parts] = fitted.view(parts, -1)
    values, *slopes = coefficients.unflatten(2, (LOOK_BACK, TERMS))
    return Plan(NoiseLevel.join(start, run.level, NoiseLevel.clean()), values, slopes=slopes[0] if slopes else None)


def nearest_fit(terms: Tensor, wanted: Tensor, ridge: float | Tensor = RIDGE) -> Tensor:
    """Coefficients [F] of terms [F, B, K] nearest to what is wanted [B, K], with one ridge or each its own [F].

    Least squares, and once more with each row weighed by one over the distance that it was left at: a step of
    iteratively reweighted least squares towards the least sum of distances.
    """
    squares, products = row_products(terms, wanted)
    fitted = least_squares(squares, products, torch.ones_like(products[:, 0]), ridge)
    # of each row: |wanted - sum|^2
    explained = 2 * products @ fitted - (squares @ fitted) @ fitted
    left = (wanted.double().square().sum(1) - explained).clamp(min=0)
    return least_squares(squares, products, row_weights(left.sqrt()), ridge)


def row_products(terms: Tensor, wanted: Tensor, gains: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Of each row: the products of its terms [F, B, K], times gains [K], with each other [B, F, F], and with what is
    wanted [B, F]; in float64, a block of rows at a time."""
    size = max(1, BLOCK // (terms.shape[0] * terms.shape[2]))
    found = []
    for own, target in zip(terms.split(size, 1), wanted.split(size), strict=True):
        rows = (own if gains is None else own * gains).double().transpose(0, 1)
        found.append((rows @ rows.mT, (rows @ target.double().unsqueeze(2)).squeeze(2)))
    squares, products = (torch.cat(parts) for parts in zip(*found, strict=True))
    return squares, products


def row_weights(errors: Tensor) -> Tensor:
    """The weight of each row [B] for which least squares are, to first order, the least sum of distances."""
    floor = _FLOOR * errors.square().median() + torch.finfo(errors.dtype).tiny
    return 1 / (errors.square() + floor).sqrt()


def least_squares(squares: Tensor, products: Tensor, weights: Tensor, ridge: float | Tensor) -> Tensor:
    """The coefficients [P] of least squares with weighted rows, from each row's squares [B, P, P] and products [B, P];
    the ridge, one or each its own [P], is in units of each coefficient's own square."""
    gram = torch.einsum("b,bpq->pq", weights, squares)
    size = gram.diagonal().sqrt()
    size = torch.where(size > 0, size, 1.0)
    gram = gram / size.unsqueeze(1) / size
    gram.diagonal().add_(ridge)
    return torch.linalg.solve(gram, weights @ products / size) / size
