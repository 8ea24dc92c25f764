"""Fitting the Gaussian exponential integrator to a denoiser: where to call it, and what to make of each call.

The coefficients are those of least squares, step by step: the denoiser is called at the states that the steps before
have led to, and the next state is fitted to where the fine solution is at the next level. So each step also mends what
those before it have missed. The levels are those that leave the least error at the end, moved one at a time. While
they are sought, every seed is solved with coefficients that were fitted to others: a few seeds that are harder than the
rest make most of the error, and are easily fitted to no avail.

What was fitted is held against plain solvers on further seeds; where one of these does better, the plan is that solver.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..analysis.summary import geometric_mean, root_mean_square
from ..noise import NoiseLevel, Schedule, spaced_ratios
from ..sampling.exponential import gaussian_exponential
from ..sampling.fitted import LOOK_BACK, TERMS, Calibration, Plan, Seen, combine, fingerprint, flown, step_terms
from ..sampling.trajectory import initial_noise, sample
from ..theory.denoiser import Denoiser
from ..theory.gaussian import Gaussian
from .ask import Ask, cases, find_denoiser, in_turn, prepare
from .levels import FineSolution, shortest_path, smoothed, step_losses
from .progress import Progress, silent

#: Ridge of the least squares, as a share of each term's own square.
_RIDGE = 1e-6
#: How far a level is moved at first and at last, as a share of the way to its neighbour in log(sigma/alpha).
_MOVES = (0.5, 0.25, 0.12)
#: Parts of the seeds; the levels are chosen for the error of each part under coefficients fitted to the others.
_FOLDS = 4
#: Karras22's rho of the guesses, besides levels even in log(sigma/alpha), and of the grids of plain solvers.
_RHO = (5.0, 7.0, 15.0)
#: The plain solvers that a plan has to beat, each at the best grid.
_PLAIN = ("dpmpp-3m", "exponential-2c", "exponential-3c")
#: Steps of a schedule's own grid, whose first and last level above 0 all others lie between.
_FINEST = 1000
#: Seeds whose fine solutions say what a step loses.
_DRAWN = 32


def calibrate_model(ask: Ask, **how: Any) -> Calibration:
    """Fit plans to a model, for all that is asked of it together: row i is run in case i modulo their number.

    Args:
        ask: the model, its cases, and the seeds to fit to.
        how: ``calls``, ``held_out``, ``fine``, ``effort`` and ``progress`` of `calibrate`.

    Raises:
        ValueError: as `prepare` and `calibrate`, or the statistics of the data are not known.
    """
    sampler = prepare(ask)
    model, gaussian = sampler.model, sampler.theory.everything
    if gaussian is None:
        raise ValueError(
            f"A calibration needs the Gaussian of the data of {model.name}; give a file with --gaussian (`underpaint "
            "stats` makes one, of a model's own samples if there is nothing else)."
        )
    listed = cases(ask, model)
    denoise = in_turn([find_denoiser(model, case) for case in listed])
    found = calibrate(denoise, gaussian, model.schedule, seeds=ask.seeds, **how)
    asked: dict[str, Any] = {"model": model.name, "place": ask.model, "cases": [str(case) for case in listed]}
    asked["statistics"] = dict(sampler.theory.about)
    return replace(found, about=asked | found.about)


def solve_finely(
    denoise: Denoiser,
    gaussian: Gaussian,
    schedule: Schedule,
    seeds: Sequence[int],
    steps: int = 250,
    progress: Progress = silent,
) -> FineSolution:
    """Solve at levels even in log(sigma/alpha), down to the schedule's last above 0; memory O(steps B D).

    The denoised image there is the end of the solution: below it, the denoiser has not been trained.
    """
    level = _span(schedule, steps)
    covariance, mean = gaussian.covariance, gaussian.mean
    x = initial_noise(seeds, gaussian.dimension, level[0], mean.dtype).to(mean.device)
    states, seen = [covariance.analyse(x - level.alpha[0].to(x) * mean)], []
    advance = progress("fine solution", len(level))

    def keep(index: int, x: Tensor, denoised: Tensor) -> None:
        states.append(covariance.analyse(x - level.alpha[index + 1].to(x) * mean))
        seen.append(covariance.analyse(denoised - mean))
        advance()

    solver = gaussian_exponential(gaussian, 3, corrector=True)
    final = sample(denoise, x, level, solver, keep, every=len(level)).final
    with torch.no_grad():
        seen.append(covariance.analyse(denoise(final, level[-1]) - mean))
    advance()
    return FineSolution(level, torch.stack(states), torch.stack(seen))


def _span(schedule: Schedule, steps: int, rho: float = math.inf) -> NoiseLevel:
    """Levels from end to end of a schedule, the first without signal if that is: even in log(sigma/alpha), or in
    (sigma/alpha)^(1/rho)."""
    whole = schedule.grid(_FINEST)[:-1]
    infinite = int(not bool(torch.isfinite(whole.ratio[0])))
    spaced = spaced_ratios(steps - infinite, float(whole.ratio[infinite]), float(whole.ratio[-1]), rho)
    level = schedule.level(spaced)
    return NoiseLevel.join(whole[0], level) if infinite else level


def calibrate(
    denoise: Denoiser,
    gaussian: Gaussian,
    schedule: Schedule,
    calls: Sequence[int] = (5, 6, 8, 10, 14, 20),
    seeds: Sequence[int] = range(32),
    held_out: Sequence[int] = range(1000, 1016),
    fine: int = 250,
    effort: int = 150,
    progress: Progress = silent,
) -> Calibration:
    """Fit plans to a denoiser.

    Args:
        denoise: the network, with its condition and guidance.
        gaussian: statistics of its data, of any form.
        schedule: the network's own.
        calls: numbers of calls to plan for.
        seeds: noise of the trajectories that plans are fitted to.
        held_out: seeds of others, on which they are judged.
        fine: steps of the fine solution; levels are chosen among its own.
        effort: calls on each seed that the search for the levels of a plan may take, once it has tried its guesses.
        progress: told of the fine solution and of each plan.

    Raises:
        ValueError: no seeds, seeds in both sets, or numbers of calls that are no plan.
    """
    wanted = sorted(set(calls))
    if not wanted or wanted[0] < 2 or wanted[-1] > fine - 2:
        raise ValueError(f"Plans need 2 to {fine - 2} calls, got {', '.join(map(str, calls)) or 'none'}.")
    if not seeds or not held_out or set(seeds) & set(held_out):
        raise ValueError(
            f"Plans are fitted to some seeds and judged on others; got {len(seeds)} to fit to and {len(held_out)} held "
            f"out, {len(set(seeds) & set(held_out))} of them in both."
        )
    solution = solve_finely(denoise, gaussian, schedule, seeds, fine, progress)
    unseen = solve_finely(denoise, gaussian, schedule, held_out, fine, progress)
    judge = Judge(denoise, gaussian, schedule, unseen, held_out)
    losses = step_losses(_some(solution), gaussian.covariance.variances, wanted[0])
    advance = progress("plans", len(wanted))
    plans: list[Plan] = []
    best: _Run | None = None
    for count in wanted:
        shortest = shortest_path(losses, count)
        fit = _Fit(denoise, gaussian, solution, parts=min(_FOLDS, len(seeds)))
        best = _search(fit, _guesses(solution.level, gaussian, count, best, shortest), effort)
        whole = _Fit(denoise, gaussian, solution).run(best.path)
        plans.append(judge.choose(_plan(whole, solution.level), shortest, geometric_mean(best.errors)))
        advance()
    about = {"seeds": list(seeds), "held_out": list(held_out), "fine": fine, "effort": effort}
    return Calibration(tuple(plans), about | {"gaussian": fingerprint(gaussian)})


@dataclass(frozen=True, eq=False)
class Judge:
    """Holds plans against plain solvers, on seeds that nothing was fitted to."""

    denoise: Denoiser
    gaussian: Gaussian
    schedule: Schedule
    solution: FineSolution
    seeds: Sequence[int]

    def error(self, plan: Plan) -> float:
        """The distance to the fine solution that a plan leaves, geometric mean over seeds."""
        solver, level = Calibration((plan,), {}).solver(self.gaussian, plan.calls)
        mean = self.gaussian.mean
        noise = initial_noise(self.seeds, len(mean), level[0], mean.dtype).to(mean.device)
        final = sample(self.denoise, noise, level, solver, every=len(level)).final
        return geometric_mean(
            _distances(self.gaussian.covariance.analyse(final - mean), self.solution.final, len(mean))
        )

    def choose(self, plan: Plan, path: tuple[int, ...], fit: float) -> Plan:
        """The plan, or the best plain solver at as many calls where that is nearer.

        Args:
            plan: what was fitted.
            path: levels of the fine solution where steps lose least, for plain solvers.
            fit: the error of the fit.
        """
        mine = self.error(plan)
        plain = [Plan(grid, solver=name) for grid in self.grids(path) for name in _PLAIN]
        errors = [self.error(other) for other in plain]
        errors_of = {"fit": fit, "held_out": mine, "plain": min(errors)}
        if mine <= min(errors):
            return replace(plan, errors=errors_of)
        return replace(plain[errors.index(min(errors))], errors=errors_of)

    def grids(self, path: tuple[int, ...]) -> list[NoiseLevel]:
        """Of as many levels as a path has: even in log(sigma/alpha) and by Karras22's rule; the path, and smoothed."""
        level = self.solution.level
        infinite = not bool(torch.isfinite(level.ratio[0]))
        even = smoothed(level, path)[int(infinite) :].exp()
        spaced = self.schedule.level(even)
        grids = [_span(self.schedule, len(path), rho) for rho in (math.inf, *_RHO)]
        grids += [level[torch.tensor(path)], NoiseLevel.join(level[0], spaced) if infinite else spaced]
        return [NoiseLevel.join(grid, NoiseLevel.clean()) for grid in grids]


