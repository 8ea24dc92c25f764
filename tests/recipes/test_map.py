"""Maps around a sample: what moves where, and what stays on the manifold, against closed forms."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from latents import DIMENSION, GAUSSIANS, IMAGE, MEANS, flow_matrix, latent_sampler, normal, path, spectral
from PIL import Image
from typer.testing import CliRunner

from underpaint.analysis.manifold import denoise_around, find_direction, kept
from underpaint.cli import app
from underpaint.figures.maps import write_map
from underpaint.noise import EDM
from underpaint.recipes.map import Map, MapSettings, map_around
from underpaint.recipes.shared.request import Request, Sampler, Theory
from underpaint.sampling.trajectory import Trajectory

APPLE = Request("latent", ("an apple",), (2.0,), seeds=(4,))
MEAN = MEANS[""] + 2.0 * (MEANS["an apple"] - MEANS[""])


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    return latent_sampler()


@pytest.fixture(scope="module")
def run(sampler: Sampler) -> Trajectory:
    return sampler.sample(sampler.model.conditional("an apple", 2.0), APPLE.seeds)


@pytest.fixture(scope="module")
def finished(sampler: Sampler) -> Map:
    return map_around(sampler, APPLE, MapSettings(("x0:1", "data:5", "random"), 0.4, 5, draws=3))


def states(sampler: Sampler, images: torch.Tensor) -> torch.Tensor:
    """The latents of pictures [..., C, H, W] in [0, 1]; none of the fake's pictures is clipped."""
    return sampler.model.rows(2 * images.double().reshape(-1, *IMAGE) - 1).unflatten(0, images.shape[:-3])


def test_the_finished_sample_is_moved_as_stated(sampler: Sampler, finished: Map, run: Trajectory):
    x, length = run.final[0].double(), run.final[0].double().norm()
    rows = [find_direction(text, run, GAUSSIANS[""]).rows[0].double() for text in ("x0:1", "data:5", "random")]
    shares = torch.tensor([-0.4, -0.2, 0.0, 0.2, 0.4], dtype=torch.float64)
    assert finished.offset.tolist() == pytest.approx(shares.tolist())
    assert finished.offset[2] == 0
    assert finished.length == pytest.approx(length.item())
    strips = states(sampler, finished.strips)
    for k, v in enumerate(rows):
        torch.testing.assert_close(strips[k], x + length * shares[:, None] * v, rtol=1e-4, atol=1e-4)
    grid = states(sampler, finished.grid)
    for i in range(5):
        for j in range(5):  # the second direction points up
            moved = x + length * (shares[j] * rows[0] + shares[4 - i] * rows[1])
            torch.testing.assert_close(grid[i, j], moved, rtol=1e-4, atol=1e-4)


