"""What can be refused without the network is refused before the network is called: files, and options that contradict
each other."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

import underpaint as up
from underpaint.cli import app
from underpaint.data.store import save_gaussian

#: Rows that the network was asked for.
ASKED: list[int] = []


def counting() -> up.Model:
    """A model of images [1, 8, 8] and three classes that knows when it is called."""

    def network(x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        ASKED.append(len(x))
        return torch.zeros_like(x)

    return up.wrap(network, (1, 8, 8), up.DDPM(), "eps", classes=3, null_class=2, name="counting")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8), dtype=np.uint8)
    Image.fromarray(pixels).save("whole.png")
    Path("torn.png").write_bytes(Path("whole.png").read_bytes()[:40])
    Path("torn.safetensors").write_bytes(b"nothing")
    Path("torn.json").write_text("{")
    Path("alone").mkdir()
    Image.fromarray(pixels).save("alone/a.png")
    save_gaussian("known.safetensors", up.Gaussian.isotropic(torch.zeros(64), variance=1.0))
    return tmp_path


REFUSED = [
    ("morph 1 torn.png", "torn.png cannot be read as a picture"),
    ("morph whole.png torn.png", "torn.png cannot be read as a picture"),
    ("morph whole.png whole.png", "are the same one"),
    ("morph 1@0 1@0", "are the same one"),
    ("morph 7 07", "are the same one"),
    ("morph 1 9999999999", "Seeds are whole numbers"),
    ("morph 1 2 --sigma 5000", "has to be below 157.4"),
    ("map --along torn.safetensors", "not a complete safetensors file"),
    ("map --gaussian known.safetensors --along data:99", "have no components"),
    ("map --steps 1", "needs at least 2 steps, got 1"),
    ("perturb --along torn.safetensors", "not a complete safetensors file"),
    ("perturb --at 99", "steps 0 to 29"),
    ("report --samples 20 --gaussian torn.safetensors", "not a complete safetensors file"),
    ("report --samples 20 --column picture", "does not read --column picture beside --samples 20"),
    ("report --samples 20 --split test", "does not read --split test beside --samples 20"),
    ("report --samples 20 --regimes", "does not read --regimes beside --samples 20"),
    ("bench --gaussian known.safetensors --own 50", "reads --own 50 only with --samples"),
    ("report --samples 20 --class 9", "class labels 0 to 2, got 9"),
    ("retrieve --data nowhere", "no data called 'nowhere'"),
    ("compare --data nowhere", "no data called 'nowhere'"),
    ("regimes --data nowhere", "no data called 'nowhere'"),
    ("sample --calibration torn.json", "not valid JSON"),
    ("sample --teleport 10 --gaussian torn.safetensors", "not a complete safetensors file"),
    ("bench --gaussian known.safetensors --calibration torn.json", "not valid JSON"),
    ("bench --samples 20 --features nowhere", "no features 'nowhere'"),
    ("sample --gaussian known.safetensors", "reads --gaussian known.safetensors only with --teleport or --calibration"),
    ("sample --out new.jpg", "new.jpg would be a folder here, and ends as a file does"),
    ("morph 1 2 --out new.gif", "new.gif would be a folder here"),
    ("report --out new.html", "new.html would be a folder here"),
    ("bench --gaussian known.safetensors --out new.json", "new.json would be a folder here"),
    *((f"{name} --out new.PNG", "new.PNG would be a folder here") for name in ("trajectory", "map", "perturb")),
    *((f"{name} --out new.csv", "new.csv would be a folder here") for name in ("compare", "retrieve", "regimes")),
    ("retrieve --data alone", "Statistics of data need at least 2 images, got 1 image of the folder alone"),
    ("calibrate --gaussian known.safetensors --from data --data alone", "at least 2 images, got 1 image of the folder"),
    ("trajectory --chunk 0", "chunks of at least 1"),
    ("calibrate --gaussian known.safetensors --budget 10", "got a budget of 10"),
    ("calibrate --gaussian known.safetensors --budget soon", "A budget is a number of calls"),
    ("calibrate --gaussian known.safetensors --from data --data nowhere --budget 10", "got a budget of 10"),
    ("stats test_refused_first:counting --samples 20 --out s.npz --features nowhere", "no features 'nowhere'"),
    (
        "stats test_refused_first:counting --samples 20 --size 4 --mode L",
        "does not read --size 4, --mode L beside --samples 20",
    ),
    (
        "stats test_refused_first:counting --samples 20 --split test --column x",
        "does not read --split test, --column x beside",
    ),
    (
        "stats test_refused_first:counting --samples 20 --latents fashion-mnist",
        "does not read --latents fashion-mnist beside",
    ),
    ("stats . --latents test_refused_first:counting --size 4", "does not read --size 4 beside --latents"),
]


@pytest.mark.parametrize(("command", "words"), REFUSED)
def test_refused_before_the_network_is_called(command: str, words: str, here: Path) -> None:
    import test_refused_first as loaded  # the module as the command imports it

    loaded.ASKED.clear()
    model = [] if command.startswith("stats") else ["--model", "test_refused_first:counting"]
    run = CliRunner().invoke(app, [*shlex.split(command), *model, "--quiet"])
    assert isinstance(run.exception, ValueError), run.output
    assert words in str(run.exception)
    assert loaded.ASKED == []
    assert not [*here.glob("new.*")]


def test_a_folder_that_is_there_may_have_any_name(here: Path) -> None:
    Path("old.png.json").mkdir()
    assert (
        CliRunner()
        .invoke(app, shlex.split("spectrum --scheduler DDIM --steps 3 --set clip_sample=false --out old.png.json"))
        .exit_code
        == 0
    )
    with pytest.raises(ValueError, match=r"new\.svg would be a folder here"):
        CliRunner().invoke(app, ["spectrum", "--out", "new.svg"], catch_exceptions=False)


def test_the_network_counts(here: Path) -> None:
    """What these tests rest on: a command that is not refused calls it."""
    import test_refused_first as loaded

    loaded.ASKED.clear()
    run = CliRunner().invoke(app, ["sample", "--model", "test_refused_first:counting", "--seeds", "0", "--steps", "3"])
    assert run.exit_code == 0, run.output
    assert len(loaded.ASKED) >= 3
