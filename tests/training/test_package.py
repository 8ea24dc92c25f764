"""A toy network of natural images goes into a toy box by the script that fills the real one, and works from there."""

from __future__ import annotations

import io
import json
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

import underpaint as up
from underpaint import assets
from underpaint.cli import main
from underpaint.data.datasets import load_data
from underpaint.data.store import gaussian_provenance, load_mixture
from underpaint.files import read_tensors
from underpaint.metrics.features import (
    FeatureSet,
    SmallClassifier,
    load_classifier,
    load_features,
    load_statistics,
    save_classifier,
)
from underpaint.recipes.doctor import examine
from underpaint.recipes.inventory import inventory
from underpaint.recipes.shared.from_data import DataModel, denoiser_from_data
from underpaint.recipes.shared.model_and_data import Sources, load_model_and_data
from underpaint.recipes.shared.request import Conditioning, Request, prepare
from underpaint.theory.cosine import cosine_transform
from underpaint.theory.gaussian import Gaussian
from underpaint.theory.moments import Moments

TRAINING = Path(__file__).parents[2] / "training"
CLASSES, SIZE = ("ant", "bee", "cow"), 8


def write_archive(path: Path) -> Path:
    """JPEGs of noise about a colour for each class, 30 to train on and 9 to test."""
    generator, arrays = np.random.default_rng(0), {"classes": np.array(CLASSES)}
    for split, count in (("train", 30), ("test", 9)):
        labels = np.arange(count) % 3
        parts = []
        for label in labels:
            pixels = 30 * generator.standard_normal((SIZE, SIZE, 3)) + np.array([60, 128, 200])[label]
            raw = io.BytesIO()
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(raw, "JPEG", quality=95)
            parts.append(np.frombuffer(raw.getvalue(), np.uint8))
        arrays |= {f"{split}_bytes": np.concatenate(parts), f"{split}_labels": labels}
        arrays[f"{split}_offsets"] = np.cumsum([0, *map(len, parts)])
    np.savez(path, **arrays)
    return path