def _distances(found: Tensor, wanted: Tensor, dimension: int) -> Tensor:
    """Root mean square per number of the data, of each seed [B], in float64."""
    return ((found - wanted).double().square().sum(1) / dimension).sqrt()


@dataclass(frozen=True, eq=False)
class _Run:
    """One pass through the levels ``path`` of a fine solution: state before each call and at the end, images seen,
    coefficients of each step for each part of the seeds [P, F], error of each seed [B]."""

    path: tuple[int, ...]
    states: list[Tensor]
    seen: list[Tensor]
    coefficients: list[Tensor]
    errors: Tensor

    @property
    def loss(self) -> float:
        return root_mean_square(self.errors)


class _Fit:
    """Fits coefficients along paths through the levels of a fine solution, and counts its calls.

    Seeds that follow on each other make a part, so that cases in turn are in all parts; each part is solved with what
    was fitted to the others. A single part is solved with what was fitted to itself.
    """

    def __init__(self, denoise: Denoiser, gaussian: Gaussian, fine: FineSolution, parts: int = 1) -> None:
        self.denoise, self.gaussian, self.fine = denoise, gaussian, fine
        count = fine.states.shape[1]
        self.part = torch.arange(count, device=fine.states.device) * parts // count
        self.used = self.part != torch.arange(parts, device=self.part.device).unsqueeze(1)
        if parts == 1:
            self.used = ~self.used
        self.variances, self.calls = gaussian.covariance.variances, 0

    def run(self, path: tuple[int, ...], known: _Run | None = None) -> _Run:
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
        return _Run(path, states, seen, fitted, _distances(states[-1], self.fine.final, self.gaussian.dimension))

    def _step(self, path: tuple[int, ...], states: list[Tensor], seen: list[Tensor], i: int) -> tuple[Tensor, Tensor]:
        """Coefficients of step i, and where it leads."""
        fine, last = self.fine, i + 1 == len(path)
        here = fine.level[path[i]]
        there, wanted = (
            (NoiseLevel.clean(), fine.final) if last else (fine.level[path[i + 1]], fine.states[path[i + 1]])
        )
        start = flown(states[i], here, there, self.variances)
        past: list[Seen] = [(fine.level[path[j]], states[j], seen[j]) for j in range(i, max(i - LOOK_BACK, -1), -1)]
        terms = step_terms(past, there, self.variances)
        weights = _least_squares(terms, wanted - start, self.used)
        return weights, start + combine(weights[self.part], terms)

    def _landed(self, index: int) -> Tensor:
        return flown(self.fine.states[0], self.fine.level[0], self.fine.level[index], self.variances)

    def _see(self, state: Tensor, index: int) -> Tensor:
        self.calls += 1
        gaussian, level = self.gaussian, self.fine.level[index]
        x = level.alpha.to(state) * gaussian.mean + gaussian.covariance.synthesise(state)
        with torch.no_grad():
            return gaussian.covariance.analyse(self.denoise(x, level) - gaussian.mean)


