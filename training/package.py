"""Put a trained Fashion-MNIST denoiser into the box: half-precision weights, statistics, sample of the data, model
card.

    python training/package.py --run runs/fashion [--samples 5000] [--no-card]

Everything that the card states is measured here: loss by noise level on the test split, and Fréchet distances to the
test split in the feature space of the boxed classifier (training/classifier.py makes it, and must have run first).
"""

from __future__ import annotations

import argparse
import gzip
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, FileSystemLoader
from loop import facts
from rich.progress import track
from safetensors.torch import load_file
from torch import Tensor

from underpaint import assets
from underpaint.analysis.agreement import along
from underpaint.bounds import MOST_ITEMS, MOST_STEPS, check_integers
from underpaint.cli.base import in_a_sentence
from underpaint.data.datasets import ImageData, load_data
from underpaint.data.store import save_gaussian
from underpaint.files import check_targets, replacing, write_tensors, write_text
from underpaint.metrics.features import FeatureSet, load_features
from underpaint.metrics.frechet import Statistics
from underpaint.models.model import Model
from underpaint.models.networks.diffusers import load_pixel_model
from underpaint.noise import NoiseLevel
from underpaint.recipes.shared.request import Conditioning, find_denoiser
from underpaint.sampling.solvers import dpmpp_2m
from underpaint.sampling.trajectory import initial_noise, sample
from underpaint.sampling.use import in_turn
from underpaint.theory.cloud import PointCloud
from underpaint.theory.denoiser import Denoiser
from underpaint.theory.gaussian import Gaussian
from underpaint.theory.mixture import Mixture

NAME = "fashion-mnist"
BOX = Path(assets.__file__).parent / NAME
HIGH_NOISE = 10.0
CARD_TIMES = (20, 100, 200, 300, 400, 600, 800, 999)


def write_weights(run: Path, home: Path, notes: dict) -> None:
    """The averaged network in half precision with the configs that diffusers reads, and our notes."""
    config = json.loads((run / "network" / "config.json").read_text())
    config.pop("_name_or_path", None)
    weights = load_file(run / "network" / "diffusion_pytorch_model.safetensors")
    write_tensors(home / "unet" / "diffusion_pytorch_model.safetensors", {k: v.half() for k, v in weights.items()}, {})
    write_text(home / "unet" / "config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")
    scheduler = {
        "_class_name": "DDIMScheduler",
        "_diffusers_version": config["_diffusers_version"],
        "beta_schedule": "linear",
        "beta_start": 1e-4,
        "beta_end": 0.02,
        "clip_sample": False,
        "num_train_timesteps": 1000,
        "prediction_type": "v_prediction",
        "set_alpha_to_one": True,
        "timestep_spacing": "linspace",
    }
    index = {
        "_class_name": "DDIMPipeline",
        "_diffusers_version": config["_diffusers_version"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    }
    for path, content in (
        ("scheduler/scheduler_config.json", scheduler),
        ("model_index.json", index),
        ("underpaint.json", notes),
    ):
        write_text(home / path, json.dumps(content, indent=2) + "\n")


def write_sample(data: ImageData, home: Path, count: int = 10_000) -> None:
    """The first images and labels of the training split as gzipped idx files."""
    assert data.labels is not None
    images, labels = data.images[:count, 0].contiguous(), data.labels[:count].to(torch.uint8)
    for kind, code, array in (("images-idx3", 3, images), ("labels-idx1", 1, labels)):
        header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, code, *array.shape)
        with replacing(home / "sample" / f"train-10k-{kind}-ubyte.gz") as temporary:
            temporary.write_bytes(gzip.compress(header + array.numpy().tobytes(), 9, mtime=0))


def losses(denoise: Denoiser, levels: Sequence[NoiseLevel], rows: Tensor, seed: int = 0) -> list[float]:
    """Mean squared error of the denoised image, per pixel, at each of some levels."""
    noise = torch.randn(rows.shape, generator=torch.Generator().manual_seed(seed))
    found = []
    for level in track(levels, "loss by level"):
        alpha, sigma = level.columns(rows)
        found.append(float((denoise(alpha * rows + sigma * noise, level) - rows).square().mean()))
    return found


def generate(
    model: Model, count: int, steps: int, batch: int = 250, cases: Sequence[Conditioning] = (), first: int = 0
) -> Tensor:
    """Samples [N, D] for ``count`` seeds from ``first`` on: unconditional ones, or each in the case of its turn."""
    level, end, parts = model.schedule.grid(steps), first + count, []
    for start in track(range(first, end, batch), f"sampling {count}"):
        seeds = range(start, min(start + batch, end))
        denoise = in_turn([find_denoiser(model, case) for case in cases], seeds) if cases else model
        x = initial_noise(seeds, model.dimension, level[0])
        parts.append(sample(denoise, x, level, dpmpp_2m, every=steps).final)
    return torch.cat(parts).clamp(-1, 1)


