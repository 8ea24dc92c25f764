"""Files of every kind with random damage: both ways in read the same, or refuse in one sentence; nothing else."""

from __future__ import annotations

import gzip
import io
import re
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from underpaint.data.datasets import load_data
from underpaint.data.sources import open_source

#: Words of Pillow, pyarrow, zlib, zipfile, tarfile, numpy and Python for what is damaged.
LIBRARIES = re.compile(
    r"[Ee]rror|[Mm]agic|CRC|truncat|[Tt]hrift|snappy|decompress|deserializ|chunk|stream|decoder|b'|invalid|Corrupt|"
    r"unpack requires|codec|checksum|EOF|Exception|bytes not|expected \d|buffer|processed|identify"
)
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 6, 5), dtype=np.uint8)


def png(picture: np.ndarray, kind: str = "PNG") -> bytes:
    raw = io.BytesIO()
    Image.fromarray(picture).save(raw, kind)
    return raw.getvalue()


def write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for i, picture in enumerate(IMAGES):
            archive.writestr(f"{i % 2}/{i}.png", png(picture))


def write_tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for i, picture in enumerate(IMAGES):
            for name, raw in ((f"{i}.jpg", png(picture, "JPEG")), (f"{i}.cls", str(i % 2).encode())):
                info = tarfile.TarInfo(name)
                info.size = len(raw)
                archive.addfile(info, io.BytesIO(raw))


def write_parquet(path: Path) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pa.table({"image": [png(picture) for picture in IMAGES], "label": [0, 1, 0, 1, 0]})
    parquet.write_table(table, path, row_group_size=2)


def write_idx(path: Path) -> None:
    path.write_bytes(gzip.compress(struct.pack(">BBBB3I", 0, 0, 8, 3, *IMAGES.shape) + IMAGES.tobytes()))


WRITERS: dict[str, Callable[[Path], object]] = {
    "a.zip": write_zip,
    "a.tar": write_tar,
    "a.parquet": write_parquet,
    "a-images-idx3-ubyte.gz": write_idx,
    "a.npy": lambda path: np.save(path, IMAGES),
    "a.npz": lambda path: np.savez(path, images=IMAGES, labels=np.arange(5)),
    "b.npz": lambda path: np.savez_compressed(path, images=IMAGES / 127.5 - 1, labels=np.array(list("abcab"))),
    "d/a.png": lambda path: path.write_bytes(png(IMAGES[0])),
    "d/a.gif": lambda path: path.write_bytes(png(IMAGES[0], "GIF")),
    "d/a.tif": lambda path: path.write_bytes(png(IMAGES[0], "TIFF")),
}


def damaged(raw: bytes, generator: np.random.Generator) -> bytes:
    """With some bytes changed, cut off, or a stretch of it repeated."""
    changed = bytearray(raw)
    how = generator.integers(3)
    if how == 0:
        for place in generator.integers(len(raw), size=generator.integers(1, 6)):
            changed[place] = generator.integers(256)
        return bytes(changed)
    start, stop = sorted(generator.integers(len(raw), size=2))
    return raw[:stop] if how == 1 else raw[:stop] + raw[start:]


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.filterwarnings("ignore")  # decoders of pictures warn of what they mend
def test_damage_is_read_alike_or_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    WRITERS[name](file)
    whole, place, generator = file.read_bytes(), file.parent if name[0] == "d" else file, np.random.default_rng(1)
    assert len(load_data(place)) == (1 if name[0] == "d" else 5)
    sentences = list[str]()
    for _ in range(30):
        file.write_bytes(damaged(whole, generator))
        try:
            data = load_data(place)
        except ValueError as error:
            sentences.append(str(error))
            continue
        source = open_source(place)
        chunk = source.read(0, source.count)
        assert torch.equal(data.images, chunk.data)
        assert data.left_out == chunk.bad
        assert len(data) + len(data.left_out) == source.count
        sentences += data.left_out
    assert not any("\n" in sentence for sentence in sentences)
    assert [sentence for sentence in sentences if LIBRARIES.search(sentence)] == []
