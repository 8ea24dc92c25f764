"""Data, statistics and files: round trips, and what bad input gets."""

from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from underpaint.data import named
from underpaint.data.datasets import load_data
from underpaint.data.idx import read_idx
from underpaint.data.store import gaussian_provenance, load_gaussian, save_gaussian
from underpaint.files import read_json, read_tensor_metadata, read_tensors, replacing, write_tensors
from underpaint.theory.gaussian import Gaussian


def write_idx(path: Path, array: np.ndarray) -> Path:
    raw = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 5, 4), dtype=np.uint8)


@pytest.mark.parametrize("name", ["a-idx3-ubyte", "a-idx3-ubyte.gz"])
def test_idx_round_trip(tmp_path: Path, images: np.ndarray, name: str):
    assert np.array_equal(read_idx(write_idx(tmp_path / name, images)).numpy(), images)


def test_idx_errors(tmp_path: Path, images: np.ndarray):
    whole = write_idx(tmp_path / "x", images).read_bytes()
    for content, words in (
        (whole[:-1], r"states \(6, 5, 4\) = 120 bytes but holds 119"),
        (whole[:7], "ends inside its header"),
        (b"PK\x03\x04....", "is not an idx file"),
        (b"", "is not an idx file"),
    ):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(ValueError, match=words):
            read_idx(tmp_path / "x")
    (tmp_path / "y.gz").write_bytes(gzip.compress(whole)[:-20])
    with pytest.raises(ValueError, match="not a complete gzip file"):
        read_idx(tmp_path / "y.gz")


def test_folder_of_idx_files(tmp_path: Path, images: np.ndarray):
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", images)
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.arange(6, dtype=np.uint8))
    data = load_data(tmp_path)
    assert data.shape == (1, 5, 4)
    assert data.labels is not None
    assert data.labels.tolist() == list(range(6))
    torch.testing.assert_close(data.rows(), torch.from_numpy(images.reshape(6, 20).astype(np.float32) / 127.5 - 1))
    torch.testing.assert_close(torch.cat(list(data.batches(4))), data.rows())
    with pytest.raises(ValueError, match=r"items of shape \(1, 5, 4\), but \(3, 8, 8\) is needed"):
        load_data(tmp_path, shape=(3, 8, 8))


def test_idx_files_below_a_folder_and_their_labels_however_packed(tmp_path: Path, images: np.ndarray):
    """As torchvision leaves them, in raw/; labels gzipped beside plain images; both splits."""
    place = tmp_path / "raw"
    place.mkdir()
    write_idx(place / "train-images-idx3-ubyte", images)
    write_idx(place / "train-images-idx3-ubyte.gz", images)
    write_idx(place / "train-labels-idx1-ubyte.gz", np.arange(6, dtype=np.uint8))
    write_idx(place / "t10k-images-idx3-ubyte", images[:2])
    data, test = load_data(tmp_path), load_data(tmp_path, "test")
    assert (len(data), len(test), test.labels) == (6, 2, None)
    assert data.labels is not None
    assert data.labels.tolist() == list(range(6))
    write_idx(place / "emnist-train-images-idx3-ubyte", images)
    with pytest.raises(ValueError, match="several files of images"):
        load_data(tmp_path)
    (tmp_path / "labels").mkdir()
    write_idx(tmp_path / "labels" / "train-labels-idx1-ubyte", np.arange(6, dtype=np.uint8))
    with pytest.raises(ValueError, match="holds labels alone"):
        load_data(tmp_path / "labels")


def test_folder_of_pictures_with_classes(tmp_path: Path):
    for kind, value in (("cats", 40), ("dogs", 200)):
        (tmp_path / kind).mkdir()
        Image.new("RGB", (12, 10), (value, value, value)).save(tmp_path / kind / "a.png")
    data = load_data(tmp_path, shape=(1, 8, 8))
    assert data.classes == {0: "cats", 1: "dogs"}
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1]
    assert data.images[:, 0, 0, 0].tolist() == [40, 200]
    assert load_data(tmp_path).shape == (3, 10, 12)


def test_picture_errors(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match=r"no pictures that can be read in the folder .* it holds 1 \.txt"):
        load_data(tmp_path)
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    Image.new("L", (5, 4)).save(tmp_path / "b.png")
    data = load_data(tmp_path)
    assert (len(data), data.left_out) == (1, ("b.png: is 4x5, others 4x4; give a size",))
    assert "not read: 1 .txt); 1 left out (the first: b.png: is 4x5" in data.source
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:30])
    assert "b.png: is damaged, or no picture of a kind that is read" in load_data(tmp_path).left_out[0]
    (tmp_path / "a.png").unlink()
    with pytest.raises(
        ValueError,
        match=r"no pictures that can be read .* \(b\.png: is damaged, or no picture of a kind that is read\)",
    ):
        load_data(tmp_path)


