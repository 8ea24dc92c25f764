"""What the released analytic denoisers do that their formulas do not: how far two answers lie apart.

    python benchmarks/released.py [--points 2000] [--states 4]

On images of Fashion-MNIST that the points do not hold, noised. Each number is |a - b| / |b - mean of the data| over all
states: of answers a and b to the same states. The last row is the r2 of the constant data mean, as an estimate of
the exact score of the points.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor

import underpaint as up
from underpaint.analysis import agreement
from underpaint.bounds import check_integers
from underpaint.cli.base import in_a_sentence
from underpaint.theory.released import BatchPosterior, FreshlySmoothed, GoldDiff, NearestPoints, PCALocality

RATIOS = (60.0, 10.0, 5.0, 2.0, 1.0, 0.5, 0.2, 0.1)
Pair = tuple[up.Denoiser, up.Denoiser]


def pairs(points: Tensor, gaussian: up.Gaussian) -> dict[str, Callable[[], Pair]]:
    """By what differs between the two."""
    exact = up.PointCloud(points)

    def locality(rows: Tensor, batch: int) -> up.Denoiser:
        return PCALocality(rows, gaussian, 0.005, batch)

    def twice(denoise: up.Denoiser) -> Pair:
        return denoise, denoise

    whole = len(points)
    return {
        "PCA locality .005: batches of 64, all at once": lambda: (locality(points, 64), locality(points, whole)),
        "PCA locality .005: batches of 512, all at once": lambda: (locality(points, 512), locality(points, whole)),
        "PCA locality .005: batches of 64, data turned round": lambda: (
            locality(points.flip(0), 64),
            locality(points, 64),
        ),
        "optimal: 200 nearest, all": lambda: (NearestPoints(points), exact),
        "SCFDM: two calls": lambda: twice(FreshlySmoothed(NearestPoints(points))),
        "GoldDiff: two calls": lambda: twice(GoldDiff(points, gaussian, (1, 28, 28))),
        "Kamb's ideal score: batches of 128 and a short one, all": lambda: (BatchPosterior(points, 128), exact),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=2000)
    parser.add_argument("--states", type=int, default=4)
    asked = parser.parse_args()
    rows, gaussian = up.load_data("fashion-mnist").rows(), up.load_gaussian("fashion-mnist")
    check_integers(vars(asked), states=(1, 1000))
    check_integers(vars(asked), points=(2, len(rows) - asked.states))
    points, fresh = rows[: asked.points], rows[asked.points : asked.points + asked.states]
    torch.manual_seed(0)
    level = up.EDM()(torch.tensor(RATIOS, dtype=torch.float64))
    states, mean = agreement.noised(fresh, level), points.mean(0)
    print(f"{asked.points} points, {asked.states} states\n")
    print("| σ/α | " + " | ".join(f"{ratio:g}" for ratio in RATIOS) + " |\n|---|" + "---|" * len(RATIOS))
    for name, make in pairs(points, gaussian).items():
        first, second = (agreement.denoised_at(denoise, states, level) for denoise in make())
        apart = (first - second).norm(dim=(1, 2)) / (second - mean).norm(dim=(1, 2))
        print(f"| {name} | " + " | ".join(f"{float(value):.3f}" for value in apart) + " |", flush=True)
    exact = agreement.denoised_at(up.PointCloud(points), states, level)
    r2 = agreement.pixel_r2(exact, mean.expand_as(exact)).mean(1)
    print("| r² of the data mean | " + " | ".join(f"{float(value):.3f}" for value in r2) + " |")


if __name__ == "__main__":
    with in_a_sentence("released.py"):
        main()
