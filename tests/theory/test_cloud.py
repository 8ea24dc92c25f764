"""The exact score of a data set, against a plain softmax over all points in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import given, strategies as st
from memory import Largest
from torch import Tensor
from torch.testing import assert_close

from underpaint.noise import DDPM, EDM, Flow, NoiseLevel
from underpaint.sampling.trajectory import sample
from underpaint.theory import pruning
from underpaint.theory.cloud import PointCloud
from underpaint.theory.shadows import Shadows, bounded, refined
from underpaint.theory.softmax import SoftmaxMean

LEVELS = [EDM()(0.01), EDM()(1.0), EDM()(80.0), DDPM()(500), Flow()(0.9), Flow()(1.0)]


@pytest.fixture(autouse=True, scope="module")
def screening_costs_nothing() -> Iterator[None]:
    """So that few points do to try it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pruning, "_ATTEMPT", 0.0)
        yield


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


def test_float32_is_right_from_the_lowest_to_the_highest_noise(normal) -> None:
    """Data with the spectrum of images, and states on the way from noise to them: to 2e-4 of the data's scale."""
    points = (normal(300, 192) * torch.logspace(1, -1.5, 192)).float()
    cloud = PointCloud(points, chunk=128)
    middle = 0.7 * points[:20].double() + 0.3 * points[20:40].double()
    for sigma in torch.logspace(-3, 2, 16).tolist():
        x = (middle + sigma * normal(20, 192, seed=1)).float()
        _, exact = brute_force(points, x, EDM()(sigma))
        assert float((cloud.denoise(x, EDM()(sigma)) - exact).abs().max()) < 2e-4 * float(points.std())


