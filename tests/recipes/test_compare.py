"""Comparisons of networks that are analytic denoisers themselves, so that the answer is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from analytic import SHAPE, data, subject
from torch.testing import assert_close
from typer.testing import CliRunner

from underpaint.analysis import agreement
from underpaint.cli import app
from underpaint.figures.comparison import write_comparison
from underpaint.noise import DDPM, EDM, NoiseLevel
from underpaint.recipes.compare import comparison as recipe
from underpaint.recipes.compare.comparison import Comparison, Settings, compare, spread_levels, tables
from underpaint.recipes.compare.families import States, Sweep, Sweeps, known_rows
from underpaint.recipes.shared.model_and_data import ModelAndData, with_labels
from underpaint.recipes.shared.results import table
from underpaint.theory.cloud import PointCloud
from underpaint.theory.gaussian import Gaussian
from underpaint.theory.local import LocalCloud
from underpaint.theory.mixture import Mixture

SMALL = Sweeps(ranks=(0, 4, 16), components=(1, 2), rank=8, local=100, sizes=(1, 3, 5), widths=(0.1, 0.5))
Compare = Callable[..., Comparison]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Compare:
    """compare() of a subject, with small settings."""

    def compared(what: ModelAndData, sweeps: Sweeps = SMALL) -> Comparison:
        monkeypatch.setattr(recipe, "load_model_and_data", lambda *args, **options: what)
        return compare(Settings(images=12, seeds=tuple(range(6)), steps=8, levels=5, sweeps=sweeps))

    return compared


def test_a_network_that_is_the_gaussian_is_explained_by_it(run: Compare) -> None:
    """And by Gaussians of lower rank the less, the lower; about the mean, rank 0 explains next to nothing."""
    found = run(subject())
    for explained in found.explained.values():
        assert float((explained["Gaussian"].mean - 1).abs().max()) < 1e-6
        assert all(float(explained[name].mean[2]) < 0.999 for name in explained if name not in ("Gaussian", "mixture"))
    ranks = found.sweeps["rank"]
    assert ranks.values == (0, 4, 16, 36)
    assert bool((ranks.explained.diff(dim=0) > -1e-6).all())
    assert_close(ranks.explained[-1], found.explained["noised data"]["Gaussian"].mean)
    assert float(ranks.explained[0, 0]) < 0.1


@pytest.mark.parametrize("name", ["mixture", "exact"])
def test_a_network_that_is_another_denoiser_is_explained_by_that(run: Compare, name: str) -> None:
    denoise = subject().analytic()[name]
    found = run(subject({None: denoise}), Sweeps(ranks=(), components=(), local=0))
    assert set(found.explained["trajectories"]) == {"Gaussian", "mixture", "exact"}
    for explained in found.explained.values():
        assert float((explained[name].mean - 1).abs().max()) < 1e-4
        assert float(explained["Gaussian"].mean[1]) < 0.99


def test_sweeps_find_the_patches_of_a_network(run: Compare) -> None:
    """A network that looks at 3 x 3 patches at places of its own: that size is found at levels where it matters, and
    the calibrated denoiser is the network."""
    plain = subject()
    local = LocalCloud.patches(known_rows(plain, 100), SHAPE, 3, equivariant=False)
    found = run(subject({None: local}))
    patches = found.sweeps["patches"]
    assert_close(patches.explained[1], torch.ones(5, dtype=torch.float64), rtol=0, atol=1e-5)
    assert all(patches.best(found.level, level) == 3 for level in found.level[1:4])
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
    assert float((found.explained[1] - found.explained[0]).max()) > 0.02


def test_shares_by_sample_average_to_the_explained_variance(normal) -> None:
    network, analytic, mean = normal(4, 7, 9), normal(4, 7, 9, seed=1), normal(9, seed=2)
    shares = agreement.explained_shares(network, analytic, mean)
    error, signal = ((network - other).square().sum((1, 2)) for other in (analytic, mean))
    assert_close(shares.mean(1), 1 - error / signal)
    assert_close(agreement.explained_variance(network, analytic, mean), 1 - error / signal)
    assert shares.shape == (4, 7)


def test_noised_states_share_their_noise(normal) -> None:
    rows, level = normal(5, 8), NoiseLevel.join(EDM()(3.0), DDPM()(500))
    states = agreement.noised(rows, level)
    noise = [(x - at.alpha * rows) / at.sigma for x, at in zip(states, level, strict=True)]
    assert_close(noise[0], noise[1], rtol=1e-9, atol=1e-9)
    assert float(noise[0].std()) == pytest.approx(1, abs=0.3)
    assert torch.equal(agreement.noised(rows, level), states)


def test_states_are_asked_level_by_level(full: Gaussian, mixture: Mixture, normal) -> None:
    level = EDM()(torch.tensor([3.0, 0.3]))
    states = States.noised(normal(50, 6), level, mixture, full.mean, 20)
    by_hand = torch.stack([full(states.x[i], level[i]) for i in range(2)])
    expected = agreement.explained_variance(states.network, by_hand, full.mean)
    assert_close(states.explained(full).mean(1), expected)


def test_levels_are_spread_over_the_grid() -> None:
    grid = DDPM().grid(50)[:-1]
    kept = spread_levels(grid, 6)
    assert kept[0] == 0
    assert kept[-1] == 49
    steps = grid.log_ratio[kept].diff()
    assert float(steps.max() / steps.min()) < 3
    assert len(spread_levels(grid, 50).unique()) == len(spread_levels(grid, 50))


def test_the_best_value_is_that_of_the_nearest_level() -> None:
    found = Sweep("", (3, 7), torch.tensor([[0.1, 0.9], [0.8, 0.2]]))
    level = EDM()(torch.tensor([10.0, 0.1]))
    assert [found.best(level, EDM()(sigma)) for sigma in (80.0, 1.1, 0.9, 0.01)] == [7, 7, 3, 3]


def test_tables_are_aligned(run: Compare) -> None:
    assert table("title", "σ", ["1", "10"], ["a", "longer name"], torch.tensor([[1.0, -0.25], [0.5, 12.0]])) == (
        "title\nσ        a  longer name\n1    1.000       -0.250\n10   0.500       12.000"
    )
    text = tables(run(subject()))
    assert "explained variance, trajectories" in text
    assert all(name in text for name in ("rank: ", "components: ", "smoothed: ", "patches: ", "shared patches: "))


def test_everything_is_written(run: Compare, tmp_path: Path) -> None:
    content = write_comparison(run(subject()), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == content
    assert content["setup"]["model"] == "analytic"
    assert len(content["explained"]["value"]["noised data"]["Gaussian"]["mean"]) == 5
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["agreement.png", "classes.png", "results.json", "sweeps.png"]
    without = write_comparison(run(subject(labelled=False), Sweeps((), (), local=0)), tmp_path / "bare")
    assert without["classes"]["value"] == {}
    assert not (tmp_path / "bare" / "classes.png").exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Settings(images=3), "needs 8 images and 2 seeds, got 3 and 16"),
        (lambda: Settings(levels=1), "needs 2 steps and 2 levels, got 25 and 1"),
        (lambda: Settings(solver="x"), "Unknown solver"),
        (lambda: Sweeps(local=20), r"at least 100 data points \(0: leave them out\), got 20"),
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


@pytest.mark.slow
@pytest.mark.data
def test_a_trained_network_lies_between_gaussian_and_data() -> None:
    """The model in the box: high noise is explained by any of them; where they part it follows the mixture and, on its
    own trajectories at low noise, not the exact score."""
    found = compare(
        Settings(images=16, seeds=tuple(range(8)), steps=12, levels=6, sweeps=Sweeps(components=(), local=0))
    )
    explained = {name: part.mean for name, part in found.explained["trajectories"].items()}
    assert_close(explained["Gaussian"][0], explained["exact"][0], rtol=0, atol=0.02)
    assert float(explained["mixture"][3]) > float(explained["Gaussian"][3]) + 0.03
    assert float(explained["exact"][-1]) < 0.9 < 0.99 < float(explained["Gaussian"][-1])
