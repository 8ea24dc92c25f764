"""Unconditional and class-conditional pixel models in diffusers' own format (DDPM and DDIM pipelines, bare U-Nets)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import read_json, read_tensors
from ..noise import DDPM
from ..prediction import Prediction
from .model import Model

_BETAS = {"linear": "linear", "scaled_linear": "scaled-linear", "squaredcos_cap_v2": "cosine"}
_PREDICTIONS: dict[str, Prediction] = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}


class UNet(torch.nn.Module):
    """diffusers' UNet2DModel behind the plain call that `Model` makes."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, images: Tensor, times: Tensor, labels: Tensor | None = None) -> Tensor:
        output: Tensor = self.unet(
            images.contiguous(memory_format=torch.channels_last), times, class_labels=labels
        ).sample
        return output[
            :, : images.shape[1]
        ]  # a learned variance follows the mean; the probability flow does not need it


def load_pixel_model(folder: str | Path) -> Model:
    """Load a folder of diffusers: a DDPM/DDIM pipeline (``unet/``, ``scheduler/``) or a UNet2DModel beside a scheduler
    config.

    Weights are read from safetensors only. A file ``underpaint.json`` beside them may state ``pixel_unshuffle``,
    ``null_class``, a name and notes.

    Raises:
        ValueError: a file is missing, truncated or foreign, or the network or scheduler is of a kind not handled here.
    """
    folder = Path(folder)
    nested = (folder / "unet").is_dir()
    home = folder / "unet" if nested else folder
    config = read_json(home / "config.json")
    if config.get("_class_name") != "UNet2DModel":
        raise ValueError(
            f"{home} holds a {config.get('_class_name', 'model of no stated class')}; expected a UNet2DModel of "
            f"diffusers."
        )
    extra = read_json(folder / "underpaint.json") if (folder / "underpaint.json").is_file() else {}
    schedule, prediction = read_scheduler(
        folder / "scheduler" / "scheduler_config.json" if nested else folder / "scheduler_config.json"
    )
    blocks = int(extra.get("pixel_unshuffle", 1))
    size = config["sample_size"]
    height, width = (size, size) if isinstance(size, int) else size
    classes = int(config.get("num_class_embeds") or 0)
    null_class = extra.get("null_class")
    return Model(
        network=_build(config, home / "diffusion_pytorch_model.safetensors"),
        schedule=schedule,
        prediction=prediction,
        shape=(config["in_channels"] // blocks**2, height * blocks, width * blocks),
        name=extra.get("name", folder.resolve().name),
        blocks=blocks,
        classes=classes - (null_class is not None),
        null_class=null_class,
        notes=extra,
    )


def read_scheduler(path: Path) -> tuple[DDPM, Prediction]:
    """Schedule and prediction type from a scheduler's config file."""
    config = read_json(path)
    betas = config.get("trained_betas")
    kind, name = config.get("beta_schedule", "linear"), config.get("prediction_type", "epsilon")
    if betas is None and kind not in _BETAS:
        raise ValueError(f"{path} states beta_schedule {kind!r}; known are {', '.join(_BETAS)}.")
    if name not in _PREDICTIONS:
        raise ValueError(f"{path} states prediction_type {name!r}; known are {', '.join(_PREDICTIONS)}.")
    if betas is not None:
        return DDPM(torch.tensor(betas, dtype=torch.float64)), _PREDICTIONS[name]
    steps, first, last = (
        config.get("num_train_timesteps", 1000),
        config.get("beta_start", 1e-4),
        config.get("beta_end", 0.02),
    )
    return DDPM(_BETAS[kind], steps, first, last), _PREDICTIONS[name]  # type: ignore[arg-type]


def _build(config: dict[str, Any], weights: Path) -> UNet:
    tensors = read_tensors(weights)
    from diffusers import UNet2DModel

    unet = UNet2DModel.from_config(config)
    try:
        unet.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except RuntimeError as error:
        raise ValueError(
            f"{weights} does not fit the network that its config describes: {str(error).splitlines()[-1].strip()}"
        ) from error
    return UNet(unet.eval().requires_grad_(False).to(memory_format=torch.channels_last))
