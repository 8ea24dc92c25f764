"""What a step of a solver costs beside the call of the network that it makes.

    python benchmarks/overhead.py [--steps 10] [--threads 1]

Every solver runs over the same grid with a denoiser that answers at once, and the time of a step is divided by that of
one call of the network for as many rows, measured in the same run. That takes in what a solver does once for its grid,
such as the weights of the Gaussian exponential integrator. `products` are the two products with the basis of the
Gaussian that a step of it consists of, and what one reads the rest against; DPM-Solver++ is diffusers' own scheduler.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from timing import seconds
from torch import Tensor

import underpaint as up
from underpaint.bounds import check_integers, integer
from underpaint.cli.base import in_a_sentence
from underpaint.models.schedulers.peers import peer
from underpaint.recipes.shared.request import Conditioning, find_denoiser
from underpaint.sampling.exponential import named_exponential
from underpaint.sampling.fitted import LOOK_BACK, TERMS, fitted_exponential
from underpaint.sampling.solvers import Solver

CASES = (("fashion-mnist", Conditioning()), ("emoji-scenes", Conditioning("a fox on a blue background", 3.0)))
SHOWN = ("exponential-1", "exponential-1c", "exponential-2c", "exponential-3c")


def solvers(gaussian: up.Gaussian, steps: int) -> dict[str, Solver]:
    """By the name that the table gives them."""
    fitted = fitted_exponential(gaussian, torch.zeros(steps, LOOK_BACK, TERMS, dtype=torch.float64))
    ours = {name: named_exponential(name, gaussian) for name in SHOWN}
    return ours | {"calibrated": fitted, "DPM-Solver++ 2M": peer("DPM-Solver++ 2M")}


def measure(name: str, case: Conditioning, batches: Sequence[int], steps: int) -> None:
    model, gaussian = up.load_model(name), up.load_gaussian(name)
    network, level = find_denoiser(model, case), model.schedule.grid(steps)
    known = solvers(gaussian, steps)
    what = "" if case.condition is None else f", {case}"
    print(f"\n{name}{what}: dimension {model.dimension}, rank {gaussian.covariance.rank}\n")
    print("| rows | products | " + " | ".join(known) + " |\n|" + "---|" * (len(known) + 2))
    for rows in batches:
        x = up.initial_noise(range(rows), model.dimension, level[0])
        answer = network(x, level[steps // 2])
        call = seconds(network, x, level[steps // 2], repeats=7)
        took = [seconds(in_and_out, gaussian, x, repeats=7)]
        took += [seconds(run, solver, x, level, answer, repeats=7) / steps for solver in known.values()]
        print(f"| {rows} | " + " | ".join(f"{100 * part / call:.2g} %" for part in took) + " |", flush=True)


def in_and_out(gaussian: up.Gaussian, x: Tensor) -> Tensor:
    return gaussian.covariance.synthesise(gaussian.covariance.analyse(x))


def run(solver: Solver, x: Tensor, level: up.NoiseLevel, answer: Tensor) -> Tensor:
    return up.sample(lambda *_: answer, x, level, solver, every=len(level)).final


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(integer(args.threads, "number of threads", 1, 1024))
    check_integers(vars(args), rows=(1, 10**6), steps=(1, 10**4))
    with torch.inference_mode():
        for name, case in CASES:
            measure(name, case, args.rows, args.steps)


if __name__ == "__main__":
    with in_a_sentence("overhead.py"):
        main()
