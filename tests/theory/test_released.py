"""Denoisers as released: the numbers that the released code gave, and what follows from how it computes them."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from recorded_releases import RECORDED
from torch import Tensor
from torch.testing import assert_close

from underpaint.noise import DDPM, EDM, NoiseLevel
from underpaint.theory.cloud import PointCloud
from underpaint.theory.denoiser import Denoiser
from underpaint.theory.gaussian import Gaussian
from underpaint.theory.local import LocalCloud, Smoothed
from underpaint.theory.released import (
    BatchPosterior,
    FreshlySmoothed,
    GoldDiff,
    NearestPoints,
    PCALocality,
    released_mask,
)

SHAPE = (1, 4, 4)
ROW, PIXEL = torch.arange(10.0, dtype=torch.float64).unsqueeze(1), torch.arange(16.0, dtype=torch.float64)
POINTS = 0.7 * torch.sin(1 + 0.37 * ROW**2 + 0.9 * PIXEL + 0.21 * ROW * PIXEL)
POINTS[:, 5] *= 0.2
STATES = torch.cos(0.5 + 2.1 * ROW[:2] + 0.8 * PIXEL + 0.3 * ROW[:2] * PIXEL)
GAUSSIAN = Gaussian.fit(POINTS, dtype=torch.float64)
STUDIO, BATCH = DDPM(), 4


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def kamb(time: float, local: bool = False) -> NoiseLevel:
    """beta = 1 - exp(-2 t) for the local score, 1 - cos^2(pi t / 2.016) for the others."""
    beta = 1 - math.exp(-2 * time) if local else 1 - math.cos(time / 1.008 * math.pi / 2) ** 2
    return NoiseLevel((1 - beta) ** 0.5, beta**0.5)


def agrees(denoised: Tensor, *key: str | float) -> None:
    assert_close(denoised[0], torch.tensor(RECORDED[key], dtype=torch.float64), rtol=0, atol=3e-5)


@pytest.mark.parametrize("key", [key for key in RECORDED if key[0] == "pca"], ids=str)
def test_pca_locality_is_as_released(key: tuple[str, float, int, int]) -> None:
    _, share, batch, step = key
    agrees(PCALocality(POINTS, GAUSSIAN, share, batch)(STATES, STUDIO(step)), *key)


@pytest.mark.parametrize("step", [100, 300, 600])
def test_nearest_points_are_as_released(step: int) -> None:
    agrees(NearestPoints(POINTS, 3)(STATES, STUDIO(step)), "optimal", step)
    agrees(NearestPoints(POINTS, 1, scaled=False)(STATES, STUDIO(step)), "nearest", step)
    agrees(GAUSSIAN(STATES, STUDIO(step)), "wiener", step)


def test_fresh_noise_is_as_released() -> None:
    """In float32, in which torch draws other noise than in float64."""
    smoothed, x = FreshlySmoothed(NearestPoints(POINTS.float(), 3), 0.1, 4, seeded()), STATES.float()
    for call in ("first", "second"):
        agrees(smoothed(x, STUDIO(300)).double(), f"scfdm {call}", 300)


@pytest.mark.parametrize("key", [key for key in RECORDED if key[0] == "gold"], ids=str)
def test_golden_subsets_are_as_released(key: tuple[str, int, int, int]) -> None:
    """Random pools included: with one generator, torch draws the same."""
    _, least, most, step = key
    golden = GoldDiff(POINTS, GAUSSIAN, SHAPE, 0.05, least, most, edge=2, generator=seeded())
    agrees(golden(STATES, STUDIO(step)), *key)


@pytest.mark.parametrize("time", [0.2, 0.5, 0.8])
def test_kambs_scores_are_as_released(time: float) -> None:
    agrees(BatchPosterior(POINTS, BATCH)(STATES[:1], kamb(time)), "ideal", time)
    agrees(PointCloud(POINTS)(STATES[:1], kamb(time)), "ideal of one batch", time)
    agrees(LocalCloud.patches(POINTS, SHAPE, 3, equivariant=False)(STATES[:1], kamb(time, True)), "local", time)
    agrees(LocalCloud.patches(POINTS, SHAPE, 3)(STATES[:1], kamb(time)), "equivariant", time)


def test_the_released_mask_is_transposed_and_cut_at_its_global_maximum() -> None:
    """Where one pixel varies little, its row holds the maximum, and others no longer see themselves."""
    level = STUDIO(300)
    sigma = level.alpha**2 * GAUSSIAN.covariance.matrix()
    wiener = sigma @ (sigma + level.sigma**2 * torch.eye(16, dtype=torch.float64)).inverse()
    mask = (wiener / wiener.diagonal().unsqueeze(1)).abs()
    assert int(mask.max(1).values.argmax()) == 5
    for share in (0.05, 0.3):
        assert torch.equal(released_mask(GAUSSIAN, level, share), (mask >= share * mask.max()).T)
    assert int(released_mask(GAUSSIAN, level, 0.3).diagonal().sum()) == 0


def test_batches_and_order_matter_to_pca_locality_alone() -> None:
    level = STUDIO(300)
    whole = PCALocality(POINTS, GAUSSIAN, 0.05, 10)(STATES, level)
    parts = PCALocality(POINTS, GAUSSIAN, 0.05, 4)(STATES, level)
    turned = PCALocality(POINTS.flip(0), GAUSSIAN, 0.05, 4)(STATES, level)
    assert all(float((a - b).norm() / a.norm()) > 0.02 for a, b in pairwise((whole, parts, turned)))
    assert_close(PCALocality(POINTS.flip(0), GAUSSIAN, 0.05, 10)(STATES, level), whole)
    lone = PCALocality(POINTS, GAUSSIAN, 0.05, 1)(STATES, level)  # each point a batch: the mean of the data
    assert_close(lone, POINTS.mean(0).expand(2, 16))


def test_all_points_are_the_exact_score() -> None:
    for level in (STUDIO(100), STUDIO(900), EDM()(0.7)):
        exact = PointCloud(POINTS)(STATES, level)
        for denoise in (NearestPoints(POINTS, 10), NearestPoints(POINTS, 200), BatchPosterior(POINTS, 10)):
            assert_close(denoise(STATES, level), exact)


def test_a_temperature_is_a_larger_noise_for_the_weights_alone() -> None:
    """Of the exact score, whose window is always the whole image, exactly that of a level further up."""
    level, hot = EDM()(0.7), EDM()(0.7 * 2**0.5)
    assert_close(NearestPoints(POINTS, 10, temperature=2.0)(STATES, level), PointCloud(POINTS)(STATES, hot))
    for equivariant in (False, True):
        warm = LocalCloud.patches(POINTS, SHAPE, 3, equivariant, temperature=2.0)(STATES, level)
        assert_close(warm, LocalCloud.patches(POINTS, SHAPE, 3, equivariant)(STATES, hot))
    windows = LocalCloud.wiener(POINTS, GAUSSIAN, 0.1)
    held = LocalCloud(POINTS, lambda _: windows.views(level))
    assert_close(LocalCloud.wiener(POINTS, GAUSSIAN, 0.1, 2.0)(STATES, level), held(STATES, hot))


def test_fresh_noise_differs_from_call_to_call_and_smoothed_noise_does_not() -> None:
    cloud, level = PointCloud(POINTS), EDM()(0.7)
    fresh, kept = FreshlySmoothed(cloud, 0.5, 4, seeded()), Smoothed(cloud, 0.5, 2)
    assert float((fresh(STATES, level) - fresh(STATES, level)).norm()) > 0.05
    assert torch.equal(kept(STATES, level), kept(STATES, level))


def test_pools_are_drawn_at_every_call() -> None:
    golden = GoldDiff(POINTS, GAUSSIAN, SHAPE, 0.05, 3, 6, edge=2, generator=seeded())
    assert float((golden(STATES, STUDIO(600)) - golden(STATES, STUDIO(600))).norm()) > 0.1
    usual = GoldDiff(POINTS.repeat(4, 1), GAUSSIAN, SHAPE)
    assert (usual.least, usual.most) == (2, 4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: PCALocality(POINTS, GAUSSIAN, 0.05, 4),
        lambda: NearestPoints(POINTS, 3),
        lambda: GoldDiff(POINTS, GAUSSIAN, SHAPE, 0.05, 3, 10),
        lambda: BatchPosterior(POINTS, 4),
    ],
)
def test_rows_may_have_their_own_levels(make: Callable[[], Denoiser]) -> None:
    levels = STUDIO(torch.tensor([100.0, 600.0]))
    one_by_one = torch.cat([make()(row.unsqueeze(0), at) for row, at in zip(STATES, levels, strict=True)])
    assert_close(make()(STATES, levels), one_by_one)


def test_released_denoisers_print_as_one_line() -> None:
    assert repr(PCALocality(POINTS, GAUSSIAN, 0.05, 4)) == "PCALocality(10 points, share 0.05, batches of 4)"
    assert repr(NearestPoints(POINTS, 3)) == "NearestPoints(3 of 10 points)"
    assert repr(GoldDiff(POINTS, GAUSSIAN, SHAPE, 0.05, 3, 6)) == "GoldDiff(3 to 6 of 10 points, share 0.05)"
    assert repr(BatchPosterior(POINTS, 4)) == "BatchPosterior(10 points, batches of 4)"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PCALocality(POINTS, GAUSSIAN, 0.0), "share of the largest entry must be above 0, got 0"),
        (lambda: PCALocality(POINTS, GAUSSIAN, 1.5), "share of the largest entry must be at most 1, got 1.5"),
        (lambda: PCALocality(POINTS, GAUSSIAN, 0.1, 0), "number of points in a batch .* got 0"),
        (lambda: PCALocality(POINTS, GAUSSIAN, temperature=math.nan), "temperature of the softmax .* got nan"),
        (lambda: NearestPoints(POINTS, 0), "number of nearest points .* got 0"),
        (lambda: GoldDiff(POINTS, GAUSSIAN, SHAPE, least=11), "least number of points .* got 11"),
        (lambda: FreshlySmoothed(PointCloud(POINTS), -1.0), "width of the smoothing .* got -1"),
        (lambda: BatchPosterior(POINTS, 0), "number of points in a batch .* got 0"),
        (lambda: NearestPoints(POINTS, 3)(STATES[:, :5], EDM()(1.0)), r"rows \[B, 16\]"),
    ],
)
def test_what_cannot_be_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
