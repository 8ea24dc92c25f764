"""Comparisons of networks that are analytic denoisers themselves, so that the answer is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from analytic import SHAPE, data, subject
from torch import Tensor
from torch.testing import assert_close
from typer.testing import CliRunner

from underpaint.analysis import agreement
from underpaint.analysis.summary import Summary
from underpaint.cli import app
from underpaint.data.datasets import ImageData
from underpaint.figures.comparison import sweeps, write_comparison
from underpaint.noise import DDPM, EDM, NoiseLevel
from underpaint.recipes.compare import comparison as recipe, families, tuning
from underpaint.recipes.compare.comparison import Comparison, Settings, compare, nearest_levels, tables
from underpaint.recipes.compare.families import (
    Family,
    Sweeps,
    controls,
    count_shared,
    known_rows,
    local_families,
)
from underpaint.recipes.compare.tuning import States, Sweep
from underpaint.recipes.shared.model_and_data import ModelAndData, hold_out, with_labels
from underpaint.recipes.shared.results import table, to_json
from underpaint.theory.cloud import PointCloud
from underpaint.theory.denoiser import Denoiser
from underpaint.theory.gaussian import Gaussian
from underpaint.theory.local import LocalCloud
from underpaint.theory.mixture import Mixture

SMALL = Sweeps((0, 4, 16), (1, 2), 8, 100, (1, 3, 5), widths=(0.1, 0.5), thresholds=(0.1,), temperatures=(1.0, 2.0))
#: Of five levels from 20 to 0.01.
RATIOS = (20.0, 5.0, 1.0, 0.2, 0.02)
Compare = Callable[..., Comparison]


def compared(what: ModelAndData, sweeps: Sweeps = SMALL) -> Comparison:
    """compare() of a subject, with small settings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "load_model_and_data", lambda *args, **options: what)
        return compare(Settings(images=12, seeds=tuple(range(6)), steps=12, ratios=RATIOS, sweeps=sweeps))


@pytest.fixture
def run() -> Compare:
    return compared


@pytest.fixture(scope="module")
def whole() -> Comparison:
    """Everything, of a network that is the data's Gaussian."""
    return compared(subject())


def test_a_network_that_is_the_gaussian_is_explained_by_it(whole: Comparison) -> None:
    """And by Gaussians of lower rank the less, the lower; about the mean, rank 0 explains next to nothing."""
    found = whole
    for explained in found.explained.values():
        assert float((explained["Gaussian"].mean - 1).abs().max()) < 1e-6
        assert all(
            float(explained[name].mean[2]) < 0.999
            for name in explained
            if name not in ("Gaussian", "mixture", "components", "stitched", "blended")
        )
    ranks = found.sweeps["rank"]
    assert ranks.values == (0, 4, 16, 36)
    assert bool((ranks.explained.diff(dim=0) > -1e-6).all())
    assert_close(ranks.by_value[-1], torch.ones(5, dtype=torch.float64))
    assert float(ranks.explained[0, 0, 0]) < 0.1
    assert found.stitched["stitched"] == ["Gaussian"] * 5
    assert float((found.explained["trajectories"]["blended"].mean - 1).abs().max()) < 1e-5
    assert all(float(part.mean) > 0 for part in found.margin["trajectories"].values())
    assert float(found.distance["stitched"].mean) < 1e-5 < float(found.distance["exact"].mean)


@pytest.mark.parametrize("name", ["mixture", "exact"])
def test_a_network_that_is_another_denoiser_is_explained_by_that(run: Compare, name: str) -> None:
    denoise = subject().analytic()[name]
    found = run(subject({None: denoise}), Sweeps(ranks=(), components=(), local=0))
    assert set(found.explained["trajectories"]) == {"Gaussian", "mixture", "exact", "stitched", "blended"}
    assert found.margin == {"noised data": {}, "trajectories": {}}, "there is no release to compare with"
    for explained in found.explained.values():
        assert float((explained[name].mean - 1).abs().max()) < 1e-4
        assert float(explained["Gaussian"].mean[2]) < 0.99


