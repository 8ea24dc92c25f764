"""Nudges: measured, predicted and by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from latents import DIMENSION, GAUSSIANS, IMAGE, MEANS, flow_matrix, latent_sampler, normal
from typer.testing import CliRunner

from underpaint.analysis.manifold import find_direction, principal_directions
from underpaint.analysis.perturbation import (
    carry_on,
    displacement,
    feature_dissimilarity,
    gradient_dissimilarity,
    linear_gain,
)
from underpaint.cli import app
from underpaint.figures.folder import write_result
from underpaint.figures.perturbation import displacements, perturbed_images
from underpaint.files import write_tensors
from underpaint.models.load import load_model
from underpaint.noise import DDPM, EDM
from underpaint.recipes.perturb import Nudges, Perturbed, find_features, perturb
from underpaint.recipes.shared.request import Request, Sampler, Theory
from underpaint.recipes.shared.results import to_json
from underpaint.sampling.solvers import heun
from underpaint.sampling.trajectory import Trajectory, initial_noise, sample
from underpaint.theory.covariance import Covariance
from underpaint.theory.denoiser import guide
from underpaint.theory.gaussian import Gaussian

APPLE = Request("latent", ("an apple",), (3.0,), seeds=(0, 1, 2))
NUDGES = Nudges(("x0:1", "eps:2", "data:3", "random:5"), at=(10, 60, 110), magnitudes=(-2, 0, 0.5, 3))


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    return latent_sampler()


@pytest.fixture(scope="module")
def result(sampler: Sampler) -> Perturbed:
    return perturb(sampler, APPLE, NUDGES)


@pytest.fixture(scope="module")
def run(sampler: Sampler) -> Trajectory:
    return sampler.sample(sampler.model.conditional("an apple", 3.0), APPLE.seeds)


def test_a_guided_gaussian_answers_as_its_flow_does(sampler: Sampler, result: Perturbed, run: Trajectory):
    """The network is a guided Gaussian in a latent space: measured = predicted = the dense matrix of its flow."""
    assert result.magnitude == (-2, 0.5, 3)  # nothing to measure at 0
    clean = sampler.level[-1]
    for k, text in enumerate(NUDGES.along):
        rows = find_direction(text, run, GAUSSIANS[""]).rows.double()
        for m, step in enumerate(NUDGES.at):
            moved = rows @ flow_matrix(sampler.level[step], clean)
            along, total = (moved * rows).sum(1).mean(), moved.norm(dim=1).mean()
            for measured, exact in ((result.along, along), (result.total, total)):
                torch.testing.assert_close(measured.mean[k, m], exact.expand(3), rtol=5e-3, atol=1e-3)
            torch.testing.assert_close(result.predicted_along.mean[k, m], along, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(result.predicted_total.mean[k, m], total, rtol=1e-5, atol=1e-6)
    # a component of the data goes nowhere else
    torch.testing.assert_close(result.along.mean[2], result.total.mean[2], rtol=1e-4, atol=1e-5)
    assert result.setup["predicted from"] == "Gaussian of an apple, guided as the network is"


def test_the_finding_says_what_becomes_of_a_nudge(sampler: Sampler, result: Perturbed):
    """The network is what the theory says, so what arrives is what it says."""
    told = [
        f"by {float(result.along.mean[0, k].mean()):.2g} times the nudge (theory: "
        f"{float(result.predicted_along.mean[0, k]):.2g}) at step {step} (σ/α {float(result.level.ratio[k]):.3g})"
        for k, step in ((0, 10), (2, 110))
    ]
    assert result.finding == (
        f"A nudge along x0:1 moves the finished sample in its own direction {told[0]} and {told[1]}. Over all "
        "directions and steps, what arrives is 1 times what the theory says (median)."
    )
    halved = replace(result.along, mean=result.along.mean / 2)
    assert "what arrives is 0.5 times what the theory says" in replace(result, along=halved).finding


def test_steps_that_are_not_told_are_steps_of_any_grid():
    """Those of one or two steps ended beyond them, and `perturb --steps 2` was refused."""
    assert [Nudges().steps(count) for count in (1, 2, 3, 6)] == [(0,), (0, 1), (0, 1, 2), (0, 1, 2, 3, 4, 5)]
    assert Nudges().steps(30) == (0, 5, 10, 15, 20, 25)


def test_sizes_are_in_the_stated_unit(sampler: Sampler, result: Perturbed, run: Trajectory):
    sigma = sampler.level.sigma[list(NUDGES.at)]
    torch.testing.assert_close(result.size.mean, sigma[:, None] * torch.tensor([-2, 0.5, 3], dtype=torch.float64))
    by_norm = perturb(sampler, APPLE, Nudges(("random",), (60,), (0.1,), "norm"))
    torch.testing.assert_close(by_norm.size.mean[0, 0], 0.1 * run.x[60].double().norm(dim=1).mean())
    torch.testing.assert_close(by_norm.along.mean[0, 0, 0], by_norm.predicted_along.mean[0, 0], rtol=5e-3, atol=0)


def test_images_are_those_of_the_nudged_samples(sampler: Sampler, result: Perturbed, run: Trajectory):
    model = sampler.model
    torch.testing.assert_close(result.plain, model.images(run.final[0]))
    rows = find_direction("data:3", run, GAUSSIANS[""]).rows
    moves = (3 * sampler.level.sigma[60]).to(rows) * rows
    final = carry_on(model.conditional("an apple", 3.0), run, 60, moves.unsqueeze(0), heun)[0]
    torch.testing.assert_close(result.images[2, 1, 2], model.images(final[0]))
    changed = gradient_dissimilarity(model.images(final), model.images(run.final)).mean()
    torch.testing.assert_close(result.dissimilarity.mean[2, 1, 2], changed)
    assert result.images.shape == (4, 3, 3, *IMAGE)


def test_without_statistics_there_is_no_prediction_and_the_result_says_so(tmp_path: Path):
    bare = perturb(latent_sampler(20, theory=Theory()), APPLE, Nudges(magnitudes=(1.0,)))
    assert bare.predicted_along is None
    assert "no statistics" in bare.setup["predicted from"]
    assert bare.finding.endswith(f"no theory to hold it against: {bare.setup['predicted from']}.")
    assert bare.step == (0, 3, 7, 10, 13, 17)
    content = write_result(bare, {"gain": displacements(bare), "images": perturbed_images(bare)}, tmp_path)
    assert json.loads((tmp_path / "results.json").read_text()) == content
    assert content["predicted_along"] == {"value": None, "unit": content["predicted_along"]["unit"]}
    everything = perturb(latent_sampler(20, theory=Theory(GAUSSIANS[""])), APPLE, Nudges(magnitudes=(1.0,)))
    assert "no statistics of an apple" in everything.setup["predicted from"]
    assert everything.predicted_along is not None


def test_results_are_json_without_pixels(result: Perturbed):
    content = to_json(result)
    assert not {"images", "plain"} & content.keys()
    assert list(content["share"]["value"]) == ["x0:1", "eps:2"]
    assert content["setup"]["condition"] == "an apple"
    json.dumps(content, allow_nan=False)


def test_an_affine_denoiser_is_integrated():
    """Guidance between Gaussians of unequal covariance; at equal covariances the integral is the closed form."""
    level, directions = EDM(0.01, 20).grid(80), normal(3, DIMENSION, seed=8)
    wide = Gaussian(MEANS["a bear"], Covariance(GAUSSIANS[""].eigenvalues * 2, GAUSSIANS[""].basis))
    guided = guide(GAUSSIANS[""], wide, 2.5)
    x = normal(3, DIMENSION, seed=9)
    difference = sample(guided, x + directions, level, heun).final - sample(guided, x, level, heun).final
    torch.testing.assert_close(linear_gain(guided, directions, level, heun), difference, rtol=1e-6, atol=1e-6)
    equal = guide(GAUSSIANS[""], GAUSSIANS["an apple"], 2.5)
    exact = linear_gain(GAUSSIANS[""], directions, level)
    torch.testing.assert_close(linear_gain(equal, directions, level, heun), exact, rtol=2e-2, atol=2e-3)
    torch.testing.assert_close(exact, directions @ flow_matrix(level[0], level[-1]))
    torch.testing.assert_close(linear_gain(equal, directions, level[-1:], heun), directions)


def test_carrying_on_from_any_state(run: Trajectory, sampler: Sampler):
    denoise, still = sampler.model.conditional("an apple", 3.0), torch.zeros(2, 1, DIMENSION)
    for step in (0, 50, 119, 120):
        final = carry_on(denoise, run, step, still, heun)
        torch.testing.assert_close(final, run.final.expand(2, 3, -1), rtol=1e-5, atol=1e-5)
    nudge = torch.ones(1, 3, DIMENSION)
    torch.testing.assert_close(carry_on(denoise, run, 120, nudge), (run.final + 1).unsqueeze(0))
    with pytest.raises(ValueError, match="has states 0 to 120, got 121"):
        carry_on(denoise, run, 121, still)


def test_displacement_by_hand():
    shift = torch.tensor([[[3.0, 4.0]], [[-6.0, 0.0]]])
    along, total = displacement(shift, torch.tensor([1.0, 0.0]), torch.tensor([[2.0], [-2.0]]))
    assert along.tolist() == [[1.5], [3.0]]
    assert total.tolist() == [[2.5], [3.0]]


def test_gradients_see_edges_and_not_brightness():
    image = normal(3, 16, 16, seed=6)
    for other, expected in ((image, 0), (0.3 * image + 0.2, 0), (-image, 2)):
        assert gradient_dissimilarity(image, other).item() == pytest.approx(expected, abs=1e-12)
    ramp = torch.linspace(0, 1, 16).expand(1, 16, 16)
    assert gradient_dissimilarity(ramp, ramp.transpose(1, 2)).item() == pytest.approx(1)
    blank = torch.zeros(1, 16, 16)
    assert gradient_dissimilarity(blank, blank + 1).item() == 0
    assert gradient_dissimilarity(blank, ramp).item() == 1


def test_gradients_at_every_scale_by_hand():
    """Fine stripes added to a ramp: seen at the full scale, gone when halved."""
    ramp = torch.arange(16.0).expand(16, 16)
    striped = ramp + torch.tensor([0.0, 5.0]).repeat(8)
    # down: no gradient; across: 1 everywhere, against 6 and -4 in turn (8 and 7 of them in each of 16 rows)
    cosine = (8 * 6 - 7 * 4) / (15**0.5 * (8 * 36 + 7 * 16) ** 0.5)
    measured = gradient_dissimilarity(ramp[None], striped[None], smallest=8)
    assert measured.item() == pytest.approx(((1 - cosine) + 0) / 2)
    assert gradient_dissimilarity(ramp[None], striped[None], smallest=9).item() == pytest.approx(1 - cosine)
    batch = gradient_dissimilarity(torch.stack([ramp, striped])[:, None], ramp[None])
    torch.testing.assert_close(batch, torch.stack([torch.zeros((), dtype=torch.float64), measured]))


def test_features_of_the_box_where_there_are_some():
    name, between = find_features(load_model("fashion-mnist"))
    assert "fashion" in name
    images = torch.rand(2, 3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    apart = between(images, images[0])
    assert apart.shape == (2, 3)
    assert apart[0].abs().max() < 1e-6 < apart[1].min()
    assert "gradients" in find_features(latent_sampler().model)[0]
    a, b = torch.tensor([3.0, 4.0]), torch.tensor([4.0, 3.0])
    assert feature_dissimilarity(a, b).item() == pytest.approx(1 - 24 / 25)


def test_principal_directions_are_singular_vectors():
    states = normal(9, 4, 50)
    directions, shares = principal_directions(states, 3)
    for b in range(4):
        path = states[:, b]
        _, singular, vectors = torch.linalg.svd(path - path.mean(0), full_matrices=False)
        torch.testing.assert_close((directions[:, b] @ vectors[:3].T).abs(), torch.eye(3, dtype=torch.float64))
        torch.testing.assert_close(shares[:, b], (singular**2 / (singular**2).sum())[:3])
        assert ((path[-1] - path[0]) @ directions[:, b].T >= 0).all()
    with pytest.raises(ValueError, match="components 1 to 8, got 9"):
        principal_directions(states, 9)


def test_directions_by_name(run: Trajectory, tmp_path: Path):
    for text, states in (("x0:2", run.denoised), ("eps:1", run.eps)):
        found = find_direction(text, run)
        rows, shares = principal_directions(states, int(text[-1]))
        torch.testing.assert_close(found.rows, rows[-1])
        torch.testing.assert_close(found.share, shares[-1])
    data = find_direction("data:3", run, GAUSSIANS[""]).rows
    torch.testing.assert_close(data, GAUSSIANS[""].basis[:, 2].float().expand(3, -1))
    assert torch.equal(find_direction("random", run).rows, find_direction("random:0", run).rows)
    assert not torch.equal(find_direction("random", run).rows, find_direction("random:1", run).rows)
    write_tensors(tmp_path / "smile.safetensors", {"v": 7 * torch.ones(2, 4, 4)}, {})
    own = find_direction(str(tmp_path / "smile.safetensors"), run)
    assert own.name == "smile"
    torch.testing.assert_close(own.rows, torch.full((3, DIMENSION), DIMENSION**-0.5))


def test_bad_directions_get_a_sentence(run: Trajectory, tmp_path: Path):
    write_tensors(tmp_path / "short.safetensors", {"v": torch.ones(31)}, {})
    write_tensors(tmp_path / "zero.safetensors", {"v": torch.zeros(32)}, {})
    for text, words in (
        ("pc1", "Unknown direction 'pc1'"),
        ("x0:first", "Unknown direction"),
        ("x0:0", "components 1 to 119, got 0"),
        ("x0:120", "components 1 to 119, got 120"),
        ("data:1", "need the data's statistics"),
        (str(tmp_path / "none.safetensors"), "no file"),
        (str(tmp_path / "short.safetensors"), r"holds v \(31,\); expected one tensor of 32 numbers"),
        (str(tmp_path / "zero.safetensors"), "finite and not zero"),
    ):
        with pytest.raises(ValueError, match=words):
            find_direction(text, run)
    with pytest.raises(ValueError, match="components 1 to 32, got 33"):
        find_direction("data:33", run, GAUSSIANS[""])


def test_bad_nudges_get_a_sentence(sampler: Sampler):
    for options, words in (
        ({"magnitudes": (0.0,)}, "other than 0"),
        ({"unit": "pixels"}, "Unknown unit 'pixels'"),
        ({"along": ()}, "needs a direction"),
    ):
        with pytest.raises(ValueError, match=words):
            Nudges(**options)
    with pytest.raises(ValueError, match=r"entered at steps 0 to 119, got \[120\]"):
        perturb(sampler, APPLE, Nudges(at=(120,)))
    with pytest.raises(ValueError, match="One condition and one guidance at a time"):
        perturb(sampler, Request("latent", ("an apple", "a bear")))


def test_the_command_writes_figures_and_numbers(tmp_path: Path):
    place = tmp_path / "perturb"
    options = ["--seeds", "0-1", "--steps", "4", "--at", "0,2", "--magnitudes", "-4,4"]
    result = CliRunner().invoke(app, ["perturb", *options, "--along", "data:1", "--out", str(place), "--json"])
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert content == json.loads((place / "results.json").read_text())
    assert content["step"]["value"] == [0, 2]
    predicted = torch.tensor(content["predicted_along"]["value"]["mean"])[0]
    level, values = DDPM().grid(4), load_values()
    exact = (values[0] / (values[0] * level.alpha[[0, 2]] ** 2 + level.sigma[[0, 2]] ** 2)).sqrt()
    torch.testing.assert_close(predicted, exact.float(), rtol=1e-4, atol=1e-4)
    assert sorted(path.name for path in place.iterdir()) == ["gain.png", "images-data-1.png", "results.json"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--magnitudes", "much"), "Expected numbers such as -4,0.5,2; got 'much'"),
        (("--at", "first"), "Steps are numbers and ranges"),
        (("--unit", "pixels"), "Unknown unit 'pixels'"),
    ],
)
def test_bad_options_get_a_sentence_before_any_work(options: tuple[str, str], words: str, tmp_path: Path):
    result = CliRunner().invoke(app, ["perturb", *options, "--out", str(tmp_path / "new")])
    assert isinstance(result.exception, ValueError)
    assert words in str(result.exception)
    assert not (tmp_path / "new").exists()


def load_values() -> torch.Tensor:
    from underpaint.data.store import load_gaussian

    return load_gaussian("fashion-mnist").eigenvalues


def test_starting_noise_is_that_of_the_seed(sampler: Sampler, run: Trajectory):
    torch.testing.assert_close(run.x[0], initial_noise(APPLE.seeds, DIMENSION, sampler.level[0]))
