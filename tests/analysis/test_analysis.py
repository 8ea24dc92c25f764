"""Measures against cases whose answer is known."""

from __future__ import annotations

import math

import pytest
import scipy.stats
import torch

from underpaint.analysis import agreement, emergence, geometry
from underpaint.analysis.perturbation import perturb
from underpaint.analysis.retrieval import nearest
from underpaint.analysis.summary import Summary, by_group, interval, jackknife, left_out
from underpaint.noise import DDPM, EDM, Flow, NoiseLevel, Schedule
from underpaint.recipes.report.trajectories import measure_geometry
from underpaint.recipes.trajectory import measure
from underpaint.sampling.solvers import heun
from underpaint.sampling.trajectory import Trajectory, initial_noise, sample
from underpaint.theory import modes
from underpaint.theory.gaussian import Gaussian


@pytest.fixture(scope="module")
def gaussian() -> Gaussian:
    rotation, _ = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    scales = torch.logspace(0.7, -1.5, 12, dtype=torch.float64)
    rows = torch.randn(4000, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * scales @ rotation.T
    return Gaussian.fit(rows + 0.3, dtype=torch.float64)


@pytest.fixture(scope="module")
def trajectory(gaussian: Gaussian) -> Trajectory:
    """The Gaussian's exact flow for 200 seeds."""
    level = DDPM().grid(100)
    start = initial_noise(range(200), 12, level[0], torch.float64)
    x = torch.stack([gaussian.flow(start, level[0], there) for there in level])
    denoised = torch.stack([gaussian(*pair) for pair in zip(x[:-1], level[:-1], strict=True)])
    return Trajectory(x, denoised, level, 0)


def planar(steps: int = 40, batch: int = 5, dimension: int = 30) -> tuple[torch.Tensor, DDPM, torch.Tensor]:
    """States that are an exact rotation from noise to image."""
    generator = torch.Generator().manual_seed(3)
    x0, noise = torch.randn(2, batch, dimension, generator=generator, dtype=torch.float64)
    level = DDPM().grid(steps)
    return level.alpha[:, None, None] * x0 + level.sigma[:, None, None] * noise, level, torch.stack([x0, noise])


def test_a_rotation_needs_two_components_and_leaves_no_residual():
    x, level, (x0, _) = planar()
    assert geometry.components_needed(x).tolist() == [2] * 5
    torch.testing.assert_close(geometry.variance_shares(x)[:, :2].sum(1), torch.ones(5, dtype=torch.float64))
    assert geometry.plane_residual(x).max() < 1e-12
    # the first state still holds alpha_T of the image, which the formula knows nothing of
    assert geometry.rotation_error(x, level).max() < 4 * float(level.alpha[0]) ** 2 * float(
        (x0.norm(dim=1) ** 2 / x[0].norm(dim=1) ** 2).max()
    )
    assert geometry.rotation_error(x, level, squared=True).max() > 0.01


@pytest.mark.parametrize("schedule", [EDM(), Flow()], ids=["edm", "flow"])
def test_the_geometry_of_a_path_does_not_depend_on_the_scale_of_its_states(gaussian: Gaussian, schedule: Schedule):
    """The exact flow of one Gaussian on the levels of a schedule, and on the same in variance-preserving form."""
    level = schedule.grid(30)
    kept = NoiseLevel(level.alpha / level.norm, level.sigma / level.norm)
    found = []
    for own in (level, kept):
        start = initial_noise(range(4), 12, own[0], torch.float64)
        x = torch.stack([gaussian.flow(start, own[0], there) for there in own])
        run = Trajectory(x, torch.stack([gaussian(*pair) for pair in zip(x[:-1], own[:-1], strict=True)]), own, 30)
        found.append(measure(run, {}) | vars(measure_geometry(run)))
    there, here = found
    for name, value in here.items():
        for one, other in zip(tensors(there[name]), tensors(value), strict=True):
            torch.testing.assert_close(
                one.abs(), other.abs(), rtol=1e-6, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}"
            )
    assert float(there["rotation error"].max()) < 1
    assert run.preserving is run


def test_the_noise_of_a_rotation_is_the_first_state_over_its_sigma():
    generator, level = torch.Generator().manual_seed(3), EDM().grid(20)
    x0, noise = torch.randn(2, 5, 30, generator=generator, dtype=torch.float64)
    x = level.alpha[:, None, None] * x0 + level.sigma[:, None, None] * noise
    assert geometry.rotation_error(x, level).max() < 1e-3


