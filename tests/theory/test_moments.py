"""Moments: one pass, merged partial passes and NumPy agree."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor
from torch.testing import assert_close

from underpaint.theory.moments import Moments


def assert_moments_of(moments: Moments, data: Tensor) -> None:
    data = data.double()
    assert moments.count == len(data)
    assert moments.mean.dtype == moments.scatter.dtype == torch.float64
    scale = float(data.var(0).max())
    assert_close(moments.mean, data.mean(0), rtol=1e-12, atol=1e-12)
    assert_close(moments.covariance, torch.from_numpy(np.cov(data.numpy().T)), rtol=1e-10, atol=1e-11 * scale)


@given(
    sizes=st.lists(st.integers(0, 30), min_size=2, max_size=6).filter(lambda sizes: sum(sizes) > 1),
    seed=st.integers(0, 99),
)
def test_however_the_data_are_split(normal, sizes: list[int], seed: int) -> None:
    data = 3 + normal(sum(sizes), 4, seed=seed) @ normal(4, 4, seed=seed + 1)
    parts = data.split(sizes)
    updated = merged = Moments.empty(4)
    for part in parts:
        updated = updated.update(part)
        merged = Moments.of(part).merge(merged)
    for moments in (Moments.of(data), Moments.of(iter(parts)), updated, merged):
        assert_moments_of(moments, data)


@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_the_working_chunk_does_not_matter(normal, chunk: int) -> None:
    data = normal(50, 3)
    assert_moments_of(Moments.empty(3).update(data, chunk), data)


def test_a_large_mean_costs_no_digits_and_float32_rows_are_summed_in_float64(normal) -> None:
    """The textbook E[x^2] - E[x]^2 would lose every digit of the variance here."""
    data = (1e4 + normal(5000, 3)).float()
    assert_moments_of(Moments.of(data.split(512)), data)


def test_moments_do_not_change(normal) -> None:
    first = Moments.of(normal(9, 3))
    before = (first.count, first.mean.clone(), first.scatter.clone())
    first.update(normal(4, 3, seed=1)).merge(first)
    assert first.count == before[0]
    assert torch.equal(first.mean, before[1])
    assert torch.equal(first.scatter, before[2])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Moments.of(torch.zeros(2, 3, 3)), r"Expected rows \[B, D\], got a tensor of shape \(2, 3, 3\)"),
        (lambda: Moments.of(torch.zeros(4, 3, dtype=torch.uint8)), r"floating-point rows, got torch.uint8"),
        (lambda: Moments.of(torch.tensor([[1.0, math.nan], [math.inf, 0.0]])), "Data holds 2 NaN or infinite values"),
        (lambda: Moments.of(torch.tensor([[1.0, math.inf]])), "Data holds 1 NaN or infinite values"),
        (lambda: Moments.of([]), "at least one batch of rows; the data were empty"),
        (lambda: Moments.of([torch.zeros(2, 3), torch.zeros(2, 4)]), "Expected rows of dimension 3, got 4"),
        (lambda: Moments.empty(3).merge(Moments.empty(4)), "Cannot merge moments of dimension 3 and 4"),
        (lambda: Moments.empty(3).covariance, "at least 2 rows, got 0"),
        (lambda: Moments.of(torch.zeros(1, 3)).covariance, "at least 2 rows, got 1"),
    ],
)
def test_what_cannot_be_averaged_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
