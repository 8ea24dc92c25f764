"""The basis of cosines, with a rotation of its lowest frequencies: a matrix in all that is asked of it."""

from __future__ import annotations

import pytest
import scipy.fft
import torch
from torch.testing import assert_close

from underpaint.noise import NoiseLevel
from underpaint.theory.cosine import CosineBasis, low_coordinates
from underpaint.theory.covariance import Covariance
from underpaint.theory.gaussian import Gaussian

CHANNELS, SIZE = 3, (5, 4)
D = CHANNELS * SIZE[0] * SIZE[1]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(side: int = 2) -> CosineBasis:
    """A basis whose parts are all drawn."""
    mix = torch.linalg.qr(random(SIZE[0] * SIZE[1], CHANNELS, CHANNELS))[0]
    low = torch.linalg.qr(random(CHANNELS * side**2, CHANNELS * side**2, seed=1))[0]
    return CosineBasis(mix, torch.randperm(D, generator=torch.Generator().manual_seed(2)), SIZE, low)


@pytest.mark.parametrize("side", [1, 2, 4])
def test_it_is_the_matrix_that_its_parts_make(side: int) -> None:
    basis = made(side)
    transform = torch.from_numpy(
        scipy.fft.dctn(random(7, *(CHANNELS, *SIZE), seed=3).numpy(), axes=(2, 3), norm="ortho")
    )
    rows = random(7, CHANNELS * SIZE[0] * SIZE[1], seed=3)
    expected = torch.einsum("ncf,fck->nfk", transform.flatten(2), basis.mix)
    lowest = [SIZE[1] * i + j for i in range(side) for j in range(side)]
    expected[:, lowest] = (expected[:, lowest].flatten(1) @ basis.low).unflatten(1, (-1, CHANNELS))
    assert_close(rows @ basis, expected.flatten(1)[:, basis.order])
    dense = basis[:, :]
    assert_close(dense.T @ dense, torch.eye(D).double())
    assert_close(rows @ dense, rows @ basis)
    assert_close(rows @ dense.T, rows @ basis.T)
    assert_close(basis[:, 5], dense[:, 5])


def test_it_is_itself_after_a_move_and_differs_by_its_rotation() -> None:
    basis = made()
    assert torch.equal(basis, made())
    assert torch.equal(basis.to(dtype=torch.float64).T, basis.T)
    plain = CosineBasis(basis.mix, basis.order, SIZE)
    assert not torch.equal(basis, plain)
    assert not torch.equal(plain, basis)
    assert basis.to(dtype=torch.float32).low.dtype is torch.float32


def test_gradients_and_maps_go_through_it() -> None:
    basis, rows = made(), random(4, D, seed=5).requires_grad_()
    weight = random(4, D, seed=6)
    for q in (basis, basis.T):
        (gradient,) = torch.autograd.grad((rows @ q * weight).sum(), rows)
        assert_close(gradient, weight @ q.T)
        assert_close(torch.func.vmap(lambda row, q=q: row @ q)(rows), rows @ q)
        assert_close(torch.func.jvp(lambda x, q=q: x @ q, (rows.detach(),), (weight,))[1], weight @ q)


def test_a_covariance_of_low_frequencies_keeps_what_stands_between_them() -> None:
    """Of data that live on few low frequencies it is all of the covariance, and its denoiser that of the full one."""
    places = low_coordinates(SIZE, CHANNELS, CHANNELS * 4)
    cosine = CosineBasis(torch.eye(CHANNELS).double().expand(20, 3, 3), torch.arange(D), SIZE)
    root = random(12, 12, seed=7)
    low, blocks = root @ root.T, torch.zeros(20, CHANNELS, CHANNELS, dtype=torch.float64)
    exact = cosine[:, :][:, places] @ low @ cosine[:, :][:, places].T
    covariance = Covariance.stationary(blocks, SIZE, torch.float64, low)
    assert_close(covariance.matrix(), exact, rtol=1e-10, atol=1e-12)
    assert bool((covariance.eigenvalues.diff() <= 0).all())
    mean, x = random(D, seed=8), random(6, D, seed=9)
    level = NoiseLevel(0.8, 0.6)
    full = Gaussian(mean, Covariance.of(exact, dtype=torch.float64))
    assert_close(Gaussian(mean, covariance).denoise(x, level), full.denoise(x, level), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("count", [3 * 25, 5, 13])
def test_a_rotation_of_another_size_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=r"3 channels of size \(5, 4\) are 3 s\^2 coordinates, s at most 4; got"):
        CosineBasis(made().mix, made().order, SIZE, torch.eye(count).double())
    with pytest.raises(ValueError, match=r"A rotation of the lowest frequencies is \[K, K\], got \(3, 2\)"):
        CosineBasis(made().mix, made().order, SIZE, torch.ones(3, 2))
