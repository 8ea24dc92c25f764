"""Devices and dtypes by name: each public function takes what the command line takes, or refuses it in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import tiny_ddpm
from torch import Tensor, nn

import underpaint as up
from underpaint.devices import DTYPES, find_device, find_dtype
from underpaint.metrics.features import load_features
from underpaint.metrics.spaces import find_features
from underpaint.recipes.shared.request import own_device

ROWS = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(40) % 2


def a_model() -> up.Model:
    return up.wrap(nn.Conv2d(1, 1, 1), (1, 4, 4), up.Flow(), "flow", name="tiny")


def recorded(**where: Any) -> Tensor:
    pipe = tiny_ddpm()
    pipe.set_progress_bar_config(disable=True)
    return up.record(pipe, num_inference_steps=2, output_type="np", **where).trajectory.x


#: Each with a dtype of a name -> a tensor that has it.
IN_A_DTYPE: dict[str, Callable[[Any], Tensor]] = {
    "load_model": lambda dtype: next(up.load_model(tiny_ddpm(), dtype=dtype).network.parameters()),
    "Model.to": lambda dtype: next(a_model().to(dtype=dtype).network.network.parameters()),
    "Gaussian.fit": lambda dtype: up.Gaussian.fit(ROWS, dtype=dtype).basis,
    "Gaussian.fit, few rows": lambda dtype: up.Gaussian.fit(ROWS[:4], dtype=dtype).basis,
    "Gaussian.to": lambda dtype: up.Gaussian.fit(ROWS).to(dtype=dtype).mean,
    "Covariance.to": lambda dtype: up.Gaussian.fit(ROWS).covariance.to(dtype=dtype).basis,
    "Covariance.of": lambda dtype: up.Covariance.of(torch.eye(3), dtype=dtype).basis,
    "Covariance.isotropic": lambda dtype: up.Covariance.isotropic(3, 1.0, dtype).basis,
    "Covariance.stationary": lambda dtype: (
        up.Covariance.stationary(torch.eye(1).expand(4, 1, 1), (2, 2), dtype).basis.mix
    ),
    "Mixture.fit": lambda dtype: up.Mixture.fit(ROWS, LABELS, dtype=dtype).components[0].basis,
    "Mixture.to": lambda dtype: up.Mixture.fit(ROWS, LABELS).to(dtype=dtype).components[0].basis,
    "PointCloud.to": lambda dtype: up.PointCloud(ROWS).to(dtype=dtype).points,
    "record": lambda dtype: recorded(dtype=dtype),
}
ON_A_DEVICE: dict[str, Callable[[Any], Any]] = {
    "load_model": lambda device: up.load_model(tiny_ddpm(), device=device),
    "Model.to": lambda device: a_model().to(device),
    "Gaussian.to": lambda device: up.Gaussian.fit(ROWS).to(device),
    "Covariance.to": lambda device: up.Gaussian.fit(ROWS).covariance.to(device),
    "Mixture.to": lambda device: up.Mixture.fit(ROWS, LABELS).to(device),
    "PointCloud.to": lambda device: up.PointCloud(ROWS).to(device),
    "record": lambda device: recorded(device=device),
    "load_features": lambda device: load_features(device=device),
    "find_features": lambda device: find_features("efficientnet-lite0", (3, 8, 8), device),
    "set_timesteps": lambda device: up.GaussianExponentialScheduler.from_config(
        tiny_ddpm().scheduler.config, gaussian=up.Gaussian.isotropic(torch.zeros(192), 1.0)
    ).set_timesteps(5, device=device),
}


@pytest.mark.parametrize("what", IN_A_DTYPE)
def test_a_dtype_may_be_its_name(what: str) -> None:
    make = IN_A_DTYPE[what]
    assert make("float64").dtype == make(torch.float64).dtype == torch.float64
    for wrong in ("int8", "half", torch.int8, torch.complex64, 16):
        with pytest.raises(ValueError, match=r"Unknown dtype .*; choose one of float32, float16, bfloat16, float64\."):
            make(wrong)


@pytest.mark.parametrize("what", ON_A_DEVICE)
def test_a_device_may_be_its_name(what: str) -> None:
    make = ON_A_DEVICE[what]
    make("cpu")
    for wrong in ("abacus", "cpu:x", ("cpu",)):
        with pytest.raises(ValueError, match=r"There is no device .* here.*; give cpu, cuda or cuda:1\."):
            make(wrong)


def test_none_is_as_it_is() -> None:
    assert find_dtype(None) is None
    assert find_device(None) is None
    assert {find_dtype(name) for name in DTYPES} == set(DTYPES.values())


class Quantized(nn.Conv2d):
    """A part whose library raises where it is moved, as optimum-quanto and bitsandbytes do."""

    error: Exception = ValueError("The dtype of a weights Tensor cannot be changed")

    def _apply(self, *_: Any, **__: Any) -> Any:
        raise self.error


def test_weights_that_cannot_be_moved_are_one_sentence() -> None:
    model = up.wrap(Quantized(1, 1, 1), (1, 4, 4), up.Flow(), "flow", name="packed")
    words = "weights of packed cannot be had as float16: .* says 'The dtype of a weights Tensor cannot be changed'"
    with pytest.raises(ValueError, match=words):
        up.load_model(model, dtype="float16")
    with pytest.raises(ValueError, match="had as float16 on cpu: "):
        model.to("cpu", torch.float16)
    assert model.to() is model


def test_a_full_memory_is_told_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Quantized, "error", RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"))
    model = up.wrap(Quantized(1, 1, 1), (1, 4, 4), up.Flow(), "flow")
    with pytest.raises(RuntimeError, match="out of memory"):
        model.to(dtype="float16")


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is such a device")
def test_what_torch_says_of_its_kernels_is_left_out() -> None:
    with pytest.raises(ValueError, match=r"^There is no device 'mps' here; give cpu, cuda or cuda:1\.$"):
        find_device("mps")


def test_commands_refuse_a_device_without_numbers() -> None:
    """Tensors there have a shape alone: a run ended in a traceback."""
    assert find_device("meta") == torch.device("meta")
    with pytest.raises(ValueError, match=r"The device 'meta' holds no numbers, .*; give cpu\."):
        own_device("meta")
    assert own_device("cpu") == torch.device("cpu")
