"""The last phase of a fit: levels and coefficients together, so that the end comes nearer.

Step by step, coefficients are fitted to where the fine solution is at the next level. What the end gains from a change
is another question. It is asked here, by Gauss-Newton, damped as Levenberg and Marquardt do, with derivatives by
differences. These take calls of the denoiser alone, so that guidance, prompts and any model are as good as another; a
change at a level leaves the calls before it as they were. From step to step the derivatives are corrected by what the
last step has changed (Broyden 1965), which takes no call.

A seed on the border between two images is far off, and a step that such seeds ask for does harm to others. So several
dampings are tried from the same derivatives, and held-out seeds choose: a trial takes few calls beside the derivatives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..noise import NoiseLevel, Schedule
from ..sampling.fitted import combine
from ..theory import modes
from .fit import Fit, Run, least_squares, row_products, row_weights

#: Directions of each step's coefficients that are moved: those that move the next state furthest.
DIRECTIONS = 4
#: Change of a level for the difference, in log(sigma/alpha); of a state, in units of what the next level holds of noise
#: or, where that is less, of data.
_DIFFERENCE = 0.02
#: Dampings that are tried, as shares of each derivative's own square; the first ones where calls are short.
_DAMPINGS = (0.1, 1.0, 0.01)
#: A step that makes the held-out error smaller by less than this share is the last with its derivatives.
_PROGRESS = 0.01
#: A level goes at most this share of the way to its neighbour in one step.
_FURTHEST = 0.4
#: Numbers of a final state that enter the least squares: of more, signed sums.
_SKETCH = 4096


def refining_calls(count: int, directions: int = DIRECTIONS) -> int:
    """Calls that the derivatives of a run of so many calls take, and a first trial."""
    return count * (count + 1) // 2 + directions * count * (count - 1) // 2 + count


def checks(count: int) -> int:
    """Calls that the held-out seeds of a run of so many calls are usually asked for."""
    return (1 + len(_DAMPINGS)) * count


def affordable(count: int, effort: int) -> int:
    """The most directions of each step that an effort allows; -1 if it does not even allow to move the levels."""
    return next((most for most in range(DIRECTIONS, -1, -1) if refining_calls(count, most) <= effort), -1)


def refine(fit: Fit, schedule: Schedule, run: Run, effort: int, unseen: Callable[[Run], float]) -> Run:
    """The run with levels and coefficients moved so that it ends nearer, as long as it does on held-out seeds, too.

    Args:
        fit: of the fine solution; its levels are left.
        schedule: of the network, for the levels between.
        run: where to begin.
        effort: calls on each seed.
        unseen: the error of a run on held-out seeds.
    """
    most, known = fit.calls + effort, math.nan
    while (directions := affordable(len(run.level), most - fit.calls)) >= 0:
        known = unseen(run) if math.isnan(known) else known
        begun = known
        run, known = _descended(_linearised(fit, schedule, run, directions), most, unseen, known)
        if known > (1 - _PROGRESS) * begun:
            break
    return run


def _descended(linear: _Linearised, most: int, unseen: Callable[[Run], float], known: float) -> tuple[Run, float]:
    """Steps from one set of derivatives, each the best of some dampings; the run, and its error on held-out seeds."""
    fit = linear.fit
    while True:
        step, trial, best, error = None, linear.run, linear.run, known
        for damping in _DAMPINGS:
            if fit.calls + len(linear.run.level) > most:
                break
            changed = linear.step(damping)
            ended = fit.follow(*linear.moved(changed))
            better = fit.refitted(ended)
            if better.loss < linear.run.loss and (found := unseen(better)) < error:
                step, trial, best, error = changed, ended, better, found
        if step is None:
            return linear.run, known
        linear, begun, known = linear.corrected(step, trial, best), known, error
        if known > (1 - _PROGRESS) * begun:
            return linear.run, known


@dataclass(frozen=True, eq=False)
class _Linearised:
    """How the end of a run moves with its P parameters: the times of its N levels, and coefficients along directions
    of each step but the last, then all of the last step.

    Attributes:
        directions: of each step, orthonormal rows [., F].
        derivatives: of the end of each seed, in a sketch of S numbers, [B, P, S].
        left: from the end to that of the fine solution, likewise, [B, S].
    """

    fit: Fit
    schedule: Schedule
    run: Run
    directions: Sequence[Tensor]
    derivatives: Tensor
    left: Tensor

    def step(self, damping: float) -> Tensor:
        """Changes of the parameters [P] for which the weighted and damped least squares are least."""
        return least_squares(*self._products, row_weights(self.run.errors), damping)

    @cached_property
    def _products(self) -> tuple[Tensor, Tensor]:
        """Of each seed's derivatives with one another [B, P, P], and with what is left [B, P]."""
        rows = self.derivatives.double()
        return rows @ rows.mT, (rows @ self.left.double().unsqueeze(2)).squeeze(2)

    def moved(self, step: Tensor) -> tuple[NoiseLevel, list[Tensor]]:
        """Levels and coefficients after a step."""
        times, *parts = step.split([len(self.run.level), *map(len, self.directions)])
        changes = [part @ own for part, own in zip(parts, self.directions, strict=True)]
        coefficients = [old + change for old, change in zip(self.run.coefficients, changes, strict=True)]
        return _levels(self.fit, self.schedule, self.run.level, times), coefficients

    def corrected(self, step: Tensor, trial: Run, run: Run) -> _Linearised:
        """The derivatives at a run, corrected so that they foretell where a trial has ended.

        The least correction, in units of each derivative's own size: J + (dy - J dp) dp^T / |dp|^2. Those of the last
        step are known without it: they are its terms.
        """
        sketch = _Sketch(self.run.states[-1].shape[1])
        changed = sketch(trial.states[-1] - self.run.states[-1])
        size = self.derivatives.double().square().sum((0, 2))
        size[-len(self.directions[-1]) :] = 0
        missed = changed - torch.einsum("p,bps->bs", step.to(changed), self.derivatives)
        share = (step * size / ((step.square() * size).sum() + 1e-300)).to(changed)
        derivatives = self.derivatives + share.view(1, -1, 1) * missed.unsqueeze(1)
        last = _last(self.fit, run, sketch)
        derivatives[:, -last.shape[1] :] = last
        left = sketch(self.fit.fine.final - run.states[-1])
        return replace(self, run=run, derivatives=derivatives, left=left)


