"""What exact and mixture scores cost, against the machine's own matrix products and a straightforward version in torch.

    python benchmarks/scores.py [--points 20000] [--batch 64] [--dimension 3072] [--data fashion-mnist]
    python benchmarks/scores.py --only certain --data train.npy --held-out test.npy --batch 16

Everything in one run, so that the ratios mean something on any machine. Exact score: `cost` is the time of a call over
that of its two matrix products alone, on random points; `plain` the same for softmax(-cdist^2 / 2 sigma^2) @ points;
errors are the largest ones against float64. Pruned: the same calls on the images of Fashion-MNIST, noised, with the 64
leading components as basis. Mixture: the time of a call over that of one full-rank Gaussian of the same dimension, for
all components at once and component by component.

Certain: `PointCloud(points, error=1e-3)` over `PointCloud(points)` at each level, of all images or ``--take`` of them,
on images that the cloud does not hold (the test split, or ``--held-out``) and noise; the two take turns, and the median
and the quartiles of ``--turns`` ratios are told; `error` is the largest difference of an image, relative to its length,
from that of the full scan.
Windows: local patches, Wiener windows and equivariant patches, screened and not, over what `LocalCloud` did before: it
gathered the windows of all data, or multiplied all of the state with zeros outside them. Of ``--batch`` held-out images
of Fashion-MNIST and noise; of equivariant patches the time for one image of the data: of 50, the former way of 4.
Growth: the time of a call of both against the number of points, moved copies of the images in a memory-mapped file.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from timing import once, seconds
from torch import Tensor

import underpaint as up
from underpaint.bounds import check_integers
from underpaint.cli.base import in_a_sentence
from underpaint.files import check_targets
from underpaint.theory.cloud import as_rows
from underpaint.theory.covariance import Covariance
from underpaint.theory.local import LocalCloud
from underpaint.theory.modes import shrinkage
from underpaint.theory.windows import Views, patch_views

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


def shares(
    one: Callable[..., object], other: Callable[..., object], *arguments: object, turns: int
) -> tuple[list[float], list[float]]:
    """Quartiles of the time of ``one`` over that of ``other``, in turns, and median seconds of both."""
    pairs = [[once(one, *arguments), once(other, *arguments)] for _ in range(turns)]
    times = torch.tensor(pairs, dtype=torch.float64)
    quartiles = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    return (times[:, 0] / times[:, 1]).quantile(quartiles).tolist(), times.median(0).values.tolist()


def certain_scores(data: str, held_out: str | None, take: int | None, batch: int, turns: int) -> None:
    points, images = load_bytes(data, "train"), load_bytes(held_out or data, "train" if held_out else "test")
    some = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:take]
    rows = as_rows(points if take is None else points[some])
    plain, certain = up.PointCloud(rows), up.PointCloud(rows, error=1e-3)
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:batch]
    noise, level = torch.randn(batch, rows.shape[1]), up.EDM()
    fresh = as_rows(images[chosen])
    first = once(certain, fresh + 0.1 * noise, level(0.1))
    print(f"\ncertain to 1e-3: {len(rows):,} points of dimension {rows.shape[1]}, {batch} held-out states")
    print(f"{first:.1f} s for the first call at low noise, which makes the basis and the shadows\n")
    print("| σ | time over that of a full scan | quartiles | seconds of a full scan | error |\n|---|---|---|---|---|")
    for sigma in (80.0, 10.0, 5.0, 4.0, 3.0, 2.0, 1.3, 1.0, 0.5, 0.2, 0.1):
        x, at = fresh + sigma * noise, level(sigma)
        (low, middle, high), (_, whole) = shares(certain, plain, x, at, turns=turns)
        exact = plain(x, at)
        error = float(((certain(x, at) - exact).norm(dim=1) / exact.norm(dim=1)).max())
        print(f"| {sigma:g} | {middle:.2f} | {low:.2f} to {high:.2f} | {whole:.3f} | {error:.0e} |", flush=True)


def growth(
    data: str, batch: int, turns: int, picture: str | None, counts: tuple[int, ...] = (6_000, 60_000, 600_000)
) -> None:
    """Seconds of a call against the number of points, in a mapped file of bytes."""
    images, found = load_bytes(data, "train"), []
    print("\n| points | σ | seconds, certain to 1e-3 | seconds, full scan |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for count in counts:
            points = mapped_copies(images, count, Path(folder) / "points")
            fresh, level = as_rows(load_bytes(data, "test")[:batch]), up.EDM()
            noise = torch.randn(fresh.shape, generator=torch.Generator().manual_seed(0))
            plain, certain = up.PointCloud(points), up.PointCloud(points, error=1e-3)
            certain(fresh + 0.1 * noise, level(0.1))
            for sigma in (1.0, 0.5, 0.2):
                x, at = fresh + sigma * noise, level(sigma)
                _, (ours, whole) = shares(certain, plain, x, at, turns=turns)
                print(f"| {count:,} | {sigma:g} | {ours:.4f} | {whole:.4f} |", flush=True)
                found.append((count, sigma, ours, whole))
    powers = ", ".join(f"{power:.2f} at {sigma:g}" for sigma, power in growth_powers(found).items())
    print(f"\nFrom {counts[0]:,} to {counts[-1]:,} points the certain time grows as N to the power, by σ: {powers}.")
    if picture:
        draw_growth(found, picture)


def growth_powers(found: Sequence[tuple[int, float, float, float]]) -> dict[float, float]:
    """By sigma, the power of N that the seconds certain to 1e-3 grow as, from the fewest to the most points."""
    ends = {sigma: sorted(row for row in found if row[1] == sigma) for _, sigma, _, _ in found}
    return {
        sigma: math.log(rows[-1][2] / rows[0][2]) / math.log(rows[-1][0] / rows[0][0]) for sigma, rows in ends.items()
    }


def draw_growth(found: Sequence[tuple[int, float, float, float]], picture: str) -> None:
    """Seconds against points, one line for each sigma: of points, sigma, seconds certain to 1e-3 and of a full scan."""
    from underpaint.figures.style import MODES, QUIET, new_figure

    figure, axes = new_figure(5.6, 3.6)
    sigmas = sorted({sigma for _, sigma, _, _ in found}, reverse=True)
    for sigma, colour in zip(sigmas, MODES[::2], strict=False):
        rows = [row for row in found if row[1] == sigma]
        counts = [row[0] for row in rows]
        axes.plot(counts, [row[3] for row in rows], ":", color=colour, linewidth=1)
        axes.plot(counts, [row[2] for row in rows], "o-", color=colour, label=f"certain to 1e-3, σ/α {sigma:g}")
    axes.plot([], [], ":", color=QUIET, label="full scan")
    axes.set(xscale="log", yscale="log", xlabel="points", ylabel="seconds a call", title="exact score, mapped points")
    axes.legend()
    figure.savefig(picture)


def mapped_copies(images: Tensor, count: int, path: Path) -> Tensor:
    """Images [N, D] of bytes, square and grey, as they are and moved by up to three pixels, [count, D] in a file."""
    edge = round(images.shape[1] ** 0.5)
    steps = sorted(((i, j) for i in range(-3, 4) for j in range(-3, 4)), key=lambda step: step[0] ** 2 + step[1] ** 2)
    with path.open("wb") as file:
        for start, step in zip(range(0, count, len(images)), steps, strict=False):
            part = images[: count - start].view(-1, edge, edge).roll(step, (1, 2))
            file.write(part.contiguous().numpy().tobytes())
    size = count * images.shape[1]
    return torch.from_file(str(path), size=size, dtype=torch.uint8).view(count, images.shape[1])


def load_bytes(source: str, split: str) -> Tensor:
    """Images as they are stored, rows [N, D] of bytes: of an array [N, D] of bytes, or whatever `load_data` takes."""
    if source.endswith(".npy"):
        return torch.from_numpy(np.load(source)).flatten(1)
    return ((up.load_data(source, split).rows() + 1) * 127.5).round().to(torch.uint8)


class FormerMean:
    """`SoftmaxMean` as it was."""

    def __init__(self) -> None:
        self.top: Tensor | float = -math.inf
        self.mass: Tensor | float = 0.0
        self.total: Tensor | float = 0.0

    def add(self, logits: Tensor, values: Tensor) -> None:
        peak = torch.clamp(logits.amax(-1, keepdim=True), min=self.top)
        shrink = torch.exp(self.top - peak)
        weights = logits.sub_(peak).to(values.dtype).exp_()
        self.mass = self.mass * shrink + weights.sum(-1, keepdim=True)
        single = weights.ndim > 2 and values.shape[-1] == 1
        total = (weights * values.mT).sum(-1, keepdim=True) if single else weights @ values
        self.total, self.top = self.total * shrink + total, peak

    @property
    def mean(self) -> Tensor:
        return torch.as_tensor(self.total / self.mass)


def former(points: Tensor, x: Tensor, level: up.NoiseLevel, views: Sequence[Views], budget: int = 1 << 22) -> Tensor:
    """`LocalCloud` as it was: windows are gathered, or all of the state is multiplied with zeros outside them."""
    alpha, sigma, denoised = float(level.alpha), float(level.sigma), torch.empty_like(x)
    scale, square, cloud = alpha / sigma**2, (alpha / sigma) ** 2, LocalCloud(points, lambda _: views)
    for view in views:
        (places, size), dimension = view.windows.shape, x.shape[1]
        dense, pairs = not view.shared and 6 * size > dimension, places * (places if view.shared else 1)
        dtype, means = cloud._dtype(scale * x.double(), square, size), []
        batch = max(1, min(len(x), budget // max(pairs, places * (dimension if dense else size))))
        chunk = max(1, budget // max(batch * pairs, places * (1 if dense else size), dimension))
        seen = torch.zeros(places, dimension + 1, dtype=dtype).scatter_(1, view.windows, 1.0)[:, :dimension]
        for rows in (scale * x.double()).to(dtype).split(batch):
            sums, query = FormerMean(), seen.unsqueeze(1) * rows if dense else picked(rows, view.windows, view.shared)
            for stored in points.to(dtype).split(chunk):
                other = stored if dense else picked(stored, view.windows, view.shared)
                half = seen @ stored.square().T if dense else other.square().sum(2)
                sums.add(
                    (query @ other.mT).sub_(half.unsqueeze(1), alpha=square / 2),
                    picked(stored, view.centres, view.shared),
                )
            means.append(sums.mean.view(len(rows), places, -1) if view.shared else sums.mean.transpose(0, 1))
        denoised[:, view.centres] = torch.cat(means).to(x)
    return denoised


def picked(rows: Tensor, index: Tensor, shared: bool) -> Tensor:
    """Entries of rows by index, the number D being 0: [1, n L, S] if shared, else [L, n, S]."""
    padded = torch.cat([rows, rows.new_zeros(len(rows), 1)], 1)[:, index]
    return padded.flatten(0, 1).unsqueeze(0) if shared else padded.transpose(0, 1)


def by_size(gaussian: up.Gaussian, level: up.NoiseLevel, threshold: float) -> list[Views]:
    """Wiener windows as they were found: anew at each call, those of about equal size together."""
    gain = gaussian.covariance.spectral(lambda v: level.alpha * shrinkage(v, level), torch.eye(gaussian.dimension))
    seen = (gain.abs() > threshold * gain.diagonal().unsqueeze(1)).fill_diagonal_(True)
    index = torch.where(seen, torch.arange(len(seen)), len(seen)).sort(1).values
    return [
        Views(part.unsqueeze(1), index[part][:, : int(seen[part].sum(1).max())])
        for part in seen.sum(1).argsort().split(64)
    ]


def window_scores(count: int, batch: int, turns: int) -> None:
    images, shape = up.load_data("fashion-mnist"), (1, 28, 28)
    rows = images.rows()[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:count]]
    fresh, gaussian = up.load_data("fashion-mnist", "test").rows()[:batch], up.load_gaussian("fashion-mnist")
    noise, level, few, some = torch.randn(batch, 784), up.EDM(), rows[:4], rows[:50]
    print(f"\nwindows: {count} images of Fashion-MNIST, {batch} held-out states\n")
    print("| what | σ | time over the former | quartiles | error |\n|---|---|---|---|---|", flush=True)

    def told(
        what: str, sigma: float, one: Callable[..., Tensor], other: Callable[..., Tensor], less: float = 1.0
    ) -> None:
        x, at = fresh + sigma * noise, level(sigma)
        found = one(x, at)  # and what is made once
        quartiles = [less * share for share in shares(one, other, x, at, turns=turns)[0]]
        exact = other(x, at) if less == 1 else LocalCloud.patches(some, shape, 7)(x, at)
        error = float(((found - exact).norm(dim=1) / exact.norm(dim=1)).max())
        print(
            f"| {what} | {sigma:g} | {quartiles[1]:.2f} | {quartiles[0]:.2f} to {quartiles[2]:.2f} | {error:.0e} |",
            flush=True,
        )

    for size in (3, 7, 15):
        local, views = LocalCloud.patches(rows, shape, size, False), patch_views(shape, size, False)
        told(f"patches of {size}", 0.5, local, lambda x, at, v=views: former(rows, x, at, v))
    for threshold in (0.02, 0.1):
        for sigma in (2.0, 0.5):
            wiener = LocalCloud.wiener(rows, gaussian, threshold)
            old = lambda x, at, t=threshold: former(rows, x, at, by_size(gaussian, at, t))  # noqa: E731
            told(f"Wiener windows, {threshold:g}", sigma, wiener, old)
    views = patch_views(shape, 7, True)
    for error in (None, 1e-3):
        shared = LocalCloud.patches(some, shape, 7, error=error)
        for sigma in (2.0, 0.5, 0.1):
            name = "equivariant patches of 7" + ("" if error is None else ", certain to 1e-3")
            told(name, sigma, shared, lambda x, at: former(few, x, at, views), len(few) / len(some))


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
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--held-out")
    parser.add_argument("--take", type=int, help="of the points of `certain`, only so many")
    parser.add_argument("--picture", help="draw the growth with the number of points into this file")
    parser.add_argument("--known", type=int, default=500, help="images that windows look at")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument(
        "--only", choices=("exact", "pruned", "certain", "windows", "growth", "mixtures"), action="append"
    )
    args = parser.parse_args()
    check_integers(vars(args), batch=(1, 10_000), dimension=(128, 10**6), known=(51, 60_000), turns=(2, 10_000))
    check_integers(vars(args), points=(2 * args.batch, 10**8), take=(1, 10**8))
    check_targets(*([args.picture] if args.picture else []))
    torch.manual_seed(0)
    a = torch.randn(2048, 2048)
    rate, threads = 2 * 2048**3 / seconds(lambda: a @ a) / 1e9, torch.get_num_threads()
    print(f"square matrix product: {rate:.0f} GFLOP/s in float32 on {threads} threads, torch {torch.__version__}")
    studies = {
        "exact": lambda: exact_scores(args.points, args.dimension, args.batch),
        "pruned": lambda: pruned_scores(args.points, args.batch),
        "certain": lambda: certain_scores(args.data, args.held_out, args.take, args.batch, args.turns),
        "windows": lambda: window_scores(args.known, args.batch, args.turns),
        "growth": lambda: growth(args.data, args.batch, args.turns, args.picture),
        "mixtures": lambda: mixtures(args.dimension, args.batch),
    }
    with torch.no_grad():
        for name in args.only or studies:
            studies[name]()


if __name__ == "__main__":
    with in_a_sentence("scores.py"):
        main()
