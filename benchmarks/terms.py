"""Which terms of a plan's step help: plans at the same levels, fitted with other terms than those of today.

    python benchmarks/terms.py --model fashion-mnist --calibration calibration.json --calls 4 5 8
    python benchmarks/terms.py ... --write docs/guides/speed_up.md   # puts the table between the page's marks
    python benchmarks/terms.py ... --json                            # errors by seed

A step adds to the Gaussian's flow (a + bS + eS^2)(D - G) + (c + dS + fS^2) D of each of the last three calls. Here
each step is fitted as `calibrate` does it first, step by step and by the same least squares, with fewer terms and with
more: the starting noise x_T, all past calls, smooth functions of the variance (cubic B-splines in its logarithm),
octaves of frequency, and each mode's coefficients of its own. The last three are shrunk towards the others by a ridge,
which is chosen on seeds of its own. Levels are those of the calibration, moved to the nearest of the fine solution:
they were found with today's terms. The last phase of a fit, which moves levels and coefficients together, is left out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from pages import check_page, put
from scipy.interpolate import BSpline
from torch import Tensor

import underpaint as up
from underpaint.bounds import MOST_STEPS, check_integers, integer
from underpaint.calibration.fit import RIDGE, Fit, Run, nearest_fit, row_weights
from underpaint.calibration.solution import FineSolution, solve_finely, span
from underpaint.cli.base import in_a_sentence, parse_seeds
from underpaint.files import check_targets, write_text
from underpaint.noise import NoiseLevel
from underpaint.recipes.benchmark.benchmark import bootstrap_ratio
from underpaint.recipes.shared.request import Request, cases, find_denoiser, prepare
from underpaint.sampling.fitted import LOOK_BACK, TERMS, Plan, Seen, combine, read_calibration, step_terms
from underpaint.sampling.use import in_turn, use_of
from underpaint.theory import modes
from underpaint.theory.cosine import cosine_transform
from underpaint.theory.covariance import Covariance

#: Smooth functions of the variance; ridges that are tried, as shares of each coefficient's own square.
SPLINES, RIDGES, MODE_RIDGES = 6, (1e-3, 0.03, 1.0, 30.0), (1.0, 10.0, 100.0, 1000.0)
TODAY, PLAN = "today's: a to f, three calls", "the plan of the calibration"


@dataclass(frozen=True, eq=False)
class Family:
    """Terms of a step.

    Attributes:
        powers: which of a, b, c, d, e, f each call has.
        look_back: calls that a step looks back on; None for all.
        start: whether x_T, S of it and S^2 of it are among the terms.
        gains: further functions of the modes [P, K], each applied to D - G and D of each call, shrunk by a ridge.
        own: whether each mode has coefficients of its own of these, shrunk by a ridge.
        ridges: those that are tried.
    """

    name: str
    powers: tuple[int, ...] = tuple(range(TERMS))
    look_back: int | None = LOOK_BACK
    start: bool = False
    gains: Tensor | None = None
    own: bool = False
    ridges: tuple[float, ...] = (RIDGE,)


def families(covariance: Covariance, shape: Sequence[int]) -> list[Family]:
    """All that are compared, today's the first. Modes have a frequency, and coefficients of their own, where the
    covariance is of full rank."""
    smooth = splines(covariance)
    listed = [
        Family(TODAY),
        Family("(a + bS)(D - G) alone", (0, 1)),
        Family("without S^2", (0, 1, 2, 3)),
        Family("with x_T", start=True),
        Family("with all past calls", look_back=None),
        Family("with x_T and all past calls", start=True, look_back=None),
        Family("splines in place of S^2", (0, 1, 2, 3), gains=smooth, ridges=RIDGES),
        Family("with splines", gains=smooth, ridges=RIDGES),
    ]
    if covariance.full:
        listed.append(Family("with octaves of frequency", gains=octaves(covariance, shape), ridges=RIDGES))
        listed.append(Family("with each mode's own", own=True, ridges=MODE_RIDGES))
    return listed


def splines(covariance: Covariance, count: int = SPLINES) -> Tensor:
    """Cubic B-splines in log(lambda), knots even from the least variance to the largest: [count, K]; their sum is 1."""
    stored = covariance.stored
    least = float(stored[stored > 0].min())

    def of(variances: Tensor) -> Tensor:
        at = variances.clamp(min=least).log()
        low, high = float(at.min()), float(at.max())
        inner = torch.linspace(low, high if high > low else low + 1, count - 2, dtype=torch.float64)
        knots = torch.cat([inner[:1].expand(3), inner, inner[-1:].expand(3)])
        found = BSpline.design_matrix(at.clamp(low, high).numpy(), knots.numpy(), 3).toarray()
        return torch.from_numpy(found).T

    return covariance.gains(of, covariance.variances)


def octaves(covariance: Covariance, shape: Sequence[int]) -> Tensor:
    """The share of each mode in each octave of frequency, of a basis of images of a shape: [octaves, K]; their sum is
    1."""
    basis = covariance.to(dtype=torch.float64).basis[:, :]
    spectrum = cosine_transform(basis.T.unflatten(1, tuple(shape))).square().sum(1)
    rows, columns = (torch.arange(length).double() for length in spectrum.shape[1:])
    octave = (1 + torch.hypot(rows.unsqueeze(1), columns)).log2().floor().long()
    return torch.stack([spectrum[:, octave == k].sum(1) for k in range(int(octave.max()) + 1)])


class FamilyFit(Fit):
    """A fit with the terms of a family."""

    def __init__(
        self, denoise: up.Denoiser, gaussian: up.Gaussian, fine: FineSolution, family: Family, ridge: float = RIDGE
    ) -> None:
        super().__init__(denoise, gaussian, fine)
        self.family, self.ridge = family, ridge

    def beyond(self, past: Sequence[Seen], there: NoiseLevel) -> Tensor:
        """What coefficients multiply: those that are not shrunk come first."""
        family, (newest, _, _) = self.family, past[0]
        of_calls = step_terms(past[: family.look_back], there, self.covariance).unflatten(0, (-1, TERMS))
        terms = [of_calls[:, list(family.powers)].flatten(0, 1)]
        if family.start:
            noise = self.fine.state(0)
            known = self.covariance.gains(lambda values: newest.alpha * modes.shrinkage(values, newest), noise)
            terms.append(torch.stack([noise, known * noise, known.square() * noise]))
        if family.gains is not None:
            signals = of_calls[:, [0, 2]].flatten(0, 1)
            terms.append((family.gains.to(signals).view(-1, 1, 1, signals.shape[-1]) * signals).flatten(0, 1))
        return torch.cat(terms)

    def fitted(self, level: NoiseLevel, states: list[Tensor], seen: list[Tensor], wanted: Tensor) -> Tensor:
        """Coefficients of the last step [F], followed by those of each mode [P, K] in a row, where it has its own."""
        start, terms = self.terms(level, states, seen)
        ridges = torch.full((len(terms),), RIDGE, dtype=torch.float64)
        calls = min(self.family.look_back or len(seen), len(seen))
        if self.family.gains is not None:
            ridges[-2 * calls * len(self.family.gains) :] = self.ridge
        found = nearest_fit(terms, wanted - start, ridges)
        if not self.family.own:
            return found
        left = wanted - start - combine(found, terms)
        return torch.cat([found, mode_fit(_signals(terms), left, self.ridge).flatten()])

    def arrived(self, level: NoiseLevel, states: list[Tensor], seen: list[Tensor], coefficients: Tensor) -> Tensor:
        """Where the step from the last call leads."""
        start, terms = self.terms(level, states, seen)
        shared, own = coefficients[: len(terms)], coefficients[len(terms) :]
        end = start + combine(shared, terms)
        return end + (own.to(end).view(-1, 1, end.shape[1]) * _signals(terms)).sum(0) if len(own) else end


def _signals(terms: Tensor) -> Tensor:
    """D - G and D of each call [P, B, K], of all six terms of each."""
    return terms.unflatten(0, (-1, TERMS))[:, [0, 2]].flatten(0, 1)


def mode_fit(signals: Tensor, wanted: Tensor, ridge: float) -> Tensor:
    """Coefficients of each mode [P, K] of signals [P, B, K], nearest to what is wanted [B, K] by least squares in which
    a row weighs one over its distance; the ridge is a share of each coefficient's own square."""
    weights = row_weights(wanted.double().square().sum(1).sqrt())
    rows, target = signals.double(), wanted.double()
    gram = torch.einsum("b,pbk,qbk->kpq", weights, rows, rows)
    size = gram.diagonal(dim1=1, dim2=2).sqrt()
    size = torch.where(size > 0, size, 1.0)
    gram = gram / size.unsqueeze(2) / size.unsqueeze(1)
    gram.diagonal(dim1=1, dim2=2).add_(ridge)
    products = torch.einsum("b,pbk,bk->kp", weights, rows, target) / size
    return (torch.linalg.solve(gram, products) / size).T


