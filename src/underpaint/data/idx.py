"""Read the idx files in which the MNIST family is published (LeCun's format), plain or gzipped."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import IO

import torch

_KINDS = {0x08: torch.uint8}


def is_idx(path: Path) -> bool:
    """By the names that the MNIST family uses: ...-idx3-ubyte, perhaps with .gz."""
    return "idx" in path.name and (path.name.endswith("ubyte") or path.suffix == ".gz")


def read_idx(path: str | Path) -> torch.Tensor:
    """Return the array in one idx file as a uint8 tensor of the shape that its header states.

    No more than that is unpacked of a gzipped file, whatever follows.

    Raises:
        ValueError: the file is not idx, holds other than bytes, or is shorter or longer than its header says.
    """
    path = Path(path)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _read(path, file)  # type: ignore[arg-type]
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is not a complete gzip file; fetch it again.") from error


def _read(path: Path, file: IO[bytes]) -> torch.Tensor:
    start = file.read(4)
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in _KINDS:
        raise ValueError(
            f"{path} is not an idx file of bytes: it starts with {start.hex() or 'nothing'}, expected 000008NN."
        )
    rank = start[3]
    header = file.read(4 * rank)
    if len(header) < 4 * rank:
        raise ValueError(f"{path} ends inside its header ({4 + len(header)} bytes); fetch it again.")
    shape = struct.unpack(f">{rank}I", header)
    wanted, blocks, left = math.prod(shape), [], math.prod(shape) + 1
    while left and (block := file.read(min(left, 2**24))):  # a header that lies must not claim the memory for it
        blocks.append(block)
        left -= len(block)
    held = wanted + 1 - left
    if held != wanted:
        holds = f"{held}" if held < wanted else "more"
        raise ValueError(f"{path} states {shape} = {wanted} bytes but holds {holds}; fetch it again.")
    if not wanted:
        return torch.empty(shape, dtype=_KINDS[start[2]])
    return torch.frombuffer(bytearray(b"".join(blocks)), dtype=_KINDS[start[2]]).reshape(shape)
