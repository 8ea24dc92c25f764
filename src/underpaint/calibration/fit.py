"""Coefficients of a plan, fitted along a path through the levels of a fine solution.

They are fitted step by step: the denoiser is called at the states that the steps before have led to, and the next state
is fitted to where the fine solution is at the next level. So each step also mends what those before it have missed.

What is made small is the mean over seeds of the distance, not of its square: a few seeds on the border between two
images end in the wrong one, a hundred times as far away as the rest, and a square would be theirs alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..noise import NoiseLevel
from ..sampling.fitted import LOOK_BACK, Seen, combine, flown, step_terms
from ..theory.denoiser import Denoiser
from ..theory.gaussian import Gaussian
from .solution import FineSolution

#: Ridge of the least squares, as a share of each term's own square. Calls that follow closely on each other say almost
#: the same: what a step of third order makes of them is, with 28 calls, 1e-4 of each.
_RIDGE = 1e-8
#: Square of the least distance that a row's weight knows, as a share of the median's.
_FLOOR = 1e-2


@dataclass(frozen=True, eq=False)
class Run:
    """One pass through the levels ``path`` of a fine solution: state before each call and at the end, images seen,
    coefficients of each step [F], error of each seed [B]."""

    path: tuple[int, ...]
    states: list[Tensor]
    seen: list[Tensor]
    coefficients: list[Tensor]
    errors: Tensor

    @property
    def loss(self) -> float:
        return float(self.errors.mean())


class Fit:
    """Fits coefficients along paths through the levels of a fine solution, and counts its calls."""

    def __init__(self, denoise: Denoiser, gaussian: Gaussian, fine: FineSolution) -> None:
        self.denoise, self.gaussian, self.fine = denoise, gaussian, fine
        self.covariance, self.calls = gaussian.covariance, 0

    def run(self, path: tuple[int, ...], known: Run | None = None) -> Run:
        """Fit along a path; what it has in common with the beginning of a known run is not done again."""
        same = 0
        while known and same < len(path) and path[same] == known.path[same]:
            same += 1
        if known is None or not same:
            states, seen, fitted = [self._landed(path[0])], [], []
        else:
            states, seen, fitted = known.states[:same], known.seen[:same], known.coefficients[: same - 1]
        for i in range(len(fitted), len(path)):
            if i == len(seen):
                seen.append(self._see(states[i], path[i]))
            weights, state = self._step(path, states, seen, i)
            fitted.append(weights)
            states.append(state)
        return Run(path, states, seen, fitted, distances(states[-1], self.fine.final, self.gaussian.dimension))

    def _step(self, path: tuple[int, ...], states: list[Tensor], seen: list[Tensor], i: int) -> tuple[Tensor, Tensor]:
        """Coefficients of step i, and where it leads."""
        fine, last = self.fine, i + 1 == len(path)
        here = fine.level[path[i]]
        there, wanted = (
            (NoiseLevel.clean(), fine.final) if last else (fine.level[path[i + 1]], fine.states[path[i + 1]])
        )
        start = flown(states[i], here, there, self.covariance)
        past: list[Seen] = [(fine.level[path[j]], states[j], seen[j]) for j in range(i, max(i - LOOK_BACK, -1), -1)]
        terms = step_terms(past, there, self.covariance)
        weights = _nearest_fit(terms, wanted - start)
        return weights, start + combine(weights, terms)

    def _landed(self, index: int) -> Tensor:
        return flown(self.fine.states[0], self.fine.level[0], self.fine.level[index], self.covariance)

    def _see(self, state: Tensor, index: int) -> Tensor:
        self.calls += 1
        gaussian, level = self.gaussian, self.fine.level[index]
        x = level.alpha.to(state) * gaussian.mean + gaussian.covariance.synthesise(state)
        with torch.no_grad():
            return gaussian.covariance.analyse(self.denoise(x, level) - gaussian.mean)


def distances(found: Tensor, wanted: Tensor, dimension: int) -> Tensor:
    """Root mean square per number of the data, of each seed [B], in float64."""
    return ((found - wanted).double().square().sum(1) / dimension).sqrt()


def _nearest_fit(terms: Tensor, wanted: Tensor) -> Tensor:
    """Coefficients [F] of terms [F, B, K] nearest to what is wanted [B, K].

    Least squares, and once more with each row weighed by one over the distance that it was left at: a step of
    iteratively reweighted least squares towards the least sum of distances.
    """
    rows, wanted = terms.double().transpose(0, 1), wanted.double()
    squares, products = rows @ rows.mT, (rows @ wanted.unsqueeze(2)).squeeze(2)
    fitted = _solve(squares, products, torch.ones_like(products[:, 0]))
    # of each row: |wanted - sum|^2
    explained = 2 * products @ fitted - (squares @ fitted) @ fitted
    left = (wanted.square().sum(1) - explained).clamp(min=0)
    floor = _FLOOR * left.median() + torch.finfo(left.dtype).tiny
    return _solve(squares, products, 1 / (left + floor).sqrt())


def _solve(squares: Tensor, products: Tensor, weights: Tensor) -> Tensor:
    """The coefficients of least squares with weighted rows, from each row's squares [B, F, F] and products [B, F]."""
    gram = torch.einsum("b,bfg->fg", weights, squares)
    size = gram.diagonal().sqrt()
    size = torch.where(size > 0, size, 1.0)
    gram = gram / size.unsqueeze(1) / size + _RIDGE * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return torch.linalg.solve(gram, weights @ products / size) / size
