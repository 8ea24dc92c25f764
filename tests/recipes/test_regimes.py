"""Speciation and collapse, measured where they are known."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import scipy.stats
import torch
from analytic import data, subject
from distributions import SCHEDULES
from matplotlib.offsetbox import AnnotationBbox
from torch import Tensor
from torch.testing import assert_close
from typer.testing import CliRunner

from underpaint.analysis import regimes as analysis
from underpaint.analysis.regimes import (
    chance_alike,
    class_means,
    clone,
    crossing,
    nearest_class,
    nudge,
    posterior_entropy,
)
from underpaint.analysis.summary import share_interval
from underpaint.cli import app
from underpaint.figures.regimes import along, borders, fitting, spread
from underpaint.noise import EDM, NoiseLevel, preserving
from underpaint.recipes import regimes as recipe
from underpaint.recipes.regimes import Settings, regimes
from underpaint.recipes.shared.model_and_data import ModelAndData
from underpaint.recipes.shared.regimes import (
    Regimes,
    calls_of_regimes,
    clone_at,
    collapse,
    find_classes,
    known_counts,
    measure_regimes,
)
from underpaint.recipes.shared.request import Conditioning
from underpaint.sampling.solvers import ancestral, find_solver
from underpaint.sampling.trajectory import sample
from underpaint.theory.cloud import PointCloud
from underpaint.theory.gaussian import Gaussian
from underpaint.theory.mixture import Mixture


def direct_entropy(points: Tensor, x: Tensor, level: NoiseLevel) -> Tensor:
    """By all weights at once."""
    alpha, sigma = level.columns(x)
    logs = (-(x.unsqueeze(1) - (alpha * 1.0).reshape(-1, 1, 1) * points).square().sum(2) / (2 * sigma**2)).log_softmax(
        1
    )
    return -(logs.exp() * logs).sum(1)


@pytest.mark.parametrize("chunk", [7, 1000])
def test_entropy_is_that_of_all_weights(chunk: int, normal) -> None:
    """Of the first points in an order, at one level and at one for each row, far from the origin too."""
    points, x, order = normal(50, 9) + 30, normal(6, 9, seed=1) + 30, torch.arange(50).flip(0)
    for level in (preserving(0.7), preserving(torch.logspace(-1, 2, 6))):
        state = level.alpha.reshape(-1, 1) * x + level.sigma.reshape(-1, 1) * normal(6, 9, seed=2)
        found = posterior_entropy(points, state, level, (1, 20, 50), order, chunk)
        expected = [direct_entropy(points.flip(0)[:count], state, level) for count in (1, 20, 50)]
        assert_close(found, torch.stack(expected), rtol=1e-9, atol=1e-9)
        assert_close(posterior_entropy(points, state, level)[0], found[-1], rtol=1e-9, atol=1e-9)


def test_many_states_take_fewer_points_at_a_time(monkeypatch: pytest.MonkeyPatch, normal) -> None:
    """What is held at once is bounded, and the entropies are the same."""
    points, x, level, told = normal(300, 5), normal(40, 5, seed=1), preserving(0.5), []

    def progress(what: str, total: int):
        told.append(total)
        return lambda: None

    whole = posterior_entropy(points, x, level, (10, 300), progress=progress)
    monkeypatch.setattr(analysis, "_LOGITS", 40 * 70)
    assert_close(posterior_entropy(points, x, level, (10, 300), progress=progress), whole, rtol=1e-9, atol=1e-12)
    assert told == [2, 6]  # edges at 0 10 300; at 0 10 70 140 210 280 300
    assert posterior_entropy(points, x[:0], level).shape == (1, 0)


def test_perplexity_counts_the_points_that_share_a_state() -> None:
    """Four corners of a square: all at the middle of high noise, two half-way along an edge, one at a corner."""
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    states, ratios = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]), torch.tensor([9.0, 0.1, 0.1])
    found = posterior_entropy(corners, states, NoiseLevel(torch.ones(3), ratios))
    assert_close(found[0].exp(), torch.tensor([4.0, 2.0, 1.0]).double(), rtol=1e-9, atol=1e-9)
    pixels = torch.tensor([[255, 255], [255, 0], [0, 255], [0, 0]], dtype=torch.uint8)
    assert_close(posterior_entropy(pixels, states, NoiseLevel(torch.ones(3), ratios)), found)


@pytest.mark.parametrize(
    ("counts", "level", "message"),
    [
        ((3, 2), preserving(1.0), r"rise from 1 to at most 4, got \[3, 2\]"),
        ((5,), preserving(1.0), r"at most 4, got \[5\]"),
        ((0, 4), preserving(1.0), r"from 1"),
        ((4,), NoiseLevel.clean(), "noise and signal"),
    ],
)
def test_what_has_no_entropy_is_refused(counts: tuple[int, ...], level: NoiseLevel, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        posterior_entropy(torch.eye(4), torch.zeros(1, 4), level, counts)


def test_an_ancestral_step_is_the_posterior_of_the_state_between() -> None:
    """x' | x, x0 by Bayes: prior N(a' x0, s'^2), and x = (a/a') x' + noise of the variance that is left to s^2."""
    here, there, x0, x = preserving(2.0), preserving(0.6), 0.3, torch.tensor([[1.7]], dtype=torch.float64)
    gain = float(here.alpha / there.alpha)
    left = float(here.sigma**2) - gain**2 * float(there.sigma**2)
    precision = 1 / float(there.sigma**2) + gain**2 / left
    mean = (float(there.alpha) * x0 / float(there.sigma**2) + gain * 1.7 / left) / precision
    for draw, expected in ((0.0, mean), (1.0, mean + precision**-0.5)):
        solver = ancestral(lambda rows, draw=draw: torch.full_like(rows, draw))
        ((moved, _),) = solver(lambda rows, _: torch.full_like(rows, x0), x, NoiseLevel.join(here, there))
        assert float(moved) == pytest.approx(expected, rel=1e-12)


