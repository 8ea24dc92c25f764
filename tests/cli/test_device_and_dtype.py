"""--device and --dtype: every command that runs a network runs it where it is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_ddpm
from torch import Tensor
from typer.testing import CliRunner

from underpaint.cli import app
from underpaint.devices import find_dtype
from underpaint.models.load import load_model
from underpaint.models.model import Model
from underpaint.recipes.sample import SampleRequest, generate
from underpaint.recipes.shared import request as asking
from underpaint.recipes.statistics.sources import open_data
from underpaint.sampling.solvers import dpmpp_2m
from underpaint.sampling.trajectory import initial_noise, sample

DTYPES = ("float32", "float16", "bfloat16", "float64")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    tiny_ddpm(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("name", ["bfloat16", "float64"])
def test_a_network_samples_in_the_dtype_it_is_given(tiny: Path, name: str) -> None:
    """What a loop of our own makes with the network in it; the command says which it was."""
    dtype = getattr(torch, name)
    model = load_model(tiny, dtype=dtype, device="cpu")
    level = model.schedule.grid(3)
    own = sample(model, initial_noise((0, 1), model.dimension, level[0]), level, dpmpp_2m)
    found = generate(SampleRequest(str(tiny), (0, 1), 3, device="cpu", dtype=name))
    assert torch.equal(found.images, model.images(own.final))
    plain = generate(SampleRequest(str(tiny), (0, 1), 3)).images
    assert (float((found.images - plain).abs().max()) > 1e-3) == (name == "bfloat16")
    options = ["--model", str(tiny), "--seeds", "0", "--steps", "2", "--dtype", name, "--device", "cpu", "--json"]
    run = CliRunner().invoke(app, ["sample", *options, "--out", str(tiny.parent / "x.png")])
    assert run.exit_code == 0, run.output
    said = json.loads(run.stdout)
    assert (said["device"], said["dtype"]) == ("cpu", name)


def loaded_by(command: list[str], monkeypatch: pytest.MonkeyPatch) -> list[Model]:
    """The models that a command loads; it ends with the first."""
    loaded: list[Model] = []

    def load(*asked: Any, **named: Any) -> Model:
        loaded.append(load_model(*asked, **named))
        raise ValueError("enough")

    monkeypatch.setattr(asking, "load_model", load)
    run = CliRunner().invoke(app, command)
    assert str(run.exception) == "enough", run.output
    return loaded


@pytest.mark.parametrize(
    "command",
    [
        "sample",
        "report",
        "compare",
        "retrieve",
        "regimes",
        "stats",
        "bench",
        "calibrate",
        "check",
        "perturb",
        "map",
        "trajectory",
    ],
)
def test_commands_hand_it_on(command: str, tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    place = [str(tiny)] if command in ("stats", "calibrate", "check") else ["--model", str(tiny)]
    more = {"stats": ["--samples", "2"], "bench": ["--no-parquet"]}.get(command, [])
    given = [command, *place, *more, "--quiet", "--device", "cpu", "--dtype", "bfloat16"]
    (model,) = loaded_by(given, monkeypatch)
    assert (model.dtype, model.device.type) == (torch.bfloat16, "cpu")


def test_the_explorer_loads_its_models_so(tiny: Path) -> None:
    pytest.importorskip("gradio")
    from underpaint.web.server_state import ServerState

    assert ServerState((str(tiny),), dtype="float64").model("model").dtype == torch.float64
    assert ServerState((str(tiny),)).model("model").dtype == torch.float32
    for wrong, words in (({"dtype": "int8"}, "Unknown dtype"), ({"device": "abacus"}, "no device 'abacus' here")):
        with pytest.raises(ValueError, match=words):
            ServerState((str(tiny),), **wrong)


def test_statistics_of_a_model_are_taken_in_its_dtype(tiny: Path, tmp_path: Path) -> None:
    """Samples and latents are what the network of this dtype makes; pictures alone have no network to give one to."""
    exact = open_data(str(tiny), samples=2, dtype="float64", device="cpu").read(0, 2).data
    plain = open_data(str(tiny), samples=2).read(0, 2).data
    rough = open_data(str(tiny), samples=2, dtype="bfloat16").read(0, 2).data

    def apart(a: Tensor, b: Tensor) -> float:
        return float((a - b).abs().max())

    assert 0 < 100 * apart(exact, plain) < apart(rough, plain)
    np.save(tmp_path / "images.npy", np.zeros((3, 8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match=r"A dtype .'float64'. is of a model; give --samples or --latents, too"):
        open_data(tmp_path / "images.npy", dtype="float64")


@pytest.mark.parametrize("command", ["sample", "report", "compare", "retrieve", "regimes", "explore"])
def test_what_there_is_none_of_is_one_sentence(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if command == "explore":
        pytest.importorskip("gradio")
    monkeypatch.chdir(tmp_path)
    for option, words in (
        ("--dtype", "Unknown dtype 'abacus'; choose one of"),
        ("--device", "no device 'abacus' here"),
    ):
        run = CliRunner().invoke(app, [command, "--quiet", option, "abacus"])
        assert isinstance(run.exception, ValueError)
        assert words in str(run.exception)


def test_help_names_every_dtype() -> None:
    for name in DTYPES:
        assert find_dtype(name) == getattr(torch, name)
