"""Stochastic samplers at few calls, on the model in the box: how near their images are to those of the data.

Peers are diffusers' SDE-DPM-Solver++ 2M and the ancestral sampler (DDPM's small variance; DDIM with eta = 1 and Euler
ancestral are the same on equal levels). Ours is `gaussian_ancestral` with the Gaussian's variances everywhere, and with
them above a ratio only, also from a jump by the Gaussian's flow. Printed are the Fréchet distance and what as many
samples of a perfect sampler get, the distance of the spectra, sum_k (sqrt(v_k) - sqrt(lambda_k))^2 / sum_k lambda_k,
and the variance of the samples over that of the data along components 1-10, 11-50 and 51-200.

    python benchmarks/ancestral.py --calls 8 --samples 256 --grids karras
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

import diffusers
import torch
from torch import Tensor

import underpaint as up
from underpaint.metrics.features import load_features, load_statistics
from underpaint.metrics.frechet import frechet_distance, sampling_floor
from underpaint.models.schedulers.peers import lay
from underpaint.sampling.solvers import Solver, Step

BATCH, FIRST = 128, 10_000


def sde_dpm_solver(denoise: up.Denoiser, x: Tensor, level: up.NoiseLevel) -> Iterator[Step]:
    """diffusers' sde-dpmsolver++ on any levels; it carries x/|level|, and ends with the denoised image."""
    scheduler = diffusers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", prediction_type="sample")
    scheduler.set_timesteps(len(level) - 1)
    scheduler.timesteps, scheduler.sigmas = torch.arange(len(level) - 1), level.ratio.float()
    generator = torch.Generator().manual_seed(int(1e6 * x.abs().mean()))
    state = x / level[0].norm.to(x)
    for t, (here, there) in zip(scheduler.timesteps, pairwise(level), strict=True):
        denoised = denoise(here.norm.to(x) * state, here)
        state = denoised if there.sigma == 0 else scheduler.step(denoised, t, state, generator=generator).prev_sample
        yield there.norm.to(x) * state, denoised


@dataclass(frozen=True)
class Sampler:
    """A solver for the noise of some seeds, and the ratio that the Gaussian's flow goes to before it, if any."""

    solver: Callable[[up.Gaussian, range], Solver]
    start: float | None = None


def ours(**options: Any) -> Callable[[up.Gaussian, range], Solver]:
    return lambda gaussian, seeds: up.gaussian_ancestral(gaussian, draw=up.seeded_noise(seeds), **options)


def ancestral(gaussian: up.Gaussian, seeds: range) -> Solver:
    return up.gaussian_ancestral(up.Gaussian.isotropic(gaussian.mean, 0.0), draw=up.seeded_noise(seeds))


SAMPLERS = {
    "ancestral (DDPM, DDIM η = 1, Euler a)": Sampler(ancestral),
    "SDE-DPM-Solver++ 2M": Sampler(lambda gaussian, seeds: sde_dpm_solver),
    "ours, order 1": Sampler(ours()),
    "ours, order 2, above 8": Sampler(ours(order=2, above=8.0)),
    "ours, order 2, above 8, jump to 20": Sampler(ours(order=2, above=8.0), 20.0),
    "ours, order 2, above 8, jump to 20, η = 0.6": Sampler(ours(eta=0.6, order=2, above=8.0), 20.0),
}


def drawn(model: up.Model, gaussian: up.Gaussian, sampler: Sampler, grid: str, calls: int, samples: int) -> Tensor:
    """Samples [N, D] of seeds that are the same for all samplers."""
    level, first = lay(model.schedule, grid, calls, sampler.start), lay(model.schedule, grid, calls)[0]
    parts = []
    for begin in range(FIRST, FIRST + samples, BATCH):
        seeds = range(begin, min(begin + BATCH, FIRST + samples))
        x = up.initial_noise(seeds, model.dimension, first)
        if sampler.start is not None:
            x = gaussian.flow(x, first, level[0])
        parts.append(up.sample(model, x, level, sampler.solver(gaussian, seeds), every=calls).final)
    return torch.cat(parts)


def errors(model: up.Model, gaussian: up.Gaussian, ratios: tuple[float, ...] = (5.0, 1.2, 0.6, 0.3)) -> None:
    """Squared error of the network's denoised images over that of the Gaussian's, by bands of components."""
    rows = up.load_data("fashion-mnist").images[:20_000:157][:128].flatten(1).float() / 127.5 - 1
    for ratio in ratios:
        level = model.schedule.level(ratio)
        noise = torch.randn(rows.shape, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            denoised = model(level.alpha.float() * rows + level.sigma.float() * noise, level)
        found = ((denoised - rows) @ gaussian.basis).double().square().mean(0)
        known = gaussian.eigenvalues * ratio**2 / (gaussian.eigenvalues + ratio**2)
        bands = ((0, 3), (3, 10), (10, 30), (30, 100), (100, 300))
        shares = [f"{a + 1}-{b}: {float(found[a:b].sum() / known[a:b].sum()):.2f}" for a, b in bands]
        print(f"σ/α = {ratio:g}, components {', '.join(shares)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="fashion-mnist", help="a network of Fashion-MNIST, such as in a folder")
    parser.add_argument("--calls", type=int, nargs="+", default=[8, 10])
    parser.add_argument("--grids", nargs="+", default=["own", "karras", "log"])
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--only", default="", help="solvers whose name holds this")
    parser.add_argument("--errors", action="store_true", help="errors of the network over the Gaussian's, and no more")
    asked = parser.parse_args()
    model, gaussian = up.load_model(asked.model), up.load_gaussian("fashion-mnist")
    if asked.errors:
        errors(model, gaussian)
        return
    features, reference = load_features(), load_statistics("test")
    kept = gaussian.eigenvalues > 1e-4
    values = gaussian.eigenvalues[kept]
    print(f"{asked.samples} samples, a perfect sampler {sampling_floor(reference, asked.samples):.2f}", flush=True)
    for calls, grid, name in product(asked.calls, asked.grids, SAMPLERS):
        if asked.only not in name:
            continue
        images = drawn(model, gaussian, SAMPLERS[name], grid, calls, asked.samples)
        distance = frechet_distance(features.statistics(images), reference)
        found = gaussian.coordinates(images).double().var(0)[kept]
        apart = float((found.sqrt() - values.sqrt()).square().sum() / values.sum())
        shares = [float(found[a:b].sum() / values[a:b].sum()) for a, b in ((0, 10), (10, 50), (50, 200))]
        print(f"{calls} calls, {grid}, {name}: Fréchet {distance:.2f}, spectra {apart:.4f}, variance", end=" ")
        print(", ".join(f"{share:.2f}" for share in shares), flush=True)


if __name__ == "__main__":
    main()
