"""Parts of long runs: the same bits when they are read as when they were made, and nothing damaged is taken."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from mixtures import gaussian_of, mixture
from tiny import tiny_ddpm
from torch import Tensor

from underpaint.analysis.summary import Summary
from underpaint.calibration.calibrate import calibrate
from underpaint.calibration.solution import FineSolution, Precision
from underpaint.files import read_tensor_metadata, read_tensors, write_tensors
from underpaint.noise import DDPM, NoiseLevel
from underpaint.recipes.report import build
from underpaint.recipes.report.settings import Settings
from underpaint.recipes.shared.checkpoints import Parts, drop_parts, load_or_make, read_part, write_part
from underpaint.recipes.shared.model_and_data import Sources
from underpaint.recipes.shared.results import to_json
from underpaint.sampling.fitted import Calibration, Plan, write_calibration
from underpaint.theory.denoiser import Denoiser

NOISE = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
#: One of everything that results are made of.
VALUE = {
    "tensors": (NOISE, NOISE.T, NOISE[:, 2], torch.tensor(3), torch.empty(0, 4), NOISE > 0),
    "spread": Summary.of(NOISE),
    "level": NoiseLevel(torch.tensor([0.5, 1.0]).double(), torch.tensor([1.0, 0.0]).double()),
    "a": {"b.c": NOISE[0]},
    "a.b": {"c": NOISE[1]},
    "plain": [1, 0.1, float("inf"), True, None, "words", {"deep": ()}, {3: "by number"}],
}
TYPES = (Summary, NoiseLevel)


def same(a: Any, b: Any) -> bool:
    """Equal to the last bit, types included."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if dataclasses.is_dataclass(a):
        return type(a) is type(b) and same(vars(a), vars(b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def test_what_is_read_is_what_was_made(tmp_path: Path) -> None:
    made = write_part(tmp_path / "a.safetensors", {"seeds": (1, 2)}, VALUE, TYPES)
    read = read_part(tmp_path / "a.safetensors", {"seeds": (1, 2)}, TYPES)
    assert same(made, VALUE)
    assert same(read, VALUE)
    for a, b in zip(made["tensors"], read["tensors"], strict=True):
        assert a.stride() == b.stride()  # sums go the same way
    assert read["tensors"][0].data_ptr() % 64 == 0
    stored = read_tensors(tmp_path / "a.safetensors")
    assert torch.equal(stored["spread.mean"], VALUE["spread"].mean)
    assert {"tensors.0", "level.alpha", "a.b.c", "a.b.c'"} <= stored.keys()


def test_what_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="function cannot be kept"):
        write_part(tmp_path / "a.safetensors", {}, {"f": same})
    assert not list(tmp_path.iterdir())


def flip(path: Path) -> None:
    """One bit of the last number."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def age(path: Path) -> None:
    about = read_tensor_metadata(path)
    write_tensors(path, {name: t.clone() for name, t in read_tensors(path).items()}, about | {"underpaint": "0.0.1"})


def garble(path: Path) -> None:
    about = read_tensor_metadata(path)
    structure = json.loads(json.dumps(about["structure"]).replace("words", "other"))
    write_tensors(path, {name: t.clone() for name, t in read_tensors(path).items()}, about | {"structure": structure})


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (flip, "is damaged: its checksum does not fit"),
        (garble, "is damaged: its checksum does not fit"),
        (truncate, "is damaged: it is no complete file"),
        (age, r"another version of underpaint \(0.0.1; this is"),
        (lambda path: write_part(path, {"seeds": [2]}, VALUE, TYPES), "checkpoint of other data or settings"),
        (lambda path: path.write_text("text"), "is damaged: it is no complete file"),
    ],
)
def test_what_is_not_the_part_is_noticed_and_made_anew(
    tmp_path: Path, damage: Callable[[Path], object], words: str
) -> None:
    path, settings = tmp_path / "a.safetensors", {"seeds": [1]}
    load_or_make(path, settings, lambda: VALUE, TYPES)
    good = path.read_bytes()
    damage(path)
    with pytest.raises(ValueError, match=words):
        read_part(path, settings, TYPES)
    with pytest.warns(UserWarning, match=rf"{words}.*made anew"):
        assert same(load_or_make(path, settings, lambda: VALUE, TYPES), VALUE)
    assert path.read_bytes() == good


def test_parts_go_by_name_and_settings_and_leave_what_is_not_theirs(tmp_path: Path) -> None:
    folder, calls = tmp_path / "parts", []

    def make() -> int:
        calls.append(1)
        return len(calls)

    first, other = Parts(folder, {"a": 1}), Parts(folder, {"a": 2})
    assert [first("x", make), first("y", make), other("x", make), first("x", make)] == [1, 2, 3, 1]
    (folder / ".underpaint-abcdefgh-x.safetensors").touch()
    (folder / "notes.txt").touch()
    drop_parts(folder)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    (folder / "notes.txt").unlink()
    drop_parts(folder)
    assert not folder.exists()
    drop_parts(folder)


def test_a_report_says_how_many_calls_it_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as are made, for one image each."""
    tiny_ddpm(tmp_path / "model", classes=3)
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8))
    asked = {"conditions": (0, 1)}
    settings = Settings(Sources(str(tmp_path / "model"), str(tmp_path / "images.npy")), tuple(range(8)), 12, **asked)
    rows, said = [0], list[str]()
    network = UNet2DModel.forward

    def counted(self: UNet2DModel, sample: Tensor, *given: object, **named: object) -> object:
        rows[0] += len(sample)
        return network(self, sample, *given, **named)

    monkeypatch.setattr(UNet2DModel, "forward", counted)

    def tell(words: str) -> None:
        said.append(words)
        rows[0] = 0  # what was called before is the check of the model

    stretches = list[str]()

    def progress(what: str, total: int) -> Callable[[], None]:
        stretches.append(what)
        return lambda: None

    build.report(settings, progress, tell=tell)
    assert said == [f"The report takes about {rows[0]:,} calls of the network for one image."]
    sections = [int(what.split()[1]) for what in stretches if what.startswith("section")]
    assert sections == sorted(sections)  # one line says where the report is, and no other guesses at what is left
    assert set(sections) >= {1, 5, 6, 8, 9}
    assert {what.split()[3] for what in stretches if what.startswith("section")} <= {"11,", "12,"}
    assert not any("sections" in what for what in stretches)


