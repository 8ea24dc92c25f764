"""A Fréchet distance of something that is no covariance is refused, and never 0."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from underpaint.metrics.frechet import Statistics, frechet_distance, frechet_score, read_reference

GOOD = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
IMPOSSIBLE = {
    "negative": torch.diag(torch.tensor([1.0, -0.5], dtype=torch.float64)),
    "too much in common": torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=torch.float64),
    "not symmetric": torch.tensor([[1.0, 0.5], [0.0, 1.0]], dtype=torch.float64),
    "NaN": torch.full((2, 2), torch.nan, dtype=torch.float64),
}


@pytest.mark.parametrize("matrix", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_it_is_refused_on_either_side_and_in_a_file(tmp_path: Path, matrix: Tensor) -> None:
    good = Statistics("x", torch.zeros(2), GOOD, 100)
    with pytest.raises(ValueError, match=r"covariance|NaN"):
        frechet_distance(Statistics("x", torch.zeros(2), matrix, 100), good)
    with pytest.raises(ValueError, match=r"covariance|NaN"):
        frechet_score(good, Statistics("x", torch.zeros(2), matrix, 100))
    np.savez(tmp_path / "a.npz", mu=np.zeros(2), sigma=matrix.numpy())
    with pytest.raises(ValueError, match=r"a\.npz holds no mean and covariance"):
        read_reference(tmp_path / "a.npz")


@pytest.mark.parametrize("count", [np.array(0), np.array(-5), np.array(2.5), np.array([1, 2]), np.array("many")])
def test_a_count_is_a_number_of_samples(tmp_path: Path, count: np.ndarray) -> None:
    np.savez(tmp_path / "a.npz", mu=np.zeros(2), sigma=np.eye(2), count=count)
    with pytest.raises(ValueError, match="expected a whole number of samples"):
        read_reference(tmp_path / "a.npz")


def test_rounding_of_float32_is_no_reason(tmp_path: Path) -> None:
    """Of fewer samples than features, written in float32: eigenvalues of -1e-8 times the largest."""
    rows = torch.randn(50, 300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rounded = torch.cov(rows.T).float().numpy()
    assert np.linalg.eigvalsh(rounded.astype(float))[0] < 0
    np.savez(tmp_path / "a.npz", mu=np.zeros(300), sigma=rounded)
    reference = read_reference(tmp_path / "a.npz")
    assert frechet_distance(reference, reference) == pytest.approx(0, abs=1e-3 * float(reference.covariance.trace()))