@dataclass(frozen=True)
class Row:
    """What a family comes to at a number of calls: the ridge that was chosen, and errors of the held-out seeds."""

    family: str
    calls: int
    ridge: float
    errors: list[float]

    def __str__(self) -> str:
        errors = torch.tensor(self.errors)
        found = f"{float(errors.square().mean().sqrt()):.5f}, median {float(errors.median()):.5f}"
        return f"{self.calls} calls, {self.family}: {found}, ridge {self.ridge:g}"


def path_of(plan: Plan, fine: NoiseLevel) -> tuple[int, ...]:
    """The levels of a fine solution that are nearest to those of a plan's calls.

    Raises:
        ValueError: two calls are at the same one.
    """
    level = plan.level[int(plan.jumps) : -1]
    apart = (level.log_ratio.unsqueeze(1) - fine.log_ratio).abs().nan_to_num(0)  # a level without signal is itself
    path = tuple(apart.argmin(1).tolist())
    if len(set(path)) < len(path):
        raise ValueError(f"With {len(fine)} levels two of {len(path)} calls are at the same one; give more --fine.")
    return path


def begun(fit: Fit, path: Sequence[int]) -> Run:
    """The first call, which is the same for all families."""
    level, states, seen = fit.fine.level[torch.tensor(path[:1])], list[Tensor](), list[Tensor]()
    fit.advance(level, states, seen, [])
    return Run(tuple(path[:1]), level, states, seen, [], torch.empty(0))