class Interrupted(Denoiser):
    """A denoiser that is stopped at a call, and counts them."""

    def __init__(self, denoise: Denoiser, at: float = float("inf")) -> None:
        self.denoise, self.at, self.calls = denoise, at, 0

    def __call__(self, x: Tensor, level: NoiseLevel) -> Tensor:
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt
        return self.denoise(x, level)


@pytest.mark.parametrize("large", [1 << 28, 1], ids=["in memory", "in files"])
def test_an_interrupted_calibration_goes_on_and_gives_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: int
) -> None:
    monkeypatch.setattr("underpaint.recipes.shared.checkpoints.LARGE", large)
    data, gaussian = mixture(), gaussian_of(mixture())

    def fit(denoise: Denoiser, name: str | None) -> Calibration:
        kept = {} if name is None else {"keep": Parts(tmp_path / name, {}, (FineSolution, NoiseLevel, Plan, Precision))}
        return calibrate(denoise, gaussian, DDPM(), (4, 6), range(8), range(100, 104), fine=40, effort=30, **kept)

    whole = Interrupted(data)
    write_calibration(tmp_path / "whole.json", fit(whole, None))
    spent = 0
    # in the first fine solution, the second, the search for each plan, and the choice at the end
    for at in (20, 70, 40, 100, whole.calls):
        stopped = Interrupted(data, at)
        try:
            found = fit(stopped, "parts")
        except KeyboardInterrupt:
            spent += stopped.calls
    assert stopped.calls < whole.calls
    write_calibration(tmp_path / "resumed.json", found)
    assert (tmp_path / "resumed.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    again = Interrupted(data)
    fit(again, "parts")
    assert again.calls == 0
    laid = [*(tmp_path / "parts").glob("*.laid")]
    assert len(laid) == (2 if large == 1 else 0)
    for place, damage in zip(
        laid, (Path.unlink, lambda place: place.write_bytes(b"\1" * place.stat().st_size)), strict=large == 1
    ):
        damage(place)
        with pytest.warns(UserWarning, match="is damaged"):
            fit(again, "parts")
        assert again.calls > 0
        again.calls = 0


def test_an_interrupted_report_goes_on_and_finds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_ddpm(tmp_path / "model")
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    settings = Settings(Sources(str(tmp_path / "model"), str(tmp_path / "images.npy")), tuple(range(8)), 12)

    def found(parts: Path | None = None) -> dict[str, Any]:
        content = to_json(build.report(settings, parts=parts))
        del content["setup"]["seconds"]
        return content

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    whole = found()
    with monkeypatch.context() as patch:
        patch.setattr(build, "measure_perturbation", stop)
        with pytest.raises(KeyboardInterrupt):
            found(tmp_path / "parts")
    with monkeypatch.context() as patch:
        for name in ("measure_agreement", "measure_hybrid"):
            patch.setattr(build, name, stop)  # these are not done again
        resumed = found(tmp_path / "parts")
    assert resumed == whole
    images[0] = 0  # other data are another report
    np.save(tmp_path / "images.npy", images)
    monkeypatch.setattr(build, "measure_agreement", stop)
    with pytest.raises(KeyboardInterrupt):
        found(tmp_path / "parts")
