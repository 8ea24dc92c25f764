"""Encoded pictures end to end in one archive, CIFAR-10 in binary, and data of the box of which it holds no images."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from underpaint import assets
from underpaint.data.datasets import load_data
from underpaint.data.encoded import CIFAR10
from underpaint.data.named import is_missing, known_classes
from underpaint.data.sources import open_source
from underpaint.data.store import save_gaussian
from underpaint.theory.gaussian import Gaussian

PICTURES = np.random.default_rng(0).integers(0, 256, (5, 6, 6, 3), dtype=np.uint8)


def encode(picture: np.ndarray, kind: str = "PNG") -> np.ndarray:
    raw = io.BytesIO()
    Image.fromarray(picture).save(raw, kind)
    return np.frombuffer(raw.getvalue(), np.uint8)


def write_archive(path: Path, **changes: Any) -> Path:
    """Three pictures to train on, two to test."""
    arrays: dict[str, Any] = {"classes": np.array(["ant", "bee"])}
    for split, part, labels in (("train", PICTURES[:3], [1, 0, 1]), ("test", PICTURES[3:], [0, 1])):
        parts = [encode(picture) for picture in part]
        arrays |= {f"{split}_bytes": np.concatenate(parts), f"{split}_labels": np.array(labels)}
        arrays[f"{split}_offsets"] = np.cumsum([0, *map(len, parts)])
    np.savez(path, **{name: array for name, array in (arrays | changes).items() if array is not None})
    return path


def test_an_archive_gives_its_pictures_by_split(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "few.npz")
    for place in (path, tmp_path):  # the file, or a folder with nothing else
        train, test = load_data(place), load_data(place, "test")
        assert np.array_equal(train.images.permute(0, 2, 3, 1).numpy(), PICTURES[:3])
        assert np.array_equal(test.images.permute(0, 2, 3, 1).numpy(), PICTURES[3:])
        assert train.labels is not None
        assert train.labels.tolist() == [1, 0, 1]
        assert train.classes == {0: "ant", 1: "bee"}
        assert "3 images of few.npz" in train.source
        assert "split train of test, train" in train.source
    assert load_data(path, labels=False).labels is None
    assert load_data(path, shape=(1, 3, 3)).shape == (1, 3, 3)


def test_an_archive_of_jpegs(tmp_path: Path) -> None:
    colours = [np.full((16, 16, 3), colour, np.uint8) for colour in ((255, 0, 0), (10, 20, 250))]
    parts = [encode(colour, "JPEG") for colour in colours]
    ends = np.cumsum([0, *map(len, parts)])
    np.savez_compressed(tmp_path / "jpegs.npz", train_bytes=np.concatenate(parts), train_offsets=ends)
    data = load_data(tmp_path / "jpegs.npz")
    assert data.labels is None
    means = data.images.float().mean((2, 3))
    torch.testing.assert_close(means, torch.tensor([[255.0, 0, 0], [10, 20, 250]]), rtol=0, atol=3)


def test_a_picture_that_is_broken_is_named(tmp_path: Path) -> None:
    data = np.load(write_archive(tmp_path / "few.npz"))
    spoilt = data["train_bytes"].copy()
    spoilt[data["train_offsets"][1] :][:20] = 0
    loaded = load_data(write_archive(tmp_path / "spoilt.npz", train_bytes=spoilt))
    assert np.array_equal(loaded.images.permute(0, 2, 3, 1).numpy(), PICTURES[[0, 2]])
    assert loaded.labels is not None
    assert loaded.labels.tolist() == [1, 1]
    assert loaded.left_out[0].startswith("picture 1 of train")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_offsets": np.array([0, 10, 5, 20])}, "offsets of the split train"),
        ({"train_offsets": np.array([0, 10, 20, 10**9])}, "offsets of the split train"),
        ({"train_offsets": np.array([-1, 10, 20])}, "offsets of the split train"),
        ({"train_offsets": np.array([0.0, 1.0])}, "whole numbers"),
        ({"train_bytes": np.zeros((2, 2), np.uint8)}, "bytes .M."),
        ({"train_labels": np.array([0, 1])}, "labels of shape"),
        ({"train_labels": np.array([0, 1, 2])}, "names 2 classes and holds the label 2"),
        ({"train_labels": np.array([0.5, 1, 1])}, "label"),
        ({"train_bytes": None, "train_offsets": None}, "splits test, not 'train'"),
    ],
)
def test_an_archive_whose_arrays_do_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        load_data(write_archive(tmp_path / "few.npz", **changes))


def test_an_archive_has_no_columns(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no columns"):
        open_source(write_archive(tmp_path / "few.npz"), column="train_bytes")


def write_cifar(folder: Path, sizes: tuple[int, ...] = (4, 3)) -> np.ndarray:
    """Training batches of these sizes and one of two test images; the records, in order."""
    folder.mkdir()
    records = np.random.default_rng(1).integers(0, 256, (sum(sizes) + 2, 3073), dtype=np.uint8)
    records[:, 0] %= 10
    for number, part in enumerate(np.split(records, np.cumsum(sizes)), start=1):
        name = f"data_batch_{number}.bin" if number <= len(sizes) else "test_batch.bin"
        (folder / name).write_bytes(part.tobytes())
    (folder / "batches.meta.txt").write_text("airplane\n")
    return records


def test_cifar_in_binary(tmp_path: Path) -> None:
    """Red, then green, then blue, each row by row."""
    records = write_cifar(tmp_path / "cifar")
    for split, part in (("train", records[:7]), ("test", records[7:])):
        data = load_data(tmp_path / "cifar", split)
        assert data.labels is not None
        assert data.labels.tolist() == part[:, 0].tolist()
        assert data.shape == (3, 32, 32)
        assert int(data.images[1, 2, 3, 4]) == part[1, 1 + 2 * 1024 + 3 * 32 + 4]
        assert np.array_equal(data.images.flatten(1).numpy(), part[:, 1:])
        assert tuple(data.classes.values()) == CIFAR10
    one = load_data(tmp_path / "cifar" / "data_batch_2.bin")
    assert np.array_equal(one.images.flatten(1).numpy(), records[4:7, 1:])
    source = open_source(tmp_path / "cifar")
    assert torch.equal(source.read(3, 5).data, load_data(tmp_path / "cifar").images[3:5])
    assert load_data(tmp_path / "cifar", labels=False).labels is None


def test_other_files_called_bin_are_not_taken_for_cifar(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(bytes([200]) * 3073)
    with pytest.raises(ValueError, match="of no kind that is read here"):
        load_data(tmp_path / "weights.bin")


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A box with one model, of data that it has no images of."""
    home = tmp_path / "box" / "insects"
    home.mkdir(parents=True)
    (home / "underpaint.json").write_text('{"name": "insects", "data": "insects"}')
    names = {0: "ant", 1: "bee"}
    save_gaussian(home / "gaussian.safetensors", Gaussian.isotropic(torch.zeros(108), 1.0), class_names=names)
    monkeypatch.setattr(assets, "_HERE", tmp_path / "box")
    monkeypatch.delenv("UNDERPAINT_DATA", raising=False)
    return home


def test_data_that_the_box_lacks_are_asked_for(box: Path) -> None:
    assert assets.names() == ["insects"]
    assert is_missing("insects")
    with pytest.raises(ValueError, match=r"no images of insects.*give data with --data.*set UNDERPAINT_DATA"):
        load_data("insects")
    assert known_classes("insects") == {0: "ant", 1: "bee"}


def test_data_that_the_box_lacks_are_read_where_they_are(
    box: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "insects").mkdir()
    write_archive(tmp_path / "insects" / "few.npz")
    monkeypatch.setenv("UNDERPAINT_DATA", str(tmp_path))
    assert not is_missing("insects")
    train, test = load_data("insects"), load_data("insects", "test")
    assert (len(train), len(test), train.name) == (3, 2, "insects")
    assert "3 images of insects" in train.source
    assert np.array_equal(train.images.permute(0, 2, 3, 1).numpy(), PICTURES[:3])
