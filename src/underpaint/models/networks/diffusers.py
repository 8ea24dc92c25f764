"""Networks in diffusers' format: the adapter that `Model` calls, and pixel models."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...bounds import a, integer
from ...files import read_json
from ..model import Model
from ..pipelines.parts import load_part
from ..schedulers.configs import left_off, read_scheduler, time_unit

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
        with running(states):
            output: Tensor = self.network(states, timestep=self.unit * times, **given).sample
        return output[:, : states.shape[1]]


@contextmanager
def running(states: Tensor) -> Iterator[None]:
    """One sentence where a network could be built of a config, but does not run when it is asked."""
    try:
        yield
    except (TypeError, KeyError, IndexError, AttributeError, ZeroDivisionError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not re.search(r"\b(sizes?|shapes?|dimensions?|channels)\b", str(error)):
            raise  # of the memory or the device
        raise ValueError(
            f"The network does not run on states of the shape {tuple(states.shape[1:])}: a setting in its config is "
            "not of the kind or size that it should be. Copy or download it again."
        ) from error


def batch_of(pixels: int) -> int:
    """How many images of that many pixels go through a network at once."""
    return min(256, max(1, _PIXELS // pixels))


def load_pixel_model(
    folder: str | Path, dtype: torch.dtype = torch.float32, size: Size | None = None, variant: str | None = None
) -> Model:
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
        raise ValueError(f"{home} holds {a(kind)}; expected a UNet2DModel of diffusers.")
    path = folder / "scheduler" / "scheduler_config.json" if nested else folder / "scheduler_config.json"
    scheduler = read_json(path)
    read_scheduler(scheduler, path)  # a mistake in a small file shows before a large one is read
    unet = load_part(home, "diffusers", kind, dtype, variant)
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
    """What ``underpaint.json`` says of a model, with a name in any case; ValueError if its blocks are no number."""
    path = folder / "underpaint.json"
    notes = {"name": folder.resolve().name} | (read_json(path) if path.is_file() else {})
    if "pixel_unshuffle" in notes:
        notes["pixel_unshuffle"] = integer(notes["pixel_unshuffle"], f"pixel_unshuffle of {path}", 1, 64)
    return notes
