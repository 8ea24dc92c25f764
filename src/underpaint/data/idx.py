"""Read the idx files in which the MNIST family is published (LeCun's format), plain or gzipped."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import torch

_KINDS = {0x08: torch.uint8}


def read_idx(path: str | Path) -> torch.Tensor:
    """Return the array in one idx file as a uint8 tensor of the shape that its header states.

    Raises:
        ValueError: the file is not idx, holds other than bytes, or is shorter or longer than its header says.
    """
    path = Path(path)
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is not a complete gzip file ({error}); fetch it again.") from error
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in _KINDS:
        raise ValueError(
            f"{path} is not an idx file of bytes: it starts with {raw[:4].hex() or 'nothing'}, expected 000008NN."
        )
    rank = raw[3]
    header = 4 + 4 * rank
    if len(raw) < header:
        raise ValueError(f"{path} ends inside its header ({len(raw)} bytes); fetch it again.")
    shape = struct.unpack(f">{rank}I", raw[4:header])
    if len(raw) - header != math.prod(shape):
        raise ValueError(
            f"{path} states {shape} = {math.prod(shape)} bytes but holds {len(raw) - header}; fetch it again."
        )
    return torch.frombuffer(bytearray(raw[header:]), dtype=_KINDS[raw[2]]).reshape(shape)
