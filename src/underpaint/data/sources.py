"""The one door to data: pictures, arrays and tables, in files, shards and folders, as a `Source`.

Everything that reads data comes through here, so that there is one set of rules; the book holds them, under "What is
read".
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

from ..files import path_of
from .arrays import array_source
from .choice import Choice
from .decode import PICTURES, Geometry
from .encoded import cifar_source, encoded_source, is_cifar, is_encoded
from .idx import is_idx
from .members import is_hidden
from .named import idx_source, named_source, place_of
from .pictures import folder_source, shard_source
from .stream import Source
from .tables import hub_source, parquet_source, saved_source

#: What a folder is taken for by the endings of its files.
_KINDS = {".tar": "tar", ".zip": "zip", ".parquet": "Parquet", ".npy": "array", ".npz": "array"}
_KINDS |= dict.fromkeys(PICTURES, "picture")


def open_source(
    place: str | Path,
    size: tuple[int, int] | None = None,
    mode: str | None = None,
    split: str = "train",
    column: str | None = None,
    labels: bool = True,
) -> Source:
    """Open data for a pass over them, whatever they are kept in.

    Memory: a list of the pictures' names, and what is being read; arrays are memory-mapped (save compressed .npz and
    gzipped idx files).

    Args:
        place: a name in the box, or "fashion-mnist" (the complete set if it is found under $UNDERPAINT_DATA or the
            system's data sets); a folder of pictures (sub-folders are classes); .zip or .tar shards of pictures; a .npy
            or .npz array of images or rows; an .npz archive of encoded pictures (see `encoded`); an idx or .parquet
            file, or the binary version of CIFAR-10; a folder of one of these kinds of files; a data set that
            `datasets` saved, or "hf:owner/name" for one on the hub.
        size: (H, W) that pictures are centre-cropped and resized to; by default that of most of them, which has
            to be that of half of those looked at.
        mode: "L" (grey) or "RGB"; by default RGB if some of the pictures are in colour.
        split: of data that have several; data without splits are taken for training data.
        column: of tables, and of tar shards with several pictures under one name.
        labels: whether to read labels; those that are neither whole numbers nor names are refused.

    Raises:
        ValueError: there is nothing there, nothing that can be read, files of several kinds, no such split or column,
            or arrays of another shape than asked for.
    """
    source = _opened(
        str(place),
        path_of(place, "a file or folder of data, or their name"),
        Choice(Geometry(size, mode), split, column, labels),
    )
    wanted = ({"L": 1, "RGB": 3}[mode] if mode else source.shape[0], *(size or source.shape[1:]))
    if (size or mode) and source.shape != wanted:
        raise ValueError(
            f"{place} holds items of shape {source.shape}, but {wanted} is needed; arrays are not resized, resize them "
            "first."
        )
    return source


def _opened(name: str, path: Path, choice: Choice) -> Source:
    if name.startswith("hf:"):
        return hub_source(name[3:], choice)
    if (home := place_of(name)) is not None:
        return replace(_opened(str(home), home, choice), name=name, origin=f"images of {name}")
    if path.is_dir() and any((path / note).is_file() for note in ("dataset_info.json", "dataset_dict.json")):
        return saved_source(path, choice)
    aside: Counter[str] = Counter()
    if (named := named_source(name, choice.split)) is not None:
        kind, files = "", list[Path]()
    else:
        kind, files = _contents(path, aside) if path.is_dir() else (_kind_of(path), [path])
    if kind == "Parquet":
        return parquet_source(path, files, choice)
    if kind in ("tar", "zip"):
        return shard_source(path, files, choice, aside)
    if kind == "array" and len(files) == 1 and is_encoded(files[0]):
        kind = "encoded"
    if choice.column is not None and not (kind == "array" and all(file.suffix.lower() == ".npz" for file in files)):
        raise ValueError(f"{name} has no columns; leave out {choice.column!r}.")
    if named is not None:
        return named if choice.labels else _unlabelled(named)
    if kind == "idx":
        return idx_source(path, path.name, choice, files) if path.is_dir() else array_source(path, files, choice)
    if kind == "encoded":
        return encoded_source(files[0], choice)
    if kind == "array":
        return array_source(path, files, choice)
    if kind == "CIFAR-10":
        return cifar_source(path, files, choice)
    return folder_source(path, files, choice, aside)


def _unlabelled(source: Source) -> Source:
    return replace(source, read=lambda start, stop: replace(source.read(start, stop), labels=None), classes={})


def _kind_of(path: Path) -> str:
    if not path.is_file():
        raise ValueError(
            f"There are no data called {str(path)!r}: give 'fashion-mnist', a folder of images, a file of arrays, "
            "shards or tables, or hf:owner/name."
        )
    kind = _kind_by_name(path)
    if kind is None or kind == "picture":
        raise ValueError(
            f"{path} is of no kind that is read here: .npy, .npz, .parquet, .tar, .zip and idx files, CIFAR-10 in "
            "binary, or a folder of pictures (unpack compressed tar files)."
        )
    return kind


def _kind_by_name(file: Path) -> str | None:
    return "idx" if is_idx(file) else "CIFAR-10" if is_cifar(file) else _KINDS.get(file.suffix.lower())


def _contents(folder: Path, aside: Counter[str]) -> tuple[str, list[Path]]:
    """What a folder holds: one kind of files, in order; others, which are no data, are counted in ``aside``.

    Raises:
        ValueError: there are data of several kinds.
    """
    found: dict[str, list[Path]] = {}
    for file in _walk(folder):
        inside = file.relative_to(folder).as_posix()
        kind = _kind_by_name(file)
        if is_hidden(inside):
            aside["hidden"] += 1
        elif kind is not None:
            found.setdefault(kind, []).append(file)
        elif inside != "dataset.json":
            aside[file.suffix.lower() or "no ending"] += 1
    if len(found) > 1:
        listed = ", ".join(f"{len(files):,} {kind} ({files[0].name})" for kind, files in sorted(found.items()))
        raise ValueError(f"{folder} holds files of several kinds: {listed}; give a folder of one kind, or one file.")
    if not found:
        others = ", ".join(f"{count:,} {kind}" for kind, count in sorted(aside.items()))
        raise ValueError(
            f"There are no pictures that can be read in the folder {folder}, and no arrays or shards; it holds "
            f"{others or 'nothing'} (looked for {', '.join(sorted(_KINDS))} and idx files)."
        )
    ((kind, files),) = found.items()
    return kind, files


def _walk(folder: Path) -> list[Path]:
    """All files below a folder, sorted; links are followed, to no folder twice."""
    files: list[Path] = []
    been: set[str] = set()
    for here, below, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in been:
            below.clear()
            continue
        been.add(real)
        files += [path for name in names if (path := Path(here, name)).is_file()]
    return sorted(files)
