"""Paths between pictures, against saddles, integrals and densities that are known."""

from __future__ import annotations

import math

import pytest
import torch
from distributions import GAUSSIANS, MIXTURE, SCHEDULES, standard_normal
from hypothesis import given, settings, strategies
from torch import Tensor

import underpaint as up
from underpaint.analysis.density import flow_log_prob, flow_to_noise
from underpaint.analysis.paths import (
    across,
    arc_lengths,
    great_circle,
    morph,
    pull_string,
    respace,
    straight,
    tangents,
)
from underpaint.theory.gaussian import Gaussian
from underpaint.theory.mixture import Mixture


def blobs(centres: Tensor, width: float) -> Mixture:
    return Mixture(torch.ones(len(centres)) / len(centres), tuple(Gaussian.isotropic(c, width**2) for c in centres))


def ratios(high: float, low: float, count: int) -> up.NoiseLevel:
    return up.EDM().level(torch.logspace(math.log10(high), math.log10(low), count, dtype=torch.float64))


#: Two modes and a third beside them, over which the lowest pass leads.
BENT = blobs(torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64), 0.15)
#: Modes along a part of a circle, close enough to make one bent ridge.
ANGLES = torch.linspace(0.2 * math.pi, 0.8 * math.pi, 25, dtype=torch.float64)
ARC = blobs(2 * torch.stack([ANGLES.cos(), ANGLES.sin()], 1), 0.1)


@given(seed=strategies.integers(0, 10_000), points=strategies.integers(3, 9))
@settings(max_examples=25, deadline=None)
def test_an_arc_of_noise_keeps_its_length_and_turns_evenly(seed: int, points: int):
    a, b = standard_normal(2, 50, seed=seed)
    b = b / b.norm() * a.norm()
    arc = great_circle(a, b, points)
    torch.testing.assert_close(arc[[0, -1]], torch.stack([a, b]))
    torch.testing.assert_close(arc.norm(dim=1), a.norm().expand(points))
    torch.testing.assert_close(arc.diff(dim=0).norm(dim=1), arc.diff(dim=0).norm(dim=1)[:1].expand(points - 1))


def test_an_arc_between_parallel_noises_is_a_line():
    a = standard_normal(5)
    torch.testing.assert_close(great_circle(a, 2 * a, 5), straight(a, 2 * a, 5))


@given(seed=strategies.integers(0, 10_000), points=strategies.integers(3, 30))
@settings(max_examples=25, deadline=None)
def test_respacing_keeps_ends_and_stays_on_the_path(seed: int, points: int):
    path = standard_normal(points, 3, seed=seed)
    spaced = respace(path)
    torch.testing.assert_close(spaced[[0, -1]], path[[0, -1]])
    lengths, wanted = arc_lengths(path), torch.linspace(0, 1, points, dtype=torch.float64) * arc_lengths(path)[-1]
    for axis in range(3):  # an independent interpolation along the length
        import numpy

        expected = numpy.interp(wanted.numpy(), lengths.numpy(), path[:, axis].numpy())
        torch.testing.assert_close(spaced[:, axis], torch.from_numpy(expected))


def test_tangents_of_a_circle_are_across_its_radii():
    circle = torch.stack([ANGLES.cos(), ANGLES.sin()], 1)
    along = tangents(circle)
    torch.testing.assert_close(along.norm(dim=1), torch.ones(25, dtype=torch.float64))
    torch.testing.assert_close(across(circle, along)[1:-1], circle[1:-1])


def test_the_minimum_energy_path_crosses_the_lowest_saddle():
    """Newton's method finds where the score vanishes; the straight line would meet a higher pass at (0, 0.1)."""
    level = up.EDM().level(0.3)
    saddle = torch.tensor([0.5, 0.5], dtype=torch.float64)
    for _ in range(20):
        jacobian = torch.autograd.functional.jacobian(lambda x: BENT.score(x[None], level)[0], saddle)
        saddle = saddle - torch.linalg.solve(jacobian, BENT.score(saddle[None], level)[0])
    ends = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    start = straight(*ends, 41)
    string = pull_string(BENT.denoise, start, ratios(2, 0.3, 10), rounds=25)
    assert float((string.path - saddle).norm(dim=1).min()) < 0.02
    assert float(string.pull[-1]) < 1e-3 < float(string.pull[0])
    heights = BENT.log_prob(string.path, level)
    assert float(heights.min()) == pytest.approx(float(BENT.log_prob(saddle[None], level)), abs=0.02)
    assert float(heights.min()) > float(BENT.log_prob(start, level).min()) + 0.2


