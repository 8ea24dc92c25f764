"""Arrays of images, latents or rows in .npy, .npz and idx files: memory-mapped where they can be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

from .choice import Choice
from .idx import is_idx, read_idx
from .labels import LEAVE_OUT, number_labels
from .npy import read_npy, read_npz
from .splits import check_file, choose_files
from .stream import BYTES, SLACK, Chunk, Source, check_range, digest, usable

#: So many rows, spread over the data, are looked at to know the range of their values.
_LOOKED = 64
_KINDS = "rows [N, D], images [N, H, W], [N, H, W, C] or [N, C, H, W] with C 1 or 3, or latents [N, C, H, W]"


def array_source(path: Path, shards: Sequence[Path], choice: Choice | None = None) -> Source:
    """Arrays one after the other, of bytes or floats: ``path`` is the one file, or the folder of all.

    Axes: [N, D] rows; [N, H, W] grey images; of four axes, the last or the second is that of the channels if it is 1 or
    3 long; else they are latents [N, C, H, W]. Floats are taken as they are. Those of [N, H, W] and [N, H, W, C] are
    images and have to lie in [-1, 1]; others may be latents, and may take any value.

    Raises:
        ValueError: arrays that are damaged, of other kinds or shapes than these, or images in another range.
    """
    word, choice = "", choice or Choice()
    if path.is_dir():
        shards, word = choose_files(shards, path, choice.split)
    else:
        check_file(path, choice.split)
    arrays = [_load(shard, choice.column) for shard in shards]
    parts = [channels_first(array["images"], shard) for array, shard in zip(arrays, shards, strict=True)]
    shape, kind = parts[0].shape[1:], parts[0].dtype
    for part, shard in zip(parts, shards, strict=True):
        if part.shape[1:] != shape or part.dtype != kind:
            raise ValueError(f"{shard} holds {part.dtype} {part.shape[1:]}, {shards[0]} {kind} {shape}.")
    ends = [0, *accumulate(len(part) for part in parts)]
    labels, classes = _labels(
        path, [array.get("labels") if choice.labels else None for array in arrays], [len(part) for part in parts]
    )
    images = arrays[0]["images"]
    bounded = kind.kind == "f" and (images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3)))

    def pieces(start: int, stop: int) -> Any:
        import numpy

        found = [part[max(0, start - first) : max(0, stop - first)] for part, first in zip(parts, ends, strict=False)]
        return torch.from_numpy(numpy.concatenate([piece for piece in found if len(piece)]))

    def read(start: int, stop: int) -> Chunk:
        chosen = None if labels is None else labels[start:stop]
        return usable(pieces(start, stop), chosen, range(start, stop), 1 + SLACK if bounded else None)

    if kind.kind == "f" and len(shape) == 3 and shape[0] in (1, 3):
        step = max(1, -(-ends[-1] // _LOOKED))
        _check_pixels(torch.cat([pieces(i, i + 1) for i in range(0, ends[-1], step)]), path, bounded)
    identity = digest([(shard.name, shard.stat().st_size) for shard in shards])
    handling = BYTES if kind == "uint8" else "numbers as they are"
    items = "images" if len(shape) == 3 and shape[0] in (1, 3) else "latents" if len(shape) == 3 else "rows"
    source = Source(path.stem, tuple(map(int, shape)), ends[-1], read, identity, handling, classes)
    return replace(source.noted(word), origin=f"{items} of {path.name}", pixels=items == "images")


def _labels(path: Path, found: list[Any], counts: list[int]) -> tuple[torch.Tensor | None, dict[int, str]]:
    if all(labels is None for labels in found):
        return None, {}
    written: list[Any] = []
    for labels, count in zip(found, counts, strict=True):
        if labels is not None and labels.shape != (count,):
            raise ValueError(f"{path} holds labels of shape {tuple(labels.shape)} for {count} items. {LEAVE_OUT}")
        written += [None] * count if labels is None else labels.tolist()
    numbers, classes = number_labels(written, path)
    return torch.tensor(numbers, dtype=torch.long), classes


def _check_pixels(rows: torch.Tensor, path: Path, bounded: bool) -> None:
    """Refuse images in [0, 1] or [0, 255], which as such would be bright ones without any dark place; and, if they are
    sure to be images, those of which most lie outside [-1, 1]."""
    flat = rows.flatten(1).double()
    flat = flat[flat.isfinite().all(1)]
    if not flat.numel():
        return
    low, high = float(flat.min()), float(flat.max())
    if low >= 0 and high > 0:
        raise ValueError(
            f"The values of {path} lie in [{low:.4g}, {high:.4g}], but images in [-1, 1] are expected: scale them, or "
            "give bytes."
        )
    if bounded and float((flat.abs().amax(1) > 1 + SLACK).double().mean()) > 0.5:
        check_range(low, high, path)


def channels_first(array: Any, path: object) -> Any:
    """[N, D] or [N, C, H, W] of an array of any of the kinds that are read.

    Raises:
        ValueError: it is of none of them, or could be of two.
    """
    if array.ndim not in (2, 3, 4) or not array.size:
        raise ValueError(f"{path} holds an array of shape {array.shape}; expected {_KINDS}.")
    if not (array.dtype == "uint8" or (array.dtype.kind == "f" and array.dtype.itemsize <= 8)):
        raise ValueError(
            f"{path} holds {array.dtype}, expected bytes or floating-point values; save images as uint8 or as floats "
            "in [-1, 1], rows as floats."
        )
    if not array.dtype.isnative:
        raise ValueError(f"{path} holds {array.dtype.str}, numbers of another byte order; save them anew.")
    if array.dtype == "uint8" and array.ndim == 3 and array.shape[2] in (3, 4) and min(array.shape[:2]) >= 8:
        raise ValueError(
            f"{path} holds an array of shape {array.shape}, which looks like one picture [H, W, C]; pictures are "
            "[N, H, W, C], those of one channel [N, H, W], and anything else rows [N, D]."
        )
    if array.ndim < 4:
        return array if array.ndim == 2 else array[:, None]
    _, second, third, last = array.shape
    if second in (1, 3) and last in (1, 3):
        raise ValueError(
            f"{path} holds an array of shape {array.shape}, whose channels may be the second axis or the last; save "
            "images of one channel as [N, H, W]."
        )
    if last in (1, 3):
        return array.transpose(0, 3, 1, 2)
    if last in (2, 4) and second == third and second != last:
        raise ValueError(
            f"{path} holds an array of shape {array.shape}, which looks like [N, H, W, C] with {last} channels: images "
            "have 1 or 3 (lay transparent ones on a ground), latents are [N, C, H, W]."
        )
    return array


def _load(path: Path, column: str | None = None) -> Mapping[str, Any]:
    """ "images", in an .npz file those that ``column`` names, and perhaps "labels", memory-mapped where they can be; no
    pickle is opened."""
    if is_idx(path):
        plain = path.name.removesuffix(".gz").replace("images-idx3", "labels-idx1")
        beside = [path.with_name(plain), path.with_name(f"{plain}.gz")]
        labels = next((file for file in beside if file != path and file.is_file()), None)
        return {"images": read_idx(path).numpy()} | ({"labels": read_idx(labels).numpy()} if labels else {})
    if path.suffix.lower() == ".npy":
        return {"images": read_npy(path)}
    arrays = read_npz(path)
    images = [name for name in arrays if name == (column or "images")]
    if column is None and not images:
        images = [name for name in arrays if name != "labels"]
    if len(images) != 1:
        choose = "give one with --column" if arrays else "expected an array called 'images'"
        raise ValueError(f"{path} holds the arrays {', '.join(arrays) or 'of nothing'}; {choose}.")
    return {"images": arrays[images[0]]} | ({"labels": arrays["labels"]} if "labels" in arrays else {})
