"""Nearest data points, and models that are known to copy their data or not to."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import scipy.stats
import torch
from analytic import data, subject
from hypothesis import given, strategies as st
from memory import Largest
from torch import Tensor
from torch.testing import assert_close
from typer.testing import CliRunner

from underpaint.analysis.retrieval import (
    apart_from,
    closeness,
    copy_distance,
    nearest,
    other_nearest,
    ranks,
    repeated,
)
from underpaint.cli import app
from underpaint.figures.retrieval import write_retrieval
from underpaint.noise import EDM
from underpaint.recipes import retrieve as recipe
from underpaint.recipes.retrieve import Retrieval, Settings, follow, retrieve
from underpaint.sampling.trajectory import Trajectory
from underpaint.theory.cloud import PointCloud

Retrieve = Callable[..., Retrieval]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Retrieve:
    """retrieve() of a model that is a given denoiser of the known data."""

    def retrieved(denoise: object = None, **options: object) -> Retrieval:
        what = subject(None if denoise is None else {None: denoise})
        monkeypatch.setattr(recipe, "load_model_and_data", lambda *args, **given: what)
        return retrieve(Settings(**{"seeds": tuple(range(6)), "steps": 12, "samples": 20, "shown": 2} | options))

    return retrieved


def test_the_exact_score_is_found_out(run: Retrieve) -> None:
    """Every sample of it is a training image."""
    rows, _ = data()
    found = run(PointCloud(rows))
    memory = found.memory
    assert memory.copies["samples"] == 1
    assert memory.copied == tuple(range(20))
    assert memory.copies["data"] < 0.1
    assert float(memory.distance["samples"].max()) < 1e-3
    assert memory.closer == 1
    assert_close(found.suspects, found.originals, rtol=0, atol=1e-3)
    assert "100 % of 20 samples are copies" in found.finding
    assert "(seeds 0, 1," in found.finding


def test_fresh_images_are_not_taken_for_copies(run: Retrieve) -> None:
    """Samples of the data's Gaussian: no copies, and about as far from the data as these are from each other."""
    found = run(samples=60)
    assert found.memory.copies["samples"] == 0
    assert found.memory.copied == ()
    assert 0.2 < found.memory.closer < 0.7
    assert found.memory.closer_error == pytest.approx((121 / (12 * 3600)) ** 0.5)


def test_the_way_is_that_of_the_estimates(run: Retrieve) -> None:
    """Distance, place and identity, against all distances at once."""
    rows, _ = data()
    found = run()
    what = subject()
    level = what.model.schedule.grid(12)
    from underpaint.sampling.solvers import find_solver

    estimates = what.sample(what.model, range(6), level, find_solver("dpmpp-2m")).denoised
    distances = torch.cdist(estimates.double().flatten(0, 1), rows.double()).view(12, 6, len(rows))
    assert torch.equal(found.way.index, distances.argmin(2))
    assert_close(found.way.distance.mean, distances.amin(2).mean(1) / 6, rtol=1e-6, atol=1e-9)
    last = distances.gather(2, found.way.index[-1].expand(12, 6).unsqueeze(2))
    assert_close(found.way.rank.mean, 1 + (distances < last).sum(2).double().mean(1), rtol=0.02, atol=0.2)
    assert float(found.way.rank.high[-1]) == 1
    assert float(found.way.final[-1]) == 1


def test_settling_is_the_last_change() -> None:
    """A made-up way: the nearest of four points is 0, 0, 1, 2, 2 for one seed, and 3 throughout for the other."""
    rows = torch.eye(4)
    visited = torch.tensor([[0, 3], [0, 3], [1, 3], [2, 3], [2, 3]])
    level = EDM()(torch.tensor([16.0, 8.0, 4.0, 2.0, 1.0, 0.0]))
    way = follow(rows, Trajectory(torch.zeros(6, 2, 4), rows[visited], level, 5))
    assert torch.equal(way.index, visited)
    assert_close(way.settled.mean, torch.tensor((2.0 + 16.0) / 2).double())
    assert_close(way.distinct.mean, torch.tensor(2.0).double())
    assert way.final.tolist() == [0.5, 0.5, 0.5, 1, 1]
    assert float(way.distance.mean.max()) == 0


def test_samples_of_a_class_are_sampled_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The case reaches `load_model_and_data`, which makes the subject's denoiser."""
    seen = {}

    def loader(*args: object, **options: object) -> object:
        seen.update(options)
        raise ValueError("enough")

    monkeypatch.setattr(recipe, "load_model_and_data", loader)
    with pytest.raises(ValueError, match="enough"):
        retrieve(Settings(label=7))
    assert str(seen["case"]) == "class 7"


def twice(monkeypatch: pytest.MonkeyPatch, times: int, noise: float = 0.0) -> Retrieval:
    """A model that gives near copies of its data, of which each image is there so many times, with some noise."""
    rows, _ = data()
    many = rows.repeat(times, 1)
    many = many + noise * torch.randn(many.shape, generator=torch.Generator().manual_seed(1))
    what = replace(subject({None: PointCloud(rows + 0.01)}), rows=many)
    monkeypatch.setattr(recipe, "load_model_and_data", lambda *args, **given: what)
    return retrieve(Settings(seeds=tuple(range(4)), steps=12, samples=20, shown=2))


@pytest.mark.parametrize(("times", "noise"), [(1, 0.0), (2, 0.0), (5, 0.0), (3, 0.005)])
def test_copies_are_found_however_often_each_image_is_in_the_data(
    monkeypatch: pytest.MonkeyPatch, times: int, noise: float
) -> None:
    found = twice(monkeypatch, times, noise)
    memory = found.memory
    assert memory.copies["samples"] == 1
    assert memory.copies["data"] < 0.1
    assert memory.repeated == (400 * (times - 1) if noise == 0 else 0)
    assert memory.alike == (1 if times > 1 else 0)
    assert memory.closer > 0.95
    assert ("The data repeat themselves" in found.finding) == (times > 1)