def test_ancestral_samples_have_the_variance_of_the_data(normal) -> None:
    known = Gaussian.isotropic(torch.tensor([2.0], dtype=torch.float64), 0.7)
    level = EDM(0.01, 20.0).grid(300)
    generator = torch.Generator().manual_seed(0)
    solver = ancestral(lambda x: torch.randn(x.shape, generator=generator, dtype=x.dtype))
    finals = sample(known, 20 * normal(8000, 1), level, solver).final
    assert float(finals.mean()) == pytest.approx(2, abs=0.05)
    assert float(finals.var()) == pytest.approx(0.7, rel=0.06)


@pytest.mark.parametrize("ratio", [6.0, 1.0, 0.4])
def test_clones_end_in_one_class_as_often_as_the_posterior_says(ratio: float, normal) -> None:
    """Two narrow Gaussians at -1 and 1: a state is of the right one with p = 1/(1 + exp(-2x/v)), v = r^2 + w^2, and a
    pair agrees with p^2 + (1 - p)^2."""
    width, count = 0.2, 800
    sides = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    model = Mixture(torch.ones(2), tuple(Gaussian.isotropic(side, width**2) for side in sides))
    x = sides[torch.arange(count) % 2] + (ratio**2 + width**2) ** 0.5 * normal(count, 1)
    right = torch.sigmoid(2 * x / (ratio**2 + width**2))
    ends = clone(model, x, EDM(0.02, 80.0).grid(40, ratio), range(count))
    assert not torch.equal(ends[0], ends[1])
    alike = nearest_class(sides, ends[0]) == nearest_class(sides, ends[1])
    assert float(alike.double().mean()) == pytest.approx(float((right**2 + (1 - right) ** 2).mean()), abs=0.05)


@pytest.mark.parametrize("steps", [3, 5, 12, 40])
@pytest.mark.parametrize("schedule", ["edm", "flow", "cosine"])
def test_clones_have_steps_left_to_part_in(steps: int, schedule: str, normal) -> None:
    """Also where the levels that are asked for lie below all of a grid."""
    known, level = Gaussian.isotropic(torch.zeros(3, dtype=torch.float64), 1.0), SCHEDULES[schedule].grid(steps)
    places = clone_at(level, 1e-6, 4) + clone_at(level, 1.0, 4)
    assert all(bool(level.ratio[place].isfinite()) for place in places)
    for place in places:
        first, second = clone(known, level[place].norm * normal(2, 3), level[place:], (0, 1))
        assert float((first - second).abs().amax(1).min()) > 0


