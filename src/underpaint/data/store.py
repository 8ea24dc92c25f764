"""Gaussians on disk: safetensors with JSON metadata that says what they describe; those of others are read too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from .. import assets
from ..bounds import number
from ..files import path_of, read_tensor_metadata, read_tensors, write_tensors
from ..pickles import read_state_dict
from ..theory.cosine import CosineBasis
from ..theory.covariance import Covariance
from ..theory.gaussian import Gaussian
from ..theory.mixture import Mixture
from .npy import float64_of, read_npz

#: 2 adds covariances that are stationary, and classes; 3 rotates the low frequencies of a stationary one.
_FORMAT = 3
#: So far B^T B v may be from random v; float32 rounds to a hundredth of it.
_ORTHONORMAL = 1e-2


def save_gaussian(
    path: str | Path,
    gaussian: Gaussian,
    classes: Mapping[int, tuple[int, Gaussian]] | Mapping[str, tuple[int, Gaussian]] | None = None,
    **provenance: Any,
) -> None:
    """Write mean, eigenvalues (float64) and basis, with free-form JSON provenance (data, count, range, shape ...).

    ``classes`` adds, for each label or name, how many rows it has and their Gaussian.

    Examples:
        >>> import tempfile
        >>> import torch
        >>> import underpaint as up
        >>> gaussian = up.Gaussian.isotropic(torch.zeros(4), variance=1.0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     up.save_gaussian(f"{folder}/mine.safetensors", gaussian, data="unit noise")
        ...     up.load_gaussian(f"{folder}/mine.safetensors")
        ...
        Gaussian(dimension 4, rank 0, total variance 4)
    """
    tensors, described = _pack(gaussian, "")
    metadata = {"format": _FORMAT, "kind": "gaussian", **described}
    if classes:
        packed = {label: (count, _pack(part, f"class-{label}.")) for label, (count, part) in classes.items()}
        metadata["classes"] = {label: {"count": count, **notes} for label, (count, (_, notes)) in packed.items()}
        for _, (more, _) in packed.values():
            tensors |= more
    write_tensors(path, tensors, metadata | provenance)


def load_gaussian(source: str | Path, label: int | str | None = None) -> Gaussian:
    """The Gaussian of a model in the box, by name, or from a file, in float32; that of one class if ``label`` is given.

    Files: those of `save_gaussian`; a torch file {eigval, eigvec, imgmean} as the authors of WV24 publish them, brought
    from pixels in [0, 1] to [-1, 1] (unless its mean lies outside [0, 1]); an .npz file of mu and sigma, as EDM writes
    them, as it is. Nothing in them is executed.

    Raises:
        ValueError: no such name, file or class; a file of another kind, or a damaged one.

    Examples:
        >>> import underpaint as up
        >>> up.load_gaussian("fashion-mnist").dimension
        784
    """
    path = _find(source)
    if path.suffix.lower() in (".pt", ".pth", ".pkl", ".npz") and path.is_file():
        if label is not None:
            raise ValueError(f"{path} holds one Gaussian and knows no classes.")
        return _published(path) if path.suffix.lower() != ".npz" else _mu_and_sigma(path)
    tensors, metadata = read_tensors(path), _described(path)
    if metadata.get("kind") != "gaussian" or "mean" not in tensors:
        raise ValueError(f"{path} holds {', '.join(tensors) or 'nothing'}, not a Gaussian written by underpaint.")
    if label is None:
        return _unpack(path, tensors, metadata, "")
    known = _classes(path, metadata)
    if str(label) not in known:
        raise ValueError(f"{path} holds no class {label}; known are {', '.join(known) or 'none'}.")
    return _unpack(path, tensors, known[str(label)], f"class-{label}.")


def load_mixture(source: str | Path) -> Mixture:
    """One Gaussian for each class of a file of `save_gaussian`, weighted by how many rows it was taken from.

    Raises:
        ValueError: as `load_gaussian`, or there are no classes in it.
    """
    path = _find(source)
    classes = _classes(path, _described(path))
    if not classes:
        raise ValueError(f"{path} holds no classes; take the statistics of labelled data.")
    tensors = read_tensors(path)
    parts = tuple(_unpack(path, tensors, notes, f"class-{label}.") for label, notes in classes.items())
    return Mixture(torch.tensor([float(notes["count"]) for notes in classes.values()]), parts)


def gaussian_provenance(source: str | Path) -> dict[str, Any]:
    """What `save_gaussian` noted beside the Gaussian of a model in the box or a file."""
    return read_tensor_metadata(_find(source))


def _described(path: Path) -> dict[str, Any]:
    """The metadata of a file of a form that this version reads."""
    metadata = read_tensor_metadata(path)
    form = metadata.get("format", 1)
    if not isinstance(form, int) or form > _FORMAT:
        raise ValueError(
            f"{path} is written in form {form!r}, and this version of underpaint reads forms 1 to {_FORMAT}; install a "
            "newer one, or take the statistics again."
        )
    return metadata


def _classes(path: Path, metadata: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    classes = metadata.get("classes") or {}
    if not isinstance(classes, dict) or not all(isinstance(n, dict) and "count" in n for n in classes.values()):
        raise ValueError(f"{path} is damaged (its classes are not described); take the statistics again.")
    for label, notes in classes.items():
        if not isinstance(notes["count"], int) or notes["count"] < 1:
            raise ValueError(
                f"{path} is damaged (class {label} has a count of {notes['count']!r}); take the statistics again."
            )
    return classes


def _find(source: str | Path) -> Path:
    place = path_of(source, "statistics or the name of a model in the box")
    boxed = assets.folder(str(source))
    return boxed / "gaussian.safetensors" if boxed else place


def _pack(gaussian: Gaussian, prefix: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors under names that begin with the prefix, and what else it takes to rebuild the covariance."""
    covariance, basis = gaussian.covariance, cast(Any, gaussian.covariance.basis)
    tensors = {"mean": gaussian.mean, "eigenvalues": covariance.eigenvalues}
    notes: dict[str, Any] = {"residual": covariance.residual, "covariance": covariance.kind}
    if isinstance(basis, CosineBasis):
        tensors |= {"mix": basis.mix, "order": basis.order}
        tensors |= {} if basis.low is None else {"low": basis.low}
        notes["size"] = basis.size
    else:
        tensors["basis"] = basis
    return {prefix + name: tensor for name, tensor in tensors.items()}, notes


def _unpack(path: Path, tensors: dict[str, Tensor], notes: Mapping[str, Any], prefix: str) -> Gaussian:
    part = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    try:
        basis: Any
        if "mix" in part:
            height, width = notes["size"]
            low = part["low"].float() if "low" in part else None
            basis = CosineBasis(part["mix"].float(), part["order"], (height, width), low)
            if not torch.equal(basis.order.sort().values, torch.arange(len(basis.order))):
                raise ValueError("the order of the modes is not a permutation")
        else:
            basis = part["basis"].float()
        gaussian = Gaussian(
            part["mean"].float(), Covariance(part["eigenvalues"], basis, number(notes["residual"], "residual variance"))
        )
    except (KeyError, TypeError, ValueError) as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else error
        why = "a part of it is of another type" if isinstance(error, TypeError) else why
        raise ValueError(f"{path} is damaged ({why}); take the statistics again.") from error
    return _checked(gaussian, path)


def _checked(gaussian: Gaussian, path: Path) -> Gaussian:
    """The Gaussian, if its basis is orthonormal.

    B^T B v = v for some random v: an entry of B^T B that is wrong shows in the product, at the cost of a few rows.
    """
    basis = gaussian.covariance.basis
    probes = torch.randn(4, basis.shape[1], generator=torch.Generator().manual_seed(0))
    off = (probes.to(basis.dtype) @ basis.T @ basis - probes).abs()
    if off.numel() and not float(off.max()) < _ORTHONORMAL:
        raise ValueError(f"{path} is damaged (its basis is not orthonormal); take the statistics again.")
    return gaussian


def _published(path: Path) -> Gaussian:
    try:
        found = read_state_dict(path)
        values, vectors, mean = (found[name].double() for name in ("eigval", "eigvec", "imgmean"))
        if vectors.shape[1:] != values.shape:
            raise ValueError(f"eigval is {tuple(values.shape)}, eigvec {tuple(vectors.shape)}")
        values, order = values.sort(descending=True)
        mean = mean.flatten()
        scale = 2 if mean.min() >= 0 and mean.max() <= 1 else 1
        covariance = Covariance(scale**2 * values.clamp(min=0), vectors[:, order].float())
        return _checked(Gaussian((scale * mean - (scale - 1)).float(), covariance), path)
    except (ValueError, KeyError, RuntimeError) as error:
        raise ValueError(
            f"{path} cannot be read as tensors eigval [D], eigvec [D, D] and imgmean [D] without running what is in it "
            f"({' '.join(str(error).split())[:200]})."
        ) from error


def _mu_and_sigma(path: Path) -> Gaussian:
    try:
        arrays = read_npz(path, ("mu", "sigma"))
        if arrays.keys() != {"mu", "sigma"}:
            raise ValueError(f"it holds {', '.join(arrays) or 'neither'}")
        mean, matrix = (float64_of(arrays[name], name) for name in ("mu", "sigma"))
        return _checked(Gaussian(mean.float(), Covariance.of(matrix)), path)
    except (ValueError, RuntimeError) as error:
        why = "sigma has no eigenvalues" if isinstance(error, RuntimeError) else error
        raise ValueError(f"{path} cannot be read as mu [D] and sigma [D, D] ({why}).") from error