def test_the_network_keeps_what_the_covariance_says(sampler: Sampler, finished: Map, run: Trajectory):
    """For a Gaussian v . dD = v^T alpha^2 Sigma (alpha^2 Sigma + sigma^2)^-1 v, whatever the distance."""
    level = finished.noised
    assert level.ratio.item() == pytest.approx(0.2)
    gains = spectral(lambda v: level.alpha**2 * v / (level.alpha**2 * v + level.sigma**2))
    rows = torch.stack([find_direction(d, run, GAUSSIANS[""]).rows[0].double() for d in finished.directions])
    exact = torch.einsum("kd,de,ke->k", rows, gains, rows)[:, None].expand(3, 2)
    torch.testing.assert_close(finished.measured.kept, exact, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(finished.expected.kept, exact, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(finished.measured.residual, finished.expected.residual, rtol=1e-3, atol=1e-4)
    assert finished.setup["expected from"] == "Gaussian of an apple, guided as the network is"


def test_the_residual_is_that_of_the_formula():
    """E|x - D|^2 = |(1 - alpha a)(x - mu)|^2 + sigma^2 sum a^2, with many noises."""
    level, points = EDM()(0.3), 2 * normal(4, DIMENSION, seed=7)
    gaussian = GAUSSIANS["a bear"]
    gains = spectral(lambda v: v / (v + 0.09))
    bias = (points - gaussian.mean) @ (torch.eye(DIMENSION) - gains)
    exact = ((bias.square().sum(1) + 0.09 * gains.square().sum()) / DIMENSION).sqrt()
    mean, residual = denoise_around(gaussian, points, level, draws=2000)
    torch.testing.assert_close(residual, exact, rtol=0.01, atol=0)
    torch.testing.assert_close(mean, points - bias, rtol=0, atol=0.03)


def test_kept_by_hand():
    shifts, v = torch.tensor([[3.0, 9.0], [0.0, 1.0]]), torch.tensor([1.0, 0.0])
    assert kept(shifts, v, torch.tensor([2.0, 5.0])).tolist() == [0.75, 0.0]


def test_entering_the_trajectory_moves_by_the_gain(sampler: Sampler, run: Trajectory):
    """Moves made at step 60 arrive at the end as the dense matrix of the flow takes them there."""
    found = map_around(sampler, APPLE, MapSettings(("x0:2", "random:3"), 0.3, 3, enter=60, draws=1))
    matrix = flow_matrix(sampler.level[60], sampler.level[-1])
    assert found.step == 60
    for k, text in enumerate(("x0:2", "random:3")):
        v = find_direction(text, run).rows[0].double()
        strip = states(sampler, found.strips[k])
        for i, share in ((0, -0.3), (2, 0.3)):
            moved = share * run.x[60, 0].double().norm() * (v @ matrix)
            torch.testing.assert_close(strip[i] - strip[1], moved, rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(states(sampler, found.grid)[1], states(sampler, found.strips)[0], rtol=1e-4, atol=1e-4)


def test_toward_another_prompt(sampler: Sampler, run: Trajectory):
    """Blending two Gaussians of one covariance is a Gaussian with the mean between theirs."""
    found = map_around(sampler, APPLE, MapSettings(("data:2",), 0.2, 3, toward="a bear", draws=1))
    assert found.step == 0
    assert found.blend.tolist() == [0, 0.5, 1]
    grid = states(sampler, found.grid)
    bear = MEANS[""] + 2.0 * (MEANS["a bear"] - MEANS[""])
    for i, share in enumerate((0, 0.5, 1)):
        exact = path(MEAN + share * (bear - MEAN), run.x[0], sampler.level)[-1, 0]
        torch.testing.assert_close(grid[i, 1], exact, rtol=1e-2, atol=1e-2)
    moved = (
        0.2
        * run.x[0, 0].double().norm()
        * (GAUSSIANS[""].basis[:, 1] @ flow_matrix(sampler.level[0], sampler.level[-1]))
    )
    torch.testing.assert_close(grid[2, 2] - grid[2, 1], moved, rtol=1e-2, atol=1e-2)
    assert found.setup["toward"] == "a bear"
    assert found.strips.shape == (1, 3, *IMAGE)


def test_the_finding_says_which_direction_is_one_of_images(finished: Map):
    measured, expected = finished.measured, finished.expected
    assert expected is not None
    looks = [
        replace(look, kept=torch.tensor(shares).unsqueeze(1))
        for look, shares in ((measured, [0.9, 0.75, 0.1]), (expected, [1.0, 0.7, 0.2]))
    ]
    assert replace(finished, measured=looks[0], expected=looks[1]).finding == (
        "The finished sample was moved by 0.2 of its length, and given a little noise. Of the move the denoiser keeps "
        "0.9 along x0:1 (theory: 1), 0.75 along data:5 (theory: 0.7) and 0.1 along random (theory: 0.2). It keeps all "
        "(1) of a move to another image, and nothing (0) of one that is noise. So of these x0:1 is most a direction of "
        "images, and random least."
    )
    alike = replace(finished, measured=replace(measured, kept=torch.tensor([[0.5812], [0.5809], [0.5811]]))).finding
    assert "0.58 along x0:1" in alike
    assert alike.endswith("of one that is noise.")  # no order is told of what is told as equal


def test_one_direction_has_no_grid_and_no_statistics_no_expectation(tmp_path: Path):
    found = map_around(latent_sampler(20, theory=Theory()), APPLE, MapSettings(("x0:1",), points=3, draws=1))
    assert found.grid is None
    assert found.expected is None
    content = write_map(found, tmp_path)
    assert content["expected"] == {"value": None, "unit": "the same for the theory"}
    assert content["finding"] == found.finding
    assert "theory" not in found.finding
    assert found.finding.endswith("of one that is noise.")  # nothing to compare
    assert json.loads((tmp_path / "results.json").read_text()) == content
    assert (tmp_path / "map.png").stat().st_size > 5000


def test_bad_charts_get_a_sentence(sampler: Sampler):
    for options, words in (
        ({"along": ()}, "needs a direction"),
        ({"points": 4}, "an odd number of points, 3 or more, got 4"),
        ({"points": 1}, "an odd number"),
        ({"span": 0.0}, "span of a map must be positive"),
        ({"ratio": -1.0}, "ratio at which to denoise must be positive"),
        ({"draws": 0}, "one noise must be drawn"),
    ):
        with pytest.raises(ValueError, match=words):
            MapSettings(**options)
    for chart, words in (
        (MapSettings(enter=121), "entered at steps 0 to 120 here, got 121"),
        (MapSettings(enter=120, toward="a bear"), "entered at steps 0 to 119 here, got 120"),
    ):
        with pytest.raises(ValueError, match=words):
            map_around(sampler, APPLE, chart)
    with pytest.raises(ValueError, match="give one seed, got 2"):
        map_around(sampler, Request("latent", seeds=(1, 2)))


def test_the_command_draws_a_map(tmp_path: Path):
    options = ["--steps", "4", "--points", "3", "--toward", "8", "--along", "x0:1", "--enter", "1"]
    result = CliRunner().invoke(app, ["map", *options, "--out", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert content["setup"]["toward"] == 8
    assert content["step"]["value"] == 1
    assert content["setup"]["condition"] is None
    assert len(content["measured"]["value"]["residual"]["value"][0]) == 3
    with Image.open(tmp_path / "map.png") as picture:
        assert min(picture.size) > 400