def test_noise_of_clones_belongs_to_seeds(normal) -> None:
    x, level = normal(4, 3), EDM().grid(6, 2.0)
    known = Gaussian.isotropic(torch.zeros(3, dtype=torch.float64), 1.0)
    together = clone(known, x, level, (5, 0, 7, 2))
    assert_close(clone(known, x[1:3], level, (0, 7)), together[:, 1:3])


def test_a_nudge_grows_or_shrinks_as_the_flow_says(normal) -> None:
    """In Gaussian data of variance v a nudge of the state moves the end by sqrt(v / (v + s^2)) of it."""
    known, ratio = Gaussian.isotropic(torch.zeros(1, dtype=torch.float64), 0.5), 1.5
    x, level = 2 * normal(3000, 1), EDM(0.001, 80.0).grid(60, ratio)
    first, second = nudge(known, x, level, range(3000), 0.2, find_solver("heun"))
    gain = (0.5 / (0.5 + ratio**2)) ** 0.5
    assert float((first - second).std()) == pytest.approx(0.2 * ratio * gain * 2**0.5, rel=0.05)
    assert_close((first + second).mean() / 2, gain * x.mean(), rtol=0, atol=0.02)
    still = nudge(known, x[:3], level, range(3), 0.0, find_solver("heun"))
    assert torch.equal(still[0], still[1])


def test_classes_are_those_of_the_nearest_mean() -> None:
    features = torch.tensor([[0.0, 1.0], [0.0, 3.0], [10.0, 0.0]])
    means = class_means(features, torch.tensor([4, 4, 9]))
    assert_close(means, torch.tensor([[0.0, 2.0], [10.0, 0.0]]).double())
    assert nearest_class(means, torch.tensor([[4.0, 0.0], [6.0, 0.0]])).tolist() == [0, 1]
    assert chance_alike(torch.tensor([0, 0, 1, 1])) == pytest.approx(1 / 3)


def test_intervals_of_shares_are_those_of_scipy() -> None:
    for hits, count in ((0, 9), (3, 9), (9, 9), (400, 1000)):
        expected = scipy.stats.binomtest(hits, count).proportion_ci(method="wilson")
        assert share_interval(hits, count) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_a_crossing_is_the_last() -> None:
    ratio = torch.tensor([16.0, 8.0, 4.0, 2.0, 1.0])
    assert crossing(ratio, torch.tensor([0.1, 0.8, 0.3, 0.7, 1.0]), 0.5) == pytest.approx(2 * 2**0.5)
    assert crossing(ratio, torch.ones(5), 0.5) == math.inf
    assert math.isnan(crossing(ratio, torch.zeros(5), 0.5))


def test_points_become_known_by_tens() -> None:
    assert known_counts(60_000) == (100, 1000, 10_000, 60_000)
    assert known_counts(1000) == (100, 1000)
    assert known_counts(7) == (7,)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch):
    """regimes() of a model that is a given denoiser of the known data."""

    def measured(denoise: object = None, **options: object) -> Regimes:
        what = subject(None if denoise is None else {None: denoise})
        monkeypatch.setattr(recipe, "load_model_and_data", lambda *args, **given: what)
        return regimes(Settings(seeds=tuple(range(70)), steps=20, levels=4, fine=8, **options))

    return measured