def test_sweeps_find_the_patches_of_a_network(run: Compare) -> None:
    """A network that looks at 3 x 3 patches at places of its own: that size is found at levels where it matters, and
    the calibrated denoiser is the network."""
    plain = subject()
    local = LocalCloud.patches(known_rows(plain, 100), SHAPE, 3, equivariant=False)
    found = run(subject({None: local}))
    patches = found.sweeps["patches"]
    assert_close(patches.explained[1, 0], torch.ones(5, dtype=torch.float64), rtol=0, atol=1e-5)
    assert patches.values[1] == 3
    assert patches.explained[..., 1:4].flatten(0, 1).argmax(0).tolist() == [2, 2, 2]  # of 3, at temperature 1
    assert found.stitched["stitched"][1:4] == ["patches"] * 3
    assert float((found.explained["trajectories"]["patches"].mean - 1).abs().max()) < 1e-3
    assert float(found.explained["noised data"]["shared patches"].mean[3]) < 0.99


def test_each_class_is_held_against_its_own_gaussian(run: Compare) -> None:
    """By a network that knows the classes, and by one that does not."""
    parts = subject().mixture.components
    found = run(subject({None: subject().gaussian, 0: parts[0], 1: parts[1]}), Sweeps((), (), local=0))
    assert list(found.classes) == ["0", "1"]
    for explained in found.classes.values():
        assert_close(explained["Gaussian of the class"], torch.ones(5, dtype=torch.float64), rtol=0, atol=1e-5)
        assert float(explained["Gaussian of all"][0]) < 0.5
    found = run(subject(), Sweeps((), (), local=0))
    for explained in found.classes.values():
        assert_close(explained["Gaussian of all"], torch.ones(5, dtype=torch.float64), rtol=0, atol=1e-5)
    assert run(subject(labelled=False), Sweeps((), (), local=0)).classes == {}