def _linearised(fit: Fit, schedule: Schedule, run: Run, directions: int) -> _Linearised:
    """By differences; calls before a change are those of the run."""
    end, sketch = run.states[-1], _Sketch(run.states[-1].shape[1])

    def derivative(level: NoiseLevel, coefficients: Sequence[Tensor], first: int, change: float) -> Tensor:
        return sketch(fit.follow(level, coefficients, run, first).states[-1] - end) / change

    columns, listed = [], list[Tensor]()
    for i, level in enumerate(_neighbours(fit, schedule, run.level)):
        change = float(level.log_ratio[i] - run.level.log_ratio[i])
        columns.append(derivative(level, run.coefficients, i, change))
    for i in range(len(run.level) - 1):
        own, sizes = _directions(fit, run, i, directions)
        for vector, size in zip(own, sizes.tolist(), strict=True):
            coefficients = [*run.coefficients[:i], run.coefficients[i] + size * vector, *run.coefficients[i + 1 :]]
            columns.append(derivative(run.level, coefficients, i + 1, size))
        listed.append(own)
    last = _last(fit, run, sketch)
    listed.append(torch.eye(last.shape[1], dtype=torch.float64, device=last.device))
    derivatives = torch.cat([torch.stack(columns, 1), last], 1)
    return _Linearised(fit, schedule, run, listed, derivatives, sketch(fit.fine.final - end))


def _last(fit: Fit, run: Run, sketch: _Sketch) -> Tensor:
    """Derivatives of the end by the coefficients of the last step, [B, F, S]."""
    return torch.stack([sketch(term) for term in fit.terms(run.level, run.states[:-1], run.seen)[1]], 1)


def _directions(fit: Fit, run: Run, i: int, most: int) -> tuple[Tensor, Tensor]:
    """Directions of the coefficients of step i that move the next state furthest, as the Gaussian's flow leaves it at
    the end, orthonormal [., F], and the size of a change along each for a difference."""
    there = run.level[i + 1]
    _, terms = fit.terms(run.level, run.states[: i + 1], run.seen[: i + 1])
    left = fit.covariance.gains(lambda values: modes.psi(values, there, NoiseLevel.clean()), terms[0])
    squares, _ = row_products(terms, terms[0], left)
    values, vectors = torch.linalg.eigh(torch.einsum("b,bfg->fg", row_weights(run.errors), squares))
    own = vectors[:, values > 1e-12 * values[-1]].flip(1)[:, :most].T
    held = float(there.alpha) * min(float(there.ratio), (fit.covariance.total / fit.gaussian.dimension) ** 0.5)
    moves = [combine(vector, terms).double().square().sum(1).mean() / fit.gaussian.dimension for vector in own]
    sizes = [_DIFFERENCE * held / max(float(move) ** 0.5, 1e-300) for move in moves]
    return own, torch.tensor(sizes, dtype=torch.float64)


def _neighbours(fit: Fit, schedule: Schedule, level: NoiseLevel) -> list[NoiseLevel]:
    """The levels with each one changed for a difference, where there is more room."""
    below, above = _room(fit, level)
    changes = torch.where(below >= above, -_DIFFERENCE, _DIFFERENCE).diag()
    return [_levels(fit, schedule, level, change) for change in changes]


def _room(fit: Fit, level: NoiseLevel) -> tuple[Tensor, Tensor]:
    """How far each level may go down and up in log(sigma/alpha): half of the way to its neighbour, or to the end of the
    fine solution's levels."""
    time, whole = level.log_ratio, fit.fine.level.log_ratio
    whole = whole[torch.isfinite(whole)]
    gaps = _FURTHEST * torch.cat([whole[:1], time, whole[-1:]]).diff().neg().clamp(min=0)
    return gaps[1:], gaps[:-1]


def _levels(fit: Fit, schedule: Schedule, level: NoiseLevel, change: Tensor) -> NoiseLevel:
    """Levels whose log(sigma/alpha) have changed, as far as there is room."""
    below, above = _room(fit, level)
    return schedule.level((level.log_ratio + torch.maximum(torch.minimum(change.cpu(), above), -below)).exp())


class _Sketch:
    """Rows [B, K] as sums [B, S] of numbers with random signs, whose products are in the mean those of the rows; short
    rows stay as they are."""

    def __init__(self, length: int) -> None:
        self.parts = max(1, math.ceil(length / _SKETCH))
        self.signs = torch.randint(2, (length,), generator=torch.Generator().manual_seed(0)) * 2 - 1

    def __call__(self, rows: Tensor) -> Tensor:
        if self.parts == 1:
            return rows
        signed = torch.nn.functional.pad(rows * self.signs.to(rows), (0, -rows.shape[1] % self.parts))
        return signed.view(len(rows), self.parts, -1).sum(1)
