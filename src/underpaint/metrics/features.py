"""Feature spaces for the Frechet distance: a small classifier in the box, and one interface to any other."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..devices import Device, find_device
from ..files import read_json, read_tensors, write_tensors, write_text
from ..theory.moments import Moments, check_rows
from .frechet import FrechetScore, Statistics, frechet_score

#: The classifier of Fashion-MNIST in the box; its model card is in the folder.
FASHION = Path(__file__).parents[1] / "assets" / "fashion-mnist" / "classifier"


class SmallClassifier(nn.Module):
    """Convolutional classifier of images [B, C, H, W] in [-1, 1], grey or RGB.

    Each width is one block of 3x3 convolution, batch normalisation and ReLU; the first two blocks halve the image. The
    features are the last block's mean over space. They are few on purpose: the bias of a Frechet distance grows with
    their number, and 64 serve for some hundred samples.
    """

    def __init__(self, widths: Sequence[int] = (32, 64, 96, 64), classes: int = 10, channels: int = 1) -> None:
        super().__init__()
        self.widths, self.classes, self.channels = tuple(widths), classes, channels
        blocks: list[nn.Module] = []
        for index, (before, width) in enumerate(zip((channels, *self.widths), self.widths, strict=False)):
            blocks.append(nn.Conv2d(before, width, 3, padding=1, bias=False))
            if index < 2:
                blocks.append(nn.MaxPool2d(2))  # ahead of the normalisation, which then costs a quarter
            blocks += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(self.widths[-1], classes)

    def features(self, x: Tensor) -> Tensor:
        """The penultimate layer, [B, F] and >= 0."""
        return self.blocks(x).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes]."""
        return self.head(self.features(x))


@dataclass(frozen=True)
class FeatureSet:
    """A named map from images, as rows [N, D] in [-1, 1], to features [N, F].

    ``network`` takes images [B, *shape], on its ``device``, and must be in evaluation mode. Rows are clamped to [-1, 1]
    first, as saving them as images would do, so that all numbers of one feature space are alike.
    """

    name: str
    network: Callable[[Tensor], Tensor]
    shape: tuple[int, ...] = (1, 28, 28)
    batch: int = 500
    device: torch.device | None = None

    @torch.no_grad()
    def extract(self, rows: Tensor) -> Tensor:
        """Features [N, F] of rows [N, D], where the rows are; a batch at a time, whatever N.

        Raises:
            ValueError: the rows are not finite floating rows of this dimension, or there are none.
        """
        check_rows(rows, math.prod(self.shape))
        if not len(rows):
            raise ValueError("Features need at least one row; got none.")
        return torch.cat([self._seen(part).to(rows.device) for part in rows.split(self.batch)])

    def _seen(self, rows: Tensor) -> Tensor:
        return self.network(rows.to(self.device or rows.device).clamp(-1, 1).unflatten(1, self.shape))

    def statistics(self, rows: Tensor) -> Statistics:
        """Mean and covariance of the features of rows [N, D], N >= 2, with the name of this space."""
        return Statistics.of(Moments.of(self.extract(rows)), self.name)

    def score(self, rows: Tensor, reference: Statistics) -> FrechetScore:
        """Frechet distance of rows [N, D] from a reference of this space."""
        return frechet_score(self.statistics(rows), reference)


def _config(folder: str | Path) -> dict[str, Any]:
    path = Path(folder) / "config.json"
    config = read_json(path)
    if not isinstance(config.get("name"), str) or not isinstance(config.get("architecture"), dict):
        raise ValueError(
            f"{path} is not the config of a classifier: expected a name and an architecture, got {list(config)}."
        )
    return config


def load_classifier(folder: str | Path = FASHION) -> SmallClassifier:
    """The classifier in a folder (config.json, model.safetensors), in float32 and evaluation mode.

    Raises:
        ValueError: a file is missing, truncated, or does not fit the other.
    """
    config, weights = _config(folder), read_tensors(Path(folder) / "model.safetensors")
    try:
        network = SmallClassifier(**config["architecture"])
        network.load_state_dict(weights)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"The weights in {folder} do not fit its config.json; fetch both again.") from error
    return network.eval()


def load_features(folder: str | Path = FASHION, device: Device | None = None) -> FeatureSet:
    """The feature space of the classifier in a folder, named by its config; raises as `load_classifier` does."""
    there = find_device(device)
    network, config = load_classifier(folder).to(there), _config(folder)
    shape = tuple(config.get("shape", (network.channels, 28, 28)))
    return FeatureSet(config["name"], network.features, shape, device=there)


def load_statistics(split: str = "test", folder: str | Path = FASHION) -> Statistics:
    """The stored feature statistics of a data split, 'train' or 'test', so that no data are needed.

    Raises:
        ValueError: features.safetensors is missing or truncated, or has no such split.
    """
    path = Path(folder) / "features.safetensors"
    stored = read_tensors(path)
    splits = sorted({name.split(".")[0] for name in stored})
    if split not in splits:
        raise ValueError(f"No split {split!r} in {path}; choose one of {', '.join(splits)}.")
    moments = Moments(int(stored[f"{split}.count"]), stored[f"{split}.mean"], stored[f"{split}.scatter"])
    return Statistics.of(moments, _config(folder)["name"])


def save_classifier(
    folder: str | Path,
    network: SmallClassifier,
    name: str,
    splits: dict[str, Moments],
    shape: tuple[int, ...] = (1, 28, 28),
    **facts: object,
) -> None:
    """Write what `load_classifier`, `load_features` and `load_statistics` read; ``facts`` go into config.json.

    ``name`` is the name of the feature space, ``splits`` the moments of its features on each data split, ``shape`` that
    of the images.
    """
    folder = Path(folder)
    write_tensors(folder / "model.safetensors", network.state_dict(), {"name": name})
    save_statistics(folder, splits, name)
    architecture = {"widths": network.widths, "classes": network.classes, "channels": network.channels}
    config = {"name": name, "architecture": architecture, "shape": shape, **facts}
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")


def save_statistics(folder: str | Path, splits: dict[str, Moments], name: str) -> None:
    """Write the moments of features on each data split, as `load_statistics` reads them."""
    stored: dict[str, Tensor] = {}
    for split, moments in splits.items():
        stored[f"{split}.count"] = torch.tensor(moments.count)
        stored[f"{split}.mean"], stored[f"{split}.scatter"] = moments.mean, moments.scatter
    write_tensors(Path(folder) / "features.safetensors", stored, {"name": name})
