"""Data of any size as rows that are read a stretch at a time, from any place in them: what statistics stream over."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

#: How bytes are taken, in words.
BYTES = "bytes b as b/127.5 - 1 in [-1, 1]"
#: Pixels may lie so far outside [-1, 1], by rounding.
SLACK = 1e-3


@dataclass(frozen=True, eq=False)
class Chunk:
    """What was read of a range: images [n, C, H, W] or rows [n, D], bytes or floats; labels [n] where there are any, -1
    for an item without; a sentence for each item that could not be read."""

    data: Tensor
    labels: Tensor | None = None
    bad: tuple[str, ...] = ()

    @property
    def values(self) -> Tensor:
        """The data in float32; bytes b become b/127.5 - 1."""
        return self.data.float() / 127.5 - 1 if self.data.dtype == torch.uint8 else self.data.float()


@dataclass(frozen=True, eq=False)
class Source:
    """``count`` items of one shape, (C, H, W) or (D,). ``read(start, stop)`` gives those of a range that can be read,
    so that work over them can be cut into fixed chunks, shared among machines and resumed.

    Attributes:
        classes: label -> name; empty where there are no labels.
        handling: what is done to the items, and what range their values lie in, in words.
        step: how many items may be read at once; fewer than the usual thousands where each takes long to make.
        space: name of the feature space, where the items are features.
        origin: what the items are, in words that follow their number.
        taken: what was chosen among the data and done to them, where it was not the only choice; part of ``handling``.
        pixels: whether the items are pixels, grey or RGB, and neither latents nor other rows.
        identity: changes when the items do (their names, sizes and handling; contents are not read for it), so that
            work is resumed on the same data only.
    """

    name: str
    shape: tuple[int, ...]
    count: int
    read: Callable[[int, int], Chunk]
    identity: str
    handling: str
    classes: Mapping[int, str] = field(default_factory=dict)
    step: int = 8192
    space: str = ""
    origin: str = "items"
    taken: str = ""
    pixels: bool = False

    def noted(self, *words: str) -> Source:
        """The same source with more words on what was taken; empty ones are passed over."""
        said = [word for word in words if word]
        taken, handling = "; ".join([*filter(None, [self.taken]), *said]), "; ".join([*said, self.handling])
        return replace(self, taken=taken, handling=handling)

    @property
    def dimension(self) -> int:
        return torch.Size(self.shape).numel()

    def chunks(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[Chunk]:
        """The chunks of ``size`` items from number ``start`` to before ``stop``, in order."""
        end = self.count if stop is None else min(self.count, stop * size)
        return (self.read(first, min(first + size, end)) for first in range(start * size, end, size))

    def encoded(self, encode: Callable[[Tensor], Tensor], shape: tuple[int, ...], how: str, step: int = 1024) -> Source:
        """The rows [n, D] that ``encode`` makes of images [n, C, H, W] in [-1, 1], such as an autoencoder's latents;
        ``how`` names it. Images are read a few at a time, since they can be much larger than what is made of them."""
        few = max(1, 2**24 // self.dimension)

        def read(start: int, stop: int) -> Chunk:
            rows, labels, bad = [torch.empty(0, torch.Size(shape).numel())], [], list[str]()
            for first in range(start, stop, few):
                chunk = self.read(first, min(first + few, stop))
                rows += [encode(chunk.values)] if len(chunk.data) else []
                labels += [chunk.labels] if chunk.labels is not None else []
                bad += chunk.bad
            return Chunk(torch.cat(rows), torch.cat(labels) if labels else None, tuple(bad))

        handling = f"{self.handling}; {how}"
        return replace(
            self,
            shape=shape,
            read=read,
            identity=digest(self.identity, how),
            handling=handling,
            step=step,
            pixels=False,
        )


def digest(*parts: Any) -> str:
    """A short name for anything that JSON can write."""
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:32]


def usable(data: Tensor, labels: Tensor | None, places: Sequence[int], largest: float | None = None) -> Chunk:
    """The rows without NaN and infinities (and within +-``largest``); ``places`` has the numbers by which others are
    named."""
    if not data.is_floating_point() or not len(data):
        return Chunk(data, labels)
    peak = data.flatten(1).abs().amax(1)
    good = peak.isfinite() if largest is None else peak <= largest
    if bool(good.all()):
        return Chunk(data, labels)
    bad = [f"row {places[i]}: largest value {peak[i]:.4g}" for i in (~good).nonzero().flatten().tolist()]
    return Chunk(data[good], None if labels is None else labels[good], tuple(bad))


def check_range(low: float, high: float, where: object, model: str = "") -> None:
    """Refuse values that are no pixels in [-1, 1]."""
    if low < -1 - SLACK or high > 1 + SLACK:
        whose = f"the images of {model}" if model else "images"
        raise ValueError(
            f"The values of {where} lie in [{low:.4g}, {high:.4g}], but {whose} in [-1, 1]; scale them, or give bytes."
        )
