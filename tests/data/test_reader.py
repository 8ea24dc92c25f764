"""One set of rules for what is read, converted, left out and refused; whoever reads."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from underpaint.data.datasets import load_data
from underpaint.data.labels import number_labels
from underpaint.data.sources import open_source


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    raw = io.BytesIO()
    picture.save(raw, kind, **options)
    return raw.getvalue()


def flat(value: int | tuple[int, ...], mode: str = "L", size: tuple[int, int] = (4, 4)) -> bytes:
    return encoded(Image.new(mode, size, value))


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, raw in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))
    return path


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    for name, raw in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(raw)
    return folder


def values(place: Path, **options: Any) -> list[int]:
    """The first value of each picture, by both ways in, which are to agree."""
    source = open_source(place, **options)
    streamed = source.read(0, source.count).data[:, 0, 0, 0].tolist()
    known = {"split": options.get("split", "train"), "column": options.get("column")}
    assert load_data(place, **known).images[:, 0, 0, 0].tolist() == streamed
    return streamed


# Nothing is dropped or mixed


def test_dots_in_names_of_tar_members_are_part_of_the_name(tmp_path: Path) -> None:
    members = {f"img_v1.5_{i:04}.png": flat(10 * i) for i in range(10)}
    members |= {f"img_v1.5_{i:04}.cls": str(i % 3).encode() for i in range(10)}
    place = write_tar(tmp_path / "a.tar", members)
    assert values(place) == [10 * i for i in range(10)]
    labels = load_data(place).labels
    assert labels is not None
    assert labels.tolist() == [i % 3 for i in range(10)]


def test_pictures_under_one_name_are_columns_to_choose_from(tmp_path: Path) -> None:
    members = {f"{i}.{side}.png": flat(i + n) for i in range(3) for n, side in ((0, "left"), (100, "right"))}
    place = write_tar(tmp_path / "a.tar", members | {f"{i}.cls": b"%d" % (i % 2) for i in range(3)})
    with pytest.raises(ValueError, match=r"in the columns left.png \(3\), right.png \(3\); choose one with --column"):
        load_data(place)
    assert values(place, column="right.png") == [100, 101, 102]
    data = load_data(place, column="left.png")
    assert "columns not read: right.png (3)" in data.source
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1, 0]
    with pytest.raises(ValueError, match=r"has the columns left.png \(3\), right.png \(3\), not 'png'"):
        load_data(place, column="png")
    plain = write_tar(tmp_path / "b.tar", {"x.png": flat(7), "x.depth.png": flat(8), "y.jpg": flat(9)})
    assert values(plain) == [7, 9]
    assert "columns not read: depth.png (1)" in load_data(plain).source


def test_a_member_that_is_there_twice_is_named(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for value in (1, 2):
            info = tarfile.TarInfo("x.png")
            info.size = len(raw := flat(value))
            archive.addfile(info, io.BytesIO(raw))
    data = load_data(tmp_path / "a.tar")
    assert (data.images[:, 0, 0, 0].tolist(), len(data.left_out)) == ([2], 1)
    assert "is in the shard again" in data.left_out[0]


def split_files(kind: str, folder: Path) -> Path:
    """Two items of training data with value 1, one of test data with value 2."""
    if kind == "folder":
        return write_files(folder, {"train/a.png": flat(1), "train/b.png": flat(1), "test/a.png": flat(2)})
    folder.mkdir()
    for split, count, value in (("train", 2, 1), ("test", 1, 2)):
        pictures = {f"{i}.png": flat(value) for i in range(count)}
        if kind == "tar":
            write_tar(folder / f"{split}-000000.tar", pictures)
        elif kind == "zip":
            with zipfile.ZipFile(folder / f"{split}.zip", "w") as archive:
                for name, raw in pictures.items():
                    archive.writestr(name, raw)
        elif kind == "npy":
            np.save(folder / f"x_{split}.npy", np.full((count, 4, 4), value, np.uint8))
        else:
            pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
            name = folder / f"{split}-00000-of-00001.parquet"
            parquet.write_table(pa.table({"image": list(pictures.values())}), name)
    return folder


@pytest.mark.parametrize("kind", ["folder", "tar", "zip", "npy", "parquet"])
def test_train_and_test_do_not_mix(tmp_path: Path, kind: str) -> None:
    place = split_files(kind, tmp_path / "d")
    assert values(place) == [1, 1]
    assert values(place, split="test") == [2]
    assert "split test of test, train" in load_data(place, "test").source
    with pytest.raises(ValueError, match="has the splits test, train, not 'dev'"):
        load_data(place, "dev")


def test_a_damaged_shard_among_others_is_named(tmp_path: Path) -> None:
    for name, raw in (("a.zip", flat(1)), ("b.zip", flat(2))):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("x.png", raw)
    (tmp_path / "a.zip").write_bytes(b"no zip file at all")
    data = load_data(tmp_path)
    assert data.images[:, 0, 0, 0].tolist() == [2]
    assert data.left_out == ("a.zip: is damaged, or not what its name says",)


def test_a_split_of_data_without_splits_is_refused(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "d", {"a.png": flat(1)})
    tar = write_tar(tmp_path / "x.tar", {"a.png": flat(1)})
    assert values(folder) == values(tar) == [1]
    with pytest.raises(ValueError, match="has no splits, so no 'test'"):
        load_data(folder, "test")
    with pytest.raises(ValueError, match="does not say that it is of the split 'test'"):
        load_data(tar, "test")
    write_files(folder, {"train/a.png": flat(1), "test/a.png": flat(1), "more/a.png": flat(1)})
    with pytest.raises(ValueError, match=r"splits test, train beside others \(more, pictures in none\)"):
        load_data(folder)
    classes = write_files(tmp_path / "c", {"car/a.png": flat(1), "train/a.png": flat(2), "tram/a.png": flat(3)})
    assert load_data(classes).classes == {0: "car", 1: "train", 2: "tram"}


def test_a_folder_of_several_kinds_is_refused(tmp_path: Path) -> None:
    write_files(tmp_path, {f"{i}.png": flat(i) for i in range(3)})
    np.save(tmp_path / "stray.npy", np.zeros((2, 4, 4), np.uint8))
    for way in (load_data, open_source):
        with pytest.raises(ValueError, match=r"several kinds: 1 array \(stray.npy\), 3 picture \(0.png\)"):
            way(tmp_path)


def test_what_is_no_picture_is_counted(tmp_path: Path) -> None:
    files = {"a.png": flat(1), ".ipynb_checkpoints/a.png": flat(2), "a.txt": b"", "b.txt": b"", "b.avif": b""}
    data = load_data(write_files(tmp_path, files))
    assert (data.images[:, 0, 0, 0].tolist(), data.labels) == ([1], None)
    assert "not read: 1 .avif, 2 .txt, 1 hidden" in data.source


def table(path: Path, **columns: Any) -> Path:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.table(columns), path)
    return path


def test_lists_of_other_lengths_are_named_and_not_cut(tmp_path: Path) -> None:
    rows = [[1.0, 2, 3], [4.0, 5], [6.0, 7, 8, 9], [10.0, 11, 12], None, [], [13.0, None, 15], [16.0, 17, 18]]
    chunk = open_source(table(tmp_path / "a.parquet", x=rows)).read(0, 8)
    assert chunk.data.tolist() == [[1, 2, 3], [10, 11, 12], [16, 17, 18]]
    assert chunk.bad == tuple(f"row {i}: is no list of 3 numbers" for i in (1, 2, 4, 5, 6))
    nested = [[[1.0, 2], [3, 4]], [[1.0, 2, 3], [4]], [[5.0, 6], None], [[5.0, 6], [7, 8]]]
    chunk = open_source(table(tmp_path / "b.parquet", x=nested)).read(0, 4)
    assert chunk.data.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert chunk.bad == tuple(f"row {i}: is no list of 2 x 2 numbers" for i in (1, 2))


def test_empty_cells_of_pictures_are_named(tmp_path: Path) -> None:
    place = table(tmp_path / "a.parquet", image=[flat(1), None, b"", flat(4)], label=[0, 1, 0, None])
    data = load_data(place)
    assert data.images[:, 0, 0, 0].tolist() == [1, 4]
    assert data.left_out == ("row 1: holds no picture", "row 2: holds no picture")
    assert data.labels is not None
    assert data.labels.tolist() == [0, -1]
    assert "1 without a label" in data.source


def test_a_damaged_row_group_is_named_row_by_row(tmp_path: Path) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    place, noise = tmp_path / "a.parquet", np.random.default_rng(0).standard_normal((6, 50))
    parquet.write_table(pa.table({"x": noise.tolist()}), place, row_group_size=2, compression="snappy")
    raw = bytearray(place.read_bytes())
    start = parquet.ParquetFile(place).metadata.row_group(1).column(0).dictionary_page_offset
    raw[start : start + 40] = b"\xff" * 40
    place.write_bytes(raw)
    chunk = open_source(place).read(0, 6)
    np.testing.assert_array_equal(chunk.data.numpy(), noise[[0, 1, 4, 5]])
    assert list(chunk.bad) == [f"row {i}: row group 1 is damaged, or not what its name says" for i in (2, 3)]


# The first does not decide for all, unsaid


def test_one_grey_picture_does_not_make_all_grey(tmp_path: Path) -> None:
    files = {"00.png": flat(9)} | {f"{i:02}.png": flat((i, 50, 90), "RGB") for i in range(1, 20)}
    place = write_files(tmp_path / "d", files)
    data = load_data(place)
    assert data.shape == (3, 4, 4)
    assert data.images[0, :, 0, 0].tolist() == [9, 9, 9]
    assert data.images[1:, :, 0, 0].tolist() == [[i, 50, 90] for i in range(1, 20)]
    grey = open_source(place, mode="L").read(0, 20).data
    assert grey[1:, 0, 0, 0].tolist() == [round(0.299 * i + 0.587 * 50 + 0.114 * 90) for i in range(1, 20)]
    with pytest.raises(ValueError, match="Unknown mode 'CMYK'; choose L"):
        open_source(place, mode="CMYK")


def test_a_colour_picture_among_many_grey_ones_is_left_out_unless_asked_for(tmp_path: Path) -> None:
    """So many that it is not among those that are looked at."""
    files = {f"{i:03}.png": flat(i) for i in range(130)} | {"001.png": flat((1, 2, 3), "RGB")}
    place = write_files(tmp_path / "d", files)
    data = load_data(place)
    assert (len(data), data.shape) == (129, (1, 4, 4))
    assert data.left_out[0].startswith("001.png: is in colour, the others looked at are grey")
    assert open_source(place, mode="L").read(0, 130).data.shape == (130, 1, 4, 4)


def test_the_size_is_that_of_most(tmp_path: Path) -> None:
    files = {"0.png": flat(0, size=(9, 9))} | {f"{i}.png": flat(i) for i in range(1, 6)}
    data = load_data(write_files(tmp_path, files))
    assert data.images[:, 0, 0, 0].tolist() == [1, 2, 3, 4, 5]
    assert data.left_out == ("0.png: is 9x9, others 4x4; give a size",)


def test_columns_are_chosen_by_name_and_said(tmp_path: Path) -> None:
    both = table(tmp_path / "a.parquet", conditioning_image=[flat(1)] * 2, image=[flat(2)] * 2)
    assert values(both) == [2, 2]
    assert "column 'image', not 'conditioning_image'" in load_data(both).source
    assert values(both, column="conditioning_image") == [1, 1]
    unclear = table(tmp_path / "b.parquet", before=[flat(1)], after=[flat(2)])
    with pytest.raises(ValueError, match="has the columns before, after; choose one with --column"):
        load_data(unclear)
    with pytest.raises(ValueError, match="columns before, after of pictures or numbers, not 'image'"):
        load_data(unclear, column="image")
    with pytest.raises(ValueError, match="has no columns; leave out 'image'"):
        load_data(write_files(tmp_path / "d", {"a.png": flat(1)}), column="image")


# Labels


def test_folders_called_by_numbers_are_these_classes(tmp_path: Path) -> None:
    files = {f"{label}/a.png": flat(label) for label in range(12)}
    data = load_data(write_files(tmp_path, files))
    assert data.labels is not None
    assert data.labels.tolist() == data.images[:, 0, 0, 0].tolist()
    assert sorted(data.classes.items()) == [(i, str(i)) for i in range(12)]


def test_pictures_in_no_class_have_no_label_and_hidden_folders_are_no_class(tmp_path: Path) -> None:
    files = {"cat/a.png": flat(1), "dog/a.png": flat(2), "z.png": flat(3), ".ipynb_checkpoints/a.png": flat(4)}
    data = load_data(write_files(tmp_path, files))
    assert data.classes == {0: "cat", 1: "dog"}
    assert data.labels is not None
    found = dict(zip(data.images[:, 0, 0, 0].tolist(), data.labels.tolist(), strict=True))
    assert found == {1: 0, 2: 1, 3: -1}


def test_labels_of_edm_that_are_null_are_no_folders(tmp_path: Path) -> None:
    files = {"00000/a.png": flat(1), "00001/b.png": flat(2), "dataset.json": b'{"labels": null}'}
    assert load_data(write_files(tmp_path, files)).labels is None
    (tmp_path / "dataset.json").write_text('{"labels": [["00000/a.png", 3]]}')
    labels = load_data(tmp_path).labels
    assert labels is not None
    assert labels.tolist() == [3, -1]
    (tmp_path / "dataset.json").write_text('{"labels": 7}')
    with pytest.raises(ValueError, match=r"The dataset.json of .* is to be"):
        load_data(tmp_path)


def labelled(kind: str, folder: Path, labels: list[Any]) -> Path:
    pictures = [flat(i) for i in range(len(labels))]
    if kind == "parquet":
        return table(folder / "a.parquet", image=pictures, label=labels)
    if kind == "tar":
        members = {f"{i}.png": raw for i, raw in enumerate(pictures)}
        members |= {f"{i}.json": json.dumps({"label": label}).encode() for i, label in enumerate(labels)}
        return write_tar(folder / "a.tar", members)
    if kind == "zip":
        with zipfile.ZipFile(folder / "a.zip", "w") as archive:
            for i, raw in enumerate(pictures):
                archive.writestr(f"{i}.png", raw)
            archive.writestr("dataset.json", json.dumps({"labels": [[f"{i}.png", x] for i, x in enumerate(labels)]}))
        return folder / "a.zip"
    np.savez(folder / "a.npz", images=np.zeros((len(labels), 4, 4), np.uint8), labels=np.array(labels))
    return folder / "a.npz"


@pytest.mark.parametrize("kind", ["parquet", "tar", "zip", "npz"])
@pytest.mark.parametrize(
    ("labels", "expected", "classes"),
    [
        ([4, 0, 4], [4, 0, 4], {0: "0", 4: "4"}),
        ([2.0, 0.0, 2.0], [2, 0, 2], {0: "0", 2: "2"}),
        (["dog", "cat", "dog"], [1, 0, 1], {0: "cat", 1: "dog"}),
        (["10", "9", "10"], [10, 9, 10], {9: "9", 10: "10"}),
        ([0.5, 1.0, 0.0], None, "is 0.5; expected whole numbers from 0 on, or names"),
        ([-3, 1, 0], None, "is -3; expected whole numbers"),
        ([[0, 1], [1, 0], [1, 0]], None, r"shape \(3, 2\)|is \[0, 1\]|are list<"),
    ],
)
def test_labels_are_numbers_or_names_wherever_they_are(
    tmp_path: Path, kind: str, labels: list[Any], expected: list[int] | None, classes: Any
) -> None:
    place = labelled(kind, tmp_path, labels)
    if expected is None:
        for way in (load_data, open_source):
            with pytest.raises(ValueError, match=classes):
                way(place)
        unlabelled = load_data(place, labels=False)
        assert (len(unlabelled), unlabelled.labels, unlabelled.classes) == (3, None, {})
        return
    data = load_data(place)
    assert data.labels is not None
    assert (data.labels.tolist(), dict(data.classes)) == (expected, classes)


def test_numbers_among_names_are_refused() -> None:
    with pytest.raises(ValueError, match="are numbers, such as 3, and some are names, such as 'cat'"):
        number_labels([3, "cat"], "x")
    with pytest.raises(ValueError, match="in two ways"):
        number_labels(["1", "01"], "x")
    assert number_labels([None, float("nan"), -1, "", 2], "x") == ([-1, -1, -1, -1, 2], {2: "2"})


# What a picture is


def test_pictures_are_turned_upright(tmp_path: Path) -> None:
    picture = Image.new("L", (3, 2))
    picture.putdata([1, 2, 3, 4, 5, 6])
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned clockwise by a quarter
    (tmp_path / "a.png").write_bytes(encoded(picture, exif=turned))
    data = load_data(tmp_path)
    assert data.images[0, 0].tolist() == [[4, 1], [5, 2], [6, 3]]


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("RGBA", (200, 0, 0, 0), [255, 255, 255]),
        ("RGBA", (200, 0, 0, 255), [200, 0, 0]),
        ("RGBA", (0, 0, 100, 51), [204, 204, 224]),
        ("LA", (100, 255), [100]),
        ("LA", (0, 51), [204]),
        ("1", 1, [255]),
        ("CMYK", (255, 0, 0, 0), [0, 255, 255]),
    ],
)
def test_modes_and_transparency(tmp_path: Path, mode: str, value: Any, expected: list[int]) -> None:
    kind = "TIFF" if mode == "CMYK" else "PNG"
    (tmp_path / f"a.{kind.lower()}").write_bytes(encoded(Image.new(mode, (3, 3), value), kind))
    assert load_data(tmp_path).images[0, :, 1, 1].tolist() == expected


def test_palettes_keep_colour_and_transparency(tmp_path: Path) -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putdata([0, 1])
    (tmp_path / "a.png").write_bytes(encoded(picture, transparency=1))
    assert load_data(tmp_path).images[0, :, 0].T.tolist() == [[10, 20, 30], [255, 255, 255]]


def test_the_first_frame_of_an_animation_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), (value, value, value)) for value in (40, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    data = load_data(tmp_path)
    assert data.images[:, :, 0, 0].tolist() == [[40, 40, 40]]
    assert "first frame" in data.source


def colour_of_16_bits() -> bytes:
    """A PNG of which Pillow would keep the upper bytes."""

    def chunk(kind: bytes, raw: bytes) -> bytes:
        return struct.pack(">I", len(raw)) + kind + raw + struct.pack(">I", zlib.crc32(kind + raw))

    line = b"\0" + struct.pack(">6H", 300, 600, 900, 1, 2, 3)
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(line)) + chunk(b"IEND", b"")


def test_more_than_8_bits_is_left_out_and_never_clipped(tmp_path: Path) -> None:
    deep = np.full((4, 4), 40_000, np.uint16)
    files = {"a.png": flat(3), "b.png": encoded(Image.fromarray(deep)), "c.png": colour_of_16_bits()}
    files["d.tif"] = encoded(Image.fromarray(np.full((4, 4), 0.5, np.float32)), "TIFF")
    data = load_data(write_files(tmp_path, files))
    assert data.images[:, 0, 0, 0].tolist() == [3]
    assert [sentence.split(":")[0] for sentence in data.left_out] == ["b.png", "c.png", "d.tif"]
    assert all("is not 8 bits a channel" in sentence for sentence in data.left_out)


def test_bombs_and_files_that_are_something_else_are_left_out(tmp_path: Path) -> None:
    huge = Image.new("1", (20_000, 20_000))
    files = {"a.png": flat(3), "b.png": encoded(huge), "c.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n"}
    data = load_data(write_files(tmp_path, files))
    assert len(data) == 1
    assert data.left_out[0] == "b.png: has more pixels than are unpacked"
    assert data.left_out[1] == "c.png: is damaged, or no picture of a kind that is read"


# Ranges and axes of arrays


@pytest.mark.parametrize("shape", [(6, 4, 5), (6, 4, 5, 3), (6, 3, 4, 5)])
@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(0, 1, r"lie in \[0.0\d+, (1|0.9\d+)\], but images"), (-3, 3, r"\[-\d.*, \d.*\], but images in \[-1, 1\]")],
)
def test_another_range_is_an_error_with_both_ranges(
    tmp_path: Path, shape: tuple[int, ...], low: float, high: float, words: str
) -> None:
    array = np.random.default_rng(0).uniform(low, high, shape).astype(np.float32)
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match=words):
        load_data(tmp_path / "a.npy")


def test_channels_may_come_first_or_last(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 6), dtype=np.uint8)
    for name, array in (("first", picture), ("last", picture.transpose(0, 2, 3, 1))):
        np.save(tmp_path / f"{name}.npy", array)
        assert torch.equal(load_data(tmp_path / f"{name}.npy").images, torch.from_numpy(picture))
    np.save(tmp_path / "both.npy", np.zeros((5, 3, 4, 1), np.uint8))
    np.save(tmp_path / "alpha.npy", np.zeros((5, 8, 8, 4), np.uint8))
    for name, words in (("both", "may be the second axis or the last"), ("alpha", r"looks like \[N, H, W, C\] with 4")):
        with pytest.raises(ValueError, match=words):
            load_data(tmp_path / f"{name}.npy")


def test_latents_and_rows_may_take_any_value(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.full((3, 4, 8, 8), 7, np.float32))
    assert open_source(tmp_path / "a.npy").read(0, 3).data.max() == 7
    np.save(tmp_path / "b.npy", 5 * np.random.default_rng(0).standard_normal((3, 4, 8, 8)).astype(np.float16))
    assert open_source(tmp_path / "b.npy").shape == (4, 8, 8)
    with pytest.raises(ValueError, match=r"holds latents of b.npy of shape \(4, 8, 8\); expected images"):
        load_data(tmp_path / "b.npy")
    np.save(tmp_path / "c.npy", np.full((3, 8), 7, np.float32))
    assert open_source(tmp_path / "c.npy").read(0, 3).data.max() == 7


# Damage


def damaged(kind: str, folder: Path) -> Path:
    place = folder / "a.npy"
    if kind == "short":
        np.save(place, np.zeros((9, 4, 4), np.uint8))
        place.write_bytes(place.read_bytes()[:-5])
    elif kind == "header":
        np.save(place, np.zeros((9, 4, 4), np.uint8))
        place.write_bytes(place.read_bytes().replace(b"(9, 4, 4)", b"(99999999999, 4, 4)").replace(b" " * 10, b"", 1))
    elif kind == "noise":
        place.write_bytes(bytes(range(256)) * 4)
    elif kind == "compressed header":
        place, raw = folder / "a.npz", io.BytesIO()
        np.save(raw, np.zeros((9, 4, 4), np.uint8))
        lie = raw.getvalue().replace(b"(9, 4, 4), }" + b" " * 14, b"(99999999999999, 4, 4), }" + b" " * 1)
        with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("images.npy", lie)
    elif kind == "flipped":
        place = folder / "a.npz"
        np.savez_compressed(place, images=np.random.default_rng(0).integers(0, 256, (9, 4, 4), dtype=np.uint8))
        raw = bytearray(place.read_bytes())
        raw[120:160] = bytes(40)
        place.write_bytes(raw)
    return place


@pytest.mark.parametrize("kind", ["short", "header", "noise", "compressed header", "flipped"])
def test_damaged_arrays_are_one_sentence_by_both_ways(tmp_path: Path, kind: str) -> None:
    place = damaged(kind, tmp_path)
    for way in (load_data, open_source):
        with pytest.raises(ValueError, match=r"cannot be read as an array without pickles: .{5}"):
            way(place)


def test_more_than_the_memory_of_the_machine_is_refused_before_it_is_claimed(tmp_path: Path) -> None:
    """A file that is as long as its header says, but has holes."""
    np.save(tmp_path / "a.npy", np.zeros((1, 4, 4), np.uint8))
    header = 128
    count = 2**35
    raw = (tmp_path / "a.npy").read_bytes()[:header]
    told = raw.replace(b"(1, 4, 4), }", f"({count}, 4, 4), }}".encode()).rstrip(b" \n")
    with (tmp_path / "a.npy").open("wb") as file:
        file.write(told.ljust(header - 1) + b"\n")
        file.truncate(header + 16 * count)
    with pytest.raises(ValueError, match=r"images of a.npy would take 550 GB of memory; this machine has"):
        load_data(tmp_path / "a.npy")
