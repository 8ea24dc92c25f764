"""Parts of a long run on disk: each is one file, written whole or not at all, and known by all that it depends on.

A part that was read is the part that was made, to the last bit and in the same layout: what is computed from it does
not depend on whether the run was interrupted.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from ...files import clear_debris, laid_in, lay, read_tensor_metadata, read_tensors, write_tensors
from ...keeping import in_memory
from ...models.fingerprint import digest
from ...theory.gaussian import Gaussian
from ...version import __version__
from .packing import pack, unpack

T = TypeVar("T")
#: Bytes of a tensor from which it is made in a file, and what such files end in.
LARGE, _LAID = 1 << 28, ".laid"


def load_or_make(path: Path, settings: Mapping[str, Any], make: Callable[[], T], types: Sequence[type] = ()) -> T:
    """The part of these settings from disk; else it is made, and then on disk. ``types`` are those of the dataclasses
    in it. A file that is damaged, or of something else, is made anew, and a warning says so."""
    if path.is_file():
        try:
            return cast(T, read_part(path, settings, types))
        except ValueError as error:
            warnings.warn(f"{error}; it is made anew.", stacklevel=2)
    return write_part(path, settings, make(), types)


def write_part(path: Path, settings: Mapping[str, Any], value: T, types: Sequence[type] = ()) -> T:
    """Write a value with what it depends on and a checksum; return what `read_part` will."""
    tensors, structure = pack(value)
    laid = {name: place for name, tensor in tensors.items() if (place := _laid_beside(path, tensor)) is not None}
    about = {"settings": settings, "structure": structure, "underpaint": __version__, "laid": laid}
    written = {name: tensor for name, tensor in tensors.items() if name not in laid}
    write_tensors(path, written, about | {"checksum": _checksum(tensors, structure)})
    return cast(T, unpack(tensors, structure, types))


def read_part(path: Path, settings: Mapping[str, Any], types: Sequence[type] = ()) -> Any:
    """What was written with these settings.

    Raises:
        ValueError: the file is damaged, or that of another version or of other work.
    """
    try:
        about, stored = read_tensor_metadata(path), read_tensors(path)
    except ValueError:
        raise ValueError(f"{path} is damaged: it is no complete file of parts") from None
    version = about.get("underpaint")
    if version != __version__:
        raise ValueError(f"{path} was written by another version of underpaint ({version}; this is {__version__})")
    if about.get("settings") != json.loads(json.dumps(settings)):
        raise ValueError(f"{path} is the checkpoint of other data or settings")
    # a copy in memory of its own is laid out like a result: sums over mapped files may round differently
    tensors = {name: tensor.clone() for name, tensor in stored.items()}
    tensors |= {name: _laid_again(path, *place) for name, place in about.get("laid", {}).items()}
    if about.get("checksum") != _checksum(tensors, about.get("structure")):
        raise ValueError(f"{path} is damaged: its checksum does not fit")
    return unpack(tensors, about["structure"], types)


def _laid_beside(path: Path, tensor: Tensor) -> tuple[str, list[int], str] | None:
    """The name of the file beside a part that a tensor of it lies in, its shape and dtype."""
    place = laid_in(tensor)
    if place is None or place.suffix != _LAID or place.parent != path.parent:
        return None
    return place.name, list(tensor.shape), str(tensor.dtype).removeprefix("torch.")


def _laid_again(path: Path, name: str, shape: list[int], dtype: str) -> Tensor:
    place = path.parent / Path(name).name
    if not place.is_file():
        raise ValueError(f"{path} is damaged: the file {place.name} beside it is gone")
    return lay(place, shape, getattr(torch, dtype))


def _checksum(tensors: Mapping[str, Tensor], structure: Any) -> str:
    return hashlib.sha256(f"{digest(tensors)} {json.dumps(structure)}".encode()).hexdigest()


@dataclass(frozen=True)
class Parts:
    """Keeps the parts of a computation in a folder, by their names and the ``settings`` that all depend on."""

    folder: Path
    settings: Mapping[str, Any]
    types: tuple[type, ...] = ()

    def __post_init__(self) -> None:
        clear_debris(self.folder)

    def __call__(self, name: str, make: Callable[[], T]) -> T:
        settings = {**self.settings, "part": name}
        return load_or_make(self.folder / f"{_file_name(name, settings)}.safetensors", settings, make, self.types)

    def room(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        """A tensor of a shape to be written, in a file of the folder if it is a large one. What is large is written
        once: as a part of a result it stays in that file."""
        if math.prod(shape) * like.element_size() < LARGE:
            return in_memory(name, shape, like)
        self.folder.mkdir(parents=True, exist_ok=True)
        place = self.folder / f"{_file_name(name, {**self.settings, 'part': name, 'shape': list(shape)})}{_LAID}"
        place.unlink(missing_ok=True)
        return lay(place, shape, like.dtype)


def drop_parts(folder: Path) -> None:
    """Remove a folder of parts, and nothing else that may be in it."""
    for path in (*folder.glob("*.safetensors"), *folder.glob(f"*{_LAID}")):
        path.unlink(missing_ok=True)
    clear_debris(folder)
    if folder.is_dir() and not any(folder.iterdir()):
        shutil.rmtree(folder, ignore_errors=True)


def checkpoint_name(words: str, seeds: Sequence[int], settings: Mapping[str, Any]) -> str:
    """A file name that can be read, and differs where the settings do."""
    return f"{_file_name(f'{words[:80]} seeds {seeds[0]} {seeds[-1]}', settings)}.safetensors"


def _file_name(words: str, settings: Mapping[str, Any]) -> str:
    mark = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    return f"{re.sub(r'[^A-Za-z0-9.]+', '-', words)[:120].strip('-')}-{mark}"


def gaussian_tensors(gaussian: Gaussian) -> dict[str, Tensor]:
    """The tensors that make up a Gaussian, whatever its basis is made of."""
    covariance, basis = gaussian.covariance, cast(Any, gaussian.covariance.basis)
    parts = {"basis": basis} if isinstance(basis, Tensor) else vars(basis)
    parts = {name: part for name, part in parts.items() if isinstance(part, Tensor)}
    return {"mean": gaussian.mean, "values": covariance.eigenvalues, "rest": covariance.spectrum[-1:], **parts}
