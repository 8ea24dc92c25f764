"""Data and statistics that are given to report, compare and retrieve: what is taken, and what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from typer.testing import CliRunner

from underpaint.cli import app
from underpaint.data.store import save_gaussian
from underpaint.models.load import load_model
from underpaint.recipes import retrieve as retrieval
from underpaint.recipes.compare import comparison
from underpaint.recipes.report import build
from underpaint.recipes.shared.model_and_data import Sources, load_model_and_data
from underpaint.recipes.shared.request import Request, load_theory
from underpaint.theory.gaussian import Gaussian


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Images as the boxed model's, of two splits: train is dark, test is bright."""
    generator = np.random.default_rng(0)
    for split, low in (("train", 0), ("test", 128)):
        pixels = generator.integers(low, low + 128, (40, 28, 28), dtype=np.uint8)
        np.save(tmp_path / f"{split}.npy", pixels)
    return tmp_path


def file_of(tmp_path: Path, **notes: Any) -> str:
    place = tmp_path / "s.safetensors"
    rows = torch.randn(30, 784, generator=torch.Generator().manual_seed(0))
    save_gaussian(place, Gaussian.fit(rows), **notes)
    return str(place)


def test_statistics_of_a_file_take_the_place_of_fitted_ones(images: Path) -> None:
    given = file_of(images, range=[-1.0, 1.0])
    (images / "s").mkdir()
    Path(given).rename(images / "s" / "s.safetensors")
    given = str(images / "s" / "s.safetensors")
    what = load_model_and_data(Sources(data=str(images / "train.npy"), gaussian=given))
    rows = torch.randn(30, 784, generator=torch.Generator().manual_seed(0))
    assert_close(what.gaussian.mean, rows.mean(0))
    assert what.about["Gaussian"] == f"rank-29 Gaussian of the statistics {given}"
    assert float(what.rows.mean()) == pytest.approx(-0.5, abs=0.02)
    fitted = load_model_and_data(Sources(data=str(images / "train.npy")))
    assert fitted.about["Gaussian"] == "rank-39 Gaussian of 40 images of train.npy"


def test_what_is_left_out_is_in_the_results(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).uniform(-1, 1, (40, 28, 28)).astype(np.float32)
    pixels[3, 0, 0] = np.nan
    np.save(tmp_path / "a.npy", pixels)
    what = load_model_and_data(Sources(data=str(tmp_path / "a.npy")))
    left = what.described("ddim", 3)["data_left_out"]
    assert left == {"count": 1, "items": ["row 3: largest value nan"]}
    assert "39 images of a.npy; 1 left out (the first: row 3" in what.data.source


def test_a_class_of_one_image_is_named_before_the_work(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=pixels, labels=np.array(["cat"] * 6 + ["dog"]))
    with pytest.raises(ValueError, match=r"One image alone is of the class dog \(7 images of a.npz.*--no-labels"):
        load_model_and_data(Sources(data=str(tmp_path / "a.npz")))
    np.savez(tmp_path / "a.npz", images=pixels, labels=np.array([0, 0, 0, 1, 1, 1, -1]))
    with pytest.raises(ValueError, match="One image alone is of the class without a label"):
        load_model_and_data(Sources(data=str(tmp_path / "a.npz")))


def test_a_split_is_taken(images: Path) -> None:
    what = load_model_and_data(Sources(data=str(images), split="test"))
    assert float(what.rows.mean()) == pytest.approx(0.5, abs=0.02)
    assert "split test of test, train" in what.data.source


@pytest.mark.parametrize(
    ("notes", "words"),
    [
        ({"range": [0.0, 255.0]}, r"values in \[0, 255\], but the data of fashion-mnist lie in \[-1, 1\]"),
        ({"range": [0.0, 1.0]}, r"values in \[0, 1\], but the data of fashion-mnist lie in \[-1, 1\]"),
        ({"range": [-2.1, 2.6]}, r"values in \[-2.1, 2.6\]"),
    ],
)
def test_statistics_of_another_range_are_refused(images: Path, notes: dict[str, Any], words: str) -> None:
    """Wherever they are given."""
    given = file_of(images, **notes)
    with pytest.raises(ValueError, match=words):
        load_model_and_data(Sources(data=str(images / "train.npy"), gaussian=given))
    with pytest.raises(ValueError, match=words):
        load_theory(Request("fashion-mnist", statistics=(given,)), load_model("fashion-mnist"))


def test_samples_may_reach_beyond_the_range(images: Path) -> None:
    given = file_of(images, range=[-1.2, 1.3], handling="samples of a model, seeds 0 to 29")
    assert (
        load_theory(Request("fashion-mnist", statistics=(given,)), load_model("fashion-mnist")).everything is not None
    )


def test_classes_of_a_file_are_joined_to_the_networks_by_name(tmp_path: Path) -> None:
    """A folder's classes are numbered by their names: bag is 0 there, and 8 in the network."""
    model, place = load_model("fashion-mnist"), tmp_path / "s.safetensors"
    rows = torch.randn(60, 784, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    parts = {n: (20, Gaussian.fit(rows[20 * n : 20 * n + 20])) for n in range(3)}
    notes: dict[str, Any] = {"data": "folder", "class_names": {0: "bag", 1: "hat", 2: "Ankle-boot"}}
    save_gaussian(place, Gaussian.fit(rows), parts, **notes)
    known = load_theory(Request("fashion-mnist", (8, 9, 0, 1), statistics=(str(place),)), model)
    assert set(known.parts) == {8, 9}
    assert_close(known.parts[8].mean, parts[0][1].mean)
    assert_close(known.parts[9].mean, parts[2][1].mean)
    assert known.about["class 8"] == f"{place}, class 0 (bag)"
    notes["class_names"] = {n: str(n) for n in range(3)}
    save_gaussian(place, Gaussian.fit(rows), parts, **notes)
    known = load_theory(Request("fashion-mnist", (1, 8), statistics=(str(place),)), model)
    assert set(known.parts) == {1}
    assert_close(known.parts[1].mean, parts[1][1].mean)


@pytest.mark.parametrize(("name", "module"), [("report", build), ("compare", comparison), ("retrieve", retrieval)])
def test_the_commands_hand_on_what_is_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, module) -> None:
    seen: list[Sources] = []

    def loader(sources: Sources, **_: Any) -> Any:
        seen.append(sources)
        raise ValueError("enough")

    monkeypatch.setattr(module, "load_model_and_data", loader)
    statistics = None if name == "retrieve" else "g.safetensors"  # which looks at the data alone
    options = ["--data", "d", "--split", "test", "--column", "depth", "--no-labels", "--quiet", "--out", str(tmp_path)]
    CliRunner().invoke(app, [name, *options, *([] if statistics is None else ["--gaussian", statistics])])
    assert seen == [Sources("fashion-mnist", "d", "test", "depth", False, statistics)]
