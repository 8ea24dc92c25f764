"""Models of a user's own, as commands take them: my_module:my_function; and files that are none."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from underpaint.cli import app, main
from underpaint.files import write_tensors
from underpaint.models.load import load_model

runner = CliRunner()

CODE = """
import torch
import underpaint as up

GAUSSIAN = up.Gaussian(torch.zeros(64), up.Covariance(torch.tensor([4.0, 1.0, 0.2]), torch.eye(64)[:, :3], 0.01))

def network(x, t):
    rows, level = x.flatten(1), up.Flow()(t.double())
    return up.from_denoised(GAUSSIAN(rows, level), rows, level, "flow").to(x).reshape(x.shape)

def sound():
    return up.wrap(network, shape=(1, 8, 8), schedule=up.Flow(), prediction="flow", name="gauss")

def large():
    return up.wrap(lambda x, t: 1000 * network(x, t), shape=(1, 8, 8), schedule=up.Flow(), prediction="flow")

def edm():
    def denoised(x, sigma):
        return GAUSSIAN(x.flatten(1), up.EDM()(sigma.double())).reshape(x.shape)

    return up.wrap(denoised, shape=(1, 8, 8), schedule=up.EDM(), prediction="x0")

def wrong():
    return up.wrap(network, shape=(1, 8, 8), schedule=up.Flow(), prediction="v", name="gauss")

def asks(path):
    return path

def other():
    return network

def broken():
    return {}["weights"]

def bad_shape():
    return up.wrap(network, shape=(0,), schedule=up.Flow(), prediction="flow")

def leaves():
    raise SystemExit

def unfit():
    return up.wrap(torch.nn.Linear(3, 3), shape=(1, 8, 8), schedule=up.Flow(), prediction="flow")

def failing(x, t):
    raise AssertionError

def fails():
    return up.wrap(failing, shape=(1, 8, 8), schedule=up.Flow(), prediction="flow")

constant = 3
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_networks.py").write_text(CODE)
    (tmp_path / "own_mistake.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_networks", raising=False)
    return tmp_path


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["underpaint", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    return line


def test_check_of_a_sound_and_an_unsound_model(here: Path) -> None:
    sound = runner.invoke(app, ["check", "own_networks:sound", "--json"])
    assert sound.exit_code == 0, sound.output
    found = json.loads(sound.stdout)
    assert (found["verdict"], found["model"], found["suggestion"]) == ("holds", "gauss", "")
    assert {"name", "value", "bound", "verdict", "means"} == set(found["findings"][0])
    assert found["finding"] == found["short"]
    wrong = runner.invoke(app, ["check", "own_networks:wrong", "--quiet"])
    assert wrong.exit_code == 1
    assert "fails  energy of states along the flow" in wrong.stdout
    assert "Read as 'flow' it carries noise into data" in wrong.stdout


def test_samples_outside_the_range_are_said_to_be(here: Path) -> None:
    """In place of being clipped to white without a word."""
    for function, said in (("sound", False), ("large", True)):
        arguments = [
            "sample",
            "--model",
            f"own_networks:{function}",
            "--seeds",
            "0-3",
            "--steps",
            "8",
            "--out",
            "images",
        ]
        result = runner.invoke(app, arguments)
        assert result.exit_code == 0, result.output
        assert ("and data from -1 to 1 are stated" in " ".join(result.stderr.split())) is said


def test_check_on_data(here: Path) -> None:
    made = np.random.default_rng(0)
    np.save("data.npy", made.integers(200, 256, (32, 8, 8), dtype=np.uint8))
    result = runner.invoke(app, ["check", "own_networks:sound", "--data", "data.npy", "--json"])
    assert result.exit_code == 1  # they are not what it knows
    failed = [found["name"] for found in json.loads(result.stdout)["findings"] if found["verdict"] == "fails"]
    assert any(name.startswith("error of x̂₀") for name in failed)
    told = runner.invoke(app, ["check", "own_networks:sound", "--data", "data.npy"])
    assert "Data: 32 images of data.npy." in told.stderr


def test_commands_take_a_function_for_a_model(here: Path) -> None:
    for arguments in (
        ["sample", "--model", "own_networks:sound", "--seeds", "0-7", "--steps", "3", "--out", "images"],
        ["trajectory", "--model", "own_networks:sound", "--seeds", "0-1", "--steps", "4", "--out", "trajectory"],
        ["stats", "own_networks:sound", "--samples", "16", "--out", "gauss.safetensors"],
        ["calibrate", "own_networks:sound", "--gaussian", "gauss.safetensors", "--calls", "3", "--seeds", "0-3",
         "--held-out", "4-5", "--fine", "20", "--effort", "4"],
        ["compare", "--model", "own_networks:edm", "--data", "images", "--images", "8", "--seeds", "0-1", "--steps",
         "3", "--local", "0"],
    ):  # fmt: skip
        result = runner.invoke(app, [*arguments, "--quiet"])
        assert result.exit_code == 0, (arguments, result.output, result.exception)
    assert "gauss behaves as a denoiser of its schedule" in runner.invoke(
        app, ["calibrate", "own_networks:sound", "--gaussian", "gauss.safetensors", "--calls", "3", "--seeds", "0-3",
              "--held-out", "4-5", "--fine", "20", "--effort", "4"]
    ).stderr  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("own_networks:nothing", "The model 'own_networks:nothing' cannot be imported"),
        ("nowhere_at_all:model", "The model 'nowhere_at_all:model' cannot be imported"),
        ("own_networks:constant", "The model 'own_networks:constant' is an int; expected a function."),
        ("own_networks:other", "The function own_networks:other returned a function; expected a Model"),
        ("own_networks:asks", "The function own_networks:asks is called without arguments (missing a required"),
        ("own_networks:broken", "underpaint: The function own_networks:broken raised KeyError: 'weights'"),
        ("own_networks:bad_shape", "The function own_networks:bad_shape raised ValueError: A state has a shape of"),
        ("own_networks:leaves", "The function own_networks:leaves asked to end the program ()."),
        ("own_networks:unfit", "underpaint: The network Linear raised TypeError: Linear.forward() takes 2 positional"),
        ("own_networks:fails", "underpaint: The network failing raised AssertionError"),
        ("own_mistake:model", "cannot be imported; its module own_mistake raised ZeroDivisionError: division by zero."),
    ],
)
def test_what_is_no_model_gets_a_sentence(here: Path, monkeypatch, capsys, text: str, words: str) -> None:
    assert words in refused(monkeypatch, capsys, "sample", "--model", text)


def test_files_of_other_networks_are_told_of_wrap(here: Path, monkeypatch, capsys) -> None:
    torch.save({"weight": torch.zeros(2)}, "weights.pt")
    write_tensors(here / "weights.safetensors", {"weight": torch.zeros(2)}, {})
    for name in ("weights.pt", "weights.safetensors"):
        line = refused(monkeypatch, capsys, "sample", "--model", name)
        assert "returns underpaint.wrap(network, shape=(3, 32, 32)" in line
        assert ("underpaint convert" in line) == name.endswith(".pt")
    line = refused(monkeypatch, capsys, "convert", "weights.pt", "--out", "out.safetensors")
    assert "weights.pt is whole, and a file of torch.save" in line
    assert "returns underpaint.wrap(network" in line


def test_a_dtype_and_a_device_are_taken(here: Path) -> None:
    model = load_model("own_networks:sound", dtype=torch.float64, device="cpu")
    assert model.dtype == torch.float64
