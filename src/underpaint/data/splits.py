"""Which split a file or folder is of, by its name: the words are those that Hugging Face's `datasets` knows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation", "t10k"), "test"),
}


def plain_split(name: str) -> str:
    """One name for all that mean the same: val, valid and dev are validation."""
    return _WORDS.get(name.lower(), name)


def split_of(path: str) -> str | None:
    """The split that the words of a path speak of, such as data/train-00001-of-00005.parquet; None if they speak of
    none, or of several."""
    words = re.split(r"[-._ /]+", path.lower())
    found = {_WORDS[plain] for word in words for plain in (word, word.rstrip("0123456789")) if plain in _WORDS}
    return found.pop() if len(found) == 1 else None


def folder_split(name: str) -> str | None:
    """The split of a folder of pictures: its name is the word itself, perhaps with a number, such as train or val2017.
    A folder test_tube may well be a class."""
    return _WORDS.get(name.lower().rstrip("0123456789-_. "))


def choose_files(files: Sequence[Path], home: Path, split: str) -> tuple[list[Path], str]:
    """The files of a split, and a word on what was chosen; all of them where no name speaks of a split.

    Raises:
        ValueError: there is no such split, or only some of the names speak of one.
    """
    spoken = [split_of(file.relative_to(home).as_posix()) for file in files]
    known = sorted({found for found in spoken if found})
    if not known:
        check_no_splits(home, split)
        return list(files), ""
    if None in spoken:
        odd = files[spoken.index(None)]
        raise ValueError(
            f"Some files of {home} are of a split ({', '.join(known)}), but {odd.name} says none; give one folder or "
            "file."
        )
    check_split(home, split, known)
    chosen = [file for file, found in zip(files, spoken, strict=True) if found == plain_split(split)]
    return chosen, f"split {plain_split(split)} of {', '.join(known)}" if len(known) > 1 else ""


def choose_folders(tops: Sequence[str | None], home: object, split: str) -> str | None:
    """The split to take of pictures whose outermost folders are these (None: in no folder); None where folders are not
    splits, but classes or nothing.

    Raises:
        ValueError: there is no such split, or folders of several splits lie beside others.
    """
    names = sorted({top for top in tops if top is not None})
    known = sorted({found for found in map(folder_split, names) if found})
    others = [name for name in names if not folder_split(name)] + ["pictures in none"] * (None in tops)
    if not known or (others and len(known) == 1):  # a class may be called train: car, train, tram
        check_no_splits(home, split)
        return None
    if others:
        raise ValueError(
            f"In {home} there are folders of the splits {', '.join(known)} beside others ({', '.join(others[:5])}); "
            "give one folder."
        )
    check_split(home, split, known)
    return plain_split(split)


def check_split(where: object, split: str, known: Sequence[str]) -> None:
    """Refuse a split that is not there."""
    if plain_split(split) not in known:
        raise ValueError(f"{where} has the splits {', '.join(known)}, not {split!r}.")


def check_no_splits(where: object, split: str) -> None:
    """Refuse a split of data that have none; all of these are taken for training data."""
    if plain_split(split) != "train":
        raise ValueError(
            f"{where} has no splits, so no {split!r}; leave out the split, or give the folder or file of it."
        )


def check_file(path: Path, split: str) -> None:
    """Refuse a file of which another split than train is asked for, but that does not say that it is of this one."""
    if plain_split(split) not in ("train", split_of(path.name)):
        raise ValueError(f"The name of {path} does not say that it is of the split {split!r}; leave out the split.")
