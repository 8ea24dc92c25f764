"""Data of every kind as a source: the same pixels whatever they are kept in, and what is broken is named."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from underpaint.data.datasets import gather
from underpaint.data.decode import Geometry
from underpaint.data.sources import open_source
from underpaint.data.stream import Chunk, Source

LABELS = [2, 0, 1, 2, 0, 1, 2]


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (7, 5, 4, 3), dtype=np.uint8)


def png(picture: np.ndarray) -> bytes:
    raw = io.BytesIO()
    Image.fromarray(picture).save(raw, "PNG")
    return raw.getvalue()


def write_folder(place: Path, pictures: np.ndarray) -> Path:
    """Each class in a folder of its own, with names that keep the order of the pictures within it."""
    for i, (picture, label) in enumerate(zip(pictures, LABELS, strict=True)):
        file = place / "folder" / f"kind{label}" / f"{i:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(picture))
    (place / "folder" / "notes.txt").write_text("no picture")
    return place / "folder"


def write_zip(place: Path, pictures: np.ndarray) -> Path:
    """As EDM packs data sets: labels in dataset.json."""
    with zipfile.ZipFile(place / "data.zip", "w") as archive:
        for i, picture in enumerate(pictures):
            archive.writestr(f"00000/img{i:08}.png", png(picture))
        named = [[f"00000/img{i:08}.png", label] for i, label in enumerate(LABELS)]
        archive.writestr("dataset.json", json.dumps({"labels": named}))
    return place / "data.zip"


def write_tars(place: Path, pictures: np.ndarray) -> Path:
    """Two webdataset shards, one with .cls, one with .json."""
    folder = place / "shards"
    folder.mkdir()
    for shard, items in enumerate((range(4), range(4, 7))):
        with tarfile.open(folder / f"shard-{shard}.tar", "w") as archive:
            for i in items:
                label = ("cls", str(LABELS[i])) if shard == 0 else ("json", json.dumps({"label": LABELS[i]}))
                for extension, raw in (("png", png(pictures[i])), (label[0], label[1].encode())):
                    info = tarfile.TarInfo(f"{i:06}.{extension}")
                    info.size = len(raw)
                    archive.addfile(info, io.BytesIO(raw))
    return folder


def write_npz(place: Path, pictures: np.ndarray) -> Path:
    np.savez(place / "a.npz", images=pictures, labels=np.array(LABELS))
    return place / "a.npz"


def write_compressed(place: Path, pictures: np.ndarray) -> Path:
    np.savez_compressed(place / "b.npz", images=pictures, labels=np.array(LABELS))
    return place / "b.npz"


def write_parquet(place: Path, pictures: np.ndarray) -> Path:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    images = [{"bytes": png(picture), "path": None} for picture in pictures]
    parquet.write_table(pa.table({"image": images, "label": LABELS}), place / "t.parquet", row_group_size=3)
    return place / "t.parquet"


WRITERS = {
    "folder": write_folder,
    "zip": write_zip,
    "tar": write_tars,
    "npz": write_npz,
    "compressed npz": write_compressed,
    "parquet": write_parquet,
}


def everything(source: Source) -> tuple[torch.Tensor, list[int]]:
    chunk = source.read(0, source.count)
    assert chunk.labels is not None
    return chunk.data, chunk.labels.tolist()


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_the_same_pixels_and_labels_whatever_they_are_kept_in(
    tmp_path: Path, pictures: np.ndarray, write: Callable[[Path, np.ndarray], Path]
) -> None:
    source = open_source(write(tmp_path, pictures))
    assert (source.count, source.shape, source.dimension) == (7, (3, 5, 4), 60)
    # a folder is sorted by class, then by name
    order = sorted(range(7), key=lambda i: (LABELS[i], i)) if write is write_folder else list(range(7))
    data, labels = everything(source)
    assert torch.equal(data, torch.from_numpy(pictures[order]).permute(0, 3, 1, 2))
    assert labels == [LABELS[i] for i in order]
    assert list(source.classes) == [0, 1, 2]
    assert "[-1, 1]" in source.handling
    assert source.read(0, 7).values.flatten(1)[0, 0] == pytest.approx(pictures[order[0]][0, 0, 0] / 127.5 - 1)


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_any_range_and_any_chunks_are_parts_of_the_whole(tmp_path: Path, pictures: np.ndarray, write) -> None:
    source = open_source(write(tmp_path, pictures))
    data, labels = everything(source)
    for start, stop in ((2, 5), (4, 7), (6, 7), (0, 1)):
        part = source.read(start, stop)
        assert torch.equal(part.data, data[start:stop])
        assert part.labels is not None
        assert part.labels.tolist() == labels[start:stop]
    assert torch.equal(torch.cat([chunk.data for chunk in source.chunks(3)]), data)
    assert torch.equal(torch.cat([chunk.data for chunk in source.chunks(3, 1, 2)]), data[3:6])
    assert torch.equal(torch.cat([chunk.data for chunk in source.chunks(2, 3)]), data[6:])


def test_folders_have_names_for_classes(tmp_path: Path, pictures: np.ndarray) -> None:
    assert open_source(write_folder(tmp_path, pictures)).classes == {0: "kind0", 1: "kind1", 2: "kind2"}


def test_saved_hugging_face_data_sets(tmp_path: Path, pictures: np.ndarray) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["ankle", "boot", "coat"])}
    )
    images = [{"bytes": png(picture), "path": None} for picture in pictures]
    table = datasets.Dataset.from_dict({"image": images, "label": LABELS}, features=features)
    datasets.DatasetDict({"train": table, "test": table.select(range(2))}).save_to_disk(str(tmp_path / "saved"))
    source = open_source(tmp_path / "saved")
    data, labels = everything(source)
    assert torch.equal(data, torch.from_numpy(pictures).permute(0, 3, 1, 2))
    assert labels == LABELS
    assert source.classes == {0: "ankle", 1: "boot", 2: "coat"}
    assert open_source(tmp_path / "saved", split="test").count == 2
    with pytest.raises(ValueError, match="has the splits train, test, not 'dev'"):
        open_source(tmp_path / "saved", split="dev")


def test_tables_of_numbers(tmp_path: Path) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = np.random.default_rng(0).standard_normal((10, 2, 3)).astype(np.float32)
    rows[4, 1, 1] = np.nan
    parquet.write_table(pa.table({"name": ["x"] * 10, "latent": rows.tolist()}), tmp_path / "a.parquet")
    source = open_source(tmp_path / "a.parquet")
    assert (source.shape, source.count, dict(source.classes)) == ((6,), 10, {})
    chunk = source.read(3, 6)
    np.testing.assert_array_equal(chunk.values.numpy(), rows[[3, 5]].reshape(2, 6))
    assert chunk.bad == ("row 4: largest value nan",)
    parquet.write_table(pa.table({"name": ["x"] * 10}), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"holds 10 rows of name \(string\); expected a column of pictures"):
        open_source(tmp_path / "b.parquet")


def test_rows_of_tables_without_a_label_are_of_no_class(tmp_path: Path, pictures: np.ndarray) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {"image": [png(picture) for picture in pictures], "label": [1, None, 0, -1, 1, 0, 0]}
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    columns["image"] = [[float(i)] for i in range(7)]
    parquet.write_table(pa.table(columns), tmp_path / "b.parquet")
    for name in ("a", "b"):
        source = open_source(tmp_path / f"{name}.parquet")
        assert everything(source)[1] == [1, -1, 0, -1, 1, 0, 0]
        assert source.classes == {0: "0", 1: "1"}


def test_idx_files_and_named_data(tmp_path: Path, pictures: np.ndarray) -> None:
    grey = pictures[..., 0]
    for name, array in (("train-images-idx3-ubyte.gz", grey), ("train-labels-idx1-ubyte.gz", np.uint8(LABELS))):
        raw = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()
        (tmp_path / name).write_bytes(gzip.compress(raw))
    for place in (tmp_path, tmp_path / "train-images-idx3-ubyte.gz"):
        data, labels = everything(open_source(place))
        assert torch.equal(data, torch.from_numpy(grey).unsqueeze(1))
        assert labels == LABELS
    assert open_source("fashion-mnist").classes[9] == "ankle boot"


# Geometry


def test_pictures_are_cropped_to_the_aspect_and_resized(tmp_path: Path) -> None:
    """Left and right thirds, which the crop of 12 x 4 to a square removes, are of another colour."""
    wide = np.zeros((4, 12, 3), np.uint8)
    wide[:, 4:8] = (60, 120, 180)
    Image.fromarray(wide).save(tmp_path / "a.png")
    source = open_source(tmp_path, size=(2, 2))
    colours = source.read(0, 1).data[0].float()  # the filter sees a little of what lies beside the crop
    torch.testing.assert_close(
        colours, torch.tensor([60.0, 120.0, 180.0])[:, None, None].expand(3, 2, 2), rtol=0.05, atol=0
    )
    assert "centre crop and Lanczos resize to 2x2, RGB" in source.handling
    grey = open_source(tmp_path, size=(2, 2), mode="L")
    assert grey.shape == (1, 2, 2)
    assert grey.read(0, 1).data.float().mean() == pytest.approx(0.299 * 60 + 0.587 * 120 + 0.114 * 180, rel=0.05)
    assert grey.identity != source.identity
    assert source.taken.endswith("transparency on white, most are 4x12 (H x W)")
    assert grey.taken.endswith("transparency on white, most are 4x12 (H x W) and in colour")
    assert open_source(tmp_path).taken.endswith("transparency on white")


@pytest.mark.parametrize(
    ("size", "mode", "geometry", "changed"),
    [
        (
            (48, 64),
            "RGB",
            Geometry((24, 24), "L"),
            "cropped to the middle 48x48 (H x W) of 48x64, resized to 24x24, made grey",
        ),
        ((48, 64), "L", Geometry((24, 32), "L"), "resized from 48x64 (H x W) to 24x32"),
        ((48, 64), "L", Geometry((48, 48), "RGB"), "cropped to the middle 48x48 (H x W) of 48x64"),
        ((30, 20), "RGB", Geometry((10, 20), "RGB"), "cropped to the middle 10x20 (H x W) of 30x20"),
        ((30, 20), "RGBA", Geometry((30, 20), "RGB"), "laid on white where it is transparent"),
        ((30, 20), "RGB", Geometry((30, 20), "RGB"), ""),
        ((30, 20), "RGB", Geometry(), ""),
    ],
)
def test_what_is_done_to_a_picture_is_said(size: tuple[int, int], mode: str, geometry: Geometry, changed: str) -> None:
    """And nothing where it stays as it is."""
    opened = io.BytesIO()
    Image.new(mode, size[::-1], 3).save(opened, "PNG")
    assert geometry.changes(opened.getvalue()) == changed
    plain = np.array(Image.new(mode, size[::-1], 3).convert("L" if geometry.mode == mode == "L" else "RGB"))
    same = torch.from_numpy(plain.reshape(*plain.shape[:2], -1)).permute(2, 0, 1)
    assert torch.equal(geometry.decode(opened.getvalue()), same) == (not changed)


def test_pictures_of_many_sizes_need_a_size(tmp_path: Path) -> None:
    """The most common size would leave most of them out; where half have it, the others are left out and named."""
    for number, size in enumerate([(4, 6), (4, 6), (5, 6), (6, 6), (7, 6)]):
        Image.new("L", size).save(tmp_path / f"{number}.png")
    with pytest.raises(
        ValueError, match=r"many sizes: of 5 looked at, at most 2 are alike \(6x4, H x W\). Give a size"
    ):
        open_source(tmp_path)
    source = open_source(tmp_path, size=(4, 4))
    assert source.count == 5
    assert "most are" not in source.taken
    (tmp_path / "4.png").unlink()
    assert open_source(tmp_path).shape == (1, 6, 4)


def test_a_turned_picture_and_an_animation_say_so() -> None:
    turned, moving = io.BytesIO(), io.BytesIO()
    tags = Image.Exif()
    tags[0x0112] = 6
    Image.new("RGB", (20, 30)).save(turned, "PNG", exif=tags)
    assert Geometry((20, 30), "RGB").changes(turned.getvalue()) == "turned upright"
    tags[0x0112] = 3  # upside down
    over = io.BytesIO()
    Image.new("RGB", (20, 30)).save(over, "PNG", exif=tags)
    assert Geometry((30, 20), "RGB").changes(over.getvalue()) == "turned upright"
    frames = [Image.new("L", (20, 30), value) for value in (0, 90, 200)]
    frames[0].save(moving, "GIF", save_all=True, append_images=frames[1:])
    assert Geometry((30, 20), "L").changes(moving.getvalue()) == "taken as its first frame of 3"


def test_an_encoder_sees_images_and_gives_rows(tmp_path: Path, pictures: np.ndarray) -> None:
    source = open_source(write_npz(tmp_path, pictures))
    latent = source.encoded(lambda images: images.mean((2, 3)), (3,), "channel means")
    expected = (pictures / 127.5 - 1).mean((1, 2))
    np.testing.assert_allclose(latent.read(2, 5).values.numpy(), expected[2:5], rtol=1e-5, atol=1e-6)
    assert (latent.dimension, latent.handling.endswith("; channel means")) == (3, True)
    assert latent.identity != source.identity
    assert latent.read(2, 5).labels.tolist() == LABELS[2:5]
    large = replace(source, shape=(3, 2048, 2048))  # so that one picture at a time is encoded
    sizes: list[int] = []
    large.encoded(lambda images: sizes.append(len(images)) or images.mean((2, 3)), (3,), "means").read(0, 3)
    assert sizes == [1, 1, 1]


# What is broken


def test_what_cannot_be_read_is_left_out_and_named(tmp_path: Path, pictures: np.ndarray) -> None:
    folder = write_folder(tmp_path, pictures)
    first = folder / "kind0" / "001.png"
    first.write_bytes(first.read_bytes()[:40])
    (folder / "kind1" / "002.png").write_bytes(b"")
    Image.new("RGB", (9, 9)).save(folder / "kind1" / "005.png")
    Image.new("I;16", (4, 5)).save(folder / "kind2" / "000.png")
    source = open_source(folder)
    chunk = source.read(0, 7)
    assert source.count == 7
    assert torch.equal(chunk.data, torch.from_numpy(pictures[[4, 3, 6]]).permute(0, 3, 1, 2))
    assert chunk.labels is not None
    assert chunk.labels.tolist() == [0, 2, 2]
    assert [text.split(":")[0] for text in chunk.bad] == ["001.png", "002.png", "005.png", "000.png"]
    assert "is 9x9, others 5x4; give a size" in chunk.bad[2]
    assert "not 8 bits" in chunk.bad[3]
    assert source.read(0, 1).data.shape == (0, 3, 5, 4)


def test_a_shard_that_ends_early_is_read_as_far_as_it_goes(tmp_path: Path, pictures: np.ndarray) -> None:
    folder = write_tars(tmp_path, pictures)
    whole = (folder / "shard-0.tar").read_bytes()
    (folder / "shard-0.tar").write_bytes(whole[: 2 * 2048 + 600])
    (folder / "shard-2.tar").write_bytes(b"no tar file")
    source = open_source(folder)
    chunk = source.read(0, source.count)
    assert torch.equal(chunk.data, torch.from_numpy(pictures[[0, 1, 4, 5, 6]]).permute(0, 3, 1, 2))
    assert [text.split(":")[0] for text in chunk.bad] == ["shard-0.tar/000002.png", "shard-0.tar", "shard-2.tar"]


def test_members_that_claim_to_be_huge_are_not_unpacked(tmp_path: Path, pictures: np.ndarray) -> None:
    path = write_zip(tmp_path, pictures)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", bytes(300 * 2**20), compresslevel=1)
    (bad,) = open_source(path).read(0, 8).bad
    assert "bomb.png: claims to be 300 MiB large" in bad


def test_rows_that_are_not_finite_or_not_pixels_are_named(tmp_path: Path) -> None:
    rows = np.zeros((4, 6), np.float32)
    rows[1, 2], rows[3, 0] = np.inf, 40.0
    np.save(tmp_path / "rows.npy", rows)
    chunk = open_source(tmp_path / "rows.npy").read(0, 4)
    assert (len(chunk.data), chunk.bad) == (3, ("row 1: largest value inf",))
    np.save(tmp_path / "pixels.npy", (rows - [0, 0.5, 0, 0, 0, 0]).astype(np.float32).reshape(4, 2, 3))
    chunk = open_source(tmp_path / "pixels.npy").read(0, 4)
    assert (len(chunk.data), chunk.bad[1]) == (2, "row 3: largest value 40")
    np.save(tmp_path / "latents.npy", rows.reshape(4, 1, 2, 3)[:, [0] * 6][:, :, :, :2])
    assert open_source(tmp_path / "latents.npy").shape == (6, 2, 2)


def test_arrays_are_mapped_and_shards_joined(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((11, 5)).astype(np.float16)
    for name, part in (("a", rows[:4]), ("b", rows[4:5]), ("c", rows[5:])):
        np.save(tmp_path / f"{name}.npy", part)
    source = open_source(tmp_path)
    np.testing.assert_array_equal(source.read(3, 7).values.numpy(), rows[3:7].astype(np.float32))
    np.save(tmp_path / "d.npy", np.zeros((2, 6), np.float16))
    with pytest.raises(ValueError, match=r"d\.npy holds float16 \(6,\)"):
        open_source(tmp_path)


class Runs:
    """What a pickle can do when it is opened."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (Path.touch, (self.place,))


