"""What shrinkage does for a Gaussian of few images: likelihood of new ones, and the error of its denoiser.

    python benchmarks/shrinkage.py

N training images of Fashion-MNIST, 1,000 others to judge on; Ledoit & Wolf's linear shrinkage of 2004 (scikit-learn's)
beside the nonlinear one of 2020, which `Gaussian.shrunk` and `stats --shrinkage ledoit-wolf` take.
"""

from __future__ import annotations

import argparse

import torch
from sklearn.covariance import ledoit_wolf
from torch import Tensor

import underpaint as up
from underpaint.bounds import check_integers
from underpaint.cli.base import in_a_sentence

_LEVELS = (2.0, 0.5, 0.2, 0.1)
#: Images that are held out.
FRESH = range(9000, 10_000)


def judged(gaussian: up.Gaussian, fresh: Tensor) -> str:
    """log density for each number, and root mean squares of the denoiser's errors, of rows [N, D]."""
    try:
        likelihood = f"{float(gaussian.log_prob(fresh).mean()) / gaussian.dimension:.3f}"
    except ValueError:  # some directions have no variance
        likelihood = "-∞"
    noise = torch.randn(fresh.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    errors = [
        float((gaussian.denoise(fresh + sigma * noise, up.EDM()(sigma)) - fresh).square().mean().sqrt())
        for sigma in _LEVELS
    ]
    return " | ".join([likelihood, *(f"{error:.3f}" for error in errors)])


def main() -> None:
    """Print the table of docs/statistics.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--counts", type=int, nargs="+", default=[50, 300, 700, 5000])
    args = parser.parse_args()
    check_integers(vars(args), counts=(2, FRESH.start))
    rows = up.load_data(args.data).rows().double()
    if len(rows) < FRESH.stop:
        raise ValueError(f"{args.data} has {len(rows):,} images; expected {FRESH.stop:,} or more.")
    fresh = rows[FRESH.start : FRESH.stop]
    print(f"| N | eigenvalues | log density | {' | '.join(f'σ = {sigma:g}' for sigma in _LEVELS)} |")
    for count in args.counts:
        few = rows[:count]
        plain = up.Gaussian.fit(few, dtype=torch.float64)
        linear = torch.from_numpy(ledoit_wolf(few.numpy())[0])
        for name, gaussian in {
            "as they are": plain,
            "linear": up.Gaussian(plain.mean, up.Covariance.of(linear, dtype=torch.float64)),
            "ledoit-wolf": plain.shrunk(count),
        }.items():
            print(f"| {count:,} | {name} | {judged(gaussian, fresh)} |")


if __name__ == "__main__":
    with in_a_sentence("shrinkage.py"):
        main()
