"""Smoothed and local denoisers: their limits, and plain loops in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import pytest
import torch
from hypothesis import given, strategies as st
from memory import Largest
from torch import Tensor
from torch.testing import assert_close

from underpaint.noise import DDPM, EDM, Flow, NoiseLevel
from underpaint.sampling.trajectory import sample
from underpaint.theory import local as local_module, windows as windows_module
from underpaint.theory.cloud import PointCloud
from underpaint.theory.gaussian import Gaussian
from underpaint.theory.local import LocalCloud, Smoothed
from underpaint.theory.windows import Part, Views, banded, cheapest, gathered, mask_views, parted, patch_views

SHAPE = (2, 5, 6)
TWO = Gaussian.isotropic(torch.zeros(2), 1.0)
LEVELS = [EDM()(0.05), EDM()(0.7), EDM()(20.0), DDPM()(400), Flow()(1.0)]


def images(normal: Callable[..., Tensor], count: int, seed: int = 0) -> Tensor:
    return normal(count, math.prod(SHAPE), seed=seed)


def patch(image: Tensor, i: int, j: int, half: int) -> Tensor:
    """The part of a patch about (i, j) that lies in the image, NaN outside."""
    padded = torch.nn.functional.pad(image, (half, half, half, half), value=torch.nan)
    return padded[:, i : i + 2 * half + 1, j : j + 2 * half + 1]


def patch_by_patch(points: Tensor, x: Tensor, level: NoiseLevel, size: int, equivariant: bool) -> Tensor:
    """One pixel, one patch at a time: its patch against all those whose missing entries are the same."""
    _, height, width = SHAPE
    result = torch.empty_like(x).view(-1, *SHAPE)
    places = list(product(range(height), range(width)))
    for b, (i, j) in product(range(len(x)), places):
        own, logits, centres = patch(x[b].view(SHAPE), i, j, size // 2), [], []
        for n, (k, m) in product(range(len(points)), places if equivariant else [(i, j)]):
            other = patch(points[n].view(SHAPE), k, m, size // 2)
            if torch.equal(own.isnan(), other.isnan()):
                logits.append(-(own - level.alpha * other).nan_to_num().square().sum() / (2 * level.sigma**2))
                centres.append(points[n].view(SHAPE)[:, k, m])
        result[b, :, i, j] = torch.stack(logits).softmax(0) @ torch.stack(centres)
    return result.flatten(1)


@pytest.mark.parametrize("budget", [1, 300, 1 << 22])
@pytest.mark.parametrize("equivariant", [False, True])
@pytest.mark.parametrize(("size", "level"), [(1, EDM()(0.7)), (3, EDM()(0.7)), (3, DDPM()(400)), (5, EDM()(0.2))])
def test_patches_are_weighed_one_by_one(size: int, level: NoiseLevel, equivariant: bool, budget: int, normal) -> None:
    """However few numbers are in memory at once."""
    points, x = images(normal, 3), level.alpha * images(normal, 2, 1) + level.sigma * images(normal, 2, 2)
    local = LocalCloud(points, lambda _: patch_views(SHAPE, size, equivariant), budget=budget)
    expected = patch_by_patch(points, x, level, size, equivariant)
    assert_close(local(x, level), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [1, 3, 5, 9])
def test_bands_and_parts_weigh_as_gathered_windows_do(size: int, normal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images wider than high, of two channels, in parts of the data and of the states."""
    points, x, level = images(normal, 9), images(normal, 5, 1), Flow()(0.4)
    (views,) = patch_views(SHAPE, size, False)
    ways = [(banded, 12), (gathered, views.windows.shape[1]), (parted, 60)]
    for budget in (700, 1 << 22):
        found = []
        for way in ways:
            monkeypatch.setattr(local_module, "cheapest", lambda *_, way=way: way)
            found.append(LocalCloud(points, lambda _: (views,), budget=budget)(x, level))
        assert_close(found[0], found[1], rtol=1e-10, atol=1e-10)
        assert_close(found[2], found[1], rtol=1e-10, atol=1e-10)


