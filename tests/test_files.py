"""Files are written whole or not at all, a full disk is one sentence, and debris goes without touching what runs."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from underpaint.data.store import save_gaussian
from underpaint.figures.folder import write_result
from underpaint.files import (
    check_targets,
    clear_debris,
    read_tensor_metadata,
    read_tensors,
    replacing,
    replacing_in,
    write_tensors,
    write_text,
)
from underpaint.metrics.frechet import Statistics, write_reference
from underpaint.recipes.sample import Samples, write_images
from underpaint.theory.gaussian import Gaussian

NOISE = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))


def write_picture(place: Path) -> None:
    write_images(Samples(NOISE[None, None].clamp(0, 1), (0,), {}), place)


def write_figure(place: Path) -> None:
    from underpaint.figures.style import new_figure

    figure, axes = new_figure(4.0, 3.0, 1)
    axes.imshow(NOISE.numpy())
    write_result({"a": 1}, {"noise": figure}, place.parent)


#: name of the file -> what writes some 10 kB to it
WRITERS: dict[str, Callable[[Path], object]] = {
    "a.txt": lambda place: write_text(place, "word " * 2000),
    "a.safetensors": lambda place: write_tensors(place, {"noise": NOISE}, {}),
    "gaussian.safetensors": lambda place: save_gaussian(place, Gaussian.fit(NOISE)),
    "a.npz": lambda place: write_reference(place, Statistics("x", NOISE[0], NOISE @ NOISE.T)),
    "a.png": write_picture,
    "noise.png": write_figure,
}


@contextmanager
def little_room(size: int = 1000) -> Iterator[None]:
    """No file may grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", WRITERS)
def test_where_there_is_no_room_one_sentence_says_so_and_the_old_file_stays(tmp_path: Path, name: str) -> None:
    place = tmp_path / name
    place.write_text("old")
    with little_room(), pytest.raises(OSError, match=r"could not be written: .*larger than a file may be") as caught:
        WRITERS[name](place)
    assert str(tmp_path) in str(caught.value)
    assert "what was there before is unchanged" in str(caught.value)
    assert ".underpaint-" not in str(caught.value)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "old"}
    WRITERS[name](place)
    assert place.stat().st_size > 1000


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_named(full_disk: Path, name: str) -> None:
    filled = full_disk / "filling"
    filled.write_bytes(bytes(64 * 1024))
    with pytest.raises(OSError, match=r"could not be written: the disk is full \(No space left"):
        WRITERS[name](full_disk / name)
    assert [path.name for path in full_disk.iterdir()] == ["filling"]


def test_a_folder_of_files_takes_its_place_at_once(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("old")

    def write(fail: bool) -> None:
        with replacing_in(tmp_path, ("results.json",)) as draft:
            (draft / "figures").mkdir()
            (draft / "figures" / "a.png").write_text("new")
            (draft / "results.json").write_text("new")
            if fail:
                raise ArithmeticError

    with pytest.raises(ArithmeticError):
        write(fail=True)
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    assert (tmp_path / "results.json").read_text() == "old"
    write(fail=False)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.png", "figures", "results.json"]
    assert (tmp_path / "results.json").read_text() == "new"


def test_files_are_as_readable_as_others_and_links_stay(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link.txt").symlink_to(tmp_path / "disk" / "real.txt")
    write_text(tmp_path / "link.txt", "text")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "disk" / "real.txt").read_text() == "text"
    (tmp_path / "plain").touch()
    assert (tmp_path / "disk" / "real.txt").stat().st_mode == (tmp_path / "plain").stat().st_mode


KILLED = """
import os, signal, sys
from pathlib import Path
from underpaint.files import replacing, replacing_in
with replacing(Path(sys.argv[1]) / "a.txt") as path, replacing_in(sys.argv[1]) as draft:
    path.write_text("half")
    (draft / "b.txt").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_debris_of_killed_runs_goes_and_what_is_being_written_stays(tmp_path: Path) -> None:
    (tmp_path / ".underpaints.txt").write_text("somebody's own")
    assert subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False).returncode < 0
    assert len(list(tmp_path.glob(".underpaint-*"))) == 2
    with replacing(tmp_path / "a.txt") as running, replacing_in(tmp_path / "deep") as draft:
        (draft / "b.txt").write_text("running")
        clear_debris(tmp_path)
        clear_debris(tmp_path / "deep")
        assert running.exists()
        assert list(tmp_path.glob(".underpaint-*")) == [running]
        running.write_text("whole")
    assert (tmp_path / "a.txt").read_text() == "whole"
    assert (tmp_path / "deep" / "b.txt").read_text() == "running"
    assert (tmp_path / ".underpaints.txt").exists()
    assert not list(tmp_path.rglob(".underpaint-*"))


def test_targets_are_tried_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "file").write_text("a file")
    (tmp_path / ".underpaint-12345678-a.json").write_text("debris")
    os.mkfifo(tmp_path / "pipe")
    check_targets(tmp_path / "new" / "deep" / "a.json", tmp_path / "file")
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / ".underpaint-12345678-a.json").exists()
    for place, words in (
        ("folder.json", "folder.json: it is a folder; give another place"),
        ("pipe", "it is no regular file"),
        ("file/a.json", "file is a file"),
        ("file/deep/a.json", "file is a file"),
    ):
        with pytest.raises(ValueError, match=words):
            check_targets(tmp_path / "a.json", tmp_path / place)

    with pytest.raises(ValueError, match="it is what is to be read"):
        check_targets(tmp_path / "deep" / ".." / "file", sources=["fashion-mnist", tmp_path / "file"])

    def refuse(**options: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    with pytest.raises(ValueError, match=r"Cannot write to the folder .*: Read-only file system"):
        check_targets(tmp_path / "new" / "a.json")
    assert not (tmp_path / "new").exists()


def test_what_is_written_is_what_was_given(tmp_path: Path) -> None:
    write_tensors(tmp_path / "none.safetensors", {}, {"a": [1]})  # as parts of numbers alone
    assert read_tensors(tmp_path / "none.safetensors") == {}
    assert read_tensor_metadata(tmp_path / "none.safetensors") == {"a": [1]}
    write_tensors(tmp_path / "a.safetensors", {"noise": NOISE, "again": NOISE}, {"a": [1]})
    assert torch.equal(read_tensors(tmp_path / "a.safetensors")["again"], NOISE)
    write_result({"a": 1.5}, {}, tmp_path / "r")
    assert json.loads((tmp_path / "r" / "results.json").read_text()) == {"a": 1.5}