@pytest.mark.parametrize("rank", [0, 3, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_pruned_does_not_matter(dtype: torch.dtype, rank: int, normal) -> None:
    """With any basis, orthonormal or not, the result stays within the certified bound: the rounding unit times the
    diameter of the data (and the rounding of the two sums)."""
    points = (normal(400, 40) * torch.logspace(1, -1, 40)).to(dtype)
    plain, pruned = PointCloud(points, 128), PointCloud(points, 128, basis=normal(40, rank, seed=7))
    diameter = float(torch.pdist(points).max())
    for sigma in torch.logspace(-3, 2, 11).tolist():
        x = 0.5 * (points[:9] + points[9:18]) + sigma * normal(9, 40, seed=1).to(dtype)
        bound = 8 * torch.finfo(dtype).eps * diameter
        assert_close(pruned(x, EDM()(sigma)), plain(x, EDM()(sigma)), rtol=0, atol=bound)
        assert_close(pruned.log_prob(x, EDM()(sigma)), plain.log_prob(x, EDM()(sigma)), rtol=1e-6, atol=1e-3)


@given(seed=st.integers(0, 999), sigma=st.floats(0.01, 3.0), alpha=st.floats(0.1, 1.0))
def test_pruning_never_loses_a_weight(normal, seed: int, sigma: float, alpha: float) -> None:
    """Against the plain softmax, where residuals are parallel and the bound is therefore an equality."""
    direction = normal(1, 5, seed=seed)
    points = normal(60, 5, seed=seed + 1) * torch.tensor([3.0, 0, 0, 0, 0]) + normal(60, 1, seed=seed + 2) * direction
    x = alpha * points[:7] + sigma * normal(7, 5, seed=seed + 3)
    level = NoiseLevel(alpha, sigma)
    pruned = PointCloud(points, 16, basis=torch.eye(5, dtype=torch.float64)[:, :1])
    assert_close(pruned(x, level), brute_force(points, x, level)[1], rtol=1e-8, atol=1e-8)


def test_the_cost_of_a_pruned_call_falls_with_the_noise(normal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Points that are read in full, of 2,000: none is spared at high noise, nearly all are at low noise."""
    scales = torch.logspace(1, -1, 30)
    points = normal(2000, 30) * scales
    pruned = PointCloud(points, 4000, basis=torch.eye(30, dtype=torch.float64)[:, :10])
    read, add = [], SoftmaxMean.add
    monkeypatch.setattr(
        SoftmaxMean,
        "add",
        lambda self, logits, values, *more: (read.append(len(values)), add(self, logits, values, *more)),
    )
    for sigma in (100.0, 1.0, 0.1):
        pruned(points[:8] + sigma * normal(8, 30, seed=1), EDM()(sigma))
    assert len(read) == 3
    assert read[0] == 2000 > 10 * read[1] > 10 * read[2] >= 80


@pytest.mark.parametrize("basis", [None, torch.eye(12)[:, :3]])
def test_bytes_are_pixels(basis: Tensor | None, normal) -> None:
    stored = torch.randint(0, 256, (70, 12), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    x = normal(9, 12).float()
    for sigma in (0.003, 0.5, 30.0):
        rows = PointCloud(stored.float() / 127.5 - 1, 16)(x, EDM()(sigma))
        assert_close(PointCloud(stored, 16, basis=basis)(x, EDM()(sigma)), rows, rtol=0, atol=2e-6)
    assert_close(PointCloud(stored).to(dtype=torch.float64).points, stored.double() / 127.5 - 1, rtol=0, atol=1e-15)


def test_points_may_lie_in_a_mapped_file(tmp_path: Path, normal) -> None:
    points = normal(100, 8).float()
    points.numpy().tofile(tmp_path / "points")
    mapped = torch.from_file(str(tmp_path / "points"), size=800, dtype=torch.float32).view(100, 8)
    assert_close(PointCloud(mapped, 32)(points[:5], EDM()(0.5)), PointCloud(points)(points[:5], EDM()(0.5)))


@pytest.mark.parametrize("basis", [None, torch.eye(64)[:, :4]])
def test_memory_is_bounded_whatever_the_number_of_points(basis: Tensor | None) -> None:
    """No tensor is larger than a chunk of points, or of log-weights, or one number a point (and its shadow)."""
    count, chunk = 20_000, 256
    cloud = PointCloud(torch.linspace(-1, 1, 64).expand(count, 64), chunk, basis=basis)
    for sigma in (0.01, 1.0):
        with Largest() as largest:
            cloud(torch.zeros(300, 64), EDM()(sigma))
        assert largest.numel <= max(count, chunk * 300)


def test_the_cloud_of_a_class_holds_its_points_alone(normal) -> None:
    points, labels, x = normal(60, 4), torch.arange(60) % 3, normal(5, 4, seed=1)
    for basis in (None, torch.eye(4, dtype=torch.float64)[:, :2]):
        cloud = PointCloud.of_class(points, labels, 2, basis)
        assert_close(cloud(x, EDM()(0.5)), brute_force(points[labels == 2], x, EDM()(0.5))[1], rtol=1e-9, atol=1e-9)


def test_the_mean_is_that_of_the_data(normal) -> None:
    """Near the origin or not, where points are taken about it."""
    for offset in (0.0, 50.0):
        points = offset + normal(100, 7)
        assert_close(PointCloud(points, 16).mean, points.mean(0), rtol=1e-12, atol=1e-12)


def test_chunk_and_tolerance_survive_a_move(normal) -> None:
    moved = PointCloud(normal(5, 3), chunk=2, tolerance=0.5, basis=normal(3, 1), error=0.1).to(dtype=torch.float32)
    assert (moved.chunk, moved.tolerance, moved.error, moved.points.dtype) == (2, 0.5, 0.1, torch.float32)
    assert moved.basis is not None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PointCloud(torch.zeros(0, 3)), "at least one point"),
        (lambda: PointCloud(torch.zeros(2, 3, 3)), r"Expected rows \[B, D\], got a tensor of shape \(2, 3, 3\)"),
        (lambda: PointCloud(torch.zeros(2, 3, dtype=torch.int64)), "floating-point rows, got torch.int64"),
        (lambda: PointCloud(torch.full((2, 3), math.nan), chunk=7), "Data holds 6 NaN or infinite values"),
        (
            lambda: PointCloud(torch.zeros(2, 3), basis=torch.zeros(4, 1)),
            r"Expected a basis \[3, R\], got a .* \(4, 1\)",
        ),
        (lambda: PointCloud.of_class(torch.zeros(2, 3), torch.zeros(3), 0), r"Expected 2 labels, got \(3,\)"),
        (
            lambda: PointCloud.of_class(torch.zeros(2, 3), torch.tensor([4, 7]), 5),
            r"No point has the label 5; the labels are \[4, 7\]",
        ),
    ],
)
def test_what_is_not_a_cloud_is_refused(make: Callable[[], PointCloud], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def relative(found: Tensor, exact: Tensor) -> float:
    return float(((found.double() - exact).norm(dim=1) / exact.norm(dim=1)).max())


@given(
    seed=st.integers(0, 999),
    sigma=st.floats(0.02, 30.0),
    alpha=st.floats(0.05, 1.0),
    error=st.sampled_from([1e-2, 1e-3, 1e-5]),
    offset=st.sampled_from([0.0, 3.0]),
    halves=st.booleans(),
)
def test_the_error_of_a_denoised_image_is_certain(
    normal, seed: int, sigma: float, alpha: float, error: float, offset: float, halves: bool
) -> None:
    """Of states near data and of ones at odds with all that noise would be: far away, on a line through the points, and
    between two that the leading components cannot tell apart."""
    points = (offset + normal(320, 24, seed=seed) * torch.logspace(0.5, -1.5, 24)).float()
    points[1::2] = points[0::2]
    points[1::2, 16:] *= -1  # told apart by their smallest components alone
    states = [points[:4] + sigma / alpha * normal(4, 24, seed=seed + 1), 50 * normal(2, 24, seed=seed + 2)]
    states += [3 * points[4:6] - 2 * points[6:8], 0.5 * (points[8:12:2] + points[9:12:2]), 1.7 * points[12:14]]
    x, level = alpha * torch.cat(states).float(), NoiseLevel(alpha, sigma)
    exact = brute_force(points, x, level)[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pruning, "multiplies_halves", lambda _: halves)
        for basis in (None, torch.eye(24)[:, :6]):
            assert relative(PointCloud(points, 32, basis=basis, error=error)(x, level), exact) <= error


def test_with_an_error_few_points_are_read_in_full(normal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 3,000 in 120 dimensions, for held-out states: hardly any at low noise, all at high noise."""
    scales, read, add = torch.logspace(1, -1.5, 120), [], SoftmaxMean.add
    points, fresh = (normal(3000, 120) * scales).float(), (normal(8, 120, seed=5) * scales).float()
    cloud = PointCloud(points, error=1e-3)
    monkeypatch.setattr(
        SoftmaxMean,
        "add",
        lambda self, logits, values, *more: (read.append(len(values)), add(self, logits, values, *more)),
    )
    counts = {}
    for sigma in (0.1, 1.0, 50.0):
        read.clear()
        x = fresh + sigma * normal(8, 120, seed=1).float()
        assert relative(cloud(x, EDM()(sigma)), brute_force(points, x, EDM()(sigma))[1]) < 1e-3
        counts[sigma] = sum(read)
    assert 8 <= counts[0.1] <= 30 < 60 < counts[50.0] == 3000
    assert counts[0.1] <= counts[1.0] < 150


@pytest.mark.parametrize(("rounding", "certain"), [(0.0, True), (0.01, True), (0.02, False)])
def test_rounding_of_log_weights_counts_in_what_is_certain(rounding: float, certain: bool) -> None:
    """Points 0 and 2 of equal weight, mean 1: an error t of the second's log-weight moves it by t/2. The bound is
    1.05 t sqrt(1/2), of mean square length 2 against the largest, 4, and deviation 1."""
    points = torch.tensor([[0.0], [2.0]], dtype=torch.float64)
    cloud, sums = PointCloud(points, error=0.01), SoftmaxMean()
    sums.add(torch.zeros(1, 2, dtype=torch.float64), points, points.square().sum(1) / 2)
    found = cloud._within(sums, sums.mean, torch.tensor([[rounding]], dtype=torch.float64), rounding)
    assert found.tolist() == [certain]


@pytest.mark.parametrize(("rounding", "certain"), [(0.0, True), (0.004, True), (0.005, False)])
def test_without_lengths_all_points_count_as_the_furthest(rounding: float, certain: bool) -> None:
    """Points 0 and 2, mean 1: 1.05 t 2 and what was left out, a 32nd of the error times 2, against the error .01."""
    points = torch.tensor([[0.0], [2.0]], dtype=torch.float64)
    cloud, sums = PointCloud(points, error=0.01), SoftmaxMean()
    sums.add(torch.zeros(1, 2, dtype=torch.float64), points)
    found = cloud._within(sums, sums.mean, torch.tensor([[rounding]], dtype=torch.float64), rounding)
    assert found.tolist() == [certain]


def test_at_high_noise_no_point_is_asked_twice(normal, monkeypatch: pytest.MonkeyPatch) -> None:
    """The level alone says that all matter there: no sample, no basis, no lengths, and the image is certain all the
    same; one state that is much shorter than the data is taken again."""
    points = (2 + normal(3000, 20)).float()
    cloud, level = PointCloud(points, error=1e-3), EDM()(5.0)
    states = torch.cat([points[:7] + 5 * normal(7, 20, seed=1).float(), -60 * torch.ones(1, 20)])
    exact = brute_force(points, states, level)[1]
    asked: list[Tensor] = []
    monkeypatch.setattr(pruning, "_share", lambda short: asked.append(short) or 1.0)
    monkeypatch.setattr(pruning, "principal_basis", lambda rows: pytest.fail("no basis is needed"))
    assert relative(cloud(states[:7], level), exact[:7]) <= 1e-3
    assert not asked
    assert relative(cloud(states, level), exact) <= 1e-3
    cloud(states[:7], EDM()(0.5))
    assert len(asked) == 1  # where it may be otherwise


def test_screening_is_not_tried_for_few_points_or_beside_much_noise(normal, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it takes to try is as much as to read 2,500 points of dimension 60."""
    monkeypatch.setattr(pruning, "_ATTEMPT", 150_000.0)
    for count, sigma, pays in [(1000, 0.05, False), (30_000, 0.05, True), (30_000, 3.0, False)]:
        points = (normal(count, 60) * torch.logspace(1, -1.5, 60)).float()
        scaled = (points[:4] + sigma * normal(4, 60, seed=1).float()).double() / sigma**2
        none = torch.zeros(4, 1, dtype=torch.float64)
        outlook = PointCloud(points, error=1e-3)._pruning.outlook(scaled, torch.tensor(1 / sigma**2), none)
        assert outlook.pays == pays


def test_how_many_points_matter_is_not_taken_from_few_that_are_nearest_to_a_state(normal) -> None:
    """16 states have a nearest one of 31 points each; the pairs of these tell that far fewer of all matter."""
    points = normal(2000, 60).float()
    states = (points[:16] + 0.3 * normal(16, 60, seed=1).float()).double() / 0.3**2
    square, none = torch.tensor(1 / 0.3**2), torch.zeros(16, 1, dtype=torch.float64)
    pruned = PointCloud(points, error=1e-3)._pruning
    outlook, logits = pruned.outlook(states, square, none), states @ points.double().T
    logits -= square * points.double().square().sum(1) / 2
    share = float((logits > logits.amax(1, keepdim=True) - pruned.margin).any(0).double().mean())
    assert share <= outlook.expected + 0.02 <= 0.1 < outlook.matter
    assert pruned._expected(1e-9, 1) == pruned._expected(0.0, 1) == 1.0


def test_what_cannot_be_certain_is_taken_from_all_points_in_float64(normal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half way between opposite points the image is next to nothing: no rounding is small beside it."""
    scans, scan = [], PointCloud._scan
    monkeypatch.setattr(PointCloud, "_scan", lambda self, *args: (scans.append(len(args[0])), scan(self, *args))[1])
    points = normal(100, 16).float()
    cloud, level = PointCloud(torch.cat([points, -points]), error=1e-3), EDM()(1.5)
    x = torch.cat([normal(3, 16, seed=1).float(), torch.full((1, 16), 1e-7)])
    exact = brute_force(cloud.points, x, level)[1]
    assert relative(cloud(x, level), exact) < 1e-3
    assert scans == [4, 1]  # all rows, then the one


@given(left=st.integers(0, 40), rank=st.integers(1, 12), seed=st.integers(0, 99))
def test_bounds_are_above_and_tighten_block_by_block(normal, left: int, rank: int, seed: int) -> None:
    """For any basis; exact at the end where the basis spans all, above by less than the lengths left otherwise."""
    points, x = normal(30, 12, seed=seed) * torch.logspace(1, -1, 12), normal(4, 12, seed=seed + 1) * (1 + left)
    basis = torch.linalg.qr(normal(12, rank, seed=seed + 2)).Q
    shadows = Shadows(lambda part: points[part], points.square().sum(1), basis, 7)
    query, exact = shadows.query(x), x @ points.T
    estimate, before = torch.zeros(30, dtype=torch.float64), None
    for stage in range(len(shadows.widths)):
        estimate = refined(estimate, query, stage, shadows.points.coordinates[stage])
        bound = bounded(estimate, query, stage, shadows.points.lengths[stage])
        assert bool((bound >= exact - 1e-9).all())
        assert before is None or bool((bound <= before + 1e-9).all())
        before = bound
    if rank == 12:
        assert_close(before, exact, rtol=1e-4, atol=1e-4)


@given(rank=st.integers(1, 12), seed=st.integers(0, 99), far=st.sampled_from([1e-3, 1.0, 1e4]))
def test_bounds_hold_for_coordinates_in_halves(normal, rank: int, seed: int, far: float) -> None:
    """Of states along what the points lose by rounding, and of ones whose own rounding lies along a point."""
    points = (far * normal(30, 12, seed=seed) * torch.logspace(1, -1, 12)).float()
    basis = torch.linalg.qr(normal(12, rank, seed=seed + 2)).Q.float()
    shadows = Shadows(lambda part: points[part], points.double().square().sum(1), basis, 7, halves=True)
    known = torch.cat(shadows.points.coordinates, 1)
    assert known.dtype == torch.bfloat16
    lost = points @ basis - known.float()
    x = torch.cat([lost @ basis.T, 300 * lost.sign() @ basis.T, normal(4, 12).float(), 1.00390625 * points]).double()
    query, exact, estimate = shadows.query(x), x @ points.double().T, torch.zeros(len(x), 30)
    slack = 4 * shadows.loss * x.norm(dim=1, keepdim=True) * points.double().norm(dim=1)
    for stage in range(len(shadows.widths)):
        estimate = refined(estimate, query, stage, shadows.points.coordinates[stage])
        bound = bounded(estimate, query, stage, shadows.points.lengths[stage])
        assert bool((bound.double() >= exact - slack).all())
        leading = basis[:, : sum(shadows.widths[: stage + 1])].double()
        off = estimate.double() - x @ leading @ (points.double() @ leading).T
        assert stage or bool((off.abs() > slack).any())  # it is rounded indeed


def test_an_error_costs_no_more_memory_than_chunks() -> None:
    """Once the shadows are made: no tensor is larger than a chunk of points or of log-weights, or a number a point."""
    count, chunk = 20_000, 256
    points = torch.randn(count, 64, generator=torch.Generator().manual_seed(0)) * torch.logspace(1, -1, 64)
    cloud = PointCloud(points, chunk, error=1e-3)
    cloud(points[:2], EDM()(0.01))
    for sigma in (0.01, 0.3, 1.0, 30.0):
        with Largest() as largest:
            cloud(points[:300] + sigma, EDM()(sigma))
        assert largest.numel <= max(count, chunk * 300)


def test_states_that_are_no_numbers_stay_so(normal) -> None:
    x = torch.cat([normal(2, 8), torch.full((1, 8), math.nan)]).float()
    for sigma in (0.01, 5.0):
        assert bool(PointCloud(normal(600, 8).float(), error=1e-3)(x, EDM()(sigma))[2].isnan().all())


@pytest.mark.parametrize("error", [0.0, 1.0, -1.0, math.nan])
def test_an_error_is_a_share(error: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1, got"):
        PointCloud(torch.zeros(2, 3), error=error)
