"""How fast and how exact statistics are, by kind of covariance and dimension.

    python benchmarks/statistics.py [--data fashion-mnist] [--seconds 3] [--only likeness]

Speed: rows that lie in a memory-mapped .npy file, read, hashed, centred, multiplied and added in float64, against the
machine's own float32 matrix product of the same shape (X^T X, chunk x D), timed in turns. The rate counts the full
product, 2 D^2 operations a row; the sums compute just over half of it, since they are symmetric, so that it can pass
100 %. Exactness: float32 products against an all-float64 computation, and low-rank and stationary covariances against
the full one, on --data. Likeness: mean square errors of the images that Gaussians with these covariances denoise, on
1,000 held-out images of --data, over those of the full one, and the numbers that each stores. Memory: the peak of the
process above what it held before, against the bound that is planned.
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timing import seconds

from underpaint.bounds import number
from underpaint.cli.base import in_a_sentence
from underpaint.data.datasets import load_data
from underpaint.data.sources import open_source
from underpaint.data.stream import Source
from underpaint.noise import EDM
from underpaint.recipes.statistics.accumulation import Tally, take_statistics
from underpaint.recipes.statistics.memory_plan import Settings, plan_statistics
from underpaint.theory.cosine import CosineBasis
from underpaint.theory.covariance import Covariance
from underpaint.theory.gaussian import Gaussian
from underpaint.theory.sums import LowRank, Sketch, Stationary, Sums, column_sums


def stored(folder: Path, dimension: int, count: int) -> Source:
    """Rows of noise in a .npy file, float32."""
    path = folder / f"rows-{dimension}.npy"
    rows = np.lib.format.open_memmap(path, "w+", np.float32, (count, dimension))
    generator = np.random.default_rng(0)
    for start in range(0, count, 1024):
        generator.standard_normal(dtype=np.float32, out=rows[start : start + 1024])
    rows.flush()
    return open_source(path)


def operations(sketch: Sketch) -> float:
    """Floating-point operations a row, by the cost model: D^2 (1 + block / D) for the blocks of the full one that are
    computed, 4 D K for a sketch of width K."""
    if isinstance(sketch, LowRank):
        return 4 * sketch.dimension * sketch.width
    return 2 * sketch.shape[0] ** 2 * (1 + min(1, 512 / sketch.shape[0])) / 2


def speed(source: Source, settings: Settings, budget: float) -> str:
    """A row of the table; what is compared is timed in turns, so that a busy machine is as unkind to all."""
    plan = plan_statistics(source, settings)
    rows, tally = source.read(0, plan.chunk).values, Tally(plan, torch.zeros(source.dimension, dtype=torch.float64))
    block = rows[:, :3072]  # a product with these has the rate of one with all, and is over sooner

    def reading() -> None:
        for chunk in source.chunks(plan.chunk):
            hashlib.sha256(chunk.data.numpy().data)
            column_sums(chunk.values - rows[0])

    product = read = accumulate = float("inf")
    for _ in range(3):
        product = min(product, seconds(lambda: rows.T @ block, repeats=1, budget=budget / 3))
        read = min(read, seconds(reading, repeats=1, budget=budget / 3))
        accumulate = min(accumulate, seconds(lambda: tally.add_group(0, lambda: None), repeats=1, budget=budget / 3))
    rate = 2 * len(rows) * source.dimension * block.shape[1] / product
    found = source.count / accumulate
    predicted = 1 / (operations(plan.sketch) / rate + read / source.count)
    share = f"{2 * source.dimension**2 * found / rate:.0%}" if settings.kind == "full" else "-"
    name = settings.kind if settings.rank is None else f"{settings.kind} {settings.rank}"
    numbers = f"{rate / 1e9:.0f} | {source.count / read:.0f} | {found:.0f} | {predicted:.0f} | {share}"
    return f"| {source.dimension} | {name} | {source.count} | {numbers} |"


def speeds(budget: float) -> None:
    print("| D | covariance | rows | product X^T X, GFLOP/s | reading alone, rows/s | all, rows/s | by the cost model "
          "| share of the product's rate |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|")
    for dimension, kind, rank in (
        (784, "full", None),
        (3072, "full", None),
        (3072, "low-rank", 256),
        (12288, "low-rank", 256),
    ):
        with tempfile.TemporaryDirectory() as folder:
            source = stored(Path(folder), dimension, 2**25 // dimension)
            print(speed(source, Settings(kind, rank, groups=1), budget), flush=True)


def covariance(source: Source, settings: Settings) -> Covariance:
    """The covariance with its basis in float64, so that nothing but the sums is compared."""
    plan = plan_statistics(source, settings)
    tally = Tally(plan, torch.zeros(source.dimension, dtype=torch.float64))
    for group in range(plan.groups):
        tally.add_group(group, lambda: None)
    return tally.overall().covariance(torch.float64)


def compare(found: Covariance, exact: torch.Tensor, values: torch.Tensor) -> str:
    """Largest error of an entry by the largest variance; relative error of eigenvalues; share of the variance kept."""
    worst = float((found.matrix() - exact).abs().max() / exact.diagonal().max())
    kept = min(found.rank, len(values))
    errors = (found.spectrum.sort(descending=True).values / values - 1).abs()
    spread = " | ".join(f"{float(errors[k - 1]):.1e}" if k <= kept else "-" for k in (1, 10, 50, 200, len(values)))
    caught = float(
        ((found.basis[:, :50].double().T @ exact) * found.basis[:, :50].double().T).sum() / values[:50].sum()
    )
    return f"{worst:.1e} | {spread} | {caught:.4f}"


def exactness(data: str) -> None:
    source = open_source(data)
    print(f"\n{source.name}: {source.count} items of {source.shape}. Against float64 throughout.")
    print("| covariance | largest error of an entry / largest variance | eigenvalue 1 | 10 | 50 | 200 | the last "
          "| variance in the first 50 directions, share of the best |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|")
    precise = covariance(source, Settings("full", precise=True, classes=False))
    exact, values = precise.matrix(), precise.eigenvalues
    for kind, rank in (("full", None), ("low-rank", 256), ("low-rank", 64), ("stationary", None)):
        found = covariance(source, Settings(kind, rank, classes=False))
        print(f"| {kind} {rank or ''} | {compare(found, exact, values)} |", flush=True)
    best = Covariance.of(exact, 256, torch.float64)
    print(f"| best of rank 256 | {compare(best, exact, values)} |")


def likeness(data: str) -> None:
    """A table: a row for each kind of covariance, a column for each noise level."""
    train, test = load_data(data), load_data(data, "test").take(1000).rows()
    rows, image, sigmas = train.rows(), train.shape, (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
    full = Gaussian.fit(rows)
    found = {"full": full} | {f"rank {rank}": full.truncate(rank) for rank in (256, 64)}
    usual = Stationary.usual(image)
    for name, sketch in (("stationary everywhere", Stationary(image)), (f"beyond {usual.side} x {usual.side}", usual)):
        sums = Sums(sketch, rows[0])
        for part in rows.split(2000):
            sums.add(part)
        found[name] = Gaussian(full.mean, sums.covariance())
    print(f"\nErrors of denoised held-out images of {train.name} over those of the full covariance, by sigma.")
    print(f"| covariance | numbers | {' | '.join(map(str, sigmas))} |\n|---|---|{'---|' * len(sigmas)}")
    noise = torch.randn(test.shape, generator=torch.Generator().manual_seed(0))
    errors = {
        name: [float((g.denoise(test + s * noise, EDM()(s)) - test).square().mean()) for s in sigmas]
        for name, g in found.items()
    }
    for name, gaussian in found.items():
        ratios = " | ".join(f"{e / least:.3f}" for e, least in zip(errors[name], errors["full"], strict=True))
        print(f"| {name} | {numbers(gaussian.covariance):,} | {ratios} |", flush=True)


def numbers(covariance: Covariance) -> int:
    """Those that a basis stores."""
    stored: Any = covariance.basis
    if isinstance(stored, CosineBasis):
        return stored.mix.numel() + (0 if stored.low is None else stored.low.numel())
    return covariance.basis.numel()


def memory(dimension: int = 2048) -> None:
    """Runs first: the peak of a process does not go down again."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with tempfile.TemporaryDirectory() as folder:
        plan = plan_statistics(stored(Path(folder), dimension, 20_000), Settings("full", interval=0.0))
        take_statistics(plan, Path(folder) / "checkpoint")
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    print(f"Memory, full, D = {dimension}: {used / 1e9:.2f} GB (with the pages of the mapped file); {plan.words}.\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each timing")
    parser.add_argument("--only", choices=("memory", "speed", "exactness", "likeness"), help="this part alone")
    args = parser.parse_args()
    number(args.seconds, "--seconds", 0, 10_000)
    print(f"{torch.get_num_threads()} threads\n")
    parts = {
        "memory": memory,
        "speed": lambda: speeds(args.seconds),
        "exactness": lambda: exactness(args.data),
        "likeness": lambda: likeness(args.data),
    }
    for part in [args.only] if args.only else parts:
        parts[part]()


if __name__ == "__main__":
    with in_a_sentence("statistics.py"):
        main()