def test_gathered_windows_do_not_depend_on_how_data_and_places_are_parted(
    normal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here in parts of 10, 10 and 5 data rows, and of 2 places, of which the last part alone could hold 4."""
    points, x, level = normal(25, 256), normal(3, 256), EDM()(0.8)
    (views,) = patch_views((1, 16, 16), 3, False)
    assert cheapest(views)[0] is gathered
    whole = LocalCloud(points, lambda _: (views,))(x, level)
    monkeypatch.setattr(windows_module, "_CACHED", 60)
    parted_data = LocalCloud(points, lambda _: (views,), budget=256 * 9 * 10)
    assert_close(parted_data(x, level), whole)


@pytest.mark.parametrize("equivariant", [False, True])
@pytest.mark.parametrize("level", LEVELS, ids=repr)
def test_a_patch_as_large_as_the_image_is_the_exact_score(level: NoiseLevel, equivariant: bool, normal) -> None:
    """From any pixel 11 = 2 * 6 - 1 reaches all of it; 9 leaves only the pixels at the sides short-sighted."""
    points, x = images(normal, 20), level.norm * images(normal, 4, 1)
    exact = PointCloud(points)(x, level).view(-1, *SHAPE)
    whole = LocalCloud.patches(points, SHAPE, 11, equivariant)(x, level).view(-1, *SHAPE)
    assert_close(whole, exact, rtol=1e-9, atol=1e-9)
    nearly = LocalCloud.patches(points, SHAPE, 9, equivariant)(x, level).view(-1, *SHAPE)
    assert_close(nearly[..., 1:5], exact[..., 1:5], rtol=1e-9, atol=1e-9)


def test_places_away_from_the_edges_are_alike(normal) -> None:
    """Moving the state moves the estimate, where no patch meets an edge."""
    points, x, level = images(normal, 4), images(normal, 2, 1), EDM()(0.5)
    local = LocalCloud.patches(points, SHAPE, 3)
    there = local(x.view(-1, *SHAPE).roll(1, dims=3).flatten(1), level).view(-1, *SHAPE)
    here = local(x, level).view(-1, *SHAPE)
    assert_close(there[..., 1:4, 2:5], here[..., 1:4, 1:4], rtol=1e-9, atol=1e-9)
    alone = LocalCloud.patches(points, SHAPE, 3, equivariant=False)
    assert not torch.allclose(alone(x.roll(1, dims=1), level).view(-1, *SHAPE)[..., 1:4, 2:5], here[..., 1:4, 1:4])


def test_samples_are_mosaics_of_patches(normal) -> None:
    """Every pixel of a sample is a pixel of the data, though no sample is an image of the data."""
    points = images(normal, 6)
    final = sample(LocalCloud.patches(points, SHAPE, 3), 80 * images(normal, 12, 1), EDM(0.002).grid(24)).final
    pixels = points.view(-1, 2, 30).transpose(1, 2).flatten(0, 1)
    distance = torch.cdist(final.view(-1, 2, 30).transpose(1, 2).flatten(0, 1), pixels)
    assert float(distance.min(1).values.max()) < 1e-6
    assert float(torch.cdist(final, points).min()) > 1


def gaussian_of(normal: Callable[..., Tensor]) -> Gaussian:
    """Neighbours along the row are correlated, the more the nearer."""
    place = torch.arange(12, dtype=torch.float64)
    covariance = torch.exp(-(place.unsqueeze(1) - place).abs() / 2)
    return Gaussian.fit(normal(400, 12) @ torch.linalg.cholesky(covariance).T, dtype=torch.float64)


@pytest.mark.parametrize("threshold", [0.0, 0.02, 0.3, 2.0])
@pytest.mark.parametrize("level", LEVELS[:4], ids=repr)
def test_wiener_windows_by_hand(level: NoiseLevel, threshold: float, normal) -> None:
    gaussian, points = gaussian_of(normal), normal(30, 12, seed=1)
    x = level.alpha * points[:4] + level.sigma * normal(4, 12, seed=2)
    sigma = gaussian.covariance.matrix() * level.alpha**2
    wiener = sigma @ (sigma + level.sigma**2 * torch.eye(12, dtype=torch.float64)).inverse()
    expected = torch.empty_like(x)
    for q in range(12):
        seen = wiener[q].abs() > threshold * wiener[q, q]
        seen[q] = True
        squared = (x.unsqueeze(1) - level.alpha * points)[..., seen].square().sum(2)
        expected[:, q] = (-squared / (2 * level.sigma**2)).softmax(1) @ points[:, q]
    local = LocalCloud.wiener(points, gaussian, threshold)
    assert_close(local(x, level), expected, rtol=1e-9, atol=1e-9)
    if threshold == 0:
        assert_close(local(x, level), PointCloud(points)(x, level), rtol=1e-9, atol=1e-9)


def test_wiener_windows_widen_with_the_noise(normal) -> None:
    """White data need no neighbours at any noise; correlated data the more, the more noise there is."""
    white = LocalCloud.wiener(normal(9, 12), Gaussian.isotropic(torch.zeros(12, dtype=torch.float64), 2.0))
    assert all(view.windows.shape[1] == 1 for view in white.views(EDM()(3.0)))
    local = LocalCloud.wiener(normal(9, 12), gaussian_of(normal), 0.1)
    counts = [sum(int((v.windows < 12).sum()) for v in local.views(EDM()(s))) for s in (0.1, 1.0, 10.0)]
    assert counts[0] < counts[1] < counts[2]


@pytest.mark.parametrize("local", ["patches", "wiener"])
def test_float32_is_right_from_the_lowest_to_the_highest_noise(local: str, normal) -> None:
    points = images(normal, 30)
    gaussian = Gaussian.fit(images(normal, 90, 3), dtype=torch.float64)

    def make(rows: Tensor) -> LocalCloud:
        return LocalCloud.patches(rows, SHAPE, 3) if local == "patches" else LocalCloud.wiener(rows, gaussian)

    for sigma in torch.logspace(-3, 2, 11).tolist():
        x = (0.6 * points[:3] + 0.4 * points[3:6] + sigma * images(normal, 3, 1)).float()
        exact = make(points.float().double())(x.double(), EDM()(sigma))
        assert_close(make(points.float())(x, EDM()(sigma)).double(), exact, rtol=0, atol=1e-3)


def test_bytes_are_pixels(normal) -> None:
    stored = torch.randint(0, 256, (5, 60), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    x, level = images(normal, 2), EDM()(0.4)
    rows = LocalCloud.patches(stored.double() / 127.5 - 1, SHAPE, 3)(x, level)
    assert_close(LocalCloud.patches(stored, SHAPE, 3)(x, level), rows, rtol=0, atol=2e-5)


def test_sizes_may_depend_on_the_level_and_rows_have_their_own(normal) -> None:
    points, x = images(normal, 5), images(normal, 4, 1)
    levels = EDM()(torch.tensor([0.3, 2.0, 0.3, 2.0]))
    local = LocalCloud.patches(points, SHAPE, lambda level: 1 if level.sigma < 1 else 3)
    sizes = zip(x, levels, (1, 3, 1, 3), strict=True)
    expected = [LocalCloud.patches(points, SHAPE, size)(row[None], level) for row, level, size in sizes]
    assert_close(local(x, levels), torch.cat(expected), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("equivariant", [False, True])
def test_memory_is_within_the_budget(equivariant: bool, normal) -> None:
    """Of log-weights and of windows, for whatever number of images on either side."""
    budget = 9000
    local = LocalCloud(normal(100, 64).float(), lambda _: patch_views((1, 8, 8), 3, equivariant), budget=budget)
    with Largest() as largest:
        local(normal(50, 64, seed=1).float(), EDM()(1.0))
    assert largest.numel <= budget


def test_without_width_nothing_is_smoothed(normal) -> None:
    cloud, x = PointCloud(normal(20, 4)), normal(5, 4, seed=1)
    assert torch.equal(Smoothed(cloud, 0.0)(x, EDM()(0.3)), cloud(x, EDM()(0.3)))
    assert_close(Smoothed(cloud, 1e-4)(x, EDM()(0.3)), cloud(x, EDM()(0.3)), rtol=1e-5, atol=1e-5)


@given(width=st.floats(0.1, 5), seed=st.integers(0, 99))
def test_smoothing_leaves_affine_denoisers_alone(full: Gaussian, normal, width: float, seed: int) -> None:
    x, level = normal(5, 6, seed=seed), DDPM()(300)
    assert_close(Smoothed(full, width, 2, seed)(x, level), full(x, level), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("level", [EDM()(0.8), Flow()(0.4)], ids=repr)
def test_two_points_smoothed_are_a_gaussian_integral_of_tanh(level: NoiseLevel) -> None:
    """D(x) = tanh(alpha x/sigma^2) for points at -1 and 1, averaged over N(x, (alpha width)^2) by quadrature."""
    x, width = torch.linspace(-2, 2, 9, dtype=torch.float64), 0.7
    nodes = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    density = torch.exp(-(nodes**2) / 2) / math.sqrt(2 * math.pi)
    inner = torch.tanh(level.alpha * (x.unsqueeze(1) + level.alpha * width * nodes) / level.sigma**2)
    expected = torch.trapezoid(density * inner, nodes, dim=1)
    cloud = PointCloud(torch.tensor([[-1.0], [1.0]], dtype=torch.float64))
    smoothed = Smoothed(cloud, width, draws=400)(x.unsqueeze(1), level).squeeze(1)
    assert_close(smoothed, expected, rtol=0, atol=0.05)
    assert float((cloud(x.unsqueeze(1), level).squeeze(1) - expected).abs().max()) > 0.15


def test_smoothed_samples_are_barycentres() -> None:
    """Of two points, with a width well beyond their distance, every sample is the middle."""
    cloud = PointCloud(torch.tensor([[-1.0], [1.0]], dtype=torch.float64))
    start = torch.tensor([[-60.0], [20.0], [70.0]], dtype=torch.float64)
    final = sample(Smoothed(cloud, 6.0, draws=16), start, EDM().grid(16)).final
    assert float(final.abs().max()) < 0.05
    assert_close(sample(cloud, start, EDM().grid(40)).final.abs(), torch.ones(3, 1, dtype=torch.float64))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Smoothed(PointCloud(torch.zeros(1, 1)), -1.0), "width >= 0 and at least 1 draw, got -1.0"),
        (lambda: LocalCloud.patches(torch.zeros(3, 60), SHAPE, 4), "odd size .* got 4"),
        (lambda: LocalCloud.patches(torch.zeros(3, 60), SHAPE, math.nan), "size of a patch must be .* got nan"),
        (
            lambda: LocalCloud.patches(torch.zeros(3, 60), SHAPE, lambda _: 4)(torch.zeros(1, 60), EDM()(1.0)),
            "odd size .* got 4",
        ),
        (lambda: LocalCloud.wiener(torch.zeros(3, 2), TWO, math.nan), "threshold of the Wiener filter .* got nan"),
        (lambda: LocalCloud.wiener(torch.zeros(3, 2), TWO, -0.1), "threshold of the Wiener filter .* got -0.1"),
        (lambda: LocalCloud.patches(torch.zeros(3, 50), SHAPE, 3), r"rows \[N, 60\] of images \(2, 5, 6\)"),
        (lambda: LocalCloud.patches(torch.zeros(3, 60), SHAPE, 3)(torch.zeros(1, 9), EDM()(1.0)), r"rows \[B, 60\]"),
    ],
)
def test_what_cannot_be_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_windows_that_are_alike_go_together() -> None:
    """Squares about the pixels of an image, in any order: few columns are seen by any of a group of places."""
    (squares,) = patch_views((1, 16, 16), 5, False)
    shuffled = torch.randperm(256, generator=torch.Generator().manual_seed(0))
    seen = torch.zeros(256, 257, dtype=torch.bool).scatter_(1, squares.windows, True)[:, :256]
    seen = seen[shuffled][:, shuffled]
    views = mask_views(seen)
    places = torch.cat([view.centres.flatten() for view in views])
    assert sorted(places.tolist()) == list(range(256))
    for view in views:
        found = torch.zeros(len(view.centres), 257, dtype=torch.bool).scatter_(1, view.windows, True)[:, :256]
        assert torch.equal(found, seen[view.centres.flatten()])
    together = [len(part.common) + len(part.others) for view in views for part in view.parts]
    assert len(together) == 32
    assert sum(together) / len(together) < 80


def test_parts_of_windows_by_hand() -> None:
    """What two windows have in common, what one of them sees alone, and none (6) as a coordinate of its own."""
    part = Part.of(torch.tensor([[0, 2, 3], [2, 5, 6]]))
    assert part.common.tolist() == [2]
    assert part.others.tolist() == [0, 3, 5, 6]
    assert part.seen.tolist() == [[True, True, False, False], [False, False, True, True]]


def test_small_windows_are_gathered_and_wide_ones_multiplied_with_their_neighbours() -> None:
    (squares,) = patch_views((1, 16, 16), 3, False)
    assert cheapest(Views(squares.centres, squares.windows)) == (gathered, 9)
    wide = mask_views(torch.ones(40, 40, dtype=torch.bool).tril())
    assert {cheapest(view)[0] for view in wide} == {parted}


def test_windows_of_the_last_level_are_kept(normal) -> None:
    local = LocalCloud.wiener(normal(9, 12), gaussian_of(normal), 0.1)
    here = local.views(EDM()(1.0))
    assert local.views(EDM()(1.0)) is here
    assert local.views(EDM()(2.0)) is not here
    assert local.views(EDM()(1.0)) is not here
