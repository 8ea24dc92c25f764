"""Arrays of numpy's files: mapped where they can be, and refused where a header lies or holds more than numbers."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from underpaint.data.npy import check_room, float64_of, read_npy, read_npz
from underpaint.data.store import load_gaussian

VALUES = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def test_arrays_come_back(tmp_path: Path):
    np.save(tmp_path / "a.npy", np.asfortranarray(VALUES))
    found = read_npy(tmp_path / "a.npy")
    assert isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, VALUES)
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", x=VALUES, n=np.array(7), none=VALUES[:0])
        both = read_npz(tmp_path / "a.npz")
        np.testing.assert_array_equal(both["x"], VALUES)
        assert (both["n"], both["none"].shape) == (7, (0, 3, 4))
        assert read_npz(tmp_path / "a.npz", ["n"]).keys() == {"n"}


def header(shape: str, kind: str = "<f4") -> bytes:
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(96)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "it is damaged, or of another kind"),
        (b"no array at all", "it is damaged, or of another kind"),
        (header("(24,)")[:-1], "it is not as long as its header says"),
        (header("(24,)") + b"x", "it is not as long as its header says"),
        (header("(10**12, 4)"), "it is damaged, or of another kind"),
        (header("(1000000000000, 4)"), "it is not as long as its header says"),
        (header("(-4, -6)"), "it is of the impossible shape"),
        (header("(24,)", "|O"), "it holds Python objects"),
    ],
)
def test_headers_are_believed_as_far_as_the_file_is_long(tmp_path: Path, raw: bytes, words: str):
    (tmp_path / "a.npy").write_bytes(raw)
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", raw)
    for read, name in ((read_npy, "a.npy"), (read_npz, "a.npz")):
        with pytest.raises(ValueError, match=rf"{name} cannot be read as an array without pickles: ") as caught:
            read(tmp_path / name)
        assert words.removeprefix("it ") in str(caught.value)
        assert "allow_pickle" not in str(caught.value)


def test_what_unpacks_to_more_than_the_memory_is_left_packed(tmp_path: Path):
    """The list of an archive says what a member unpacks to; here it lies, as one of zeros would truly."""
    count = 2**49
    text = header(f"({count},)", "|u1")
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", text)
        info = archive.infolist()[0]
        info.file_size = len(text) - 96 + count
    with pytest.raises(ValueError, match="unpacked, would take 562,950 GB of memory; this machine has"):
        read_npz(tmp_path / "a.npz")
    with pytest.raises(ValueError, match="would take"):
        check_room(2**50, "It")


@pytest.mark.parametrize("kind", ["U3", "datetime64[s]", "complex64", "bool"])
def test_statistics_are_real_numbers(tmp_path: Path, kind: str):
    np.savez(tmp_path / "a.npz", mu=np.ones(3).astype(kind), sigma=np.eye(3))
    with pytest.raises(ValueError, match=r"mu is an array of .*, expected real numbers"):
        load_gaussian(tmp_path / "a.npz")
    assert torch.equal(float64_of(np.array([1, 2], np.int16), "x"), torch.tensor([1.0, 2.0], dtype=torch.float64))


def test_statistics_are_of_one_number_or_more(tmp_path: Path):
    np.savez(tmp_path / "a.npz", mu=np.ones(0), sigma=np.ones((0, 0)))
    with pytest.raises(ValueError, match=r"A covariance is a square matrix \[D, D\], but this has the shape \(0, 0\)"):
        load_gaussian(tmp_path / "a.npz")
