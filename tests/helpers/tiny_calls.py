"""Tiny pipelines of diffusers, built once, with their calls and what their first state is."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import diffusers
import tiny
import torch
from torch import Tensor

from underpaint.models.load import load_model
from underpaint.theory.covariance import Covariance
from underpaint.theory.denoiser import Denoiser
from underpaint.theory.gaussian import Gaussian

SIZE = {"height": 16, "width": 16}
PROMPT: dict[str, Any] = {"prompt": "a red apple", "negative_prompt": "blue", "guidance_scale": 4.0, **SIZE}
CALLS: dict[str, dict[str, Any]] = {
    "ddpm": {"batch_size": 2},
    "ddim": {"batch_size": 2},
    "dit": {"class_labels": [3, 3], "guidance_scale": 4.0},
    "sd": PROMPT,
    "sd3": PROMPT,
    "flux": {"prompt": "a red apple", **SIZE},
}
#: (B, *shape) of the unit noise that each call begins with.
NOISE = {"ddpm": (2, 3, 8, 8), "ddim": (2, 3, 8, 8), "dit": (2, 4, 8, 8), "sd": (1, 4, 8, 8), "sd3": (1, 4, 8, 8)}
NOISE["flux"] = (1, 4, 8, 8)  # before it is packed
STEPS = 6


@cache
def _built(kind: str) -> tuple[Any, Any]:
    makers: dict[str, Callable[[], Any]] = {
        "ddim": tiny.tiny_ddpm,
        "dit": tiny.tiny_dit,
        "sd": tiny.tiny_stable_diffusion,
        "sd3": tiny.tiny_sd3,
        "flux": tiny.tiny_flux,
    }
    if kind == "ddpm":
        pipe, scheduler = _built("ddim")
        pipe = diffusers.DDPMPipeline(pipe.unet, scheduler)
        pipe.set_progress_bar_config(disable=True)
        return pipe, scheduler
    pipe = makers[kind]()
    return pipe, pipe.scheduler


def pipeline(kind: str, scheduler: str | None = None, **options: Any) -> Any:
    """One of the tiny pipelines, with its own scheduler or another made from its config."""
    pipe, own = _built(kind)
    pipe.scheduler = getattr(diffusers, f"{scheduler}Scheduler" if scheduler else type(own).__name__).from_config(
        own.config, **options
    )
    return pipe


def run(call: Callable[..., Any], kind: str, **changes: Any) -> Any:
    """The seeded call."""
    generator = torch.Generator().manual_seed(1)
    given = {"generator": generator, "num_inference_steps": STEPS, "output_type": "np", **CALLS[kind], **changes}
    return call(**given)


def noise(kind: str) -> tuple[Tensor, torch.Generator]:
    """The unit noise that the call draws, and its generator after that."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(NOISE[kind], generator=generator), generator


def denoiser(kind: str) -> Denoiser:
    """What the call asks of the network, by our adapter."""
    model = load_model(_built(kind)[0], scheduler=None, size=None if kind in ("ddpm", "ddim", "dit") else 16)
    if kind in ("ddpm", "ddim"):
        return model
    if kind == "dit":
        return model.conditional(3, 4.0)
    return model.conditional("a red apple") if kind == "flux" else model.conditional("a red apple", 4.0, "blue")


@cache
def statistics(kind: str) -> Gaussian:
    """Some Gaussian of the states."""
    dimension = math.prod(NOISE[kind][1:])
    draw = torch.Generator().manual_seed(dimension)
    basis = torch.linalg.qr(torch.randn(dimension, 8, generator=draw)).Q
    values = torch.tensor([30.0, 10.0, 5.0, 3.0, 2.0, 1.0, 0.5, 0.3])
    return Gaussian(0.3 * torch.randn(dimension, generator=draw), Covariance(values, basis, 0.1))