@pytest.mark.parametrize("channels", [1, 3])
def test_arrays(tmp_path: Path, channels: int):
    array = np.random.default_rng(0).uniform(-1, 1, (3, 4, 4, channels)).astype(np.float32)
    np.savez(tmp_path / "a.npz", images=array, labels=np.array([2, 0, 1]))
    data = load_data(tmp_path / "a.npz")
    assert data.shape == (channels, 4, 4)
    np.testing.assert_array_equal(data.images.permute(0, 2, 3, 1).numpy(), array)
    assert data.labels is not None
    assert data.labels.tolist() == [2, 0, 1]


def test_array_errors(tmp_path: Path):
    path = tmp_path / "a.npy"
    for array, words in (
        (np.full((2, 4, 4), np.nan), r"None of the 2 items of a can be used \(row 0: largest value nan\)"),
        (np.full((2, 4, 4), 3.0), r"lie in \[3, 3\], but images in \[-1, 1\]"),
        (np.zeros((2, 4), np.uint8), r"rows of a\.npy of shape \(4,\); expected images"),
        (np.zeros((2, 4, 4), np.int32), "expected bytes or floating-point"),
    ):
        np.save(path, array)
        with pytest.raises(ValueError, match=words):
            load_data(path)
    path.write_bytes(pickle.dumps({"images": 1}))
    with pytest.raises(ValueError, match="cannot be read as an array without pickles"):
        load_data(path)
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="cannot be read as an array without pickles"):
        load_data(path)


def test_unknown_names():
    with pytest.raises(ValueError, match="no data called 'mnust'"):
        load_data("mnust")
    with pytest.raises(ValueError, match="has the splits train, test, not 'val'"):
        load_data(split="val")


def test_the_box_serves_without_a_data_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(named, "SYSTEM_FOLDER", tmp_path)
    monkeypatch.delenv("UNDERPAINT_DATA", raising=False)
    data = load_data("fashion-mnist")
    assert (len(data), data.shape) == (10_000, (1, 28, 28))
    assert "in the box" in data.source
    assert data.labels is not None
    assert torch.bincount(data.labels).min() > 900
    with pytest.raises(ValueError, match="test split of fashion-mnist is not in the box"):
        load_data("fashion-mnist", "test")


def test_named_data_are_taken_from_the_environments_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, images: np.ndarray
):
    (tmp_path / "fashion-mnist").mkdir()
    write_idx(tmp_path / "fashion-mnist" / "train-images-idx3-ubyte", images)
    monkeypatch.setenv("UNDERPAINT_DATA", str(tmp_path))
    assert len(load_data("fashion-mnist")) == 6


@pytest.mark.data
def test_boxed_sample_and_statistics_are_those_of_the_complete_set():
    if not named.idx_files(named.SYSTEM_FOLDER / "fashion-mnist"):
        pytest.skip("the complete Fashion-MNIST (Debian: dataset-fashion-mnist) is not on this machine")
    whole = load_data(named.SYSTEM_FOLDER / "fashion-mnist")
    sample = load_data(Path(named.assets.folder("fashion-mnist") or "") / "sample")
    assert torch.equal(whole.images[:10_000], sample.images)
    fresh, boxed = Gaussian.fit(whole.batches()), load_gaussian("fashion-mnist")
    torch.testing.assert_close(boxed.eigenvalues, fresh.eigenvalues)
    torch.testing.assert_close(boxed.mean, fresh.mean)


def test_gaussian_round_trip(tmp_path: Path):
    rows = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    gaussian = Gaussian.fit(rows, rank=3)
    save_gaussian(tmp_path / "g.safetensors", gaussian, data="noise", count=50)
    again = load_gaussian(tmp_path / "g.safetensors")
    for name in ("mean", "eigenvalues", "basis"):
        torch.testing.assert_close(getattr(again, name), getattr(gaussian, name), rtol=0, atol=0)
    assert again.covariance.residual == gaussian.covariance.residual
    assert gaussian_provenance(tmp_path / "g.safetensors")["count"] == 50


def test_foreign_and_broken_statistics(tmp_path: Path):
    path = tmp_path / "g.safetensors"
    write_tensors(path, {"weight": torch.zeros(2)}, {})
    with pytest.raises(ValueError, match="holds weight, not a Gaussian"):
        load_gaussian(path)
    for note in ("{", "[]"):
        save_file({"weight": torch.zeros(2)}, path, metadata={"underpaint": note})
        with pytest.raises(ValueError, match="should be a JSON object"):
            read_tensor_metadata(path)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        read_tensors(path)
    with pytest.raises(ValueError, match="There is no file"):
        load_gaussian(tmp_path / "none.safetensors")


def test_json_errors(tmp_path: Path):
    for content, words in (
        (b"{", "not valid JSON"),
        (b"[1]", "holds a JSON list"),
        (b"\xff\xfe\x00", "not valid JSON"),
    ):
        (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(ValueError, match=words):
            read_json(tmp_path / "a.json")


def test_replacing_leaves_the_old_file_when_writing_fails(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail_half_way() -> None:
        with replacing(path) as temporary:
            temporary.write_text("ne")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail_half_way()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]
