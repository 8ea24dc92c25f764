"""Train the reader of emoji scenes that ships with the text-to-image model: which object covers which cell.

    python training/reader.py --out runs/reader --minutes 8

Half of each batch is blurred or noisy, since the reader is to look at unfinished pictures too. Held-out scenes are used
once, at the end, for the share of cells and of objects that it reads rightly.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from loop import add_options, read_settings, train
from scenes import FONT, NAMES, Painter, Scene, draw_scene
from torch import Tensor
from torch.nn.functional import avg_pool2d, cross_entropy, interpolate

from underpaint.bounds import check_integers
from underpaint.cli.base import in_a_sentence
from underpaint.files import write_text
from underpaint.metrics.scenes import CELL, Reader, SceneReader, save_reader
from underpaint.theory.moments import Moments

#: A cell belongs to an object that covers this share of it.
COVERED = 0.3
HELD_OUT = 9_999_998
#: Objects are a tenth of the cells of a scene or so; without a weight the reader learns them late.
WEIGHT = 4.0


def cells(painter: Painter, scene: Scene) -> np.ndarray:
    """Class of each cell [h, w], 0 for background."""
    classes = np.zeros((painter.size // CELL,) * 2, np.int64)
    for placed in scene.objects:
        cover = painter.cover(placed).reshape(len(classes), CELL, len(classes), CELL).mean((1, 3))
        classes[cover > COVERED] = 1 + placed.name
    return classes


def draw(painter: Painter, count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images [B, 3, H, W] in [-1, 1], classes of cells [B, h, w], presence of objects [B, K]."""
    rng = np.random.default_rng(seed)
    drawn = [draw_scene(rng) for _ in range(count)]
    images = (
        torch.from_numpy(np.stack([painter.paint(scene) for scene in drawn])).permute(0, 3, 1, 2).float() / 127.5 - 1
    )
    present = torch.zeros(count, len(NAMES), dtype=torch.bool)
    for row, scene in zip(present, drawn, strict=True):
        row[[placed.name for placed in scene.objects]] = True
    return images, torch.from_numpy(np.stack([cells(painter, scene) for scene in drawn])), present


def spoil(images: Tensor, generator: torch.Generator) -> Tensor:
    """The second half blurred by two pixels and made noisy."""
    half = len(images) // 2
    blurred = interpolate(avg_pool2d(images[half:], 2), scale_factor=2, mode="bilinear")
    return torch.cat(
        [images[:half], blurred + 0.1 * torch.randn(blurred.shape, generator=generator, device=blurred.device)]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, minutes=8.0, rate=3e-3, batch=64)
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--font", type=Path, default=FONT)
    args = parser.parse_args()
    check_integers(vars(args), size=(8, 4096))
    settings = read_settings(args)

    painter = Painter(args.size, args.font)
    network = SceneReader(len(NAMES))
    weight = torch.full((1 + len(NAMES),), WEIGHT)
    weight[0] = 1.0
    weight = weight.to(settings.device)

    def loss(generator: torch.Generator) -> Tensor:
        place = generator.device
        seed = int(torch.randint(HELD_OUT, (), generator=generator, device=place))
        images, classes, _ = (part.to(place) for part in draw(painter, settings.part, seed))
        return cross_entropy(network(spoil(images, generator)), classes, weight)

    record = train(network, loss, args.out, settings)
    network.cpu().eval()
    reader = Reader(network, NAMES, f"emoji-reader-{len(NAMES)}")
    splits = {}
    for split, seed in (("train", HELD_OUT + 10), ("test", HELD_OUT)):
        images, classes, present = draw(painter, 4000, seed)
        splits[split] = Moments.of(torch.cat([network.features(part).detach() for part in images.split(500)]))
    reading = reader.read((images + 1) / 2)
    measured = {
        "cells": float((reading.cells == classes).float().mean()),
        "object cells": float((reading.cells == classes)[classes > 0].float().mean()),
        "objects found": float(reading.found[present].float().mean()),
        "objects seen that are not there": float((reading.found & ~present).sum(1).float().mean()),
    }
    save_reader(args.out / "reader", reader, splits, steps=record["steps"], measured=measured)
    write_text(args.out / "measured.json", json.dumps(measured))
    print(json.dumps(measured))


if __name__ == "__main__":
    with in_a_sentence("reader.py"):
        main()
