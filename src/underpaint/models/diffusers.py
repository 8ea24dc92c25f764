"""Networks in diffusers' format: the adapter that `Model` calls, pixel models, and schedules from scheduler configs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import read_json
from ..noise import DDPM, Flow, Schedule, make_betas
from ..prediction import Prediction
from .model import Model
from .parts import load_part
from .schedulers import PREDICTION_TYPES

_BETAS = {"linear": "linear", "scaled_linear": "scaled-linear", "squaredcos_cap_v2": "cosine"}
#: Pixels that go through a network at once: a bound on memory.
_PIXELS = 2**20

Size = int | tuple[int, int]


class Adapter(torch.nn.Module):
    """A network of diffusers behind the plain call that `Model` makes.

    Labels are handed on as ``class_labels``, what prompts were made into as keyword arguments. Channels beyond those of
    the state are cut: a learned variance follows the mean, and the probability flow does not need it.

    Args:
        network: takes (states, timestep=..., ...) and returns an object with ``sample``.
        unit: see `time_unit`.
    """

    def __init__(self, network: torch.nn.Module, unit: float) -> None:
        super().__init__()
        self.network, self.unit = network, unit

    def forward(self, states: Tensor, times: Tensor, condition: Any = None) -> Tensor:
        given = {"class_labels": condition} if isinstance(condition, Tensor) else condition or {}
        states = states.contiguous(memory_format=torch.channels_last)
        output: Tensor = self.network(states, timestep=self.unit * times, **given).sample
        return output[:, : states.shape[1]]


def batch_of(pixels: int) -> int:
    """How many images of that many pixels go through a network at once."""
    return min(256, max(1, _PIXELS // pixels))


def load_pixel_model(folder: str | Path, dtype: torch.dtype = torch.float32, size: Size | None = None) -> Model:
    """Load a folder of diffusers: a DDPM/DDIM pipeline (``unet/``, ``scheduler/``) or a UNet2DModel beside a scheduler
    config.

    A file ``underpaint.json`` beside them may state ``pixel_unshuffle``, ``null_class``, a name and notes.

    Raises:
        ValueError: a file is missing, truncated or foreign, or the network or scheduler is of a kind not handled here.
    """
    folder = Path(folder)
    nested = (folder / "unet").is_dir()
    home = folder / "unet" if nested else folder
    kind = read_json(home / "config.json").get("_class_name", "model of no stated class")
    if kind != "UNet2DModel":
        raise ValueError(f"{home} holds a {kind}; expected a UNet2DModel of diffusers.")
    path = folder / "scheduler" / "scheduler_config.json" if nested else folder / "scheduler_config.json"
    scheduler = read_json(path)
    read_scheduler(scheduler, path)  # a mistake in a small file shows before a large one is read
    unet = load_part(home, "diffusers", kind, dtype)
    return pixel_model(unet, scheduler, read_notes(folder), size)


def pixel_model(unet: Any, scheduler: Mapping[str, Any], notes: Mapping[str, Any], size: Size | None = None) -> Model:
    """A UNet2DModel and the config of its scheduler as a `Model`; ``notes`` as in ``underpaint.json``."""
    config = unet.config
    blocks, null_class = int(notes.get("pixel_unshuffle", 1)), notes.get("null_class")
    height, width = pair(size) if size else (blocks * edge for edge in pair(config.sample_size))
    schedule, prediction = read_scheduler(scheduler)
    return Model(
        network=Adapter(unet, time_unit(scheduler)),
        schedule=schedule,
        prediction=prediction,
        shape=(config.in_channels // blocks**2, height, width),
        name=notes.get("name", "network"),
        blocks=blocks,
        classes=int(config.num_class_embeds or 0) - (null_class is not None),
        null_class=null_class,
        batch=batch_of(height * width),
        device=unet.device,
        dtype=unet.dtype,
        notes={**notes, **left_off(scheduler)},
    )


def pair(size: Any) -> tuple[int, int]:
    """(height, width) of an edge or of a pair."""
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)


def read_notes(folder: Path) -> dict[str, Any]:
    """What ``underpaint.json`` says of a model, with a name in any case."""
    path = folder / "underpaint.json"
    return {"name": folder.resolve().name} | (read_json(path) if path.is_file() else {})


def scheduler_config(scheduler: Any) -> dict[str, Any]:
    """The config of a scheduler object, with its class."""
    return {**scheduler.config, "_class_name": type(scheduler).__name__}


def left_off(config: Mapping[str, Any]) -> dict[str, str]:
    """A note on what a scheduler's config asks for and is never done here."""
    on = [name for name in ("clip_sample", "thresholding") if config.get(name)]
    return {"left off": f"{' and '.join(on)} of its scheduler, which would break the probability flow"} if on else {}


