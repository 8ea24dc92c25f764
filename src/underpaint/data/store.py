"""Gaussians on disk: safetensors with JSON metadata that says what they describe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .. import assets
from ..files import read_tensor_metadata, read_tensors, write_tensors
from ..theory.covariance import Covariance
from ..theory.gaussian import Gaussian

_FORMAT = 1


def save_gaussian(path: str | Path, gaussian: Gaussian, **provenance: Any) -> None:
    """Write mean, eigenvalues (float64) and basis, with free-form JSON provenance (data, count, range, shape ...)."""
    covariance = gaussian.covariance
    tensors = {"mean": gaussian.mean, "eigenvalues": covariance.eigenvalues, "basis": covariance.basis}
    write_tensors(path, tensors, {"format": _FORMAT, "kind": "gaussian", "residual": covariance.residual, **provenance})


def load_gaussian(source: str | Path) -> Gaussian:
    """The Gaussian of a model in the box, by name, or from a file of `save_gaussian`, in float32.

    Raises:
        ValueError: no such name or file, or a file of another kind.
    """
    boxed = assets.folder(str(source))
    path = boxed / "gaussian.safetensors" if boxed else Path(source)
    tensors, metadata = read_tensors(path), read_tensor_metadata(path)
    if metadata.get("kind") != "gaussian" or not {"mean", "eigenvalues", "basis"} <= tensors.keys():
        raise ValueError(f"{path} holds {', '.join(tensors) or 'nothing'}, not a Gaussian written by underpaint.")
    basis = tensors["basis"].to(torch.float32)
    return Gaussian(
        tensors["mean"].to(torch.float32), Covariance(tensors["eigenvalues"], basis, float(metadata["residual"]))
    )


def gaussian_provenance(source: str | Path) -> dict[str, Any]:
    """What `save_gaussian` noted beside the Gaussian of a model in the box or a file."""
    boxed = assets.folder(str(source))
    return read_tensor_metadata(boxed / "gaussian.safetensors" if boxed else Path(source))