@dataclass(frozen=True, eq=False)
class Part:
    """Seeds that something is done on: the denoiser of these, their fine solution, and their first call."""

    denoise: up.Denoiser
    gaussian: up.Gaussian
    fine: FineSolution
    head: Run

    @staticmethod
    def of(denoise: up.Denoiser, gaussian: up.Gaussian, fine: FineSolution, path: Sequence[int]) -> Part:
        return Part(denoise, gaussian, fine, begun(Fit(denoise, gaussian, fine), path))

    def fit(self, family: Family, ridge: float = RIDGE) -> FamilyFit:
        return FamilyFit(self.denoise, self.gaussian, self.fine, family, ridge)

    def errors(self, family: Family, run: Run) -> Tensor:
        """Of a run that was fitted to others, [B]."""
        return self.fit(family).follow(run.level, run.coefficients, self.head, 1).errors


def measured(family: Family, parts: Sequence[Part], path: tuple[int, ...]) -> Row:
    """A family that is fitted to the first seeds, its ridge chosen on the second, with the errors of the third."""
    to_fit, choosing, held_out = parts
    runs = {ridge: to_fit.fit(family, ridge).run(path, to_fit.head) for ridge in family.ridges}
    ridge = family.ridges[0]
    if len(runs) > 1:
        ridge = min(runs, key=lambda one: float(choosing.errors(family, runs[one]).mean()))
    return Row(family.name, len(path), ridge, held_out.errors(family, runs[ridge]).tolist())


def itself(plan: Plan, held_out: Part) -> Row:
    """The plan as it is in the calibration, whose last phase has moved its levels and coefficients."""
    level, fit = plan.level[int(plan.jumps) : -1], Fit(held_out.denoise, held_out.gaussian, held_out.fine)
    steps = [step.flatten()[: TERMS * (i + 1)] for i, step in enumerate(plan.coefficients)]
    return Row(PLAN, plan.calls, RIDGE, fit.follow(level, steps).errors.tolist())


def compare(
    plan: Plan,
    denoisers: Sequence[up.Denoiser],
    gaussian: up.Gaussian,
    solutions: Sequence[FineSolution],
    shape: Sequence[int],
) -> Iterator[Row]:
    """Each family at the levels of a plan: solutions are of the seeds to fit to, to choose on, and held out."""
    path = path_of(plan, solutions[0].level)
    parts = [Part.of(one, gaussian, fine, path) for one, fine in zip(denoisers, solutions, strict=True)]
    for family in families(gaussian.covariance, shape):
        yield measured(family, parts, path)
    if plan.jumps:
        yield itself(plan, parts[2])