def test_everything_is_written(run: Retrieve, tmp_path: Path) -> None:
    content = write_retrieval(run(), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == content
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["memory.png", "results.json", "strips.png", "suspects.png", "way.png"]
    assert len(content["way"]["value"]["final"]["value"]) == 12
    assert content["setup"]["seeds"] == list(range(20))


def test_the_command_says_what_it_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(recipe, "load_model_and_data", lambda *args, **options: subject())
    arguments = f"retrieve --seeds 0-2 --steps 5 --samples 8 -o {tmp_path / 'o'}".split()
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    assert "\n0 % of 8 samples are copies of training images; " in shown.output
    shown = CliRunner().invoke(app, [*arguments, "--json"])
    assert json.loads(shown.stdout)["memory"]["value"]["copied"]["value"] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": (1,)}, r"at least 2 different seeds, got \[1\]"),
        ({"seeds": (1, 1)}, "2 different seeds"),
        ({"samples": 5}, "at least 16, not 5"),
        ({"solver": "x"}, "Unknown solver"),
    ],
)
def test_settings_are_checked(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**options)


def test_samples_take_the_seeds_that_are_left() -> None:
    assert Settings(seeds=(3, 1), samples=5).every_seed == (3, 1, 0, 2, 4)
    assert Settings(seeds=(3, 1), samples=2).every_seed == (3, 1)


@pytest.mark.parametrize("chunk", [7, 1000])
def test_places_are_those_of_sorted_distances(chunk: int, normal) -> None:
    points, x = normal(300, 9).float(), normal(11, 9, seed=1).float()
    target = torch.arange(11) * 13
    distance = torch.cdist(x.double(), points.double())
    expected = 1 + (distance < distance.gather(1, target.unsqueeze(1))).sum(1)
    assert torch.equal(ranks(points, x, target, chunk), expected)
    assert ranks(points, points[:5], torch.arange(5), chunk).tolist() == [1] * 5


def test_the_others_leave_out_the_point_itself(normal) -> None:
    """Not its duplicates, however many there are."""
    points = normal(30, 5)
    points[3:8] = points[3]
    distance = torch.cdist(points, points).fill_diagonal_(torch.inf)
    expected = distance.topk(2, largest=False).values
    assert_close(other_nearest(points, torch.arange(30), 2), expected, rtol=1e-6, atol=1e-6)
    assert other_nearest(points, torch.tensor([5]), 3).tolist() == [[0, 0, 0]]


def test_the_nearest_that_differs_is_that_of_all_distances(normal) -> None:
    points, x = normal(300, 6), normal(11, 6, seed=1)
    points[100:120] = points[:20] + 1e-3
    distance = torch.cdist(x, points)
    first = distance.argmin(1)
    far = torch.cdist(points[first], points) >= 0.5
    expected, place = distance.masked_fill(~far, torch.inf).min(1)
    for chunk in (7, 1000):
        found, index = apart_from(points, x, first.unsqueeze(1), 0.5, chunk)
        assert_close(found, expected, rtol=1e-9, atol=1e-9)
        assert torch.equal(index, place)
    others = other_nearest(points, torch.arange(20), 2, apart=0.5)
    near = torch.cdist(points[:20], points)
    one, where = near.masked_fill(near < 0.5, torch.inf).min(1)
    two = near.masked_fill((near < 0.5) | (torch.cdist(points[where], points) < 0.5), torch.inf).amin(1)
    assert_close(others, torch.stack([one, two], 1), rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="too few that lie 100 apart"):
        apart_from(points, x, first.unsqueeze(1), 100.0)


def test_points_that_are_there_again_are_counted(normal) -> None:
    points = normal(50, 4).float()
    assert repeated(points) == 0
    assert repeated(torch.cat([points, points[:7], points[:7]])) == 14
    assert copy_distance(points) == pytest.approx(0.1 * float(torch.pdist(points).median()), rel=0.1)


@given(seed=st.integers(0, 999), ties=st.booleans())
def test_closeness_is_the_statistic_of_mann_and_whitney(normal, seed: int, ties: bool) -> None:
    a, b = normal(17, seed=seed), 0.5 + normal(23, seed=seed + 1)
    if ties:
        a, b = a.round(), b.round()
    share, error = closeness(a, b)
    greater = scipy.stats.mannwhitneyu(b, a).statistic
    assert share == pytest.approx(greater / (17 * 23))
    assert error == pytest.approx((41 / (12 * 17 * 23)) ** 0.5)


def test_memory_of_a_search_is_bounded(normal) -> None:
    points: Tensor = torch.linspace(-1, 1, 32).expand(20_000, 32)
    with Largest() as largest:
        nearest(points, normal(1000, 32).float(), 1, chunk=500)
        ranks(points, normal(1000, 32).float(), torch.zeros(1000, dtype=torch.long), chunk=500)
    assert largest.numel <= 256 * 500


def test_a_search_needs_rows_of_the_points_dimension(normal) -> None:
    with pytest.raises(ValueError, match="rows of dimension 4, got 3"):
        nearest(normal(9, 4), normal(2, 3))


@pytest.mark.slow
@pytest.mark.data
def test_a_trained_network_does_not_copy() -> None:
    """The model in the box: at high noise every seed resembles the same few images, at the end none is a copy."""
    found = retrieve(Settings(seeds=tuple(range(8)), steps=16, samples=16))
    assert found.memory.copies["samples"] == 0
    assert len(found.way.index[0].unique()) < len(found.way.index[-1].unique())
    assert float(found.way.rank.mean[0]) > 1000
