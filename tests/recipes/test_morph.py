"""Paths between pictures, against the exact flow of Gaussians, and as a command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from analytic import subject
from latents import DIMENSION, IMAGE, MEANS, latent_sampler, path
from PIL import Image
from typer.testing import CliRunner

from underpaint.analysis.paths import great_circle
from underpaint.cli import app
from underpaint.figures.morph import morph_strips, write_morph
from underpaint.recipes.morph import Morph, MorphSettings, _between, morph, prepare_ends
from underpaint.recipes.shared.request import Conditioning, Request, Sampler
from underpaint.sampling.trajectory import initial_noise

QUICK = MorphSettings(("straight", "noise", "principal"), 5, levels=3, rounds=2, walkers=2, draws=2, probes=2)


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    return latent_sampler(30, "ddim")


@pytest.fixture(scope="module")
def pixels() -> Sampler:
    known = subject()
    return Sampler(known.model, known.model.schedule.grid(40), "heun")


def test_an_arc_between_prompts_is_the_flow_of_the_blend():
    """Gaussians of one covariance blend to one with a mean between theirs."""
    sampler = latent_sampler(120)
    settings = MorphSettings(("noise",), 5, draws=1, probes=2)
    found = morph(sampler, Request("latent", guidance=(2.0,)), "3@an apple", "4@a bear", settings)
    rows = sampler.model.rows(2 * found.pictures[0].double() - 1)
    means = [MEANS[""] + 2.0 * (MEANS[name] - MEANS[""]) for name in ("an apple", "a bear")]
    starts = great_circle(*initial_noise((3, 4), DIMENSION, sampler.level[0]).double(), 5)
    for k in range(5):
        mean = torch.lerp(means[0], means[1], torch.tensor(k / 4, dtype=torch.float64))
        torch.testing.assert_close(rows[k], path(mean, starts[k : k + 1], sampler.level)[-1, 0], rtol=1e-2, atol=2e-2)
    assert found.ends == ("seed 3, an apple", "seed 4, a bear")


def test_each_walker_is_asked_for_the_blend_of_its_own_point(sampler: Sampler):
    cases = [Conditioning(name) for name in ("an apple", "a bear")]
    points, level = torch.zeros(5, DIMENSION, dtype=torch.float64), sampler.level[10]
    denoise = _between(sampler, *cases, 5)
    ends = [sampler.model.conditional(name)(points[:1], level)[0] for name in ("an apple", "a bear")]
    exact = torch.stack([torch.lerp(*ends, k / 4) for k in range(5)])
    torch.testing.assert_close(denoise(points.repeat(3, 1), level), exact.repeat(3, 1))


def test_a_picture_is_an_end(tmp_path: Path, pixels: Sampler):
    """Its noise is found along the flow: sampled again, it is the picture."""
    image = pixels.model.images(pixels.sample(pixels.model, (1,)).final)[0]
    place = tmp_path / "end.png"
    Image.fromarray((image[0] * 255).round().byte().numpy()).save(place)
    settings = MorphSettings(("noise", "straight"), 5, draws=2, probes=2)
    found = morph(pixels, Request(), "1", str(place), settings)
    assert found.ends == ("seed 1", "end.png")
    assert found.distance < 0.01  # the same picture, rounded to 8 bits
    torch.testing.assert_close(found.pictures[0], image.expand(5, -1, -1, -1), atol=0.01, rtol=0)


def test_what_was_done_to_a_given_picture_is_said(tmp_path: Path, pixels: Sampler, monkeypatch: pytest.MonkeyPatch):
    """A picture of a file is cropped, resized and made grey to be one of the model's; the command says so."""
    place = tmp_path / "wide.png"
    Image.new("RGB", (64, 40), (200, 30, 90)).save(place)
    found = morph(pixels, Request(), "1", str(place), MorphSettings(("straight",), 3, draws=2, probes=0))
    changed = "cropped to the middle 40x40 (H x W) of 40x64, resized to 6x6, made grey"
    assert found.setup["changed"] == {"wide.png": changed}
    monkeypatch.setattr("underpaint.recipes.morph.prepare_ends", lambda *_: None)
    monkeypatch.setattr("underpaint.recipes.morph.morph", lambda *_: found)
    shown = CliRunner().invoke(app, ["morph", "1", str(place), "--out", str(tmp_path / "m")])
    assert shown.exit_code == 0, shown.output
    assert f"wide.png was {changed}.\n{found.finding}\nLook at {tmp_path / 'm' / 'morph.png'}." in shown.stdout


