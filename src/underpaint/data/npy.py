"""Arrays that numpy has saved, .npy and .npz, read without pickles and in bounded memory.

A header is believed only as far as the file is long, and what is compressed is unpacked only if it fits into memory.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from ..damage import Unfit


def read_npy(path: Path) -> Any:
    """The array of an .npy file, memory-mapped.

    Raises:
        ValueError: it is none, holds Python objects, or is not as long as its header says.
    """
    import numpy

    with _sentences(path), path.open("rb") as file:
        shape, fortran, dtype = _header(file, "it")
        if file.tell() + dtype.itemsize * math.prod(shape) != path.stat().st_size:
            raise Unfit(f"it is not as long as its header says, {dtype} {shape}")
        if not math.prod(shape):
            return numpy.empty(shape, dtype)
        return numpy.memmap(path, dtype, "r", file.tell(), shape, "F" if fortran else "C")


def read_npz(path: Path, names: Collection[str] | None = None) -> dict[str, Any]:
    """Arrays of an .npz file by name, all or some: memory-mapped where they are stored as they are.

    Raises:
        ValueError: it is damaged or no such file, or an array is as in `read_npy` or would not fit into memory.
    """
    with _sentences(path), zipfile.ZipFile(path) as archive:
        found = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        wanted = {name: info for name, info in found.items() if names is None or name in names}
        return {name: _member(path, archive, info) for name, info in wanted.items()}


def float64_of(array: Any, name: str) -> Tensor:
    """A tensor of an array of real numbers; ValueError for text, dates or complex numbers."""
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name} is an array of {array.dtype}, expected real numbers")
    return torch.from_numpy(array.astype("float64"))


@contextmanager
def _sentences(path: Path) -> Iterator[None]:
    """One sentence for whatever a damaged file can lead to."""
    try:
        yield
    except Exception as error:  # of numpy, zipfile and zlib, which raise many kinds for damaged files
        if isinstance(error, FileNotFoundError):
            raise
        why = str(error).rstrip(".") if isinstance(error, Unfit) else "it is damaged, or of another kind"
        raise ValueError(f"{path} cannot be read as an array without pickles: {why}.") from error


def _header(file: IO[bytes], what: str) -> tuple[tuple[int, ...], bool, Any]:
    from numpy.lib import format as npy

    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise Unfit(f"{what} holds Python objects")
    if len(shape) > 32 or min(shape, default=0) < 0:
        raise Unfit(f"{what} is of the impossible shape {str(shape)[:60]}")
    return shape, fortran, dtype


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Any:
    import numpy

    with archive.open(info) as file:
        shape, fortran, dtype = _header(file, info.filename)
        header = file.tell()
    if dtype.itemsize * math.prod(shape) + header != info.file_size:
        raise Unfit(f"{info.filename} is not as long as its header says")
    if info.compress_type != zipfile.ZIP_STORED or not shape or not math.prod(shape):
        check_room(info.file_size, f"{info.filename}, unpacked,")
        with archive.open(info) as file:
            return numpy.lib.format.read_array(file, allow_pickle=False)
    with path.open("rb") as raw:
        raw.seek(info.header_offset + 26)
        lengths = int.from_bytes(raw.read(2), "little") + int.from_bytes(raw.read(2), "little")
    offset = info.header_offset + 30 + lengths + header
    return numpy.memmap(path, dtype, "r", offset, shape, "F" if fortran else "C")


def check_room(size: int, what: str) -> None:
    """Refuse what cannot be held in the memory of this machine, by a ValueError."""
    try:
        room = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on this system
        room = 2**36
    if size > room:
        raise Unfit(f"{what} would take {size / 1e9:,.0f} GB of memory; this machine has {room / 1e9:,.0f} GB.")
