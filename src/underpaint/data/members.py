"""The pictures of a folder, a zip file or a tar shard: where each lies, and its label as it is written there."""

from __future__ import annotations

import json
import re
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ..damage import Unfit, reason
from .decode import is_picture

#: A member of an archive that claims more bytes than this is not read: no picture, or one that was made to fill memory.
_LARGEST = 256 * 2**20


class Entry(NamedTuple):
    """Where one picture is: a file, a member of a zip file, or a stretch of a tar file; or why there is none.

    ``label`` is as it was written: a number, a text, or None. ``column`` is what webdataset calls it: the end of its
    name, such as png or left.png. ``inside`` is its path in the folder or archive.
    """

    place: Path
    name: str = ""
    offset: int = 0
    size: int = -1
    label: Any = None
    problem: str = ""
    column: str = ""
    inside: str = ""

    @property
    def title(self) -> str:
        return f"{self.place.name}/{self.name}" if self.name else self.place.name

    def bytes(self) -> bytes:
        if self.problem:
            raise Unfit(self.problem)
        if self.size > _LARGEST:
            raise Unfit(f"claims to be {self.size / 2**20:.0f} MiB large")
        if not self.name:
            return self.place.read_bytes()
        if self.place.suffix.lower() == ".zip":
            return _zip(self.place).read(self.name)
        with self.place.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


