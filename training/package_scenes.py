"""Put the trained text-to-image model into the box: pipeline in half precision, statistics, sample, reader, card.

    python training/package_scenes.py --run runs/emoji --reader runs/reader

Everything that the card states is measured here: the autoencoder on held-out scenes, how often the reader finds the
prompted objects at three guidance weights, and Fréchet distances in the reader's features.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from autoencoder import HELD_OUT, signal_to_noise, to_network
from diffusers import StableDiffusionPipeline
from loop import facts
from package import in_half, render
from PIL import Image, ImageDraw
from rich.progress import track
from scenes import FONT, NAMES, SPARSE, Painter, scenes
from torch import Tensor

from underpaint import assets
from underpaint.bounds import MOST_ITEMS, check_integers
from underpaint.cli.base import in_a_sentence
from underpaint.data.store import save_gaussian
from underpaint.files import check_targets, replacing, write_text
from underpaint.metrics.features import load_statistics
from underpaint.metrics.frechet import Statistics, frechet_score
from underpaint.metrics.scenes import Reader, load_reader
from underpaint.theory.gaussian import Gaussian
from underpaint.theory.moments import Moments

NAME = "emoji-scenes"
GUIDANCE = (1.0, 3.0, 7.5)
STEPS = 25
#: Principal components kept of each object's covariance; the rest becomes residual variance.
OBJECT_RANK = 32
PROMPTS = (
    "a red apple and a teddy bear on a blue background, red apple on the left",
    "a penguin on white ground under a blue sky",
    "a sunflower on a purple background, sunflower in the middle",
    "a pizza and a cup of coffee on a brown background",
    "a rocket on a background fading from black to purple",
    "a fox and a pine tree on green ground under a grey sky, fox on the right",
    "an octopus and a butterfly on a yellow background",
    "a red heart on a pink background",
    "a snowman and a gift on white ground under a blue sky",
    "a pumpkin and a ghost on a black background, ghost at the top",
    "a school bus on grey ground under an orange sky",
    "a frog on a green background",
)


def write_pipeline(run: Path, home: Path) -> None:
    """U-Net and autoencoder in half precision, with the tokenizer also in the form that older transformers read.

    The text encoder stays in float32: transformers loads what it finds, diffusers float32, and they must meet.
    """
    pipe = StableDiffusionPipeline.from_pretrained(run / "pipeline", safety_checker=None)
    pipe.unet.half()
    pipe.vae.half()
    pipe.scheduler.register_to_config(steps_offset=1)  # as this class expects; trailing spacing does not use it
    for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        shutil.rmtree(home / part, ignore_errors=True)
    pipe.save_pretrained(home)
    model = json.loads((home / "tokenizer" / "tokenizer.json").read_text())["model"]
    write_text(home / "tokenizer" / "vocab.json", json.dumps(model["vocab"], ensure_ascii=False))
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    write_text(home / "tokenizer" / "merges.txt", "\n".join(["#version: 0.2", *merges]) + "\n")
    for path in home.rglob("*.json"):  # where it was made is nobody's business
        content = json.loads(path.read_text())
        if isinstance(content, dict) and content.pop("_name_or_path", None) is not None:
            write_text(path, json.dumps(content, indent=2) + "\n")


def write_sample(painter: Painter, home: Path, count: int) -> None:
    """Scenes of the training set as one compressed array, to fit mixtures and exact scores to."""
    images = np.stack([picture for picture, _, _ in scenes(painter, count, 1, SPARSE)])
    with replacing(home / "sample" / "images.npz") as temporary:
        np.savez_compressed(temporary, images=images)


def encode(pipe: StableDiffusionPipeline, painter: Painter, count: int) -> tuple[Tensor, Tensor]:
    """Rows [N, D] of the scaled latent means of training scenes, and which objects they show [N, K]."""
    scale = pipe.vae.config.scaling_factor
    rows, present, batch = [], torch.zeros(count, len(NAMES), dtype=torch.bool), []
    for number, (picture, _, scene) in enumerate(track(scenes(painter, count, 1, SPARSE), "encoding", count)):
        present[number, [placed.name for placed in scene.objects]] = True
        batch.append(picture)
        if len(batch) == 64 or number == count - 1:
            with torch.no_grad():
                rows.append(scale * pipe.vae.encode(to_network(np.stack(batch))).latent_dist.mode().flatten(1))
            batch.clear()
    return torch.cat(rows), present


def write_statistics(rows: Tensor, present: Tensor, shape: tuple[int, ...], home: Path) -> None:
    """The Gaussian of all latents, with a low-rank one of the scenes that show each object as its classes."""
    parts = {
        name: (int(present[:, k].sum()), in_half(Gaussian.fit(rows[present[:, k]], rank=OBJECT_RANK)))
        for k, name in enumerate(NAMES)
    }
    provenance = {"data": NAME, "count": len(rows), "shape": list(shape), "space": "scaled latents"}
    save_gaussian(home / "gaussian.safetensors", Gaussian.fit(rows), parts, **provenance)


def paint(pipe: StableDiffusionPipeline, prompts: list[str], guidance: float, seed: int, batch: int = 50) -> Tensor:
    """Images [B, 3, H, W] in [0, 1], as any user of diffusers would make them."""
    images = []
    for start in track(range(0, len(prompts), batch), f"guidance {guidance:g}"):
        part = prompts[start : start + batch]
        generators = [torch.Generator().manual_seed(seed + start + i) for i in range(len(part))]
        made = pipe(
            part, guidance_scale=guidance, num_inference_steps=STEPS, generator=generators, output_type="np", eta=0.0
        )
        images.append(torch.from_numpy(made.images).permute(0, 3, 1, 2))
    return torch.cat(images)


def rates(reader: Reader, images: Tensor, present: Tensor) -> dict[str, float]:
    """How many of the prompted objects are found, how often all of them, and how many others."""
    found = reader.read(images).found
    return {
        "objects found": float(found[present].float().mean()),
        "scenes with all": float((found | ~present).all(1).float().mean()),
        "others": float((found & ~present).sum(1).float().mean()),
    }


def sheet(images: Tensor, scale: int = 3, columns: int = 6) -> Image.Image:
    """12 prompts as a grid of two rows for each guidance weight; images [G, 12, 3, H, W]."""
    size = images.shape[-1] * scale
    label, rows = 22, images.shape[1] // columns
    canvas = Image.new("RGB", (columns * size, images.shape[0] * (rows * size + label)), "white")
    pen = ImageDraw.Draw(canvas)
    for g, (guidance, block) in enumerate(zip(GUIDANCE, images, strict=True)):
        top = g * (rows * size + label)
        pen.text((4, top + 4), f"guidance {guidance:g}", fill="black", font_size=13)
        for i, image in enumerate(block):
            picture = Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())
            place = (i % columns * size, top + label + i // columns * size)
            canvas.paste(picture.resize((size, size), Image.Resampling.NEAREST), place)
    return canvas


def measure(pipe: StableDiffusionPipeline, reader: Reader, painter: Painter, home: Path, count: int) -> dict[str, Any]:
    """Everything that the card states, on held-out scenes and their captions."""
    held = list(scenes(painter, count, HELD_OUT, SPARSE))
    images = torch.from_numpy(np.stack([picture for picture, _, _ in held])).permute(0, 3, 1, 2).float() / 255
    present = torch.zeros(count, len(NAMES), dtype=torch.bool)
    for row, (_, _, scene) in zip(present, held, strict=True):
        row[[placed.name for placed in scene.objects]] = True
    reference = load_statistics("test", home / "classifier")

    def frechet(pictures: Tensor) -> float:
        with torch.no_grad():
            features = torch.cat([reader.network.features(2 * part - 1) for part in pictures.split(256)])
        return frechet_score(Statistics.of(Moments.of(features), reader.name), reference).value

    with torch.no_grad():
        coded = [pipe.vae.decode(pipe.vae.encode(2 * part - 1).latent_dist.mode()).sample for part in images.split(64)]
    decoded = (torch.cat(coded).clamp(-1, 1) + 1) / 2
    measured: dict[str, Any] = {"count": count, "steps": STEPS, "scheduler": type(pipe.scheduler).__name__}
    measured["decibels"] = signal_to_noise(pipe.vae, painter)
    for name, pictures in (("scenes", images), ("autoencoded", decoded)):
        measured[name] = rates(reader, pictures, present) | {"frechet": frechet(pictures)}
    captions = [caption for _, caption, _ in held]
    for guidance in GUIDANCE:
        made = paint(pipe, captions, guidance, seed=0)
        measured[f"guidance {guidance:g}"] = rates(reader, made, present) | {"frechet": frechet(made)}
    measured["by object"] = {
        name: float(reader.read(made).found[present[:, k], k].float().mean())
        for k, name in enumerate(NAMES)
        if bool(present[:, k].any())
    }
    grid = torch.stack([paint(pipe, list(PROMPTS), guidance, seed=100) for guidance in GUIDANCE])
    with replacing(home / "prompts.png") as temporary:
        sheet(grid).save(temporary, format="PNG", optimize=True)
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--reader", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(assets.__file__).parent / NAME)
    parser.add_argument("--scenes", type=int, default=20_000, help="scenes behind the statistics of latents")
    parser.add_argument("--sample", type=int, default=3000, help="scenes in the box")
    parser.add_argument("--count", type=int, default=300, help="held-out captions that the model is measured on")
    parser.add_argument("--font", type=Path, default=FONT)
    args = parser.parse_args()
    check_integers(vars(args), **dict.fromkeys(("scenes", "sample", "count"), (1, MOST_ITEMS)))
    check_targets(args.out / "README.md")

    record = json.loads((args.run / "training.json").read_text())
    coder = json.loads((args.run.parent / "autoencoder" / "training.json").read_text())
    write_pipeline(args.run, args.out)
    shutil.rmtree(args.out / "classifier", ignore_errors=True)
    shutil.copytree(args.reader / "reader", args.out / "classifier")
    pipe = StableDiffusionPipeline.from_pretrained(args.out, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    painter = Painter(pipe.vae.config.sample_size, args.font)
    write_sample(painter, args.out, args.sample)
    rows, present = encode(pipe, painter, args.scenes)
    latent = (pipe.unet.config.in_channels, pipe.unet.config.sample_size, pipe.unet.config.sample_size)
    write_statistics(rows, present, latent, args.out)
    measured = measure(pipe, load_reader(args.out / "classifier"), painter, args.out, args.count)
    write_text(args.out / "measured.json", json.dumps(measured, indent=2) + "\n")
    notes = {"name": NAME, "data": NAME, "prompts": PROMPTS, "range": [-1, 1]}
    notes["training"] = facts(record) | {"scenes": record["scenes"]}
    notes["training"]["autoencoder"] = facts(coder) | {"pull": coder["pull"]}
    write_text(args.out / "underpaint.json", json.dumps(notes, indent=2) + "\n")
    parts = {"unet": pipe.unet, "vae": pipe.vae, "text_encoder": pipe.text_encoder}
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    write_text(args.out / "README.md", render(
        "scenes_card.md.j2", record=record, parts=[*record["earlier"], record], coders=[*coder["earlier"], coder],
        measured=measured, counts=counts, objects=NAMES,
        classifier=json.loads((args.out / "classifier" / "config.json").read_text()), scenes=args.scenes,
        sample=args.sample, prompts=PROMPTS, rank=OBJECT_RANK, guidance=GUIDANCE,
    ))  # fmt: skip
    megabytes = sum(path.stat().st_size for path in args.out.rglob("*") if path.is_file()) / 1e6
    print(json.dumps(measured, indent=1), f"\n{megabytes:.1f} MB in {args.out.name}")


if __name__ == "__main__":
    with in_a_sentence("package_scenes.py"):
        main()
