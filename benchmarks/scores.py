"""What exact and mixture scores cost, against the machine's own matrix products and a straightforward version in torch.

    python benchmarks/scores.py [--points 20000] [--batch 64] [--dimension 3072]

Everything in one run, so that the ratios mean something on any machine. Exact score: `cost` is the time of a call over
that of its two matrix products alone, on random points; `plain` the same for softmax(-cdist^2 / 2 sigma^2) @ points;
errors are the largest ones against float64. Pruned: the same calls on the images of Fashion-MNIST, noised, with the 64
leading components as basis. Mixture: the time of a call over that of one full-rank Gaussian of the same dimension, for
all components at once and component by component.
"""

from __future__ import annotations

import argparse

import torch
from timing import seconds
from torch import Tensor

import underpaint as up
from underpaint.theory.covariance import Covariance

SIGMAS = (0.01, 0.1, 0.3, 1.0, 3.0, 80.0)


def product_seconds(count: int, dimension: int, batch: int, chunk: int = 8192) -> float:
    """Of the two products of an exact score, on one chunk and scaled up."""
    x, points, weights = torch.randn(batch, dimension), torch.randn(chunk, dimension), torch.rand(batch, chunk)
    return seconds(lambda: (x @ points.T, weights @ points)) * count / chunk


def plain_score(points: Tensor, x: Tensor, sigma: float) -> Tensor:
    """What one would write first."""
    return (-torch.cdist(x, points).square() / (2 * sigma**2)).softmax(1) @ points


def exact_scores(count: int, dimension: int, batch: int) -> None:
    scales = torch.logspace(1, -1.5, dimension)
    points = torch.randn(count, dimension) * scales
    cloud, noise = up.PointCloud(points), torch.randn(batch, dimension)
    print(f"\nexact score, N {count:,}, D {dimension}, B {batch}\n\n| σ | cost | plain | error | plain's error |")
    print("|---|---|---|---|---|")
    for sigma in SIGMAS:
        x, level = (points[:batch] + points[batch : 2 * batch]) / 2 + sigma * noise, up.EDM()(sigma)
        alone = product_seconds(count, dimension, batch)
        ours, plain = seconds(cloud, x, level, repeats=2), seconds(plain_score, points, x, sigma, repeats=2)
        exact = plain_score_double(points, x[:8], sigma)
        errors = [float((d[:8] - exact).abs().max()) for d in (cloud(x, level), plain_score(points, x, sigma))]
        print(
            f"| {sigma:g} | {ours / alone:.2f} | {plain / alone:.2f} | {errors[0]:.1e} | {errors[1]:.1e} |", flush=True
        )


def plain_score_double(points: Tensor, x: Tensor, sigma: float) -> Tensor:
    """In float64, the differences formed row by row."""
    squared = torch.stack([(row.double() - points).square().sum(1) for row in x])
    return (-squared / (2 * sigma**2)).softmax(1) @ points.double()


def pruned_scores(count: int, batch: int) -> None:
    points = up.load_data("fashion-mnist").take(count).rows()
    basis = up.load_gaussian("fashion-mnist").basis[:, :64]
    pruned, noise = up.PointCloud(points, basis=basis), torch.randn(batch, points.shape[1])
    print(f"\npruned, {len(points):,} images of Fashion-MNIST, B {batch}\n\n| σ | cost |\n|---|---|")
    for sigma in SIGMAS:
        x, level = points[:batch] + sigma * noise, up.EDM()(sigma)
        alone = product_seconds(len(points), points.shape[1], batch)
        print(f"| {sigma:g} | {seconds(pruned, x, level, repeats=2) / alone:.2f} |", flush=True)


def mixtures(dimension: int, batch: int, counts: tuple[int, ...] = (10, 100), rank: int = 128) -> None:
    basis = torch.linalg.qr(torch.randn(dimension, dimension)).Q
    values = torch.logspace(2, -2, dimension, dtype=torch.float64)
    full, x, level = (
        up.Gaussian(torch.zeros(dimension), Covariance(values, basis)),
        torch.randn(batch, dimension),
        up.EDM()(1.0),
    )
    one = seconds(full, x, level)
    print(f"\nmixture, rank {rank}, D {dimension}, B {batch}, in calls of one full-rank Gaussian\n")
    print("| components | all at once | one by one |\n|---|---|---|")
    for count in counts:
        bases = [basis[:, torch.randperm(dimension)[:rank]] for _ in range(count)]
        parts = [up.Gaussian(torch.randn(dimension), Covariance(values[:rank], turned, 0.01)) for turned in bases]
        mixture = up.Mixture(torch.ones(count), tuple(parts))
        ours, each = seconds(mixture, x, level), seconds(one_by_one, mixture, x, level, repeats=1)
        print(f"| {count} | {ours / one:.1f} | {each / one:.1f} |", flush=True)


def one_by_one(mixture: up.Mixture, x: Tensor, level: up.NoiseLevel) -> Tensor:
    """What one would write first, without the sum over components at the end."""
    return torch.stack([part.posterior(x, level)[0] for part in mixture.components], 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--dimension", type=int, default=3072)
    args = parser.parse_args()
    torch.manual_seed(0)
    a = torch.randn(2048, 2048)
    rate, threads = 2 * 2048**3 / seconds(lambda: a @ a) / 1e9, torch.get_num_threads()
    print(f"square matrix product: {rate:.0f} GFLOP/s in float32 on {threads} threads, torch {torch.__version__}")
    with torch.no_grad():
        exact_scores(args.points, args.dimension, args.batch)
        pruned_scores(args.points, args.batch)
        mixtures(args.dimension, args.batch)


if __name__ == "__main__":
    main()
