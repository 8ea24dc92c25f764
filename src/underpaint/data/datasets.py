"""Images in memory, as rows in [-1, 1]: what a `Source` gives, gathered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from .npy import check_room
from .sources import open_source
from .stream import Source, check_range

#: Numbers that are read at once.
_BLOCK = 2**24


@dataclass(frozen=True, eq=False)
class ImageData:
    """Images [N, C, H, W], uint8 or floating in [-1, 1], with labels [N] if known, -1 for an image without.

    ``source`` says in words where they are from, what was done to them and how many were left out; reports print it.
    ``classes`` names the labels; ``left_out`` has a sentence for each item that could not be read.
    """

    images: Tensor
    name: str
    source: str
    labels: Tensor | None = None
    classes: Mapping[int, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    def __repr__(self) -> str:
        labels = "no labels" if self.labels is None else f"{len(self.classes) or 'unnamed'} classes"
        return f"ImageData({self.name}, {len(self)} images {' x '.join(map(str, self.shape))}, {labels})"

    @property
    def shape(self) -> tuple[int, int, int]:
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, index: slice | Tensor | None = None) -> Tensor:
        """Images as float32 rows [N, D] in [-1, 1]; bytes b become b/127.5 - 1."""
        images = self.images if index is None else self.images[index]
        rows = images.flatten(1)
        return rows.float() / 127.5 - 1 if rows.dtype == torch.uint8 else rows.float()

    def batches(self, size: int = 4096) -> Iterator[Tensor]:
        """The rows in order, ``size`` at a time, for one pass in bounded memory."""
        return (self.rows(slice(start, start + size)) for start in range(0, len(self), size))

    def take(self, count: int, seed: int = 0) -> ImageData:
        """``count`` images drawn without replacement, or all of them if there are no more."""
        if count >= len(self):
            return self
        return self.picked(torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))[:count])

    def picked(self, index: Tensor) -> ImageData:
        """The images at some indices."""
        return replace(self, images=self.images[index], labels=None if self.labels is None else self.labels[index])


def load_data(
    source: str | Path = "fashion-mnist",
    split: str = "train",
    shape: tuple[int, int, int] | None = None,
    column: str | None = None,
    labels: bool = True,
) -> ImageData:
    """Load images into memory, by name or from anything that `open_source` opens, by its rules.

    Args:
        source: a name in the box, or a place; see `open_source`.
        split: of data that have several; data without splits are taken for training data.
        shape: (C, H, W) that pictures are brought to: centre crop to its aspect, Lanczos resize, grey or RGB.
        column: of tables, and of tar shards with several pictures under one name.
        labels: whether to read labels.

    Raises:
        ValueError: as `open_source`; no images, images of another shape, values outside [-1, 1], or more than the
            memory of this machine holds.

    Examples:
        >>> import tempfile
        >>> import numpy
        >>> import underpaint as up
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pictures = numpy.zeros((10, 8, 8, 3), dtype=numpy.uint8)
        ...     numpy.save(f"{folder}/pictures.npy", pictures)
        ...     data = up.load_data(f"{folder}/pictures.npy")
        ...
        >>> data.images.shape
        torch.Size([10, 3, 8, 8])
        >>> data.rows(slice(0, 2)).shape
        torch.Size([2, 192])
    """
    size = None if shape is None else (shape[1], shape[2])
    mode = None if shape is None else {1: "L", 3: "RGB"}.get(shape[0])
    data = gather(open_source(source, size, mode, split, column, labels))
    if shape is not None and data.shape != tuple(shape):
        raise ValueError(
            f"{data.name} holds images of shape {data.shape}, but {tuple(shape)} is needed; give data of that kind."
        )
    return data


def gather(source: Source) -> ImageData:
    """All images of a source that can be read.

    Raises:
        ValueError: it holds other than images in [-1, 1], none can be read, or they do not fit into memory.
    """
    if len(source.shape) != 3 or source.shape[0] not in (1, 3):
        raise ValueError(f"{source.name} holds {source.origin} of shape {source.shape}; expected images, grey or RGB.")
    check_room(source.count * source.dimension, f"The {source.count:,} {source.origin}")
    images, labels, bad = torch.empty(0), list[Tensor](), list[str]()
    count = 0
    for chunk in source.chunks(max(1, min(source.step, _BLOCK // source.dimension))):
        if len(chunk.data):
            if not count:
                images = torch.empty(source.count, *source.shape, dtype=chunk.data.dtype)
            images[count : count + len(chunk.data)] = chunk.data
            count += len(chunk.data)
        labels += [] if chunk.labels is None else [chunk.labels]
        bad += chunk.bad
    if not count:
        why = bad[0] if bad else "they are empty"
        raise ValueError(f"None of the {source.count:,} items of {source.name} can be used ({why}).")
    images = images[:count]
    if images.is_floating_point():
        check_range(float(images.min()), float(images.max()), source.name)
    known = torch.cat(labels) if labels else None
    return ImageData(images, source.name, _told(source, count, known, bad), known, source.classes, tuple(bad))


def _told(source: Source, count: int, labels: Tensor | None, bad: list[str]) -> str:
    origin = source.origin.replace("images", "image", 1) if count == 1 else source.origin
    words = f"{count:,} {origin}" + (f" ({source.taken})" if source.taken else "")
    without = 0 if labels is None else int((labels < 0).sum())
    words += f"; {without:,} without a label" if without else ""
    return words + (f"; {len(bad):,} left out (the first: {bad[0]})" if bad else "")
