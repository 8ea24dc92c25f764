"""The search for the levels of a plan: those that leave the least mean distance at the end, moved one at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..noise import NoiseLevel, spaced_ratios
from ..theory.gaussian import Gaussian
from .fit import Fit, Run

#: How far a level is moved at first and at last, as a share of the way to its neighbour in log(sigma/alpha).
_MOVES = (0.5, 0.25, 0.12, 0.06)
#: Karras22's rho of the guesses, besides levels even in log(sigma/alpha).
_RHO = (5.0, 7.0, 15.0)


def guesses(
    level: NoiseLevel, gaussian: Gaussian, count: int, fewer: tuple[int, ...] | None, shortest: tuple[int, ...]
) -> list[tuple[int, ...]]:
    """Paths to begin from, where the first feature emerges: even in log(sigma/alpha) down to several levels, which
    suits few calls; by Karras22's rule, which suits many; the shortest; and the path of fewer calls, with more on
    it."""
    time = level.log_ratio
    first = 0.5 * math.log(4 * float(gaussian.covariance.variances.max()) + 1e-12)
    low = float(time[-1])
    high = max(min(float(time[1]), first), low + 0.5 * (float(time[1]) - low))
    paths = [_nearest(time, torch.linspace(high, high + (low - high) * share, count)) for share in (0.5, 0.65, 0.8)]
    paths += [_nearest(time, spaced_ratios(count, math.exp(high), math.exp(low), rho).log()) for rho in _RHO]
    paths.append(_nearest(time, time[torch.tensor(shortest)].clamp(max=high)))
    if fewer is not None:
        known = time[torch.tensor(fewer)]
        place = torch.linspace(0, len(known) - 1, count, dtype=torch.float64)
        left = place.floor().clamp(max=len(known) - 2).long()
        paths.append(_nearest(time, known[left] + (place - left) * (known[left + 1] - known[left])))
    return list(dict.fromkeys(paths))


def _nearest(time: Tensor, wanted: Tensor) -> tuple[int, ...]:
    """Indices of the times nearest to those that are wanted, each used once, the first of all not at all."""
    path: list[int] = []
    for k, value in enumerate(wanted.tolist()):
        index = int((time - value).abs().argmin())
        path.append(min(max(index, path[-1] + 1 if path else 1), len(time) - (len(wanted) - k)))
    return tuple(path)


def most_calls(count: int, effort: int) -> int:
    """The most that `guesses` and `search` call the denoiser for a plan of so many calls."""
    return (len(_RHO) + 6) * count + effort


def round_calls(count: int) -> int:
    """Calls of the denoiser that moving each of so many levels both ways takes, once with each size of move."""
    return len(_MOVES) * count * (count + 1)


def search(fit: Fit, paths: Sequence[tuple[int, ...]], effort: int) -> Run:
    """The best of some paths, its levels moved one at a time: with each size of move until no level moves any more, as
    long as the effort lasts."""
    best = min((fit.run(path) for path in paths), key=lambda run: run.loss)
    tried, most = {*paths}, fit.calls + effort
    for move in _MOVES:
        while (better := _swept(fit, best, move, tried, most)) is not best:
            best = better
    return best


def _swept(fit: Fit, best: Run, move: float, tried: set[tuple[int, ...]], most: int) -> Run:
    """The run after each level was moved once, where that helps; ``most`` is where the count of calls ends."""
    time = fit.fine.level.log_ratio
    for j in range(len(best.path)):
        for path in _moved(best.path, j, move, time):
            if path in tried:
                continue
            if fit.calls + len(path) - j > most:
                return best
            tried.add(path)
            trial = fit.run(path, best)
            if trial.loss < best.loss:
                best = trial
                break
    return best


def _moved(path: tuple[int, ...], j: int, move: float, time: Tensor) -> Iterator[tuple[int, ...]]:
    """The path with its level j moved towards either neighbour, by a share of the way in log(sigma/alpha)."""
    bounds = (path[j - 1] if j else 0, path[j + 1] if j + 1 < len(path) else len(time))
    for inner in (bounds[0] + 1, bounds[1] - 1):
        target = float(time[path[j]] + move * (time[inner] - time[path[j]]))
        index = int((time - target).abs().argmin())
        if bounds[0] < index < bounds[1] and index != path[j]:
            yield (*path[:j], index, *path[j + 1 :])
