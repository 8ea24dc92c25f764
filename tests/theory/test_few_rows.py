"""Covariances of fewer rows than dimensions: what is kept of them, and shrinkage towards what is probably true."""

from __future__ import annotations

import pytest
import torch
from mpmath import mp
from torch import Tensor
from torch.testing import assert_close

from underpaint.noise import EDM
from underpaint.theory.covariance import Covariance
from underpaint.theory.gaussian import Gaussian
from underpaint.theory.moments import Moments
from underpaint.theory.shrinkage import shrink
from underpaint.theory.sums import Full, LowRank, Rows, Sketch, Sums

D = 60


def drawn(count: int, seed: int = 0, dimension: int = D) -> Tensor:
    """Rows of a covariance that falls off as that of images does, in a basis of no special kind."""
    generator = torch.Generator().manual_seed(99)
    basis = torch.linalg.qr(torch.randn(dimension, dimension, generator=generator, dtype=torch.float64)).Q
    scale = (1 + torch.arange(dimension, dtype=torch.float64)) ** -0.75
    noise = torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (noise * scale) @ basis.T + 0.5


@pytest.mark.parametrize("count", [3, 20, D, D + 1])
def test_no_more_directions_are_kept_than_rows_can_fill(count: int) -> None:
    rows = drawn(count)
    for data in (rows, Moments.of(rows), rows.split(7)):
        gaussian = Gaussian.fit(data, dtype=torch.float64)
        assert gaussian.covariance.rank == count - 1
        assert gaussian.covariance.residual == 0
        assert float(gaussian.eigenvalues.min()) > 1e-8
        assert_close(gaussian.covariance.matrix(), torch.cov(rows.T), rtol=1e-9, atol=1e-12)
        assert_close(gaussian.basis.T @ gaussian.basis, torch.eye(count - 1, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("sketch", [Full(D), Rows(20, D), LowRank(D, 30), Rows(20, D, 5), Full(D, 5)], ids=repr)
def test_every_sketch_of_few_rows_has_their_rank(sketch: Sketch) -> None:
    rows = drawn(20)
    sums, other = Sums(sketch, rows[0]), Sums(sketch, rows[0])
    sums.add(rows[:6])
    sums.add(rows[6:11])
    other.add(rows[11:])
    sums.merge(other)
    found = sums.covariance(torch.float64)
    kept = getattr(sketch, "rank", None) == 5
    expected = Covariance.of(torch.cov(rows.T), 5 if kept else None, torch.float64)
    assert found.rank == (5 if kept else 19)
    assert_close(found.matrix(), expected.matrix(), rtol=1e-7, atol=1e-8)


def test_the_products_are_the_same_for_any_number_of_threads() -> None:
    rows, found = drawn(600, dimension=700).float(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        sums = Sums(Rows(600, 700), rows.mean(0))
        sums.add(rows)
        found.append(sums.kept)
    torch.set_num_threads(1)
    assert torch.equal(*found)


def published(values: list[float], dimension: int, n: int) -> list[float]:
    """All D eigenvalues by the formula as its authors print it in MATLAB; to 40 digits, since its terms cancel."""
    with mp.workdps(40):
        lam, p, h, root = [mp.mpf(v) for v in values], dimension, mp.mpf(n) ** (-mp.mpf(1) / 3), mp.sqrt(5)
        found = []
        for own in lam:
            x = [(own - other) / (h * other) for other in lam]
            kernel = [3 / (4 * root) * max(1 - u**2 / 5, 0) / (h * o) for u, o in zip(x, lam, strict=True)]
            log = [mp.log(abs((root - u) / (root + u))) for u in x]
            second = [3 / (4 * root * mp.pi) * (1 - u**2 / 5) * w for u, w in zip(x, log, strict=True)]
            terms = [(v - 3 / (10 * mp.pi) * u) / (h * o) for u, v, o in zip(x, second, lam, strict=True)]
            f, hilbert = mp.fsum(kernel) / len(lam), mp.fsum(terms) / len(lam)
            if p <= n:
                c = mp.mpf(p) / n
                found.append(own / ((mp.pi * c * own * f) ** 2 + (1 - c - mp.pi * c * own * hilbert) ** 2))
            else:
                found.append(own / (mp.pi**2 * own**2 * (f**2 + hilbert**2)))
        if p > n:
            log = mp.log((1 + root * h) / (1 - root * h))
            zero = 1 / mp.pi * (3 / (10 * h**2) + 3 / (4 * root) / h * (1 - 1 / (5 * h**2)) * log)
            zero *= mp.fsum(1 / own for own in lam) / len(lam)
            found += [1 / (mp.pi * mp.mpf(p - n) / n * zero)] * (p - n)
        return [float(value) for value in found]


@pytest.mark.parametrize("count", [15, 40, D, D + 1, 90, 400])
def test_shrinkage_is_the_published_formula(count: int) -> None:
    gaussian = Gaussian.fit(drawn(count), dtype=torch.float64)
    expected = published(gaussian.eigenvalues.tolist(), D, count - 1)
    found = gaussian.shrunk(count).covariance
    assert_close(
        found.spectrum.sort().values, torch.tensor(sorted(expected), dtype=torch.float64), rtol=1e-8, atol=1e-12
    )
    assert bool((found.eigenvalues.diff() <= 0).all())


def test_a_wide_spectrum_does_not_cancel() -> None:
    """Eigenvalues over ten decades, against the same in exact order: far from each other, they hardly act."""
    values = torch.logspace(3, -7, 200, dtype=torch.float64)
    plain = Covariance(values, torch.eye(200, dtype=torch.float64))
    found = shrink(plain, 2001)
    assert_close(found.eigenvalues, values, rtol=0.35, atol=0)
    assert bool((found.eigenvalues > 0).all())


@pytest.mark.parametrize("count", [15, 30, 50, 80, 200])
def test_it_is_nearer_to_the_truth(count: int) -> None:
    """In likelihood of new rows, and in the error of the denoiser, at every level."""
    rows, fresh = drawn(count), drawn(2000, seed=5)
    plain = Gaussian.fit(rows, dtype=torch.float64)
    shrunk = plain.shrunk(count)
    noise = torch.randn(fresh.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    for sigma in (1.0, 0.3, 0.1, 0.03):
        level, noisy = EDM()(sigma), fresh + sigma * noise
        errors = [(g.denoise(noisy, level) - fresh).square().mean() for g in (plain, shrunk)]
        assert float(errors[1]) < (1.001 if count == 200 or sigma == 1 else 0.999) * float(errors[0])
    if count > D:
        assert float(plain.log_prob(fresh).mean()) < float(shrunk.log_prob(fresh).mean())
    assert bool(shrunk.log_prob(fresh).isfinite().all())


def test_rows_that_repeat_others_and_places_that_never_vary() -> None:
    """Each row twice tells no more than once; a dimension without variance stays so where there are rows enough."""
    rows = drawn(30)
    once, twice = Gaussian.fit(rows, dtype=torch.float64), Gaussian.fit(rows.repeat(2, 1), dtype=torch.float64)
    assert twice.covariance.rank == 29
    assert_close(
        twice.shrunk(60).covariance.residual / once.shrunk(30).covariance.residual,
        29 / 30 * 2 * 30 / 59,
        rtol=1e-6,
        atol=0,
    )
    still = drawn(200)
    still[:, 7] = 1.0
    found = Gaussian.fit(still, dtype=torch.float64).shrunk(200).covariance
    assert (found.rank, found.residual) == (D - 1, 0.0)
    assert float(found.matrix()[7].abs().max()) < 1e-12


def test_as_few_rows_as_it_takes_have_positive_variances_in_every_direction() -> None:
    found = Gaussian.fit(drawn(13), dtype=torch.float64).shrunk(13).covariance
    assert found.rank == 12
    assert min(found.residual, float(found.eigenvalues.min())) > 0


def test_what_cannot_be_shrunk_is_refused() -> None:
    rows = drawn(40)
    for covariance, count, words in (
        (Gaussian.fit(rows[:12]).covariance, 12, "at least 13 different rows, got 12 with 11 directions"),
        (Gaussian.fit(rows, rank=20).covariance, 40, "needs the whole spectrum"),
        (Covariance.stationary(torch.eye(3).expand(20, 3, 3), (4, 5)), 40, "needs the whole spectrum"),
    ):
        with pytest.raises(ValueError, match=words):
            shrink(covariance, count)
