"""Parts of a long run on disk: each is one file, written whole or not at all, and known by all that it depends on."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from ...files import read_tensor_metadata, read_tensors, write_tensors
from ...theory.gaussian import Gaussian


def load_or_make(path: Path, settings: dict[str, Any], make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The chunk of these settings from disk; else it is made, and then on disk."""
    found = _read(path, settings)
    if found is None:
        found = make()
        write_tensors(path, found, settings)
    return found


def _read(path: Path, settings: dict[str, Any]) -> dict[str, Tensor] | None:
    """The chunk at a path; None if there is none, it is damaged, or it was made with other settings."""
    try:
        return read_tensors(path) if read_tensor_metadata(path) == settings else None
    except ValueError:
        return None


def checkpoint_name(words: str, seeds: Sequence[int], settings: Mapping[str, Any]) -> str:
    """A file name that can be read, and differs where the settings do."""
    mark = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", words)[:80].strip("-")
    return f"{readable}-seeds-{seeds[0]}-{seeds[-1]}-{mark}.safetensors"


def gaussian_tensors(gaussian: Gaussian) -> dict[str, Tensor]:
    """The tensors that make up a Gaussian, whatever its basis is made of."""
    covariance, basis = gaussian.covariance, cast(Any, gaussian.covariance.basis)
    parts = {"basis": basis} if isinstance(basis, Tensor) else vars(basis)
    parts = {name: part for name, part in parts.items() if isinstance(part, Tensor)}
    return {"mean": gaussian.mean, "values": covariance.eigenvalues, "rest": covariance.spectrum[-1:], **parts}