def test_regimes_of_known_data(run) -> None:
    rows, labels = data()
    found = run(Mixture.fit(rows, labels))
    born, fallen = found.speciation, found.collapse
    assert born.predicted == pytest.approx(
        float(torch.linalg.eigvalsh(torch.cov(rows.double().T))[-1]) ** 0.5, rel=1e-2
    )
    assert bool((born.ratio.diff() < 0).all())
    assert abs(float(born.share[0]) - born.chance) < 0.2
    assert float(born.share[-1]) > 0.95
    assert born.predicted / 5 < born.measured < 5 * born.predicted
    assert bool(((born.low <= born.share) & (born.share <= born.high)).all())
    assert fallen.counts == (100, 400)
    assert_close(fallen.perplexity.mean[:, 0], torch.tensor([100.0, 400.0]).double(), rtol=0.1, atol=0)
    assert_close(fallen.perplexity.mean[:, -1], torch.ones(2).double(), rtol=0.2, atol=0)
    assert fallen.predicted[0] > fallen.predicted[1]
    assert fallen.measured[0] > fallen.measured[1]


def test_classes_are_those_of_labelled_images() -> None:
    """Images without a label are no class of their own, and one class alone is none to be decided."""
    rows, labels = data()
    what = subject()
    some = torch.where(torch.arange(400) < 100, -1, labels)
    kind, means = find_classes(replace(what, data=replace(what.data, labels=some)))
    assert kind == "the nearest mean of a class, of the numbers"
    expected = torch.stack([rows[100:][labels[100:] == label].double().mean(0) for label in (0, 1)])
    assert_close(means, expected, rtol=0, atol=1e-6)
    for none in (torch.zeros(400, dtype=torch.long), torch.full((400,), -1), None):
        kind, means = find_classes(replace(what, data=replace(what.data, labels=none)))
        assert kind == "the nearest mean of a k-means cluster, of the numbers"
        assert 2 <= len(means) <= 10


def test_a_run_is_measured_as_it_is_wherever_it_is_from() -> None:
    """Clones of a seed do not depend on the other seeds; the calls are those that are announced; a collapse that is
    known is taken."""
    what, seeds, calls = subject(), tuple(range(5)), []
    level = what.model.schedule.grid(12)
    run = what.sample(what.denoise, seeds, level, find_solver("heun"))

    def counted(x: Tensor, at: NoiseLevel) -> Tensor:
        calls.append(len(x))
        return what.gaussian(x, at)

    seen = subject({None: counted})
    fallen = collapse(what, torch.zeros(2, 36), 4)
    found = measure_regimes(seen, run, seeds, levels=4, fallen=fallen)
    assert found.collapse is fallen
    assert sum(calls) == calls_of_regimes(what, level, 5, levels=4)
    places = clone_at(level, found.speciation.predicted, 4)
    for index, place in enumerate(places):
        alone = clone(what.denoise, run.x[place][:1], level[place:], seeds[:1])[:, 0]
        ends = torch.stack([found.strips[name][index] for name in ("one end", "another")])
        assert_close(ends, what.images(alone), rtol=0, atol=1e-5)
        exact = what.images(what.cloud(run.x[place][:1], level[place]))[0]
        assert_close(found.strips["exact"][index], exact, rtol=0, atol=1e-5)
        assert torch.equal(found.strips["network"][index], what.images(run.denoised[place][:1])[0])
    assert found.setup == {"held_out": "60 others", "gaussian": "of the data", "seeds": list(seeds)}
    with pytest.raises(ValueError, match="images that the data do not hold; load the data with held_out"):
        measure_regimes(replace(what, held=None), run, seeds)


def test_the_figure_has_bands_where_there_are_regimes(run) -> None:
    """In order: speciation above collapse."""
    rows, labels = data()
    found = run(Mixture.fit(rows, labels))
    assert found.speciation.measured > found.collapse.measured[-1]
    assert borders(found) == (found.speciation.measured, found.collapse.measured[-1])
    assert [text.get_text() for text in along(found).axes[0].texts] == [
        "I: one cloud",
        "II: classes",
        "III: single points",
    ]
    for measured in (math.nan, math.inf, found.collapse.measured[-1] / 2):
        none = replace(found, speciation=replace(found.speciation, measured=measured))
        assert borders(none) is None
        assert not along(none).axes[0].texts