def run(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *options: object) -> None:
    monkeypatch.setattr(sys, "argv", [str(script.__file__), *map(str, options)])
    script.main()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data.npz, a training in ``toy``, and a box with the network as ``few``."""
    home = tmp_path_factory.mktemp("package")
    data = write_archive(home / "data.npz")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TRAINING))
        form = ("--batch", 4, "--mult", 1, 1, "--blocks", 1, "--device", "cpu", "--minutes", 0.001)
        edm = import_module("edm")
        run(edm, patch, "--data", data, "--out", home / "half", *form, "--pool", 2)
        run(edm, patch, "--data", data, "--out", home / "toy", *form, "--start", home / "half" / "half.safetensors")
        torch.manual_seed(0)
        network = SmallClassifier((4, 6, 5), classes=3, channels=3).eval()
        shape = (3, SIZE, SIZE)
        space = FeatureSet("few-5", network.features, shape)
        splits = {split: Moments.of(space.extract(load_data(data, split).rows())) for split in ("train", "test")}
        save_classifier(home / "classifier", network, space.name, splits, shape)
        script = import_module("package_natural")
        asked = ("--run", home / "toy", "--data", data, "--out", home / "box" / "few")
        small = ("--samples", 12, "--tested", 4, "--steps", 3, "--side", 4, "--class-side", 8)
        run(script, patch, *asked, "--classifier", home / "classifier", *small)
    return home


@pytest.fixture
def box(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(assets, "_HERE", place / "box")
    monkeypatch.delenv("UNDERPAINT_DATA", raising=False)
    monkeypatch.syspath_prepend(str(TRAINING))
    return place / "box" / "few"


def test_the_boxed_network_is_the_trained_one_in_half_precision(box: Path, place: Path) -> None:
    model, trained = up.load_model("few"), up.load_model(place / "toy" / "toy.safetensors")
    assert (model.name, model.classes, model.null_class, model.shape) == ("few", 3, 3, (3, SIZE, SIZE))
    assert model.notes["data"] == "few"
    assert [part["pool"] for part in (*model.notes["training"]["earlier"], model.notes["training"])] == [2, 1]
    assert {tensor.dtype for tensor in read_tensors(box / "few.safetensors").values()} == {torch.float16}
    level = up.EDM()(torch.tensor(1.0))
    x = torch.randn(2, model.dimension, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(x, level), trained(x, level), rtol=0, atol=5e-3)


def test_the_boxed_statistics_are_those_of_the_data(box: Path, place: Path) -> None:
    data, known = load_data(place / "data.npz"), up.load_gaussian("few")
    fitted = Gaussian.fit(data.rows())
    torch.testing.assert_close(known.mean, fitted.mean)
    lowest = cosine_transform(torch.eye(192).double().view(192, 3, SIZE, SIZE))[..., :4, :4].flatten(1)
    kept, expected = (lowest.T @ one.covariance.matrix() @ lowest for one in (known, fitted))
    torch.testing.assert_close(kept, expected, rtol=2e-3, atol=2e-3)
    assert known.covariance.total == pytest.approx(fitted.covariance.total, rel=1e-4)
    assert data.labels is not None
    bees = Gaussian.fit(data.rows()[data.labels == 1])
    torch.testing.assert_close(up.load_gaussian("few", 1).mean, bees.mean)
    # all frequencies together are all of the covariance
    whole = up.load_gaussian("few", 1).covariance.matrix()
    torch.testing.assert_close(whole, bees.covariance.matrix(), rtol=2e-3, atol=2e-3)
    assert len(load_mixture("few").components) == 3
    notes = gaussian_provenance("few")
    assert notes["class_names"] == dict(zip("012", CLASSES, strict=True))
    assert (notes["count"], notes["range"]) == (30, [-1, 1])


def test_a_classifier_of_other_data_is_refused_before_the_work(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(TRAINING))
    space, data = load_features(place / "classifier"), load_data(place / "data.npz")
    few = {split: Moments.of(space.extract(data.rows(slice(0, 7)))) for split in ("train", "test")}
    save_classifier(tmp_path / "classifier", load_classifier(place / "classifier"), space.name, few, (3, SIZE, SIZE))
    script = import_module("package_natural")
    monkeypatch.setattr(script, "generate", None)
    asked = ("--run", place / "toy", "--data", place / "data.npz", "--out", tmp_path / "few")
    with pytest.raises(ValueError, match="reference is of 7 test images, and data has 9"):
        run(script, monkeypatch, *asked, "--classifier", tmp_path / "classifier")


def test_yardsticks_are_of_images_from_end_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TRAINING))
    classifier = import_module("classifier")
    assert classifier.spaced(50_000, 5).tolist() == [0, 12_500, 25_000, 37_499, 49_999]
    assert classifier.spaced(3, 5).tolist() == [0, 1, 2]


def test_the_box_lists_it(box: Path) -> None:
    (entry,) = inventory()
    assert (entry["name"], entry["images"], entry["conditions"]) == ("few", "8 x 8 x 3", "classes 0 to 2")
    assert entry["parameters"] == sum(p.numel() for p in up.load_model("few").network.parameters())
    assert "few-5, 12 samples" in entry["quality"]
    found = examine()
    assert found["models"] == ["few"]
    assert "no images of few" in found["data"]["few"]


def test_the_card_says_what_was_measured(box: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured, text = json.loads((box / "measured.json").read_text()), (box / "README.md").read_text()
    assert measured["jpeg"]
    assert "not the lossless originals" in text
    assert "ant, bee, cow; label 3 means any class" in text
    assert "in parts of which each went on" in text
    assert "was on pictures of 1/2 the size" in text
    assert f"| this network, each class in turn | {measured['frechet']['guidance 1']:.3g} |" in text
    assert "| samples from | `few-5` |\n|---|---|\n| this network, without a class | " in text
    sigma, loss = next(iter(measured["loss"]["network"].items()))
    assert f"| {sigma} | {loss:.5f} |" in text
    assert "{{" not in text + "{%"
    assert "Nobody has said yet" in text
    script = import_module("package_natural")
    run(script, monkeypatch, "--run", place / "toy", "--data", place / "data.npz", "--out", box, "--seen", "Cows.")
    assert "Cows." in (box / "README.md").read_text()
    assert json.loads((box / "measured.json").read_text()) == measured | {"seen": "Cows."}


def test_the_grid_has_a_row_for_each_class(box: Path) -> None:
    module = import_module("package_natural")
    with Image.open(box / "classes.png") as picture:
        assert picture.height == 3 * SIZE * module.SCALE
    images = torch.zeros(2, 3, 4, 3, SIZE, SIZE)
    images[1, 2, 3, 0] = 1.0  # the last picture of the last class is red
    drawn = np.asarray(module.sheet(images, CLASSES))
    edge = SIZE * module.SCALE
    assert (drawn[-edge:, -edge:] == [255, 0, 0]).all()
    assert (drawn[-2 * edge : -edge, -edge:] == 0).all()


def test_edges_of_blocks_stand_out(box: Path) -> None:
    measure = import_module("package_natural").blocks
    step = torch.ones(16)
    step[7] = 3.0  # from pixel 7 to 8, across the edge of a block
    rows = step.cumsum(0).roll(1).expand(1, 16, 16).clone()
    rows[..., 0] = 0.0
    assert measure(rows.reshape(1, -1), (1, 16, 16)) == pytest.approx(9.0)
    assert measure(torch.rand(2, 192), (3, 8, 8)) == 1.0


def test_what_needs_data_says_so_and_works_with_them(
    box: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"no images of few.*--data"):
        load_model_and_data(Sources("few"))
    given = load_model_and_data(Sources("few", data=str(place / "data.npz")))
    assert given.rows.shape == (30, 192)
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "data.npz").write_bytes((place / "data.npz").read_bytes())
    monkeypatch.setenv("UNDERPAINT_DATA", str(tmp_path))
    named = load_model_and_data(Sources("few"))
    assert named.features is not None
    assert named.features.name == "few-5"
    assert named.about["Gaussian"] == "stationary Gaussian of all 30 training images of few"
    assert named.frechet(named.rows) < 1e9


def test_without_data_a_plan_is_made_by_the_statistics_of_the_classes(box: Path) -> None:
    sampler = prepare(Request("few", steps=4))
    known, about = denoiser_from_data(sampler, [Conditioning()], DataModel(), ("few",))
    assert about == {"unconditional": "3 Gaussians, one for each class of few"}
    level, x = up.EDM()(torch.tensor(2.0)), torch.zeros(1, 192)
    torch.testing.assert_close(known(x, level), load_mixture("few")(x, level))
    of_bees = prepare(Request("few", conditions=(1,), steps=4))
    bees, _ = denoiser_from_data(of_bees, [Conditioning(1)], DataModel(), ("few",))
    torch.testing.assert_close(bees(x, level), up.load_gaussian("few", 1)(x, level))


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["sample", "--steps", "2", "--seeds", "0-1"], 0),
        (["sample", "--steps", "2", "--class", "1", "--guidance", "2"], 0),
        (["trajectory", "--steps", "4", "--seeds", "0-1", "--class", "1"], 0),
        (["retrieve", "--steps", "2", "--seeds", "0-1"], 2),
    ],
)
def test_commands_take_it_by_name(
    box: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
) -> None:
    command = ["underpaint", *words, "--model", "few", "--out", str(tmp_path / "out"), "--quiet"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as caught:
        main()
    said = capsys.readouterr().err
    assert int(caught.value.code or 0) == code, said
    assert code == 0 or "no images of few, and none are found: give data with --data" in said


def test_its_features_are_read_as_they_were_kept(place: Path) -> None:
    folder = place / "classifier"
    space = load_features(folder)
    assert space.shape == (3, SIZE, SIZE)
    assert space.score(load_data(place / "data.npz", "test").rows(), load_statistics("test", folder)).value < 1e-6
