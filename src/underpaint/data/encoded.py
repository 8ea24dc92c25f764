"""Pictures of small sets in few files: encoded ones end to end in an .npz archive, and the binary version of CIFAR-10.

An archive has for each split the arrays ``SPLIT_bytes`` [M], all files of pictures (JPEG, PNG ...) one after the other,
and ``SPLIT_offsets`` [N + 1]: picture i is bytes[offsets[i]:offsets[i + 1]]; perhaps ``SPLIT_labels`` [N], and
``classes``, the name of each label.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

from .choice import Choice
from .labels import LEAVE_OUT, number_labels
from .npy import read_npz
from .pictures import Item, decoded_source
from .splits import check_file, check_split, plain_split, split_of
from .stream import BYTES, Chunk, Source, digest

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
#: Channels, height and width of CIFAR-10, whose records are a byte of label and then the pixels, red, green, blue.
_SHAPE = (3, 32, 32)
_RECORD = 1 + 3 * 32 * 32


def is_encoded(path: Path) -> bool:
    """Whether an .npz file holds encoded pictures, by the names of its arrays."""
    return bool(path.suffix.lower() == ".npz" and path.is_file() and _splits(path))


def _splits(path: Path) -> list[str]:
    """The splits that an archive of encoded pictures has, as it writes them."""
    if not zipfile.is_zipfile(path):
        return []
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist()}
    except (zipfile.BadZipFile, NotImplementedError):  # what reads arrays says what is wrong with it
        return []
    found = (name.removesuffix("_bytes") for name in names if name.endswith("_bytes"))
    return sorted(split for split in found if split and f"{split}_offsets" in names)


def encoded_source(path: Path, choice: Choice) -> Source:
    """The pictures of a split of an archive, decoded as they are read; those that cannot be are named.

    Raises:
        ValueError: there is no such split, or its arrays do not belong together.
    """
    known = {plain_split(split): split for split in _splits(path)}
    check_split(path, choice.split, sorted(known))
    split = known[plain_split(choice.split)]
    arrays = read_npz(path, [f"{split}_bytes", f"{split}_offsets", f"{split}_labels", "classes"])
    data, ends = arrays[f"{split}_bytes"], _offsets(path, split, arrays)
    count = len(ends) - 1
    labels = arrays.get(f"{split}_labels") if choice.labels else None
    numbers, classes = _numbered(path, labels, count, arrays.get("classes"))

    def bytes_of(i: int) -> Callable[[], bytes]:
        return lambda: data[ends[i] : ends[i + 1]].tobytes()

    def fetch(start: int, stop: int) -> list[Item]:
        return [(f"picture {i} of {split}", numbers[i], bytes_of(i)) for i in range(start, min(stop, count))]

    identity = digest(path.name, path.stat().st_size, split)
    source = decoded_source(path.stem, str(path), count, fetch, choice.geometry, classes, identity)
    word = f"split {plain_split(split)} of {', '.join(sorted(known))}" if len(known) > 1 else ""
    return replace(source.noted(word), origin=f"images of {path.name}")


def _offsets(path: Path, split: str, arrays: Mapping[str, Any]) -> list[int]:
    """Where each picture begins, and the last ends."""
    data, offsets = arrays[f"{split}_bytes"], arrays[f"{split}_offsets"]
    if data.dtype != "uint8" or data.ndim != 1 or offsets.dtype.kind not in "iu" or offsets.ndim != 1:
        raise ValueError(f"{path} holds other arrays than bytes [M] and whole numbers [N + 1] of the split {split}.")
    ends: list[int] = offsets.tolist()
    if not ends or ends[0] < 0 or ends[-1] > len(data) or ends != sorted(ends):
        raise ValueError(
            f"The offsets of the split {split} in {path} are not places in its {len(data):,} bytes, in order; copy or "
            "make it again."
        )
    return ends


def _numbered(path: Path, labels: Any, count: int, names: Any) -> tuple[list[int], dict[int, str]]:
    """Label of each picture, and the name of each label."""
    if labels is None:
        return [-1] * count, {}
    if labels.shape != (count,):
        raise ValueError(f"{path} holds labels of shape {tuple(labels.shape)} for {count} pictures. {LEAVE_OUT}")
    numbers, classes = number_labels(labels.tolist(), path)
    if names is None:
        return numbers, classes
    if max(numbers, default=-1) >= len(names):
        raise ValueError(f"{path} names {len(names)} classes and holds the label {max(numbers)}. {LEAVE_OUT}")
    return numbers, {label: str(name) for label, name in enumerate(names.tolist())}


def is_cifar(path: Path) -> bool:
    """Whether a file is of the binary version of CIFAR-10: whole records, of labels below ten."""
    size = path.stat().st_size if path.suffix.lower() == ".bin" and path.is_file() else 0
    if not size or size % _RECORD:
        return False
    return int(_records(path)[:, 0].max()) < len(CIFAR10)


def _records(path: Path) -> Any:
    import numpy

    return numpy.memmap(path, numpy.uint8, "r").reshape(-1, _RECORD)


def cifar_source(path: Path, files: Sequence[Path], choice: Choice) -> Source:
    """The images of CIFAR-10 in its binary version: ``path`` is one file, or the folder of all.

    Source: Krizhevsky 2009, as published with ``data_batch_1.bin`` to ``data_batch_5.bin`` and ``test_batch.bin``.

    Raises:
        ValueError: there is no such split.
    """
    chosen, word = list(files), ""
    if path.is_dir():
        split = plain_split(choice.split)
        spoken = [split_of(file.name) or "train" for file in files]
        check_split(path, split, known := sorted(set(spoken)))
        chosen = [file for file, found in zip(files, spoken, strict=True) if found == split]
        word = f"split {split} of {', '.join(known)}" if len(known) > 1 else ""
    else:
        check_file(path, choice.split)
    parts = [_records(file) for file in chosen]
    starts = [0, *accumulate(len(part) for part in parts)]

    def read(start: int, stop: int) -> Chunk:
        import numpy

        found = [part[max(0, start - first) : max(0, stop - first)] for part, first in zip(parts, starts, strict=False)]
        records = torch.from_numpy(numpy.concatenate(found))
        labels = records[:, 0].long() if choice.labels else None
        return Chunk(records[:, 1:].reshape(-1, *_SHAPE), labels)

    classes = dict(enumerate(CIFAR10)) if choice.labels else {}
    identity = digest([(file.name, file.stat().st_size) for file in chosen])
    source = Source(path.stem, _SHAPE, starts[-1], read, identity, BYTES, classes, pixels=True).noted(word)
    return replace(source, origin=f"images of {path.name}")