def test_columns_of_pictures_are_moved_as_little_as_can_be() -> None:
    """Of three that are too close the middle one stays, of two each moves alike; none leaves the axis."""
    places = torch.tensor([9.0, 5.0, 4.5, 4.0, 1.1, 0.9])
    expected = torch.tensor([9.0, 5.5, 4.5, 3.5, 1.5, 0.5])
    assert_close(spread(places, 1.0, 10.0, 0.0), expected.double())
    assert_close(spread(places[:1], 1.0, 9.2, 8.0), torch.tensor([8.7]).double())
    assert_close(spread(torch.zeros(4), 0.5, 0.25, -1.75), torch.tensor([0.0, -0.5, -1.0, -1.5]).double())
    left = spread(torch.tensor([9.9, 9.8, 5.0, 0.1]), 1.0, 10.0, 0.0)
    assert_close(left, torch.tensor([9.5, 8.5, 5.0, 0.5]).double())


def with_levels(found: Regimes, ratio: Tensor) -> Regimes:
    """As if clones had begun at these σ/α."""
    some = torch.full((len(ratio),), 0.5)
    born = replace(found.speciation, ratio=ratio, share=some, low=some, high=some)
    return replace(found, speciation=born, strips={name: torch.rand(len(ratio), 1, 6, 6) for name in found.strips})


@pytest.mark.parametrize("steps", [4, 15, 20, 40])
@pytest.mark.parametrize("schedule", ["edm", "ddpm", "flow"])
def test_each_level_that_is_shown_has_pictures(run, steps: int, schedule: str) -> None:
    """At any grid, also of few steps, whose levels are uneven: side by side, in order, with a line to their σ/α."""
    level = SCHEDULES[schedule].grid(steps)
    ratio = level.ratio[torch.tensor(clone_at(level, 1.0, 8))]
    found = with_levels(run(), ratio)
    figure = along(found)
    figure.draw_without_rendering()
    panel, toward = figure.axes[0], figure.axes[0].transData.transform
    boxes = [box for box in panel.artists if isinstance(box, AnnotationBbox)]
    assert len(boxes) == 4 * len(ratio)
    tops = [float(toward((box.xy[0], 0))[0]) for box in boxes if box.xy[1] == 0]
    wide = boxes[0].get_window_extent().width
    assert all(right - left > 0.9 * wide for left, right in pairwise(tops))
    assert panel.bbox.x0 - wide / 4 < tops[0] - wide / 2 < tops[-1] + wide / 2 < panel.bbox.x1 + wide / 4
    ends = [line.get_xdata() for line in panel.lines]
    assert [float(here) for here, _ in ends] == pytest.approx([float(box.xy[0]) for box in boxes if box.xy[1] == 0])
    assert [float(there) for _, there in ends] == pytest.approx(ratio.tolist())
    assert not panel.get_ylabel()


def test_the_figure_says_how_many_levels_have_pictures(run) -> None:
    assert fitting(2) == ([0, 1], 0.6)
    shown, inches = fitting(16)
    assert (shown, inches) == (list(range(16)), 0.4)
    panel = along(with_levels(run(), torch.logspace(1, -1, 100))).axes[0]
    columns = len(panel.artists) // 4
    assert 20 <= columns <= 26
    assert panel.get_ylabel() == f"{columns} of 100 levels"
    assert [float(line.get_xdata()[1]) for line in panel.lines][:: columns - 1] == pytest.approx([10, 0.1])


def test_the_exact_score_does_not_generalise(run) -> None:
    rows, _ = data()
    found = run(PointCloud(rows)).generalisation
    assert found.closer == 1
    assert float(found.samples.high) < 1e-3
    assert 0.2 < run().generalisation.closer < 0.8


