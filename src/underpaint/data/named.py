"""Data that have a name: those in the box, complete sets of the system, and the idx files of the MNIST family."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from .. import assets
from .arrays import array_source
from .choice import Choice
from .idx import is_idx
from .splits import check_split, choose_files, plain_split, split_of
from .store import gaussian_provenance
from .stream import Source

#: Where complete data sets are looked for, by name, before the sample in the box is taken.
SYSTEM_FOLDER = Path("/usr/share/datasets")
_FASHION = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


def named_source(name: str, split: str) -> Source | None:
    """Data by name, or None where there are none of this name.

    Raises:
        ValueError: the split is not here.
    """
    boxed = assets.folder(name)
    if boxed is not None and (array := boxed / "sample" / "images.npz").is_file():
        if plain_split(split) != "train":
            raise ValueError(f"The box holds training images of {name} alone; training/scenes.py draws others.")
        return replace(array_source(array, [array]), name=name, origin=f"training images of {name} in the box")
    return _fashion(name, split, boxed) if name == "fashion-mnist" else None


def place_of(name: str) -> Path | None:
    """Where the data of a model in the box lie on this machine, if the box has no images of them; None for all other
    names.

    Raises:
        ValueError: they are not here.
    """
    if not _without_images(name):
        return None
    found = next((folder for folder in _homes(name) if folder.is_dir()), None)
    if found is None:
        raise ValueError(
            f"The box has no images of {name}, and none are found: give data with --data (a folder or file of them, or "
            f"hf:owner/name), or put them into a folder {name} and set UNDERPAINT_DATA to the folder above it."
        )
    return found


def is_missing(name: str) -> bool:
    """Whether data are those of a model in the box, but neither in it nor found on this machine."""
    return _without_images(name) and not any(folder.is_dir() for folder in _homes(name))


def _without_images(name: str) -> bool:
    boxed = assets.folder(name)
    return boxed is not None and not (boxed / "sample").is_dir()


def _homes(name: str) -> list[Path]:
    """The folders in which complete data of a name may be."""
    chosen = os.environ.get("UNDERPAINT_DATA")
    return [root / name for root in ([Path(chosen), SYSTEM_FOLDER] if chosen else [SYSTEM_FOLDER])]


def known_classes(name: str) -> Mapping[int, str]:
    """Names of the classes of data that have a name, such as those that a model was trained on; empty for others."""
    if _without_images(name):
        named = gaussian_provenance(name).get("class_names") or {}
        return {int(label): str(called) for label, called in named.items()}
    source = named_source(name, "train")
    return {} if source is None else source.classes


def _fashion(name: str, split: str, boxed: Path | None) -> Source:
    check_split(name, split, ("train", "test"))
    classes = dict(enumerate(_FASHION))
    for folder in _homes(name):
        if plain_split(split) in idx_splits(idx_files(folder)):
            return replace(idx_source(folder, name, Choice(split=split)), classes=classes)
    if plain_split(split) != "train" or boxed is None:
        raise ValueError(
            f"The {split} split of {name} is not in the box: install the Debian package dataset-fashion-mnist, or put "
            f"the idx files into a folder {name} and set UNDERPAINT_DATA to the folder above it."
        )
    source = idx_source(boxed / "sample", name, Choice(split=split))
    return replace(source, classes=classes, origin=f"training images of {name} in the box")


def idx_files(folder: Path) -> list[Path]:
    """The idx files of images in a folder; none where there is no such folder."""
    return _of_images([path for path in sorted(folder.iterdir()) if is_idx(path)] if folder.is_dir() else [])


def _of_images(files: Sequence[Path]) -> list[Path]:
    """Those that do not hold labels; of a file that is there plain and gzipped, the plain one."""
    found = [path for path in files if "labels-idx" not in path.name]
    return [path for path in found if path.suffix != ".gz" or path.with_suffix("") not in found]


def idx_splits(files: Sequence[Path]) -> set[str]:
    """The splits that a folder's idx files name."""
    return {found for file in files if (found := split_of(file.name))}


def idx_source(folder: Path, name: str, choice: Choice, files: Sequence[Path] | None = None) -> Source:
    """The images and labels of a split, of a folder or of these idx ``files`` below it.

    Raises:
        ValueError: there is no such split, several files are of it, or one is damaged.
    """
    files, _ = choose_files(idx_files(folder) if files is None else _of_images(files), folder, choice.split)
    if len(files) != 1:
        listed = ", ".join(file.name for file in files[:5])
        raise ValueError(
            f"{folder} holds {f'several files of images ({listed})' if files else 'labels alone'}; give one."
        )
    source = array_source(files[0], files, replace(choice, split="train"))
    if len(source.shape) != 3:
        raise ValueError(
            f"{files[0]} holds an array of shape {source.count, *source.shape}, expected images [N, H, W]."
        )
    origin = f"{plain_split(choice.split)} images of {name} (idx files)"
    return replace(source, name=name, origin=origin)