def tensors(value: object) -> list[torch.Tensor]:
    """All numbers of a measure."""
    if isinstance(value, Summary):
        return [torch.as_tensor(part) for part in (value.mean, value.low, value.high)]
    if isinstance(value, dict):
        return [number for part in value.values() for number in tensors(part)]
    return [torch.as_tensor(value)]


def test_rotation_coordinates_are_alpha_and_sigma():
    x, level, _ = planar()
    a, b = geometry.rotation_coordinates(x).unbind(2)
    share = level.sigma / level.sigma[0]
    torch.testing.assert_close(b, share[:, None].expand_as(b))
    torch.testing.assert_close(a, (level.alpha - share * level.alpha[0])[:, None].expand_as(a))


def test_residual_counts_what_leaves_the_plane():
    x = torch.zeros(3, 1, 3, dtype=torch.float64)
    x[0, 0, 0], x[2, 0, 1] = 2, 1
    x[1, 0] = torch.tensor([3.0, 0.0, 4.0])
    torch.testing.assert_close(geometry.plane_residual(x)[:, 0], torch.tensor([0.0, 16 / 25, 0.0], dtype=torch.float64))


def test_variance_shares_match_a_full_decomposition():
    x = torch.randn(9, 4, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    shares = geometry.variance_shares(x)
    for b in range(4):
        singular = torch.linalg.svdvals(x[:, b] - x[:, b].mean(0)) ** 2
        torch.testing.assert_close(shares[b], singular / singular.sum(), atol=1e-12, rtol=1e-10)


def test_principal_plane_keeps_the_distances_of_a_planar_path():
    x, _, _ = planar()
    coordinates, basis = geometry.principal_plane(x[:, 0])
    torch.testing.assert_close(torch.pdist(coordinates), torch.pdist(x[:, 0]))
    torch.testing.assert_close(basis.T @ basis, torch.eye(2, dtype=torch.float64))


def test_cosines_and_angles():
    straight = torch.arange(20, dtype=torch.float64)[:, None, None] * torch.ones(1, 3, 4)
    torch.testing.assert_close(geometry.difference_cosines(straight), torch.ones(4, 3, dtype=torch.float64))
    turned = straight.clone()
    turned[10:] = 2 * straight[10] - straight[10:]
    assert geometry.difference_cosines(turned, (1,))[0, 0] == pytest.approx((17 - 1) / 18)
    x = torch.tensor([[[1.0, 0.0]], [[1.0, 1.0]]])
    assert geometry.edge_angle(x).item() == pytest.approx(45)
    with pytest.raises(ValueError, match="needs a trajectory of more than 10 steps, got 4"):
        geometry.difference_cosines(straight[:5])


def test_summary_is_mean_and_quantiles():
    summary = Summary.of(torch.arange(101.0))
    assert (float(summary.mean), float(summary.low), float(summary.high)) == pytest.approx((50, 5, 95))
    assert f"{summary:.0f}" == "50 [5, 95]"


def test_gaussian_flow_emerges_as_predicted(gaussian: Gaussian, trajectory: Trajectory):
    # the prediction is of the share at sigma = 0, which the last estimate, at sigma/alpha = 0.01, has nearly reached
    level = trajectory.level[:-1]
    shares = emergence.feature_shares(trajectory.denoised, gaussian, 8)
    predicted = modes.emergence(gaussian.eigenvalues[:8], level) ** 2
    torch.testing.assert_close(shares, predicted / predicted[-1], atol=1e-9, rtol=1e-7)
    half = emergence.half_ratio(shares, level)
    torch.testing.assert_close(half, modes.emergence_ratio(gaussian.eigenvalues[:8]), atol=0, rtol=0.02)
    assert emergence.rank_correlation(half, gaussian.eigenvalues[:8]) == pytest.approx(1)


def test_half_ratio_is_nan_where_there_is_no_crossing():
    level = EDM().grid(4)[:-1]
    shares = torch.tensor([[0.1, 0.9, 0.1], [0.2, 0.9, 0.4], [0.8, 0.9, 0.55], [1, 1, 1]], dtype=torch.float64)
    half = emergence.half_ratio(shares, level)
    assert half[0].item() == pytest.approx(math.sqrt(float(level.ratio[1] * level.ratio[2])))
    assert torch.isnan(half[1])
    # two thirds of the way, in log sigma, from the level before one half to the level after it
    assert half[2].item() == pytest.approx(float(level.ratio[1] ** (1 / 3) * level.ratio[2] ** (2 / 3)))


def test_explained_variance(gaussian: Gaussian, trajectory: Trajectory):
    same = agreement.along(trajectory, gaussian)
    torch.testing.assert_close(same, trajectory.denoised)
    assert agreement.explained_variance(trajectory.denoised, same, gaussian.mean).min() == 1
    mean = gaussian.mean.expand_as(same)
    torch.testing.assert_close(
        agreement.explained_variance(trajectory.denoised, mean, gaussian.mean),
        torch.zeros(len(same), dtype=torch.float64),
    )
    score = agreement.score_explained_variance(trajectory, mean)
    assert score[0] > 0.99 > score[-1]  # at high noise the score agrees with anything
    torch.testing.assert_close(
        agreement.mean_squared_error(same + 2, same), torch.full(same.shape[:2], 4.0, dtype=torch.float64)
    )


def test_gaussian_perturbations_move_by_the_gain(gaussian: Gaussian):
    level = EDM(0.0005, 20).grid(300)
    run = sample(gaussian, initial_noise(range(3), 12, level[0], torch.float64), level, heun)
    result = perturb(gaussian, run, gaussian, [15, 150, 260], [0, 4, 11], 0.5, heun)
    torch.testing.assert_close(
        result.along, result.predicted.unsqueeze(-1).expand_as(result.along), rtol=0.03, atol=1e-3
    )
    # a linear flow moves along the component alone, and by half its standard deviation
    torch.testing.assert_close(result.total, result.along.abs(), rtol=1e-6, atol=1e-9)
    moved = result.total * result.size.unsqueeze(-1)
    expected = 0.5 * gaussian.eigenvalues[[0, 4, 11]].sqrt()
    torch.testing.assert_close(moved[0], expected[:, None].expand(3, 3), rtol=0.03, atol=1e-3)


@pytest.mark.parametrize("chunk", [7, 1000])
def test_nearest_is_brute_force(chunk: int):
    generator = torch.Generator().manual_seed(0)
    points, x = torch.randn(300, 9, generator=generator), torch.randn(11, 9, generator=generator)
    distance, index = nearest(points, x, 3, chunk)
    expected, order = torch.cdist(x.double(), points.double()).topk(3, largest=False)
    torch.testing.assert_close(distance, expected)
    assert torch.equal(index, order)
    with pytest.raises(ValueError, match="Cannot name 301 nearest of 300 points"):
        nearest(points, x, 301)


def test_nearest_tells_close_points_apart_far_from_the_origin():
    points = 1000 + torch.tensor([[0.0, 0.0], [0.01, 0.0], [0.02, 0.0]])
    _, index = nearest(points, points + 0.004)
    assert index[:, 0].tolist() == [0, 1, 2]


def test_intervals_of_means_are_students(normal) -> None:
    values = normal(12, 5)
    low, high = Summary.of(values[:, 0]).interval()
    expected = scipy.stats.t.interval(0.95, 11, values[:, 0].mean(), scipy.stats.sem(values[:, 0].numpy()))
    assert (low, high) == pytest.approx(expected)
    summary = Summary.of(values, 0)
    assert summary[0].interval() == pytest.approx((low, high))
    assert (summary.count, Summary.of(values[:1, 0]).interval()) == (12, None)


def test_the_jackknife_of_a_mean_is_its_standard_error(normal) -> None:
    """And covers the truth as often as it says, for a smooth function of means."""
    values = normal(16)
    others = by_group(lambda kept: values[kept].mean(), 16)
    assert jackknife(float(values.mean()), others) == pytest.approx(interval(values), rel=1e-9)
    draws = 1 + 0.5 * normal(400, 64, seed=3)
    covered = 0
    for drawn in draws:
        low, high = jackknife(float(drawn.mean().log()), by_group(lambda k, v=drawn: v[k].mean().log(), 64))
        covered += low <= 0 <= high
    assert 370 <= covered <= 392
    assert [len(kept) for kept in left_out(35)] == [32, 32, 32] + [33] * 13
    assert all(len(set(range(35)) - set(kept.tolist())) == 35 - len(kept) for kept in left_out(35))