def read_scheduler(
    config: Mapping[str, Any], where: str | Path = "The scheduler's config", tokens: int | None = None
) -> tuple[Schedule, Prediction]:
    """Schedule and prediction type from a scheduler's config.

    Args:
        config: as in ``scheduler_config.json``.
        where: what to call it in an error.
        tokens: image tokens of the network, for flows whose time shift depends on the resolution; by default those of
            its base resolution.

    Raises:
        ValueError: noise or prediction of a kind not handled here.
    """
    if _is_flow(config):
        return Flow(_shift(config, tokens)), "flow"
    name = config.get("prediction_type", "epsilon")
    if name not in PREDICTION_TYPES:
        raise ValueError(f"{where} states prediction_type {name!r}; known are {', '.join(PREDICTION_TYPES)}.")
    return _read_betas(config, where), PREDICTION_TYPES[name]


def time_unit(config: Mapping[str, Any]) -> float:
    """What a unit of the schedule's time is to a network: a flow's time ends at 1 here, at 1000 there."""
    return float(config.get("num_train_timesteps", 1000)) if _is_flow(config) else 1.0


def _is_flow(config: Mapping[str, Any]) -> bool:
    return "FlowMatch" in config.get("_class_name", "") or config.get("prediction_type") == "flow_prediction"


def _shift(config: Mapping[str, Any], tokens: int | None) -> float:
    """The time shift s of a flow: stated, or for the resolution exp(mu) (or mu), with mu linear in the tokens.

    Source: Esser et al. 2024, section 5.3.2.
    """
    if not config.get("use_dynamic_shifting"):
        return float(config.get("flow_shift") or config.get("shift") or 1.0)
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    first, last = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    mu = first + (last - first) * ((low if tokens is None else tokens) - low) / (high - low)
    return float(mu) if config.get("time_shift_type") == "linear" else math.exp(mu)


def _read_betas(config: Mapping[str, Any], where: str | Path) -> DDPM:
    betas, kind = config.get("trained_betas"), config.get("beta_schedule", "linear")
    if (
        not {"trained_betas", "beta_schedule", "beta_start"} & set(config)
        or config.get("timestep_type") == "continuous"
    ):
        raise ValueError(f"{where} is of a {config.get('_class_name', 'scheduler')} that is not made from betas.")
    if betas is None and kind not in _BETAS:
        raise ValueError(f"{where} states beta_schedule {kind!r}; known are {', '.join(_BETAS)}.")
    steps = config.get("num_train_timesteps", 1000)
    first, last = config.get("beta_start", 1e-4), config.get("beta_end", 0.02)
    if betas is None and not config.get("rescale_betas_zero_snr"):
        return DDPM(_BETAS[kind], steps, first, last)  # type: ignore[arg-type]
    if betas is None:
        betas = make_betas(_BETAS[kind], steps, first, last)  # type: ignore[arg-type]
    betas = torch.as_tensor(betas, dtype=torch.float64)
    return DDPM(_without_signal(betas) if config.get("rescale_betas_zero_snr") else betas)


def _without_signal(betas: Tensor) -> Tensor:
    """Betas whose last step leaves no signal: sqrt(abar) shifted to end at 0, and scaled to start where it did.

    Source: Lin et al. 2024, algorithm 1. The last abar is 1e-12, not 0, so that log(sigma/alpha) stays finite.
    """
    root = (1 - betas).cumprod(0).sqrt()
    bar = ((root - root[-1]) * root[0] / (root[0] - root[-1])).square().clamp(min=1e-12)
    return torch.cat([1 - bar[:1], 1 - bar[1:] / bar[:-1]])