def theory_samples(gaussian: Gaussian, mixture: Mixture, train: ImageData, count: int) -> dict[str, Tensor]:
    """What a network is compared with: samples of the data's Gaussian and mixture, and some training images."""
    generator = torch.Generator().manual_seed(0)
    return {
        "gaussian": gaussian.sample(count, generator).clamp(-1, 1),
        "mixture": mixture.sample(count, generator).clamp(-1, 1),
        "train": train.take(count).rows(),
    }


def distances(samples: Mapping[str, Tensor], space: FeatureSet, reference: Statistics) -> dict[str, float]:
    """Fréchet distance of each of some samples to a reference."""
    return {name: space.score(x, reference).value for name, x in samples.items()}


def explained_at_high_noise(
    model: Model, train: ImageData, gaussian: Gaussian, count: int = 64, steps: int = 50
) -> dict[str, float]:
    """Share of the variance of the network's denoised image about the data mean that the exact score and the Gaussian
    explain, along ``count`` of its own trajectories, over all levels of sigma/alpha >= 10 together."""
    level, rows = model.schedule.grid(steps), train.rows()
    high = int((level.ratio >= HIGH_NOISE).sum())
    path = sample(model, initial_noise(range(count), model.dimension, level[0]), level[: high + 1], dpmpp_2m)
    cloud = PointCloud(rows)
    about = (path.denoised - cloud.mean).double().square().sum()
    left = {
        name: (path.denoised - along(path, analytic)).double().square().sum()
        for name, analytic in (("exact", cloud), ("gaussian", gaussian))
    }
    return {name: float(1 - error / about) for name, error in left.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=BOX, help="by default the box")
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--no-card", action="store_true", help="only the files; the card keeps what it says")
    args = parser.parse_args()
    check_integers(vars(args), samples=(2, MOST_ITEMS), steps=(1, MOST_STEPS))
    check_targets(args.out / "README.md")

    record = json.loads((args.run / "training.json").read_text())
    train, test = load_data(NAME), load_data(NAME, "test")
    if len(train) != 60_000:
        raise ValueError(f"The complete training split is needed, found {len(train)} images.")
    notes = {"name": NAME, "data": NAME, "pixel_unshuffle": 2, "null_class": 10, "range": [-1, 1]}
    notes["training"] = facts(record)
    write_weights(args.run, args.out, notes)
    write_sample(train, args.out)
    provenance = {"data": NAME, "split": "train", "count": len(train), "range": [-1, 1], "shape": list(train.shape)}
    gaussian = Gaussian.fit(train.batches())
    save_gaussian(args.out / "gaussian.safetensors", gaussian, **provenance)
    if args.no_card:
        return
    assert train.labels is not None
    model, space = load_pixel_model(args.out), load_features(BOX / "classifier")
    samples = {"network": generate(model, args.samples, args.steps)}
    samples |= theory_samples(gaussian, Mixture.fit(train.rows(), train.labels), train, args.samples)
    levels = [model.schedule(float(t)) for t in CARD_TIMES]
    measured = {
        "loss": dict(zip(CARD_TIMES, losses(model, levels, test.rows()), strict=True)),
        "explained": explained_at_high_noise(model, train, gaussian),
        "frechet": distances(samples, space, space.statistics(test.rows())),
        "features": space.name,
        "samples": args.samples,
        "steps": args.steps,
    }
    write_text(args.out / "measured.json", json.dumps(measured, indent=2) + "\n")
    write_text(args.out / "README.md", card(record, measured, model))


def in_half(gaussian: Gaussian) -> Gaussian:
    """A Gaussian whose basis is in half precision, which turns its directions by less than a thousandth."""
    return Gaussian(gaussian.mean, gaussian.covariance.to(dtype=torch.float16))


def render(template: str, **values: Any) -> str:
    """A card from a template of this folder."""
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), keep_trailing_newline=True)
    return environment.get_template(template).render(**values)


def card(record: dict, measured: dict, model: Model) -> str:
    """The model card, every number from the training record or measured above."""
    ratios = NoiseLevel.join(*(model.schedule(float(t)) for t in measured["loss"])).ratio.tolist()
    return render(
        "card.md.j2",
        record=record,
        parts=[*record["earlier"], record],
        measured=measured,
        losses=[(t, ratio, loss) for (t, loss), ratio in zip(measured["loss"].items(), ratios, strict=True)],
        parameters=sum(p.numel() for p in model.network.parameters()),
    )


if __name__ == "__main__":
    with in_a_sentence("package.py"):
        main()