def _least_squares(terms: Tensor, wanted: Tensor, used: Tensor) -> Tensor:
    """Coefficients [P, F] of terms [F, B, K] nearest to what is wanted [B, K], in the rows that are used [P, B]."""
    rows, used = terms.double().transpose(0, 1), used.double()
    gram = torch.einsum("pb,bfg->pfg", used, rows @ rows.mT)
    moment = torch.einsum("pb,bf->pf", used, (rows @ wanted.double().unsqueeze(2)).squeeze(2))
    size = gram.diagonal(dim1=1, dim2=2).sqrt()
    size = torch.where(size > 0, size, 1.0)
    gram = gram / size.unsqueeze(1) / size.unsqueeze(2)
    gram = gram + _RIDGE * torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    return torch.linalg.solve(gram, moment / size) / size


def _plan(run: _Run, level: NoiseLevel) -> Plan:
    coefficients = torch.zeros(len(run.path), LOOK_BACK, TERMS, dtype=torch.float64)
    for step, (fitted,) in zip(coefficients, run.coefficients, strict=True):
        step.view(-1)[: len(fitted)] = fitted
    return Plan(NoiseLevel.join(level[0], level[torch.tensor(run.path)], NoiseLevel.clean()), coefficients)


def _some(solution: FineSolution) -> FineSolution:
    return replace(solution, states=solution.states[:, :_DRAWN], seen=solution.seen[:, :_DRAWN])


def _guesses(
    level: NoiseLevel, gaussian: Gaussian, count: int, fewer: _Run | None, shortest: tuple[int, ...]
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
        known = time[torch.tensor(fewer.path)]
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


def _search(fit: _Fit, guesses: Sequence[tuple[int, ...]], effort: int) -> _Run:
    """The best of the guesses, its levels moved one at a time as long as that helps and the effort lasts."""
    best = min((fit.run(path) for path in guesses), key=lambda run: run.loss)
    effort += fit.calls
    time = fit.fine.level.log_ratio
    for move in _MOVES:
        for j in range(len(best.path)):
            for path in _moved(best.path, j, move, time):
                if fit.calls >= effort:
                    return best
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
