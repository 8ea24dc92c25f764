"""What the phases of a fit are worth: plans of the same seeds and effort without and with them, in one run.

    python benchmarks/calibration.py [MODEL] [--calls 3 4 5 8 10] [--seeds 32] [--effort 100] [--fine 100] [--threads 1]

`before` searches on all seeds of the fit and ends there; `search` searches, below six calls, on the first 16 at most,
with as many calls of the denoiser in all, and fits coefficients to all; `refined` leaves some of these to the last
phase, which moves levels and coefficients together. All three begin from the same guesses. Errors are distances to the
network's own fine solution on held-out seeds: root mean square and median over seeds. Calls count each seed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from underpaint.bounds import MOST_ITEMS, MOST_STEPS, check_integers, integer
from underpaint.calibration.calibrate import _for_refining, seeds_to_search
from underpaint.calibration.fit import Fit, Run
from underpaint.calibration.levels import shortest_path, step_losses
from underpaint.calibration.refine import refine
from underpaint.calibration.search import guesses, search
from underpaint.calibration.solution import FineSolution, precision, solve_finely
from underpaint.cli.base import in_a_sentence
from underpaint.recipes.shared.request import Request, cases, find_denoiser, prepare
from underpaint.sampling.use import in_turn

Row = tuple[str, int, Tensor]
#: Seeds by which a fit is judged; those to fit to are below them, and held-out ones above.
JUDGE = range(1000, 1016)
HELD_OUT = 2000


def fitted(
    make: Callable[[FineSolution], Fit], fine: FineSolution, paths: Sequence[tuple[int, ...]], effort: int, seeds: int
) -> tuple[Run, Fit, int]:
    """A search on the first seeds with the calls that the effort on all of them is, fitted to all; calls taken."""
    few, whole = make(fine.first(seeds)), make(fine)
    share = len(fine.seeds) // seeds
    run = whole.run(search(few, paths, effort * share).path)
    return run, whole, few.calls * seeds + whole.calls * len(fine.seeds)


def compared(
    make: Callable[[FineSolution], Fit],
    solutions: Sequence[FineSolution],
    schedule: object,
    paths: Sequence[tuple[int, ...]],
    effort: int,
) -> list[Row]:
    """Of each variant: its name, calls, and errors of the held-out seeds [B]."""
    fine, judge, test = solutions
    count, all_of = len(paths[0]), len(fine.seeds)
    few = seeds_to_search(count, all_of)

    def measured(name: str, run: Run, calls: int) -> Row:
        return name, calls, make(test).follow(run.level, run.coefficients).errors

    def unseen(run: Run) -> float:
        return make(judge).follow(run.level, run.coefficients).loss

    before, _, calls = fitted(make, fine, paths, effort, all_of)
    rows = [measured("before", before, calls)]
    searched, _, calls = fitted(make, fine, paths, effort, few)
    rows.append(measured("search", searched, calls))
    run, fit, calls = fitted(make, fine, paths, effort - _for_refining(count, effort), few)
    left = effort + count * len(paths) - calls // all_of
    begun = fit.calls
    run = refine(fit, schedule, run, left, unseen)
    rows.append(measured("refined", run, calls + (fit.calls - begun) * all_of))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="fashion-mnist")
    parser.add_argument("--calls", type=int, nargs="+", default=[3, 4, 5, 8, 10])
    parser.add_argument("--seeds", type=int, default=32)
    parser.add_argument("--held-out", type=int, default=48)
    parser.add_argument("--effort", type=int, default=100)
    parser.add_argument("--fine", type=int, default=100)
    parser.add_argument("--prompt", action="append", default=[])
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(integer(args.threads, "number of threads", 1, 1024))
    check_integers(vars(args), fine=(8, MOST_STEPS), effort=(0, MOST_ITEMS))
    check_integers(vars(args), calls=(2, args.fine - 2), seeds=(1, JUDGE.start), held_out=(1, MOST_ITEMS))
    request = Request(args.model, tuple(args.prompt), (args.guidance,), seeds=tuple(range(args.seeds)))
    sampler = prepare(request)
    model, gaussian = sampler.model, sampler.theory.everything
    if gaussian is None:
        raise ValueError(f"The Gaussian of the data of {args.model} is not known; give a model whose folder holds it.")
    denoise = in_turn([find_denoiser(model, case) for case in cases(request, model)])
    sets = (range(args.seeds), JUDGE, range(HELD_OUT, HELD_OUT + args.held_out))
    solutions = [solve_finely(denoise, gaussian, model.schedule, seeds, args.fine) for seeds in sets]
    known = precision(denoise, gaussian, model.schedule, solutions[0])
    losses = step_losses(solutions[0], gaussian.covariance, min(args.calls))
    print(f"{model.name}, {args.seeds} seeds to fit to, effort {args.effort}, {args.held_out} held-out seeds; fine")
    print(f"solution of {args.fine} steps, about {known.error:.2g} from the limit\n")
    print("| calls | variant | calls of the fit | RMS | median | RMS / before | median / before | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for count in args.calls:
        begun = time.perf_counter()
        paths = guesses(solutions[0].level, gaussian, count, None, shortest_path(losses, count))
        rows = compared(lambda fine: Fit(denoise, gaussian, fine), solutions, model.schedule, paths, args.effort)
        first = None
        for name, calls, errors in rows:
            found = float(errors.square().mean().sqrt()), float(errors.median())
            first = first or found
            ratios = " | ".join(f"{mine / theirs:.2f}" for mine, theirs in zip(found, first, strict=True))
            took = f"{time.perf_counter() - begun:.0f}"
            print(f"| {count} | {name} | {calls:,} | {found[0]:.4f} | {found[1]:.4f} | {ratios} | {took} |", flush=True)


if __name__ == "__main__":
    with in_a_sentence("calibration.py"):
        main()