def is_hidden(path: str) -> bool:
    """Whether a file or one of its folders is not meant to be seen: .ipynb_checkpoints, __MACOSX."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))


def _zip(path: Path) -> zipfile.ZipFile:
    """The archive, opened once, unless the file is another one meanwhile."""
    now = path.stat()
    return _opened_zip(path, now.st_mtime_ns, now.st_size)


@lru_cache(maxsize=32)
def _opened_zip(path: Path, *_: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def folder_entries(folder: Path, files: Iterable[Path]) -> list[Entry]:
    """Pictures of a folder, of which these are the files."""
    return [Entry(file, size=file.stat().st_size, inside=file.relative_to(folder).as_posix()) for file in files]


def zip_entries(path: Path, aside: Counter[str]) -> list[Entry]:
    """Pictures of a zip file; what is no picture is counted in ``aside``."""
    try:
        members = [info for info in _zip(path).infolist() if not info.is_dir()]
    except Exception as error:  # damaged archives raise almost anything
        return [Entry(path, problem=reason(error))]
    found = []
    for info in members:
        kind = kind_of_member(info.filename)
        if kind == "picture":
            found.append(Entry(path, info.filename, size=info.file_size, inside=info.filename))
        elif info.filename != "dataset.json":
            aside[kind] += 1
    return sorted(found, key=lambda entry: entry.inside)


def kind_of_member(name: str) -> str:
    """ "picture", or how what is none is counted."""
    if is_hidden(name):
        return "hidden"
    return "picture" if is_picture(name) else PurePosixPath(name).suffix.lower() or "no ending"


def listed_labels(home: Path) -> dict[str, Any] | None:
    """Labels of a ``dataset.json`` as EDM writes it, by path; empty where it says that there are none; None without
    such a file.

    Raises:
        ValueError: it is there, but holds something else.
    """
    try:
        raw = (home / "dataset.json").read_bytes() if home.is_dir() else _zip(home).read("dataset.json")
    except (OSError, KeyError):
        return None
    except Exception as error:  # damaged archives raise almost anything
        raise ValueError(f"The dataset.json of {home} {reason(error)}; mend or remove it.") from error
    try:
        listed = json.loads(raw)["labels"] or {}
        pairs = listed.items() if isinstance(listed, dict) else [(name, label) for name, label in listed]
    except (KeyError, ValueError, TypeError, RecursionError):
        raise ValueError(
            f'The dataset.json of {home} is to be {{"labels": [[path, label], ...]}}, or to have null there; mend or '
            "remove it."
        ) from None
    return {str(name): label for name, label in pairs}


def label_by_folder(entries: list[Entry], skip: int = 0) -> list[Entry]:
    """Pictures with the name of the outermost folder that each lies in as its label, if there are several such;
    ``skip`` folders, those of a split, are passed over."""
    parts = [entry.inside.split("/")[skip:-1] for entry in entries]
    tops = [part[0] if part else None for part in parts]
    if len({top for top in tops if top is not None}) < 2:
        return entries
    return [entry._replace(label=top) for entry, top in zip(entries, tops, strict=True)]


def tar_entries(path: Path, aside: Counter[str]) -> list[Entry]:
    """Pictures of a tar shard, each with the label of the .cls or .json file beside it.

    A name is cut as webdataset cuts it, into a key and a column, but only words count as columns: x.left.png is the
    column left.png of x, but img_v1.5_0000.png is a picture called img_v1.5_0000. A label belongs to the pictures of
    its own key, and to those that are called as it is up to the last dot.
    """
    pictures: dict[str, Entry] = {}
    labels: dict[str, Any] = {}
    problems: list[Entry] = []
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                name, kind = member.name, kind_of_member(member.name)
                if not member.isreg():
                    aside["links and the like"] += not member.isdir()
                elif kind == "picture":
                    if name in pictures:
                        problems.append(
                            Entry(path, name, problem="is in the shard again further on; that one is taken")
                        )
                    pictures[name] = Entry(
                        path, name, member.offset_data, member.size, column=_cut(name)[1], inside=name
                    )
                elif kind in (".cls", ".json") and member.size < 2**20:
                    labels[name.rpartition(".")[0]] = _label(archive.extractfile(member).read(), kind)  # type: ignore[union-attr]
                else:
                    aside[kind] += 1
    except Exception as error:  # damaged archives raise almost anything
        problems.append(Entry(path, problem=reason(error)))
    found = [entry._replace(label=_label_of(name, labels)) for name, entry in pictures.items()]
    return found + problems


def _cut(name: str) -> tuple[str, str]:
    """Key and column: the words at the end of a name that follow dots are the column."""
    folder, slash, base = name.rpartition("/")
    parts = base.split(".")
    words = 1
    while words < len(parts) - 1 and re.fullmatch(r"[A-Za-z]\w*", parts[-1 - words]):
        words += 1
    return f"{folder}{slash}{'.'.join(parts[:-words])}", ".".join(parts[-words:])


def _label_of(name: str, labels: dict[str, Any]) -> Any:
    stem = name.rpartition(".")[0]
    return labels[stem] if stem in labels else labels.get(_cut(name)[0])


def _label(raw: bytes, kind: str) -> Any:
    """What a .cls file says, or that under "label" or "cls" of a JSON object."""
    try:
        text = raw.decode().strip()
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text if kind == ".cls" and "text" in locals() else None
    if isinstance(value, dict):
        return value.get("label", value.get("cls"))
    return value if kind == ".cls" else None


def choose_column(entries: Sequence[Entry], where: object, column: str | None) -> tuple[list[Entry], str]:
    """The pictures of one column of tar shards, and a word on what was chosen.

    Without a name for it: all, if each key has one picture; else those whose column is the ending alone, such as x.png
    beside x.depth.png.

    Raises:
        ValueError: no such column, or several pictures of a key of which none is plain.
    """
    pictures = [entry for entry in entries if not entry.problem]
    broken = [entry for entry in entries if entry.problem]
    counts = Counter(entry.column for entry in pictures)
    listed = ", ".join(f"{name} ({n:,})" for name, n in sorted(counts.items()))
    if column is not None:
        if column not in counts:
            raise ValueError(f"{where} has the columns {listed or 'none'}, not {column!r}.")
        chosen = [entry for entry in pictures if entry.column == column]
    else:
        chosen = pictures
        if _repeats(chosen):
            chosen = [entry for entry in pictures if "." not in entry.column]
        if _repeats(chosen) or (pictures and not chosen):
            raise ValueError(
                f"{where} holds several pictures under one name, in the columns {listed}; choose one with --column."
            )
    others = Counter(entry.column for entry in pictures) - Counter(entry.column for entry in chosen)
    left = ", ".join(f"{name} ({n:,})" for name, n in sorted(others.items()))
    return chosen + broken, f"columns not read: {left}" if left else ""


def _repeats(entries: Sequence[Entry]) -> bool:
    keys = [(entry.place, _cut(entry.name)[0]) for entry in entries]
    return len(set(keys)) < len(keys)