def test_a_string_of_a_gaussian_settles_where_its_score_runs_along_it():
    gaussian = GAUSSIANS["full"]
    ends = gaussian.mean + torch.stack([2 * gaussian.basis[:, 0] + gaussian.basis[:, 1], -3 * gaussian.basis[:, 0]])
    level = ratios(3, 1, 4)
    string = pull_string(gaussian.denoise, straight(*ends, 31), level, rounds=60)
    score = gaussian.denoise(string.path, level[-1]) - string.path
    sideways = across(score, tangents(string.path)).norm(dim=1)[1:-1]
    assert float((sideways / score.norm(dim=1)[1:-1].clamp(min=1e-2)).max()) < 0.15


def test_a_principal_curve_is_the_mean_of_the_noisy_data_across_it():
    """Held against the integral over each line across the curve, of the density near it."""
    level = ratios(1, 0.2, 6)
    ends = 2 * torch.stack([ANGLES.cos(), ANGLES.sin()], 1)[[0, -1]]
    start = straight(*ends, 25)
    string = pull_string(ARC.denoise, start, level, walkers=400, rounds=15)
    path, along = string.path, tangents(string.path)
    across_it = torch.stack([-along[:, 1], along[:, 0]], 1)
    offset = torch.linspace(-0.8, 0.8, 801, dtype=torch.float64)
    line = path[:, None] + offset[:, None] * across_it[:, None]
    density = ARC.log_prob(line.flatten(0, 1), level[-1]).view(25, 801).softmax(1)
    off = (density * offset).sum(1)[3:-3]
    assert float(off.abs().max()) < 0.06
    radius = path[5:-5].norm(dim=1)
    assert 1.9 < float(radius.mean()) < 2.05  # above all, it left the flatter line that it began as
    spread = (string.walkers - path).square().sum(2).mean(0)[5:-5].mean()
    assert float(spread) == pytest.approx(0.1**2 + 0.2**2, rel=0.15)
    torch.testing.assert_close(path[[0, -1]], ends, atol=1e-9, rtol=0)


def test_walkers_follow_the_flow_from_level_to_level():
    """Rounds so short that they change little: the steps between levels alone leave the spread of the noisy data."""
    gaussian = Gaussian.isotropic(torch.zeros(6, dtype=torch.float64), 0.25)
    line = straight(*standard_normal(2, 6), 5)
    string = pull_string(gaussian.denoise, line, ratios(20, 0.2, 60), walkers=300, rounds=1, rate=1e-3)
    spread = string.walkers.var(0).sum(1)[1:-1] / 5  # five directions across the path
    torch.testing.assert_close(spread, torch.full_like(spread, 0.25 + 0.04), rtol=0.15, atol=0)


@pytest.mark.parametrize("low", [0.3, 2.0])
def test_the_density_is_exact_where_every_probe_is(low: float):
    """The Jacobian of an isotropic Gaussian's denoiser is a multiple of one: v . J v is its trace for any signs."""
    gaussian = Gaussian.isotropic(torch.ones(6, dtype=torch.float64), 0.5)
    x, level = standard_normal(4, 6), ratios(200, low, 600)
    found = flow_log_prob(gaussian.denoise, x, level, gaussian, probes=2)
    torch.testing.assert_close(found.log_prob, gaussian.log_prob(x, level[-1]), rtol=0, atol=2e-3)
    assert float(found.error.max()) < 1e-6


@pytest.mark.parametrize("name", ["ddpm", "edm", "flow"])
def test_data_go_back_to_the_noise_that_they_came_from(name: str):
    """With an error of second order in the number of steps."""
    schedule, gaussian, errors = SCHEDULES[name], GAUSSIANS["full"], []
    top, bottom = schedule.grid(50)[0], schedule.grid(50)[-2]
    noise = gaussian.sample(3, torch.Generator().manual_seed(1), top)
    data = gaussian.flow(noise, top, bottom) / bottom.alpha
    for steps in (60, 120, 240):
        high = min(1e3, float(top.ratio))
        inner = schedule.level(ratios(high, float(bottom.ratio), steps).ratio[1:-1])
        level = up.NoiseLevel.join(top, inner, bottom)
        errors.append(float((flow_to_noise(gaussian.denoise, data, level) - noise).norm() / noise.norm()))
    assert errors[2] < 2e-3
    assert min(errors[0] / errors[1], errors[1] / errors[2]) > 3