def test_length_residual_and_density_belong_to_the_pictures(pixels: Sampler):
    known = subject()
    found = morph(pixels, Request(), "1", "2", MorphSettings(("straight",), 3, draws=400, probes=60))
    assert found.length.tolist() == pytest.approx([1])
    ends = pixels.sample(pixels.model, (1, 2)).final
    rows = torch.stack([ends[0], ends.mean(0), ends[1]]).double()
    exact = known.gaussian.log_prob(rows, known.model.schedule.level(0.3)) / 36
    exact -= exact[[0, 2]].mean()
    assert bool(((found.log_prob[0] - exact).abs() < 4 * found.log_prob_error[0] + 0.03).all())


def test_the_figure_and_the_animations(tmp_path: Path, sampler: Sampler):
    found = morph(sampler, Request("latent", ("an apple",)), "1", "2", QUICK)
    assert found.pictures.shape == (3, 5, *IMAGE)
    assert set(found.pull) == {"principal"}
    assert len(morph_strips(found).axes) == 3
    results = write_morph(found, tmp_path)
    assert results == json.loads((tmp_path / "results.json").read_text())
    residual = torch.tensor([[0.1, 0.5, 0.7, 0.6, 0.3], [0.1, 0.2, 0.3, 0.4, 0.3], [0.1, 0.1, 0.2, 0.3, 0.3]])
    said = replace(found, residual=residual).finding
    assert said.startswith(
        "With a little noise (σ/α 0.2), the network changes pictures least on the principal curve, by 0.2 on average "
        "(root mean square per number of the state); by 0.3 on the arc of noise, by 0.6 on the straight line and the "
        "two ends by 0.2. "
    )
    assert next(iter(results)) == "finding"
    assert "pictures" not in results
    with Image.open(tmp_path / "principal.apng") as animation:
        assert animation.n_frames == 8  # there and back
    assert {p.name for p in tmp_path.iterdir()} == {
        "results.json", "morph.png", "straight.apng", "noise.apng", "principal.apng"
    }  # fmt: skip


def test_the_same_command_gives_the_same_path(sampler: Sampler):
    first, second = (morph(sampler, Request("latent"), "1", "2", QUICK) for _ in range(2))
    assert torch.equal(first.pictures, second.pictures)
    assert isinstance(first, Morph)


def test_a_class_beside_ends_that_have_their_own_is_refused() -> None:
    """It was left unread; an end that is a seed alone, or a picture, takes it."""
    with pytest.raises(ValueError, match=r"conditions of their own, 3@7 and 8@9; leave class 5 out"):
        prepare_ends(Request(conditions=(5,)), "3@7", "8@9")
    assert prepare_ends(Request(conditions=(5,)), "3@7", "8").model.name == "fashion-mnist"


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        (("1", "1"), "the same one"),
        (("1", "nowhere.png"), "nowhere.png', which is none of these"),
        (("1", "-3"), "none of these"),
        (("1@7", "2"), "no prompts|takes no class|'7'"),
    ],
)
def test_what_is_no_end_is_refused(pixels: Sampler, ends: tuple[str, str], words: str):
    with pytest.raises(ValueError, match=words):
        morph(pixels, Request(), *ends, QUICK)


def test_settings_are_checked():
    for change, words in (({"paths": ("curvy",)}, "Paths are some of"), ({"points": 2}, "pictures of a path")):
        with pytest.raises(ValueError, match=words):
            MorphSettings(**change)


def test_the_command(tmp_path: Path):
    options = [
        "--paths",
        "noise",
        "--points",
        "3",
        "--steps",
        "3",
        "--sigma",
        "1",
        "--out",
        str(tmp_path / "m"),
        "--json",
    ]
    done = CliRunner().invoke(app, ["morph", "1@7", "2@9", *options, "--quiet"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["ends"]["value"] == ["seed 1, class 7", "seed 2, class 9"]