def table(rows: Sequence[Row]) -> str:
    """As markdown: today's root mean squares and medians, then of each family the ratio of root mean squares to today's
    with 5 % and 95 % of it over seeds, the ratio of medians, the share of seeds that are nearer, and the ridge."""
    today = {row.calls: torch.tensor(row.errors, dtype=torch.float64) for row in rows if row.family == TODAY}
    lines = [f"| terms | {' | '.join(f'{calls} calls' for calls in today)} |", "|---" * (len(today) + 1) + "|"]
    first = (f"{float(one.square().mean().sqrt()):.4f}, {float(one.median()):.4f}" for one in today.values())
    lines.append(f"| {TODAY} | {' | '.join(first)} |")
    for family in dict.fromkeys(row.family for row in rows if row.family != TODAY):
        cells = [_cell(row, today[row.calls]) for row in rows if row.family == family]
        lines.append(f"| {family} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(row: Row, today: Tensor) -> str:
    mine = torch.tensor(row.errors, dtype=torch.float64)
    value, low, high = bootstrap_ratio(mine, today)
    nearer = 100 * float((mine < today).double().mean())
    chosen = "" if row.ridge == RIDGE else f" (ridge {row.ridge:g})"
    return f"{value:.2f} [{low:.2f}, {high:.2f}], {float(mine.median() / today.median()):.2f}, {nearer:.0f} %{chosen}"


def main() -> None:
    asked = _arguments()
    torch.set_num_threads(integer(asked.threads, "number of threads", 1, 1024))
    sets = [parse_seeds(seeds) for seeds in (asked.seeds, asked.choosing, asked.held_out)]
    plans = read_calibration(asked.calibration)
    used = {*plans.about.get("seeds", ()), *plans.about.get("held_out", ()), *sets[0], *sets[1]} & set(sets[2])
    if used or set(sets[0]) & set(sets[1]):
        raise ValueError(
            "Give other seeds to fit to, to choose on and to hold out, the last ones new to the calibration."
        )
    check_integers(vars(asked), fine=(8, MOST_STEPS))
    check_integers(vars(asked), calls=(2, asked.fine))
    check_targets(*([asked.out] if asked.out else []))
    wanted = [plans.plan(count) for count in asked.calls]
    request = Request(asked.model, tuple(asked.prompt), (asked.guidance,))
    sampler = prepare(request)
    model, gaussian = sampler.model, sampler.theory.everything
    if gaussian is None:
        raise ValueError(f"The Gaussian of the data of {asked.model} is not known; give a model whose folder holds it.")
    plans.check(gaussian)
    marks = f"<!-- terms of {model.name} -->\n", f"<!-- end of the terms of {model.name} -->\n"
    check_page(asked.write, marks)
    for plan in wanted:
        path_of(plan, span(model.schedule, asked.fine))
    listed = [find_denoiser(model, case) for case in cases(request, model)]
    denoisers = [in_turn(listed, seeds) for seeds in sets]
    solutions = [
        solve_finely(denoise, gaussian, model.schedule, seeds, asked.fine)
        for denoise, seeds in zip(denoisers, sets, strict=True)
    ]
    rows = list[Row]()
    for plan in wanted:
        plans.warn(use_of(denoisers[0]), plan.calls)
        for row in compare(plan, denoisers, gaussian, solutions, model.shape):
            rows.append(row)
            print(row, file=sys.stderr, flush=True)
        if asked.out is not None:
            write_text(asked.out, json.dumps([asdict(row) for row in rows]) + "\n")
    found = table(rows)
    print(json.dumps([asdict(row) for row in rows]) if asked.json else found)
    if asked.write is not None:
        put(found, asked.write, marks)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="fashion-mnist")
    parser.add_argument("--prompt", action="append", default=[])
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--calibration", type=Path, required=True, help="whose levels are taken")
    parser.add_argument("--calls", type=int, nargs="+", default=[4, 5, 8])
    parser.add_argument("--seeds", default="0-15", help="to fit to")
    parser.add_argument("--choosing", default="1000-1015", help="to choose a ridge on")
    parser.add_argument("--held-out", default="2000-2031", help="that nothing is chosen on")
    parser.add_argument("--fine", type=int, default=60, help="levels of the fine solution")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true", help="print errors by seed as JSON")
    parser.add_argument("--out", type=Path, help="a file for them, written after each number of calls")
    parser.add_argument("--write", type=Path, help="a page with the marks of the model's table")
    return parser.parse_args()


if __name__ == "__main__":
    with in_a_sentence("terms.py"):
        main()
