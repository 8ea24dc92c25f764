"""What a step of a solver costs at the sizes that people run, beside what it cannot do without.

    python benchmarks/steps.py [--dimensions 16384 65536] [--bases 64 256 stationary usual] [--rows 1] [--threads 1]

Bases are of so many directions, "stationary" of cosines, and "usual" of cosines with the 1,024 coordinates of the
lowest frequencies together, as `Stationary.usual` has them.

The yardstick of each row is one step of DPM-Solver++ 2M (this library's) and the two products with the basis that a
step of the Gaussian exponential integrator consists of, in the same run, with a denoiser that answers at once. Times
are the least of some; on one thread, of the processor. `memory` is the peak beside the Gaussian while a grid is solved
and only its end is kept, in states [B, D].
"""

from __future__ import annotations

import argparse
import math
import weakref
from typing import Any

import diffusers
import torch
from timing import seconds
from torch import Tensor

import underpaint as up
from underpaint.bounds import check_integers, integer
from underpaint.cli.base import in_a_sentence
from underpaint.devices import find_device
from underpaint.sampling.exponential import named_exponential
from underpaint.sampling.fitted import LOOK_BACK, TERMS, fitted_exponential
from underpaint.sampling.solvers import Solver
from underpaint.theory.cosine import CosineBasis

STEPS = 8
#: Coordinates of the lowest frequencies that are taken together: the 16 x 16 lowest of four channels.
LOW = 1024


