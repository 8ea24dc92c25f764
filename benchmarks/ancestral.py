"""Stochastic samplers at few calls, on models in the box: how near their images are to those of the data.

Peers are diffusers' SDE-DPM-Solver++ 2M, the same with less noise (k-diffusion's option), and the ancestral sampler
(DDPM's small variance; DDIM with eta = 1 and Euler ancestral are the same on equal levels). Ours is
`gaussian_ancestral`, after a jump by the Gaussian's flow where sampling begins above it. The grid of levels of each
sampler is chosen on other seeds, by Fréchet distance.

The tables have the Fréchet distance in the features that the box has for the data, the distance of the spectra,
sum_k (sqrt(v_k) - sqrt(lambda_k))^2 / sum_k lambda_k, and the variance of the samples over that of the data along
components 1-10, 11-50 and 51-200. What was found is kept in a folder: a run that was stopped goes on.

    python benchmarks/ancestral.py --model fashion-mnist --calls 8 10
    python benchmarks/ancestral.py --model emoji-scenes --calls 8 10 --only SDE less
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import diffusers
import torch
from pages import check_page, put
from torch import Tensor

import underpaint as up
from underpaint import assets
from underpaint.bounds import MOST_ITEMS, MOST_STEPS, check_integers
from underpaint.cli.base import in_a_sentence
from underpaint.files import check_targets
from underpaint.metrics.features import FeatureSet
from underpaint.metrics.frechet import Statistics, frechet_distance, sampling_floor
from underpaint.models.fingerprint import fingerprint
from underpaint.models.schedulers.peers import GRIDS, grids, lay
from underpaint.recipes.shared.checkpoints import Parts
from underpaint.recipes.shared.model_and_data import find_quality_measures
from underpaint.sampling.solvers import Solver, Step

BATCH, FIRST, TUNING = 128, 10_000, 50_000
#: Components along which variances are told.
BANDS = ((0, 10), (10, 50), (50, 200))
#: Where ours begins, in standard deviations of the widest component.
LANDING = 2.25


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
    """A solver for the noise of some seeds, whether the Gaussian's flow goes before it, and the options to choose
    from besides the grid."""

    solver: Callable[..., Solver]
    jumps: bool = False
    options: tuple[Mapping[str, Any], ...] = field(default=({},))


def ours(gaussian: up.Gaussian, seeds: range, **options: Any) -> Solver:
    return up.gaussian_ancestral(gaussian, draw=up.seeded_noise(seeds), **options)


def without_variance(gaussian: up.Gaussian, seeds: range, **options: Any) -> Solver:
    return ours(up.Gaussian.isotropic(gaussian.mean, 0.0), seeds, **options)


PEERS = {
    "ancestral: DDPM, DDIM with η = 1, Euler ancestral": Sampler(partial(without_variance, order=1)),
    "SDE-DPM-Solver++ 2M": Sampler(lambda gaussian, seeds: sde_dpm_solver),
    "SDE-DPM-Solver++ 2M, less noise": Sampler(partial(without_variance, order=2), options=({"eta": 0.6},)),
}
OURS = {
    "`gaussian_ancestral`, η = 1": Sampler(ours, jumps=True),
    "`gaussian_ancestral`, less noise": Sampler(ours, jumps=True, options=({"eta": 0.6},)),
}


@dataclass(frozen=True)
class Cell:
    """A sampler, on a grid, with options, for some calls."""

    sampler: str
    grid: str
    calls: int
    options: Mapping[str, Any]

    @property
    def how(self) -> str:
        return ", ".join([self.grid, *(f"{key} {value}" for key, value in self.options.items())])

    def __str__(self) -> str:
        return f"{self.calls} calls, {self.sampler}, {self.how}"


@dataclass(frozen=True, eq=False)
class Judged:
    """Fréchet distance, distance of the spectra, and variance over that of the data along `BANDS`."""

    frechet: float
    spectra: float
    shares: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Bench:
    """A model with the statistics of its data, and what judges its images."""

    model: up.Model
    gaussian: up.Gaussian
    features: FeatureSet
    reference: Statistics
    keep: Parts

    @staticmethod
    def of(name: str, folder: Path) -> Bench:
        model, gaussian = up.load_model(name), up.load_gaussian(name)
        features, reference, _ = find_quality_measures(assets.folder(str(model.notes.get("data"))))
        if features is None or reference is None:
            raise ValueError(f"The box has nothing that judges images of {name}; give fashion-mnist or emoji-scenes.")
        settings = {"weights": fingerprint(model), "diffusers": diffusers.__version__, "features": features.name}
        return Bench(model, gaussian, features, reference, Parts(folder / name, settings, (Judged,)))

    def judged(self, cell: Cell, first: int, samples: int) -> Judged:
        return self.keep(f"{cell} seeds {first} to {first + samples}", lambda: self._judge(cell, first, samples))

    def _judge(self, cell: Cell, first: int, samples: int) -> Judged:
        rows = torch.cat([self._drawn(cell, part) for part in _batches(first, samples)])
        images = 2 * self.model.images(rows).flatten(1) - 1
        kept = self.gaussian.eigenvalues > 1e-4
        values, found = self.gaussian.eigenvalues[kept], self.gaussian.coordinates(rows).double().var(0)[: kept.sum()]
        apart = float((found.sqrt() - values.sqrt()).square().sum() / values.sum())
        shares = tuple(float(found[a:b].sum() / values[a:b].sum()) for a, b in BANDS)
        return Judged(frechet_distance(self.features.statistics(images), self.reference), apart, shares)

    def _drawn(self, cell: Cell, seeds: range) -> Tensor:
        """Samples [B, D] of seeds that are the same for all samplers."""
        sampler, schedule = {**PEERS, **OURS}[cell.sampler], self.model.schedule
        first = lay(schedule, cell.grid, cell.calls)[0]
        landing = LANDING * float(self.gaussian.eigenvalues.max()) ** 0.5
        jumps = sampler.jumps and landing < float(first.ratio)
        level = lay(schedule, cell.grid, cell.calls, landing if jumps else None)
        x = up.initial_noise(seeds, self.model.dimension, first)
        if jumps:
            x = self.gaussian.flow(x, first, level[0])
        solver = sampler.solver(self.gaussian, seeds, **cell.options)
        return up.sample(self.model, x, level, solver, every=cell.calls).final

    def best(self, name: str, calls: int, laid: list[str], tuning: int) -> Cell:
        """The grid and options of least Fréchet distance on the seeds apart."""
        sampler = {**PEERS, **OURS}[name]
        known = set(grids(self.model.schedule)) - (
            {"trailing"} if sampler.jumps else set()
        )  # begins at the first level
        cells = [Cell(name, grid, calls, options) for grid in laid if grid in known for options in sampler.options]
        for cell in cells:
            print(f"{cell}: Fréchet {self.judged(cell, TUNING, tuning).frechet:.2f} on other seeds", flush=True)
        return min(cells, key=lambda cell: self.judged(cell, TUNING, tuning).frechet)


def _batches(first: int, samples: int) -> list[range]:
    return [range(begin, min(begin + BATCH, first + samples)) for begin in range(first, first + samples, BATCH)]


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


def table(bench: Bench, asked: argparse.Namespace) -> str:
    """Distances, and the variances beside them, of each sampler as it was chosen on the seeds apart."""
    heads = f"| sampler | {' | '.join(f'{calls} calls' for calls in asked.calls)} |\n|---|{'---|' * len(asked.calls)}"
    floor, distances, variances = sampling_floor(bench.reference, asked.samples), list[str](), list[str]()
    least: dict[bool, list[list[float]]] = {True: [], False: []}
    for name in _named({**PEERS, **OURS}, asked.only):
        cells = [bench.best(name, calls, asked.grids, asked.tuning) for calls in asked.calls]
        found = [bench.judged(cell, FIRST, asked.samples) for cell in cells]
        least[name in OURS].append([one.frechet for one in found])
        named = [f"{one.frechet:.2f} ({cell.how})" for one, cell in zip(found, cells, strict=True)]
        distances.append(f"| {name} | {' | '.join(named)} |")
        shares = [f"{', '.join(f'{share:.2f}' for share in one.shares)}; {one.spectra:.3f}" for one in found]
        variances.append(f"| {name} | {' | '.join(shares)} |")
    if least[True] and least[False]:
        pairs = [(min(a), min(b)) for a, b in zip(_columns(least[True]), _columns(least[False]), strict=True)]
        ratio = " | ".join(f"{mine / theirs:.2f}" for mine, theirs in pairs)
        beyond = " | ".join(f"{(mine - floor) / (theirs - floor):.2f}" for mine, theirs in pairs)
        distances.append(f"| best of ours over best peer | {ratio} |")
        distances.append(f"| the same, less what a perfect sampler scores | {beyond} |")
    told = f"{asked.samples} samples; as many of a perfect sampler score {floor:.2f}."
    first = [f"Fréchet distance of {told}\n\n{heads}", *distances]
    return "\n".join([*first, f"\nVariances, then spectra:\n\n{heads}", *variances])


def _columns(rows: list[list[float]]) -> list[tuple[float, ...]]:
    return list(zip(*rows, strict=True))


def _named(samplers: Mapping[str, Sampler], parts: list[str]) -> list[str]:
    return [name for name in samplers if not parts or any(part in name for part in parts)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="fashion-mnist", help="a model in the box")
    parser.add_argument("--calls", type=int, nargs="+", default=[5, 8, 10, 20])
    parser.add_argument("--grids", nargs="+", default=["karras", "rho 5", "trailing", "log"])
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--tuning", type=int, default=128, help="samples, of other seeds, that grids are chosen on")
    parser.add_argument("--only", nargs="+", default=[], help="samplers whose name holds one of these")
    parser.add_argument("--out", type=Path, default=Path("runs/ancestral"), help="where what was found is kept")
    parser.add_argument("--write", type=Path, help="a page with the marks of this model's table")
    parser.add_argument("--errors", action="store_true", help="errors of the network over the Gaussian's, and no more")
    asked = parser.parse_args()
    if asked.errors:
        if asked.model != "fashion-mnist":
            words = "--errors is for fashion-mnist, whose states are the images of its data; got"
            raise ValueError(f"{words} {asked.model}.")
        errors(up.load_model(asked.model), up.load_gaussian(asked.model))
        return
    for name in asked.grids:
        if name not in GRIDS:
            raise ValueError(f"There is no grid {name!r} here; choose from {', '.join(GRIDS)}.")
    if not _named({**PEERS, **OURS}, asked.only):
        raise ValueError(f"No sampler is called like {asked.only}; choose from {', '.join((*PEERS, *OURS))}.")
    check_integers(vars(asked), calls=(1, MOST_STEPS), samples=(2, MOST_ITEMS), tuning=(2, MOST_ITEMS))
    marks = f"<!-- stochastic steps of {asked.model} -->", "<!-- end of these steps -->"
    check_page(asked.write, marks)
    check_targets(asked.out / asked.model / "first.safetensors")
    found = table(Bench.of(asked.model, asked.out), asked)
    print(found)
    if asked.write is not None:
        put(found, asked.write, marks)


if __name__ == "__main__":
    with in_a_sentence("ancestral.py"):
        main()
