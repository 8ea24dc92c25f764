"""`load_model` takes no option that what is loaded has no use for, and no empty text for one that is left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from tiny import tiny_ddpm, tiny_stable_diffusion
from typer.testing import CliRunner

import underpaint as up
from underpaint.cli import app
from underpaint.metrics.spaces import find_features
from underpaint.models.load import load_model
from underpaint.recipes.shared.request import Request, load_theory


def own_model() -> up.Model:
    return up.wrap(lambda x, time: x, (1, 8, 8), up.DDPM(), "eps")


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (lambda: "fashion-mnist", {"revision": "main"}, "model fashion-mnist on this machine takes no revision='main'"),
        (lambda: "fashion-mnist", {"scheduler": DDIMScheduler()}, "model fashion-mnist in files takes no scheduler="),
        (lambda: "cifar10", {"variant": "fp16", "size": 64}, "in one file, takes no variant='fp16' and no size=64"),
        (own_model, {"size": 16}, "takes no size=16; leave that out"),
        (own_model, {"variant": "fp16", "revision": "main"}, "takes no revision='main' and no variant='fp16'"),
        (lambda: "test_load_options:own_model", {"size": 16}, "Your own test_load_options:own_model takes no size=16"),
        (lambda: "test_load_options:own_model", {"prompt": "a"}, "no pipeline with a condition, and takes no prompt"),
        (tiny_ddpm, {"variant": "fp16"}, "A DDIMPipeline that is loaded already takes no variant='fp16'"),
        (tiny_stable_diffusion, {"scheduler": DDIMScheduler()}, "which has its own, takes no scheduler="),
    ],
)
def test_an_option_that_is_not_read_is_refused(
    make: Callable[[], Any], options: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    with pytest.raises(ValueError, match=words):
        load_model(make(), **options)


def test_options_that_are_read_are_taken() -> None:
    pipe = tiny_ddpm()
    assert load_model(pipe, scheduler=DDIMScheduler(prediction_type="v_prediction")).prediction == "v"
    assert load_model(pipe.unet, scheduler=pipe.scheduler, size=(16, 8)).shape[1:] == (16, 8)
    assert load_model(own_model(), name="mine").name == "mine"


@pytest.mark.parametrize("option", ["revision", "variant", "name", "device", "dtype", "size"])
def test_an_empty_text_is_no_option_that_is_left_out(option: str) -> None:
    with pytest.raises(ValueError, match=r"got ''|device ''|dtype ''"):
        load_model("fashion-mnist", **{option: ""})


def test_an_empty_text_is_no_model_no_name_and_no_condition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty path was the folder of the moment, and `underpaint check ""` asked for a model called None."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="Expected the path of a model, or its name, got ''"):
        load_model("")
    assert "path of a model, or its name, got ''" in str(CliRunner().invoke(app, ["check", ""]).exception)
    with pytest.raises(ValueError, match="The name of a network is a text such as 'my network', or left out; got ''"):
        up.wrap(lambda x, time: x, (1, 8, 8), up.DDPM(), "eps", name="")
    with pytest.raises(ValueError, match="name of a feature space"):
        find_features("", (1, 28, 28))
    with pytest.raises(ValueError, match=r"'=fashion-mnist' are of an empty text, which is not asked for"):
        load_theory(Request(statistics=("=fashion-mnist",)), load_model("fashion-mnist"))


@pytest.mark.parametrize("size", [0, -3, (8,) * 3, (8, 0), 8.5, True, ()])
def test_a_size_is_an_edge_or_two(size: Any) -> None:
    with pytest.raises(ValueError, match=r"size of a model's images is an edge in pixels, or .height, width.; got"):
        load_model(tiny_ddpm(), size=size)
    assert torch.Size(load_model(tiny_ddpm(), size=(16,) * 2).shape[1:]) == (16, 16)