def test_where_a_network_leaves_the_exact_score_is_where_it_does(run) -> None:
    """A network that is the exact score above sigma/alpha 0.5 and the Gaussian below, and two that never leave."""
    rows, _ = data()
    cloud, known = PointCloud(rows), Gaussian.fit(rows)
    part = run(lambda x, level: cloud(x, level) if float(level.ratio.max()) > 0.5 else known(x, level)).departure
    below = float(part.ratio[part.ratio <= 0.5].max()), float(part.ratio[part.ratio > 0.5].min())
    assert below[0] <= part.left <= below[1]
    assert_close(part.explained["exact"].mean[part.ratio > 0.5], torch.ones(int((part.ratio > 0.5).sum())).double())
    alike = run(cloud)
    assert math.isnan(alike.departure.left)
    assert "The network leaves the exact score at none of the levels looked at. With" in alike.finding
    gaussian = run()
    assert float(gaussian.departure.explained["Gaussian"].mean.min()) == pytest.approx(1)
    assert gaussian.departure.left == math.inf
    assert "the exact score above all of the levels looked at: at each of them, the Gaussian" in gaussian.finding
    assert along(gaussian).axes[-1].get_legend().get_texts()[-1].get_text() == "Gaussian"


@pytest.mark.parametrize("size", [-0.1, 101.0, 1e34, float("nan")])
def test_a_nudge_is_a_share_of_the_noise(size: float) -> None:
    with pytest.raises(ValueError, match="nudge of clones, as a share of the noise, must be a number from 0 to 100"):
        Settings(nudge=size)


def test_a_small_nudge_decides_less_than_a_stochastic_completion(run) -> None:
    rows, labels = data()
    drawn, moved = (run(Mixture.fit(rows, labels), nudge=size).speciation for size in (0.0, 0.02))
    assert (drawn.nudge, moved.nudge) == (0.0, 0.02)
    assert float(moved.share[0]) > float(drawn.share[0])
    assert float(moved.share.min()) > 0.9


def test_the_command_writes_everything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(recipe, "load_model_and_data", lambda *args, **options: subject(labelled=False))
    arguments = f"regimes --seeds 0-3 --steps 5 --levels 2 -o {tmp_path / 'o'}".split()
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    assert "k-means cluster" in shown.output
    told = shown.stdout
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["regimes.png", "results.json"]
    shown = CliRunner().invoke(app, [*arguments, "--json"])
    written = json.loads(shown.stdout)
    assert written == json.loads((tmp_path / "o" / "results.json").read_text())
    assert written["collapse"]["value"]["counts"]["value"] == [100, 400]
    assert len(written["speciation"]["value"]["share"]["value"]) == 2
    predicted = [written[part]["value"]["predicted"]["value"] for part in ("speciation", "collapse")]
    assert f"(predicted: {predicted[0]:.3g}). The exact score of all 400 points is drawn to" in written["finding"]
    assert f"(predicted: {predicted[1][-1]:.3g})" in written["finding"]
    assert f"\n{written['finding']}\nLook at {tmp_path / 'o' / 'regimes.png'}." in told


def test_a_condition_reaches_the_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A class whose network is the exact score, beside one that is the Gaussian."""
    rows, _ = data()
    what, asked = subject({0: Gaussian.fit(rows), 1: PointCloud(rows), None: Gaussian.fit(rows)}), []

    def load(*args: object, case: Conditioning, **options: object) -> ModelAndData:
        asked.append(case)
        return replace(what, case=case)

    monkeypatch.setattr(recipe, "load_model_and_data", load)
    arguments = f"regimes --class 1 --nudge 0.1 --seeds 0-3 --steps 8 --levels 2 --json -o {tmp_path / 'o'}".split()
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    assert asked == [Conditioning(1)]
    written = json.loads(shown.stdout)
    assert written["setup"]["condition"] == "class 1"
    assert written["speciation"]["value"]["nudge"]["value"] == 0.1
    assert written["generalisation"]["value"]["closer"]["value"] == 1
    both = CliRunner().invoke(app, ["regimes", "--class", "1", "--prompt", "x"])
    assert isinstance(both.exception, ValueError)
    assert "not both" in str(both.exception)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": (1, 1)}, "2 different seeds"),
        ({"steps": 2}, "number of steps"),
        ({"levels": 1}, "number of levels to clone at"),
        ({"images": 0}, "number of held-out images"),
        ({"nudge": -0.1}, "nudge of clones"),
        ({"nudge": math.nan}, "nudge of clones"),
        ({"solver": "x"}, "Unknown solver"),
    ],
)
def test_settings_are_checked(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**options)