@pytest.mark.parametrize("distribution", [GAUSSIANS["full"], GAUSSIANS["low-rank"], MIXTURE])
def test_the_density_along_the_flow_is_the_density(distribution: Gaussian | Mixture):
    level = ratios(100, 0.3, 250)
    x = distribution.sample(4, torch.Generator().manual_seed(3))
    found = flow_log_prob(distribution.denoise, x, level, probes=200)
    exact = distribution.log_prob(x, level[-1])
    assert bool(((found.log_prob - exact).abs() < 4 * found.error + 0.03).all())
    assert float(found.error.max()) < 0.2


def test_a_known_gaussian_serves_at_the_noisiest_level():
    gaussian, level = GAUSSIANS["full"], ratios(2, 0.3, 120)
    x = gaussian.sample(3, torch.Generator().manual_seed(3))
    found = flow_log_prob(gaussian.denoise, x, level, gaussian, probes=300)
    exact = gaussian.log_prob(x, level[-1])
    assert bool(((found.log_prob - exact).abs() < 4 * found.error + 0.01).all())
    assert not bool(((flow_log_prob(gaussian.denoise, x, level, probes=8).log_prob - exact).abs() < 0.5).all())


@pytest.mark.parametrize("kind", ["straight", "noise", "minimum-energy", "principal"])
def test_every_kind_of_path_ends_at_the_two_pictures(kind: str):
    ends = MIXTURE.sample(2, torch.Generator().manual_seed(5))
    found = morph(MIXTURE.denoise, ends[0], ends[1], up.DDPM().grid(30), kind, 7, rounds=3, levels=4)
    assert found.rows.shape == (7, 6)
    torch.testing.assert_close(found.rows[[0, -1]], ends)
    assert (found.pull is None) == (kind in ("straight", "noise"))


def test_the_arc_of_a_gaussian_is_its_flow_of_the_arc_of_noises():
    gaussian, grid = GAUSSIANS["full"], up.EDM().grid(60)
    noises = up.initial_noise((1, 2), 6, grid[0], torch.float64)
    ends = gaussian.flow(noises, grid[0], grid[-1])
    found = morph(gaussian.denoise, ends[0], ends[1], grid, "noise", 5, noises=(noises[0], noises[1]))
    exact = gaussian.flow(great_circle(noises[0], noises[1], 5), grid[0], grid[-1])
    torch.testing.assert_close(found.rows, exact, atol=0.02, rtol=0.02)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "curvy"}, "Unknown kind of path"),
        ({"points": 2}, "number of pictures"),
        ({"ratio": 1e3}, "below 80"),
        ({"begin": 0.1}, "more noise to less"),
    ],
)
def test_what_is_no_path_is_refused(change: dict, words: str):
    ends = MIXTURE.sample(2, torch.Generator().manual_seed(5))
    with pytest.raises(ValueError, match=words):
        morph(MIXTURE.denoise, ends[0], ends[1], up.EDM().grid(10), **change)
    with pytest.raises(ValueError, match="the same one"):
        morph(MIXTURE.denoise, ends[0], ends[0], up.EDM().grid(10))


def test_what_is_no_string_is_refused():
    line = straight(*standard_normal(2, 6), 5)
    with pytest.raises(ValueError, match="three states"):
        pull_string(MIXTURE.denoise, line[:2], ratios(3, 1, 3))
    with pytest.raises(ValueError, match="both signal and noise"):
        pull_string(MIXTURE.denoise, line, up.EDM().grid(4))
    with pytest.raises(ValueError, match="0 < rate"):
        pull_string(MIXTURE.denoise, line, ratios(3, 1, 3), rate=2.0)
    with pytest.raises(ValueError, match="two probes"):
        flow_log_prob(MIXTURE.denoise, line, ratios(3, 1, 3), probes=1)