def test_classes_of_other_data_are_joined_to_the_networks_by_name(
    run: Compare, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data's class 0 is the network's class 1, and the other way round; by number, both would fail."""
    parts = subject().mixture.components
    what = subject({None: subject().gaussian, 0: parts[1], 1: parts[0]})
    other = replace(what, data=replace(what.data, name="a folder", classes={0: "Ankle_boot", 1: "bag"}))
    monkeypatch.setattr(recipe, "known_classes", lambda name: {0: "bag", 1: "ankle boot"})
    found = run(other, Sweeps((), (), local=0))
    assert list(found.classes) == ["Ankle_boot", "bag"]
    for explained in found.classes.values():
        assert_close(explained["Gaussian of the class"], torch.ones(5, dtype=torch.float64), rtol=0, atol=1e-5)
    assert found.setup["classes"] == "joined to the network's classes by name"
    assert "joined to the network's classes by name" in tables(found)
    half = replace(other, data=replace(other.data, classes={0: "ankle boot", 1: "shoe"}))
    found = run(half, Sweeps((), (), local=0))
    assert (list(found.classes), found.setup["classes"][-14:]) == (["ankle boot"], ", without shoe")
    none = replace(other, data=replace(other.data, classes={0: "0", 1: "1"}))
    found = run(none, Sweeps((), (), local=0))
    assert found.setup["classes"].startswith("the network is asked without a class")
    for explained in found.classes.values():
        assert_close(explained["Gaussian of all"], torch.ones(5, dtype=torch.float64), rtol=0, atol=1e-5)


def test_images_without_a_label_are_of_no_class(run: Compare) -> None:
    what = subject()
    assert what.data.labels is not None
    labels = torch.where(torch.arange(len(what.data)) < 300, what.data.labels, -1)
    found = run(replace(what, data=replace(what.data, labels=labels)), Sweeps((), (), local=0))
    assert list(found.classes) == ["0", "1"]
    images = replace(what.data, labels=labels)
    assert with_labels(images).bincount().tolist() == [150, 150, 100]


def test_mixtures_of_more_components_are_fitted_by_k_means(run: Compare) -> None:
    """Two components find the two classes, which one cannot."""
    rows, _ = data()
    found = run(subject({None: PointCloud(rows)}), Sweeps((), (1, 2, 500), rank=36, local=0)).sweeps["components"]
    assert found.values == (1, 2), "500 components of 400 rows are left out"
    assert float((found.by_value[1] - found.by_value[0]).max()) > 0.02


def test_shared_patches_know_as_many_images_as_are_asked_for() -> None:
    """And a control row says what their number does; their images are within a thousandth of those of all patches."""
    what = subject()

    def counts(**changed: Any) -> tuple[int, int]:
        return count_shared(what, replace(SMALL, **changed))

    # (36 places)^2 x 5^2 numbers are 32,400 products for an image; small images leave room for all
    assert [counts(shared=count) for count in (0, 7, 100)] == [(100, 100), (7, 7), (100, 100)]
    with pytest.raises(ValueError, match="shared = 500 of local = 100 images are asked for; give as many at most"):
        counts(shared=500)
    assert [counts(tune_shared=count) for count in (7, 500)] == [(7, 100), (100, 100)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(families, "_PRODUCTS", 32_400 * 9 + 1)
        assert [counts(), counts(shared=20), counts(shared=4)] == [(9, 100), (9, 20), (4, 4)]
        patch.setattr(families, "_CHOSEN", 32_400 * 72 + 1)
        assert [counts(), counts(shared=90), counts(tune_shared=80)] == [(9, 72), (9, 90), (72, 72)]
        assert [counts(sizes=sizes) for sizes in ((3,), (3, 7))] == [(25, 100), (4, 36)]
        patch.setattr(families, "_PRODUCTS", 1)
        patch.setattr(families, "_CHOSEN", 1)
        assert counts() == (1, 1)
    assert counts(sizes=(9,)) == counts(local=0) == (0, 0)
    # of 28 x 28 pixels, as the help says: no more than the 1,000 that are known
    assert [products // (784**2 * 7**2) for products in (families._PRODUCTS, families._CHOSEN)] == [142, 1140]
    assert "exact, of 0" not in controls(what, replace(SMALL, sizes=(9,)))
    assert {"exact, of 7", "exact, of 100"} == set(controls(what, replace(SMALL, shared=7, tune_shared=5)))
    family = local_families(what, replace(SMALL, shared=7))["shared patches"]
    made = family.make(3, 1.0)
    assert isinstance(made, LocalCloud)
    assert (len(made.points), made.error, family.images) == (7, 1e-3, None)


def test_shared_patches_are_tuned_with_few_images_and_judged_with_more(run: Compare) -> None:
    """A network that shares 3 x 3 patches of 100 images: 20 of these do not explain it, but find the size; made again
    with 100, what is chosen is the network, on the states it is judged on, too, and in the blend."""
    network = LocalCloud.patches(known_rows(subject(), 100), SHAPE, 3, equivariant=True)
    found = run(subject({None: network}), replace(SMALL, components=(), temperatures=(1.0,), tune_shared=20))
    swept = found.sweeps["shared patches"]
    assert swept.images == (20, 100)
    assert swept.by_value[:, 1:4].argmax(0).tolist() == [1, 1, 1]
    few = swept.by_value.amax(0)
    assert bool((few[1:4] < 0.99).all())
    assert_close(swept.chosen[1:4], torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-4)
    for explained in found.explained.values():
        assert float((explained["shared patches"].mean - 1)[1:4].abs().max()) < 1e-4
        assert {"exact, of 100"} == {name for name in explained if name.startswith("exact, of")}
    assert found.stitched["stitched"][1:4] == ["shared patches"] * 3
    assert all("shared patches, of 100" in made for made in found.stitched["blended"][1:4])
    assert (found.setup["shared"], found.setup["shared_tuned"]) == (100, 20)
    (told,) = [part for part in tables(found).split("\n\n") if "tuned with 20 images, judged with 100" in part]
    title, head, *lines = told.splitlines()
    assert head.split() == ["σ/α", "20", "100"]
    assert [line.split()[1:] for line in lines] == [
        [f"{float(a):.3f}", f"{float(b):.3f}"] for a, b in zip(few, swept.chosen, strict=True)
    ]
    assert title.startswith("shared patches: ")
    stored = to_json(swept)
    assert (stored["images"], stored["chosen"]["value"]) == ([20, 100], swept.chosen.tolist())
    panel = next(axes for axes in sweeps(found).axes if axes.get_title("left").startswith("shared patches"))
    assert panel.get_title("left") == "shared patches, by edge, of 20"
    (ring,) = [line for line in panel.lines if line.get_label() == "best, of 100"]
    assert_close(torch.as_tensor(ring.get_ydata()), swept.chosen)


def test_all_members_know_few_images_and_only_those_that_are_chosen_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that products are bounded: of each setting and state by the lower bound, of what is chosen by the higher."""
    asked: list[tuple[int, int]] = []

    def denoise(self: LocalCloud, x: Tensor, level: NoiseLevel) -> Tensor:
        pairs = sum(len(views.windows) ** 2 * views.windows.shape[1] for views in self.views(level))
        asked.append((len(self.points), len(self.points) * pairs))
        return x * len(self.points)

    monkeypatch.setattr(LocalCloud, "denoise", denoise)
    monkeypatch.setattr(families, "_PRODUCTS", 32_400 * 9)
    monkeypatch.setattr(families, "_CHOSEN", 32_400 * 72)
    states = States(EDM()(torch.tensor([10.0, 0.1])), *torch.ones(2, 2, 4, 36).unbind(), torch.zeros(36))
    shared = local_families(subject(), SMALL)["shared patches"]
    swept, best, members, answers = tuning.tune("it", shared, states, torch.arange(36), lambda: None)
    assert [count for count, _ in asked] == [9] * 3 * 2 * 2 + [72] * 2
    assert max(products for _, products in asked[:-2]) <= families._PRODUCTS
    assert max(products for _, products in asked[-2:]) <= families._CHOSEN
    assert swept.images == (9, 72)
    assert list(members)[-1] == "it, of 72"
    assert answers[:, 0, 0, 0].tolist() == [9.0] * 6 + [72.0]
    assert torch.equal(best(torch.ones(1, 36), EDM()(3.0)), torch.full((1, 36), 72.0))
    assert bool((swept.explained == 1 - 8**2).all())
    assert bool((swept.chosen == 1 - 71**2).all()), "what more images explain is told, be it less"


def test_shares_by_sample_average_to_the_explained_variance(normal) -> None:
    network, analytic, mean = normal(4, 7, 9), normal(4, 7, 9, seed=1), normal(9, seed=2)
    shares = agreement.explained_shares(network, analytic, mean)
    error, signal = ((network - other).square().sum((1, 2)) for other in (analytic, mean))
    assert_close(shares.mean(1), 1 - error / signal)
    assert_close(agreement.explained_variance(network, analytic, mean), 1 - error / signal)
    assert shares.shape == (4, 7)


def test_r2_within_images_is_that_of_each_row(normal) -> None:
    """And the constant data mean scores high by it where images are nearly the mean: it says little there."""
    network, analytic = normal(2, 3, 9), normal(2, 3, 9, seed=1)
    found = agreement.pixel_r2(network, analytic)
    row, other = network[1, 2], analytic[1, 2]
    assert_close(found[1, 2], 1 - (row - other).square().sum() / (row - row.mean()).square().sum() * 8 / 9)
    mean = 5 * normal(9, seed=2)
    near = mean + 0.1 * network
    assert float(agreement.pixel_r2(near, mean.expand_as(near)).min()) > 0.99
    assert float(agreement.explained_variance(near, mean.expand_as(near), mean).abs().max()) < 1e-12


def test_stacked_weights_are_least_squares_that_are_not_negative(normal) -> None:
    answers = normal(4, 2, 5, 9)
    network = 0.7 * answers[0] + 0.3 * answers[2]
    expected = torch.tensor([0.7, 0, 0.3, 0], dtype=torch.float64)
    assert_close(agreement.stacked_weights(network, answers), expected.expand(2, 4), rtol=0, atol=1e-9)
    light = network + 0.01 * answers[1]  # left out, as it is not worth its cost
    assert_close(agreement.stacked_weights(light, answers)[0, 1], torch.zeros((), dtype=torch.float64))
    opposed = agreement.stacked_weights(-answers[0], answers[:1])
    assert bool((opposed > 0).all()), "where no weight is above 0, the nearest answers alone"
    target, columns = network[0].flatten() + normal(45, seed=3), answers[:, 0].flatten(1)
    weights = agreement.stacked_weights(target.view(1, 5, 9), answers[:, :1], least=0.0)[0]
    slope = columns @ (
        weights @ columns - target
    )  # Karush, Kuhn and Tucker: 0 where a weight is above 0, else not below
    assert float((slope * weights).abs().max()) < 1e-8
    assert float(slope.min()) > -1e-8


def test_data_are_noised_that_denoisers_of_data_do_not_know(run: Compare) -> None:
    """At the lowest noise the network's answers are the rows held out, and half as many more are tuned on."""
    what = subject()
    assert what.held is not None
    found = run(what, Sweeps((), (), local=0))
    expected = (what.held.rows[:12] - what.gaussian.mean).square().mean()
    assert float(found.signal["noised data"][-1]) == pytest.approx(float(expected), rel=0.01)
    assert found.setup["judged_on"] == "60 others"
    assert found.setup["tuned_on"]["seeds"] == [6, 7, 8, 9, 10, 11]
    with pytest.raises(ValueError, match="judged on rows that they do not know"):
        run(replace(what, held=None))


def test_rows_are_held_out_of_the_test_split_or_set_aside() -> None:
    rows, labels = data()
    images = ImageData(rows.view(-1, *SHAPE), "known", "400 images", labels)

    def none() -> ImageData:
        raise ValueError("no such split")

    known, held, source = hold_out(images, lambda: images.take(30), 20)
    assert (len(known), held and len(held), source) == (400, 20, "20 images of the test split of known")
    for split, test, count in (("train", none, 50), ("test", lambda: images, 50), ("train", none, 1000)):
        known, held, source = hold_out(images, test, count, split)
        assert held is not None
        assert len(held) == min(count, 80)
        assert known.source == f"400 images; {len(held)} of them are set aside to judge on"
        assert source.startswith(f"{len(held)} of the data, set aside")
        together = torch.cat([known.rows(), held.rows()])
        assert_close(together.sort(0).values, rows.sort(0).values)
        assert float(torch.cdist(known.rows(), held.rows()).min()) > 0
    assert hold_out(images, none, 0)[1] is None
    few = images.picked(torch.arange(5))
    assert [len(part) for part in hold_out(few, none, 4)[:2] if part is not None] == [3, 2]
    with pytest.raises(ValueError, match="at least 5 images are needed; known has 4"):
        hold_out(few.picked(torch.arange(4)), none, 4)


def test_releases_and_controls_know_as_many_points_as_local_denoisers(run: Compare) -> None:
    small = replace(SMALL, components=(), ranks=(), sizes=(3,), widths=(0.5,), temperatures=(1.0,), shared=2)
    found = run(subject(), small)
    assert found.setup["shared"] == 2
    assert found.setup["releases"] == [
        "PCA locality .005", "PCA locality .05", "200 nearest", "200 nearest, smoothed", "GoldDiff",
    ]  # fmt: skip
    explained, known = found.explained["trajectories"], known_rows(subject(), 100)
    assert {"exact, of 100", "exact, of 2"} <= set(explained)
    # the 200 nearest of 100 points are their exact score
    assert_close(explained["200 nearest"].mean, explained["exact, of 100"].mean, rtol=0, atol=1e-4)
    (margin,) = [part for kind, part in found.margin["trajectories"].items() if kind.startswith("stitched")]
    best = max(found.setup["releases"], key=lambda kind: float(found.overall["trajectories"][kind].mean))
    overall = found.overall["trajectories"]
    assert_close(margin.mean, overall["stitched"].mean - overall[best].mean)
    assert len(known) == 100


def test_noised_states_share_their_noise(normal) -> None:
    rows, level = normal(5, 8), NoiseLevel.join(EDM()(3.0), DDPM()(500))
    states = agreement.noised(rows, level)
    noise = [(x - at.alpha * rows) / at.sigma for x, at in zip(states, level, strict=True)]
    assert_close(noise[0], noise[1], rtol=1e-9, atol=1e-9)
    assert float(noise[0].std()) == pytest.approx(1, abs=0.3)
    assert torch.equal(agreement.noised(rows, level), states)


def test_states_are_asked_level_by_level(full: Gaussian, mixture: Mixture, normal) -> None:
    level = EDM()(torch.tensor([3.0, 0.3]))
    states = States.noised(normal(20, 6), level, mixture, full.mean)
    by_hand = torch.stack([full(states.x[i], level[i]) for i in range(2)])
    expected = agreement.explained_variance(states.network, by_hand, full.mean)
    assert_close(states.explained(full).mean(1), expected)


def test_each_ratio_has_the_nearest_level_of_the_grid_once() -> None:
    grid = DDPM().grid(50)[:-1]
    kept = nearest_levels(grid, (10.0, 1.0, 0.1, 0.1001))
    assert len(kept) == 3
    for index, ratio in zip(kept.tolist(), (10.0, 1.0, 0.1), strict=True):
        assert abs(float(grid.ratio[index].log() - torch.tensor(ratio).log())) < 0.3


def test_a_value_is_shown_at_its_best_temperature() -> None:
    explained = torch.tensor([[[0.1, 0.9], [0.2, 0.3]], [[0.7, 0.2], [0.8, 0.1]]])
    found = Sweep("", (3, 7), explained, explained.amax((0, 1)), (1.0, 2.0))
    assert_close(found.by_value, torch.tensor([[0.2, 0.9], [0.8, 0.2]]))


def test_the_best_member_is_that_of_the_nearest_level(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where states have a level each, as many as were tuned at; each member is made once."""
    asked: list[tuple[int, float]] = []

    def make(value: int, temperature: float) -> Denoiser:
        asked.append((value, temperature))
        return lambda x, level: torch.full_like(x, 10 * value + temperature)

    known = {"family": Family("", (3, 7), make, (1.0, 2.0))}
    monkeypatch.setattr(tuning, "gaussian_families", lambda *given: known)
    network = torch.tensor([72.0, 31.0]).view(2, 1, 1).expand(2, 4, 5)  # at 10 the member 7 at 2, at 0.1 that of 3 at 1
    states = States(EDM()(torch.tensor([10.0, 0.1])), torch.zeros(2, 4, 5), network, torch.zeros(5))
    swept = tuning.sweep(subject(), Sweeps(local=0), states)
    assert asked == [(3, 1.0), (3, 2.0), (7, 1.0), (7, 2.0)]
    assert list(swept.members) == ["family 3", "family 3 at 2", "family 7", "family 7 at 2"]
    assert_close(swept.found["family"].chosen, torch.ones(2, dtype=torch.float64))
    denoise = swept.calibrated["family"]
    found = [float(denoise(torch.zeros(1, 5), EDM()(sigma))[0, 0]) for sigma in (80.0, 1.1, 0.9, 0.01)]
    assert found == [72, 72, 31, 31]
    assert denoise(torch.zeros(2, 5), EDM()(torch.tensor([0.01, 80.0])))[:, 0].tolist() == [31, 72]
    plain = {"plain": make(0, 50.0)}
    made = recipe.stitch(plain, swept, states)["stitched"]
    assert made.named() == ["family", "family"]


def test_tables_are_aligned(whole: Comparison) -> None:
    assert table("title", "σ", ["1", "10"], ["a", "longer name"], torch.tensor([[1.0, -0.25], [0.5, 12.0]])) == (
        "title\nσ        a  longer name\n1    1.000       -0.250\n10   0.500       12.000"
    )
    text = tables(whole)
    assert "explained variance, trajectories" in text
    assert all(name in text for name in ("rank: ", "components: ", "smoothed: ", "patches: ", "shared patches: "))


def test_the_finding_names_the_best_denoiser(whole: Comparison) -> None:
    """The network is the data's Gaussian, so that explains all; a release explains less."""
    found, releases = whole.overall["trajectories"], whole.setup["releases"]
    best = max(found, key=lambda name: float(found[name].mean))
    assert f"the denoiser called {best} explains most: {float(found[best].mean):.3f} ± " in whole.finding
    release = max(releases, key=lambda name: float(found[name].mean))
    assert f"{release} {float(found[release].mean):.3f}." in whole.finding
    (margin,) = [part for kind, part in whole.margin["trajectories"].items() if kind == f"blended less {release}"]
    assert float(margin.mean) == pytest.approx(float(found["blended"].mean - found[release].mean))
    told = (
        f"{float(margin.mean):.3f} ± {float(margin.reach):.3f} more than the best release on trajectories ({release})"
    )
    assert f" The blend explains {told} and 0." in whole.finding
    none = replace(whole, setup=whole.setup | {"releases": []}, margin={"noised data": {}, "trajectories": {}})
    assert release not in none.finding
    assert "The blend" not in none.finding


def test_the_finding_does_not_say_more_where_it_is_less_or_not_known(whole: Comparison) -> None:
    kind = next(kind for kind in whole.margin["trajectories"] if kind.startswith("blended less "))
    less, even = Summary.of(torch.tensor([-0.21, -0.19, -0.2])), Summary.of(torch.tensor([0.3, -0.1, -0.1]))
    changed = replace(whole, margin={"trajectories": {kind: less}, "noised data": {kind: even}})
    release = kind.removeprefix("blended less ")
    assert changed.finding.endswith(
        f" The blend explains 0.200 ± {float(less.reach):.3f} less than the best release on trajectories ({release}) "
        f"and about as much as the best release (+0.033 ± {float(even.reach):.3f}) on noised data ({release})."
    )


def test_everything_is_written(whole: Comparison, run: Compare, tmp_path: Path) -> None:
    content = write_comparison(whole, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == content
    assert content["setup"]["model"] == "analytic"
    assert len(content["explained"]["value"]["noised data"]["Gaussian"]["mean"]) == 5
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["agreement.png", "classes.png", "results.json", "samples.png", "sweeps.png"]
    without = write_comparison(run(subject(labelled=False), Sweeps((), (), local=0)), tmp_path / "bare")
    assert without["classes"]["value"] == {}
    assert not (tmp_path / "bare" / "classes.png").exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Settings(images=3), "needs 8 images and 2 seeds, got 3 and 16"),
        (lambda: Settings(ratios=()), "needs 2 steps and a level, got 40 and 0"),
        (lambda: Settings(ratios=(1.0, 0.0)), "sigma/alpha of a comparison must be above 0"),
        (lambda: Settings(solver="x"), "Unknown solver"),
        (lambda: Sweeps(tune_shared=-1), "images that shared patches are tuned with must .* got -1"),
        (lambda: Sweeps(local=0, released=100), "leave out released, shared and tune_shared"),
        (lambda: Sweeps(shared=1001), r"shared = 1,001 of local = 1,000 images are asked for; give as many at most"),
        (lambda: Sweeps(shared=20, tune_shared=21), r"tune_shared = 21 of shared = 20 images"),
        (lambda: Sweeps(local=20), r"at least 100 data points, got local = 20; 0 leaves them out"),
    ],
)
def test_settings_are_checked(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_the_command_prints_tables_or_json(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(recipe, "load_model_and_data", lambda *args, **options: subject())
    arguments = f"compare --images 8 --seeds 0-2 --steps 6 --local 0 -o {tmp_path / 'o'}".split()
    shown = CliRunner().invoke(app, [*arguments, "--quiet", "--json"])
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout)["setup"]["seeds"] == [0, 1, 2]
    shown = CliRunner().invoke(app, arguments)
    assert "explained variance, noised data" in shown.output
    assert (tmp_path / "o" / "agreement.png").stat().st_size > 5000


def test_the_command_says_how_many_images_share_patches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def told(settings: Settings, *_: object) -> Comparison:
        raise ValueError(f"{settings.sweeps.shared} after {settings.sweeps.tune_shared}")

    monkeypatch.setattr(recipe, "compare", told)
    for words, expected in (("--shared 500 --tune-shared 60", "500 after 60"), ("", "0 after 0")):
        shown = CliRunner().invoke(app, f"compare {words} -o {tmp_path / 'o'}".split())
        assert str(shown.exception) == expected


@pytest.mark.slow
@pytest.mark.data
def test_a_trained_network_lies_between_gaussian_and_data() -> None:
    """The model in the box: high noise is explained by any of them; where they part it follows the mixture and, on its
    own trajectories at low noise, not the exact score."""
    found = compare(Settings(images=16, seeds=tuple(range(8)), sweeps=Sweeps(components=(), local=0)))
    explained = {name: part.mean for name, part in found.explained["trajectories"].items()}
    assert_close(explained["Gaussian"][0], explained["exact"][0], rtol=0, atol=0.02)
    assert float(explained["mixture"][3]) > float(explained["Gaussian"][3]) + 0.03
    assert float(explained["exact"][-1]) < 0.9 < 0.99 < float(explained["Gaussian"][-1])
