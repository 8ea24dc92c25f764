"""Reads emoji scenes: which object covers which cell of a picture, so that layout and identity can be measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..files import read_json, read_tensors, write_tensors, write_text
from ..theory.moments import Moments
from .features import FeatureSet, save_statistics

#: A cell is four pixels wide, and an object counts as found where it covers this many cells.
CELL, FOUND_CELLS = 4, 4


class SceneReader(nn.Module):
    """Convolutional network from images [B, 3, H, W] in [-1, 1] to logits [B, 1 + K, H/4, W/4]; class 0 is background.

    Two poolings bring it to cells; three 3x3 convolutions there see an object whole. Its features, the last hidden
    layer's mean over space, serve as a space for Fréchet distances.
    """

    def __init__(self, objects: int, widths: Sequence[int] = (24, 48, 96, 96, 64)) -> None:
        super().__init__()
        self.objects, self.widths = objects, tuple(widths)
        blocks: list[nn.Module] = []
        for index, (before, width) in enumerate(zip((3, *self.widths), self.widths, strict=False)):
            spread = 2 if index >= 2 else 1
            blocks.append(nn.Conv2d(before, width, 3, padding=spread, dilation=spread, bias=False))
            if index < 2:
                blocks.append(nn.MaxPool2d(2))  # ahead of the normalisation, which then costs a quarter
            blocks += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Conv2d(self.widths[-1], 1 + objects, 1)

    def features(self, images: Tensor) -> Tensor:
        """[B, F], >= 0."""
        return self.blocks(images).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.blocks(images))


@dataclass(frozen=True, eq=False)
class Reading:
    """What a reader saw in B images: the most likely class of each cell [B, h, w], 0 for background."""

    cells: Tensor
    objects: tuple[str, ...]

    @property
    def layout(self) -> Tensor:
        """Where there is an object, [B, h, w] bool."""
        return self.cells > 0

    @property
    def found(self) -> Tensor:
        """Which objects are there, [B, K] bool: those that cover `FOUND_CELLS` cells or more."""
        flat = self.cells.flatten(1)
        counts = torch.zeros(len(flat), len(self.objects) + 1, dtype=torch.long, device=flat.device)
        return counts.scatter_add_(1, flat, torch.ones_like(flat))[:, 1:] >= FOUND_CELLS

    def names(self) -> list[list[str]]:
        """The objects found in each image, in words."""
        return [[self.objects[int(k)] for k in row.nonzero()] for row in self.found]


@dataclass(frozen=True, eq=False)
class Reader:
    """A trained reader with the names of its objects."""

    network: SceneReader
    objects: tuple[str, ...]
    name: str = "scene-reader"
    shape: tuple[int, int, int] = (3, 48, 48)

    @property
    def space(self) -> FeatureSet:
        """Its features, for Fréchet distances."""
        return FeatureSet(self.name, self.network.features, self.shape)

    @torch.no_grad()
    def read(self, images: Tensor, batch: int = 256) -> Reading:
        """Read images [B, 3, H, W] in [0, 1], a batch at a time.

        Raises:
            ValueError: the images are not [B, 3, H, W] with edges that are multiples of four.
        """
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] % CELL or images.shape[3] % CELL:
            raise ValueError(
                f"A scene reader takes images [B, 3, H, W] edges multiples of 4, got {tuple(images.shape)}."
            )
        parts = [self.network(2 * part - 1).argmax(1) for part in images.split(batch)]
        return Reading(torch.cat(parts), self.objects)


def load_reader(folder: str | Path) -> Reader:
    """The reader in a folder (config.json, model.safetensors), in evaluation mode.

    Raises:
        ValueError: a file is missing, truncated, or does not fit the other.
    """
    config, weights = read_json(Path(folder) / "config.json"), read_tensors(Path(folder) / "model.safetensors")
    try:
        objects = tuple(config["objects"])
        network = SceneReader(len(objects), **config["architecture"])
        network.load_state_dict(weights)
    except (KeyError, RuntimeError, TypeError) as error:
        raise ValueError(f"The weights in {folder} do not fit its config.json; fetch both again.") from error
    shape = tuple(config.get("shape", (3, 48, 48)))
    return Reader(network.eval(), objects, config.get("name", "scene-reader"), shape)


def save_reader(folder: str | Path, reader: Reader, splits: dict[str, Moments], **facts: object) -> None:
    """Write what `load_reader` reads, and the moments of its features as `features.load_statistics` reads them."""
    folder = Path(folder)
    write_tensors(folder / "model.safetensors", reader.network.state_dict(), {"name": reader.name})
    save_statistics(folder, splits, reader.name)
    architecture = {"widths": reader.network.widths}
    config: dict[str, object] = {
        "name": reader.name,
        "architecture": architecture,
        "objects": reader.objects,
        "shape": reader.shape,
    }
    config |= facts
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
