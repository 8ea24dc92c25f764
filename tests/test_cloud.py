"""The exact score of a data set, against a plain softmax over all points in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor
from torch.testing import assert_close

from underpaint.noise import DDPM, EDM, Flow, NoiseLevel
from underpaint.sampling.trajectory import sample
from underpaint.theory.cloud import PointCloud

LEVELS = [EDM()(0.01), EDM()(1.0), EDM()(80.0), DDPM()(500), Flow()(0.9), Flow()(1.0)]


def brute_force(points: Tensor, x: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor]:
    """log (1/N) sum_i N(x; alpha x_i, sigma^2 I) and the posterior mean, with every difference formed."""
    points, x = points.double(), x.double()
    squared = (x.unsqueeze(1) - level.alpha * points).square().sum(2)
    logits = -squared / (2 * level.sigma**2)
    log_normal = logits - points.shape[1] / 2 * math.log(2 * math.pi * float(level.sigma) ** 2)
    return log_normal.logsumexp(1) - math.log(len(points)), logits.softmax(1) @ points


@pytest.mark.parametrize("chunk", [1, 7, 50, 1000])
@pytest.mark.parametrize("level", LEVELS, ids=repr)
def test_density_and_denoiser_are_the_plain_softmax(level: NoiseLevel, chunk: int, normal) -> None:
    """However the points are streamed."""
    points = 3 + normal(50, 6)
    x = level.alpha * points[:8] + level.sigma * normal(8, 6, seed=1)
    cloud = PointCloud(points, chunk)
    log_prob, denoised = brute_force(points, x, level)
    assert_close(cloud.denoise(x, level), denoised, rtol=1e-9, atol=1e-9)
    assert_close(cloud.log_prob(x, level), log_prob, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("chunk", [5, 100])
@pytest.mark.parametrize("alpha", [1.0, 0.25])
def test_without_noise_the_nearest_point_answers(dtype: torch.dtype, chunk: int, alpha: float, normal) -> None:
    points = (3 + normal(50, 6)).to(dtype)
    x = alpha * (points[:20] + 0.5 * normal(20, 6, seed=1)).to(dtype)
    nearest = points[torch.cdist(x.double() / alpha, points.double()).argmin(1)]
    for sigma in (0.0, 1e-12, 1e-4):
        assert_close(PointCloud(points, chunk).denoise(x, NoiseLevel(alpha, sigma)), nearest, rtol=1e-6, atol=1e-6)


#: Both members of a pair in one chunk, at a noise so low that float32 leaves many points in question.
TOGETHER = (500, 1e-4)


@pytest.mark.parametrize(("chunk", "sigma"), [*product([64, 500], [0.001, 0.01, 0.1, 0.5, 2.0]), (64, 1e-4), TOGETHER])
@pytest.mark.parametrize("offset", [0.0, 10.0])
def test_float32_data_keep_their_digits(offset: float, chunk: int, sigma: float, normal) -> None:
    """To 1e-4, and to 5 % of the noise, also off centre; near duplicates share the weights."""
    points = (offset + normal(200, 64)).float()
    points[100:] = points[:100] + sigma * normal(100, 64, seed=1).float() / 4
    x = (points[:50] + sigma * normal(50, 64, seed=2)).float()
    _, exact = brute_force(points, x, EDM()(sigma))
    assert_close(
        PointCloud(points, chunk).denoise(x, EDM()(sigma)).double(), exact, rtol=0, atol=min(1e-4, 0.05 * sigma)
    )


def test_float32_data_keep_their_digits_half_way_between_two_points(normal) -> None:
    """The log-weights there are differences of large numbers: the documented tolerance is 1e-4."""
    points = normal(20, 48).float()
    middle = (points[0::2].double() + points[1::2].double()) / 2
    _, exact = brute_force(points, middle.float(), EDM()(0.003))
    assert_close(PointCloud(points).denoise(middle.float(), EDM()(0.003)).double(), exact, rtol=1e-4, atol=1e-4)


def test_a_point_held_twice_weighs_twice() -> None:
    once, twice = torch.tensor([[1.0]], dtype=torch.float64), torch.tensor([[-1.0], [-1.0]], dtype=torch.float64)
    denoised = PointCloud(torch.cat([once, twice])).denoise(torch.zeros(1, 1, dtype=torch.float64), EDM()(1.0))
    assert float(denoised) == pytest.approx(-1 / 3)


@given(shift=st.floats(-100, 100), ratio=st.floats(0.05, 50), seed=st.integers(0, 99))
def test_the_origin_does_not_matter(normal, shift: float, ratio: float, seed: int) -> None:
    points, level = normal(30, 4, seed=seed), DDPM().level(ratio)
    x = level.norm * normal(5, 4, seed=seed + 1)
    there = PointCloud(points + shift).denoise(x + level.alpha * shift, level)
    assert_close(there, PointCloud(points).denoise(x, level) + shift, rtol=1e-8, atol=1e-8)


@given(order=st.permutations(range(20)), chunk=st.integers(1, 25))
def test_the_order_of_the_points_does_not_matter(normal, order: list[int], chunk: int) -> None:
    points, x, level = normal(20, 4), normal(5, 4, seed=1), EDM()(0.2)
    assert_close(PointCloud(points[order], chunk)(x, level), PointCloud(points)(x, level), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_flow_ends_on_a_data_point(dtype: torch.dtype, normal) -> None:
    """Generation as retrieval."""
    points = normal(50, 6).to(dtype)
    final = sample(PointCloud(points), 80 * normal(30, 6, seed=1).to(dtype), EDM().grid(20)).final
    distance, nearest = torch.cdist(final.double(), points.double()).min(1)
    assert float(distance.max()) < 1e-5
    assert len(nearest.unique()) > 5


def test_chunk_and_tolerance_survive_a_move(normal) -> None:
    moved = PointCloud(normal(5, 3), chunk=2, tolerance=0.5).to(dtype=torch.float32)
    assert (moved.chunk, moved.tolerance, moved.points.dtype) == (2, 0.5, torch.float32)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PointCloud(torch.zeros(0, 3)), "at least one point"),
        (lambda: PointCloud(torch.zeros(2, 3, 3)), r"Expected rows \[B, D\], got a tensor of shape \(2, 3, 3\)"),
        (lambda: PointCloud(torch.zeros(2, 3, dtype=torch.uint8)), "floating-point rows, got torch.uint8"),
        (lambda: PointCloud(torch.full((2, 3), math.nan)), "Data holds 6 NaN or infinite values"),
    ],
)
def test_what_is_not_a_cloud_is_refused(make: Callable[[], PointCloud], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
