"""Every field of a file of statistics is checked: what is no mean, no variance or no basis is refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from underpaint.data.store import load_gaussian, load_mixture, save_gaussian
from underpaint.files import read_tensor_metadata, write_tensors
from underpaint.theory.gaussian import Gaussian
from underpaint.theory.sums import Full, LowRank, Sketch, Stationary, Sums

IMAGE = (2, 4, 3)
KINDS: dict[str, Sketch] = {
    "full": Full(24),
    "low-rank": LowRank(24, 5),
    "stationary": Stationary(IMAGE),
    "low frequencies": Stationary(IMAGE, 2),
}


def written(path: Path, sketch: Sketch) -> tuple[dict[str, Tensor], dict[str, object]]:
    """What a file of these statistics, with one class, holds."""
    rows = torch.randn(60, 24, generator=torch.Generator().manual_seed(0))
    sums = Sums(sketch, rows.mean(0))
    sums.add(rows)
    gaussian = Gaussian(sums.mean.float(), sums.covariance())
    save_gaussian(path, gaussian, {0: (60, gaussian)})
    load_gaussian(path)
    load_gaussian(path, 0)
    return load_file(path), read_tensor_metadata(path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -0.7])
def test_one_wrong_number_in_any_field_is_found(tmp_path: Path, kind: str, value: float) -> None:
    path = tmp_path / "g.safetensors"
    tensors, notes = written(path, KINDS[kind])
    changed = 0
    for name, tensor in tensors.items():
        if value == -0.7 and name.endswith("mean"):
            continue  # as good a mean as any
        wrong = tensor.clone()
        wrong.view(-1)[len(wrong.view(-1)) // 2] = value if wrong.is_floating_point() else 0
        write_tensors(path, tensors | {name: wrong}, notes)
        with pytest.raises(ValueError, match=r"g\.safetensors is damaged \("):
            load_gaussian(path, 0 if name.startswith("class-0.") else None)
        changed += 1
    assert changed >= 4


@pytest.mark.parametrize(
    "note", [{"residual": -1.0}, {"residual": float("nan")}, {"residual": "x"}, {"residual": None}]
)
def test_a_wrong_residual_is_found(tmp_path: Path, note: dict[str, object]) -> None:
    path = tmp_path / "g.safetensors"
    tensors, notes = written(path, KINDS["low-rank"])
    write_tensors(path, tensors, notes | note)
    with pytest.raises(ValueError, match="is damaged"):
        load_gaussian(path)


@pytest.mark.parametrize("count", [0, -3, float("nan"), "many", None, 2.5])
def test_a_wrong_count_of_a_class_is_found(tmp_path: Path, count: object) -> None:
    path = tmp_path / "g.safetensors"
    tensors, notes = written(path, KINDS["low-rank"])
    notes["classes"]["0"]["count"] = count  # type: ignore[index]
    write_tensors(path, tensors, notes)
    with pytest.raises(ValueError, match="class 0 has a count of"):
        load_mixture(path)


@pytest.mark.parametrize(
    ("sigma", "words"),
    [
        (np.diag([1.0, -0.5]), "has no negative eigenvalues, but this matrix has -0.5"),
        (np.array([[1.0, 0.3], [0.0, 1.0]]), "symmetric, but entries of this matrix differ by 0.3"),
        (np.array([[1.0, 2.0], [2.0, 1.0]]), "has no negative eigenvalues, but this matrix has -1"),
        (np.ones((2, 3)), r"square matrix \[D, D\]"),
        (np.array([[1.0, np.inf], [np.inf, 1.0]]), "NaN or infinities"),
    ],
)
def test_a_sigma_that_is_no_covariance_is_refused(tmp_path: Path, sigma: np.ndarray, words: str) -> None:
    np.savez(tmp_path / "a.npz", mu=np.zeros(2), sigma=sigma)
    with pytest.raises(ValueError, match=words):
        load_gaussian(tmp_path / "a.npz")


def test_a_published_basis_that_is_not_orthonormal_is_refused(tmp_path: Path) -> None:
    basis = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0))).Q
    parts = {"eigval": torch.arange(6.0), "eigvec": basis, "imgmean": torch.full((6,), 0.5)}
    torch.save(parts, tmp_path / "a.pt")
    load_gaussian(tmp_path / "a.pt")
    torch.save(parts | {"eigvec": 2 * basis}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="its basis is not orthonormal"):
        load_gaussian(tmp_path / "a.pt")


def test_a_file_of_a_later_form_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "g.safetensors"
    tensors, notes = written(path, KINDS["full"])
    for form in (4, "new"):
        write_tensors(path, tensors, notes | {"format": form})
        for read in (load_gaussian, load_mixture):
            with pytest.raises(ValueError, match=f"is written in form {form!r}, and this version of underpaint reads"):
                read(path)
    write_tensors(path, tensors, {name: note for name, note in notes.items() if name != "format"})
    assert load_gaussian(path).dimension == 24