def test_nothing_there_or_nothing_readable_is_one_sentence(tmp_path: Path) -> None:
    ran = tmp_path / "was-run"
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"no picture")
    (tmp_path / "a.npy").write_bytes(pickle.dumps(Runs(ran)))
    np.save(tmp_path / "b.npy", np.array([Runs(ran)], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "c.npz", images=np.array([Runs(ran)], dtype=object))
    np.save(tmp_path / "d.npy", np.zeros((3, 4), np.int32))
    whole = write_npz(tmp_path, np.zeros((7, 5, 4, 3), np.uint8)).read_bytes()
    (tmp_path / "e.npz").write_bytes(whole[:200])
    np.savez(tmp_path / "f.npz", one=np.zeros(3), two=np.zeros(3))
    (tmp_path / "g.tgz").write_bytes(b"x")
    (tmp_path / "h.zip").write_bytes(b"x")
    for name, words in (
        ("nowhere", "There are no data called"),
        ("empty", "no pictures that can be read"),
        ("broken", r"no pictures that can be read in the folder .* \(a.png: is damaged, or no picture"),
        ("a.npy", "without pickles"),
        ("b.npy", "without pickles"),
        ("c.npz", "Python objects"),
        ("d.npy", "holds int32, expected bytes or floating-point"),
        ("e.npz", "without pickles"),
        ("f.npz", "holds the arrays one, two; give one with --column"),
        ("g.tgz", "unpack compressed tar"),
        ("h.zip", "is damaged, or not what its name says"),
    ):
        with pytest.raises(ValueError, match=words):
            open_source(tmp_path / name)
    assert not ran.exists()
    with pytest.raises(
        ValueError, match=r"items of shape \(3, 5, 4\), but \(3, 8, 8\) is needed; arrays are not resized"
    ):
        open_source(write_npz(tmp_path, np.zeros((7, 5, 4, 3), np.uint8)), size=(8, 8))


def test_an_array_whose_header_lies_about_its_length(tmp_path: Path, pictures: np.ndarray) -> None:
    """A mapping of its length would show what follows in the file."""
    raw = io.BytesIO()
    np.save(raw, pictures)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("images.npy", raw.getvalue().replace(b"(7, 5, 4, 3)", b"(9, 5, 4, 3)"))
        archive.writestr("padding", bytes(1000))
    with pytest.raises(ValueError, match=r"images\.npy is not as long as its header says"):
        open_source(tmp_path / "a.npz")


def test_images_in_memory_keep_their_labels() -> None:
    images, labels = torch.arange(12, dtype=torch.uint8).reshape(3, 1, 2, 2), torch.tensor([1, 0, 1])

    def read(start: int, stop: int) -> Chunk:
        return Chunk(images[start:stop], labels[start:stop])

    data = gather(Source("small", (1, 2, 2), 3, read, "", "", {0: "a", 1: "b"}, step=2, origin="images made here"))
    assert (data.classes, data.source) == ({0: "a", 1: "b"}, "3 images made here")
    assert torch.equal(data.images, images)
    assert data.labels is not None
    assert data.labels.tolist() == [1, 0, 1]


def test_an_array_of_several_is_chosen_by_its_name(tmp_path: Path) -> None:
    """As in the .npz files of Keras, x_train beside x_test."""
    made = np.random.default_rng(0)
    arrays = {name: made.integers(0, 256, (count, 4, 5), dtype=np.uint8) for name, count in (("train", 6), ("test", 3))}
    np.savez(tmp_path / "a.npz", **arrays)
    for name, array in arrays.items():
        chunk = open_source(tmp_path / "a.npz", column=name).read(0, len(array))
        assert torch.equal(chunk.data, torch.from_numpy(array)[:, None])
    with pytest.raises(ValueError, match="holds the arrays train, test; give one with --column"):
        open_source(tmp_path / "a.npz", column="valid")
    np.save(tmp_path / "b.npy", arrays["test"])
    with pytest.raises(ValueError, match="has no columns"):
        open_source(tmp_path / "b.npy", column="test")


def test_one_picture_is_no_stack_of_grey_ones(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((16, 12, 3), np.uint8))
    with pytest.raises(ValueError, match=r"\(16, 12, 3\), which looks like one picture \[H, W, C\]"):
        open_source(tmp_path / "a.npy")


def test_tables_without_pictures_or_numbers_show_their_types(tmp_path: Path) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pa.table({"v": pa.array([[1, 2]] * 3, pa.list_(pa.int64())), "s": ["x"] * 3})
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"holds 3 rows of v \(list<.*: int64>\), s \(string\); expected a column of"):
        open_source(tmp_path / "a.parquet")