def gaussian_of(dimension: int, basis: str, device: str) -> up.Gaussian:
    """A Gaussian of a spectrum that falls as that of natural images, mean 0."""
    generator = torch.Generator().manual_seed(0)
    if basis in ("stationary", "usual"):
        edge = math.isqrt(dimension // 4)
        falling = 30 / torch.arange(1, dimension + 1, dtype=torch.float64)
        mix = torch.eye(4).expand(edge * edge, 4, 4).contiguous()
        low = torch.linalg.qr(torch.randn(LOW, LOW, generator=generator)).Q if basis == "usual" else None
        covariance = up.Covariance(falling, CosineBasis(mix, torch.arange(dimension), (edge, edge), low))
    else:
        rank = int(basis)
        q = torch.linalg.qr(torch.randn(dimension, rank, generator=generator)).Q
        covariance = up.Covariance(30 / torch.arange(1, rank + 1, dtype=torch.float64), q, residual=0.01)
    return up.Gaussian(torch.zeros(dimension), covariance).to(device)


def check_size(dimension: int, basis: str) -> None:
    """Refuse a dimension that a basis cannot be of.

    Raises:
        ValueError: cosines are asked for and it is not four squares, or it has fewer coordinates than directions.
    """
    cosines = basis in ("stationary", "usual")
    if cosines and dimension != 4 * math.isqrt(dimension // 4) ** 2:
        raise ValueError(f"A {basis} basis is of four channels of a square, such as 16,384 numbers; got {dimension:,}.")
    least = LOW if basis == "usual" else 4 if cosines else integer(int(basis), "number of directions", 1, 10**9)
    if dimension < least:
        raise ValueError(f"A basis of {least:,} directions needs as many numbers at least; got {dimension:,}.")


def solvers(gaussian: up.Gaussian) -> dict[str, Solver]:
    plan = torch.zeros(STEPS, LOOK_BACK, TERMS, dtype=torch.float64)
    return {
        "DPM-Solver++ 2M": up.dpmpp_2m,
        "exponential-1c": named_exponential("exponential-1c", gaussian),
        "exponential-2c": named_exponential("exponential-2c", gaussian),
        "plan": fitted_exponential(gaussian, plan),
        "scheduler": scheduled(gaussian),
    }


def scheduled(gaussian: up.Gaussian) -> Solver:
    """Our scheduler in the place of a solver: what a pipeline's loop would do."""
    config = diffusers.EDMEulerScheduler(prediction_type="epsilon").config
    scheduler = up.GaussianExponentialScheduler.from_config(config, gaussian=gaussian)

    def solve(denoise: up.Denoiser, x: Tensor, level: up.NoiseLevel):
        scheduler.set_timesteps(len(level) - 1)
        answer = denoise(x, level[0])
        for t in scheduler.timesteps:
            scheduler.scale_model_input(x, t)
            x = scheduler.step(answer, t, x, return_dict=False)[0]
            yield x, answer

    return solve


class Peak(torch.utils._python_dispatch.TorchDispatchMode):
    """The most bytes that tensors made inside hold at once, on the CPU as on a GPU; ``known`` are those of before."""

    def __init__(self, *known: Tensor) -> None:
        super().__init__()
        self.now = self.most = 0
        self.alive = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor):
                self._watch(tensor)
        return out

    def _watch(self, tensor: Tensor) -> None:

        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.alive or not storage.nbytes():
            return
        size = storage.nbytes()
        self.alive.add(key)
        self.now += size
        self.most = max(self.most, self.now)

        def gone() -> None:
            self.alive.discard(key)
            self.now -= size

        weakref.finalize(storage, gone)


def kept(gaussian: up.Gaussian) -> list[Tensor]:
    """What a Gaussian holds anyway."""
    covariance = gaussian.covariance
    basis: Any = covariance.basis
    parts = [basis.mix, basis.low] if isinstance(basis, CosineBasis) else [basis]
    if covariance._pieces is not None:
        parts.append(covariance._pieces.place)  # where each variance lies among those that are asked for gains
    return [gaussian.mean, covariance.eigenvalues, *(part for part in parts if part is not None)]


def measure(dimension: int, basis: str, rows: int, device: str, repeats: int) -> None:
    gaussian, level = gaussian_of(dimension, basis, device), up.EDM().grid(STEPS)
    x = torch.randn(rows, dimension, generator=torch.Generator().manual_seed(1)).to(device)
    answer, covariance = torch.tanh(x), gaussian.covariance

    def products() -> Tensor:
        return (x @ covariance.basis) @ covariance.basis.T

    def run(solver: Solver) -> Tensor:
        return up.sample(lambda *_: answer, x, level, solver, every=STEPS).final

    known = solvers(gaussian)
    two, *took = [seconds(products, repeats=repeats)] + [
        seconds(run, solver, repeats=repeats) / STEPS for solver in known.values()
    ]
    shown = []
    for solver, one in zip(known.values(), took, strict=True):
        with Peak(x, answer, *kept(gaussian)) as peak:
            run(solver)
        states = peak.most / (x.numel() * x.element_size())
        shown.append(f"{1e3 * one:.3g} ms, {one / (took[0] + two):.2f}, {states:.1f}")
    print(f"| {dimension:,} | {basis} | {1e3 * two:.3g} ms | {' | '.join(shown)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dimensions", type=int, nargs="+", default=[16_384, 65_536, 262_144, 1_048_576])
    parser.add_argument("--bases", nargs="+", default=["64", "256", "stationary", "usual"])
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(integer(args.threads, "number of threads", 1, 1024))
    check_integers(vars(args), rows=(1, 10**6), repeats=(1, 10**6), dimensions=(4, 10**9))
    for basis in args.bases:
        if basis not in ("stationary", "usual") and not basis.isdecimal():
            raise ValueError(f"A basis is stationary, usual or a number of directions, got {basis!r}.")
        for dimension in args.dimensions:
            check_size(dimension, basis)
    find_device(args.device)
    print(
        f"torch {torch.__version__}, {args.threads} threads, {args.rows} rows: time of a step, over the yardstick, "
        "memory\n"
    )
    names = "DPM-Solver++ 2M | exponential-1c | exponential-2c | plan | scheduler"
    print(f"| dimension | basis | two products | {names} |\n|{'---|' * 8}")
    with torch.inference_mode():
        for dimension in args.dimensions:
            for basis in args.bases:
                measure(dimension, basis, args.rows, args.device, args.repeats)


if __name__ == "__main__":
    with in_a_sentence("steps.py"):
        main()
