"""What is of another type than it should be is one sentence that shows it, at each place where users hand it in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

import underpaint as up

GAUSSIAN = up.Gaussian.isotropic(torch.zeros(4), 1.0)


def scheduler(**given: Any) -> Any:
    config = diffusers.DDIMScheduler().config
    return up.GaussianExponentialScheduler.from_config(**{"config": config, "gaussian": GAUSSIAN, **given})


PLACES: dict[str, Callable[[Any], Any]] = {
    "load_gaussian": up.load_gaussian,
    "load_data": up.load_data,
    "read_calibration": up.read_calibration,
    "gaussian of a scheduler": lambda value: scheduler(gaussian=value),
    "statistics of a pipeline": lambda value: up.accelerate_pipeline(PIPE, value),
}
PIPES: dict[str, Callable[[Any], Any]] = {
    "accelerate_pipeline": lambda value: up.accelerate_pipeline(value, GAUSSIAN),
    "teleport_pipeline": lambda value: up.teleport_pipeline(value, GAUSSIAN, 1),
    "record": up.record,
}
PIPE = diffusers.DDIMPipeline(None, diffusers.DDIMScheduler())


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("value", "words"), [(3, "3"), (torch.zeros(2), r"tensor\(\[0., 0.\]\)"), (["a"], r"\['a'\]"), (b"x", "b'x'")]
)
def test_a_path_that_is_none_is_shown(place: str, value: Any, words: str) -> None:
    """It was a TypeError of Python's own."""
    with pytest.raises(ValueError, match=f"^Expected the path of [^.]*, got {words}"):
        PLACES[place](value)


@pytest.mark.parametrize("place", PIPES)
@pytest.mark.parametrize("value", [None, "owner/name", Path("a"), torch.nn.Identity()])
def test_a_pipeline_that_is_none_is_shown(place: str, value: Any) -> None:
    """It was an AttributeError, or spoke of the noise levels of a NoneType."""
    with pytest.raises(ValueError, match=r"^Expected a pipeline of diffusers, which has a scheduler, got ") as caught:
        PIPES[place](value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", [3, "a folder", None, ["a"]])
def test_a_scheduler_that_is_none_is_shown(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^Expected a scheduler of diffusers or its config, got ") as caught:
        scheduler(config=value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", [3, ["a"], torch.zeros(2)])
def test_a_calibration_that_is_none_is_shown(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^Expected a Calibration or the path of one, got ") as caught:
        scheduler(calibration=value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("steps", [0, -1, 2.5, "6", True])
def test_a_number_of_steps_that_is_none_is_shown(steps: Any) -> None:
    """It spoke of timesteps that are not laid, or was a TypeError."""
    with pytest.raises(ValueError, match="number of steps must be a whole number from 1 to 100,000, got ") as caught:
        scheduler().set_timesteps(steps)
    assert str(caught.value).endswith(f"got {steps!r}.")


def test_a_solver_that_is_none_is_shown() -> None:
    with pytest.raises(ValueError, match=r"Unknown solver \['a'\]; choose one of ddim, euler"):
        up.find_solver(["a"])  # type: ignore[arg-type]
