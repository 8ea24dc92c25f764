"""One door to every model: a name in the box, a folder, a name on the hub, or a pipeline that is already there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from .. import assets
from ..files import read_json, read_tensor_metadata
from .diffusers import Size, load_pixel_model, pixel_model, read_notes
from .flow import flux, stable_diffusion_3
from .hub import fetch, is_hub_id
from .latent import dit, stable_diffusion, stable_diffusion_xl
from .model import Model
from .parts import load_pipeline
from .scheduler_configs import scheduler_config

#: Pipelines of diffusers and what makes a `Model` of each.
LATENT: dict[str, Callable[[Any, Size | None], Model]] = {
    "DiTPipeline": dit,
    "StableDiffusionPipeline": stable_diffusion,
    "StableDiffusionXLPipeline": stable_diffusion_xl,
    "StableDiffusion3Pipeline": stable_diffusion_3,
    "FluxPipeline": flux,
}
PIXEL = ("DDIMPipeline", "DDPMPipeline", "PNDMPipeline")


def load_model(
    source: str | Path | Any = "fashion-mnist",
    *,
    revision: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    name: str | None = None,
    size: Size | None = None,
    scheduler: Any = None,
) -> Model:
    """Load a model as a denoiser.

    Sample clipping and thresholding that a scheduler's config asks for are left off, since they would break the
    probability flow; the model's notes then say so.

    Args:
        source: a name in the box; a folder in diffusers' format; a checkpoint on the Hugging Face hub ("owner/name"); a
            safetensors file of an EDM network; or a pipeline or UNet2DModel of diffusers, which is used as it is.
        revision: branch, tag or commit on the hub.
        device: by default the CPU, or where an object already is.
        dtype: by default float32, or what an object already has.
        name: for reports; by default what the source is called.
        size: edge of the images in pixels, or (height, width); by default what the network was made for.
        scheduler: a scheduler of diffusers, to say what a bare UNet2DModel was trained on.

    Raises:
        ValueError: no such source, one that is not complete, or one of a kind not handled; pickled weights are never
            opened.
    """
    if isinstance(source, Model):
        model = source.to(device, dtype)
    elif isinstance(source, str | Path):
        model = _load_files(source, revision, dtype or torch.float32, size).to(device)
    else:
        model = _adapt(source, size, scheduler).to(device, dtype)
    return replace(model, name=name) if name else model


def _load_files(source: str | Path, revision: str | None, dtype: torch.dtype, size: Size | None) -> Model:
    path = assets.folder(str(source)) or Path(source)
    if path.exists():
        return _load_path(path, dtype, size)
    if not (isinstance(source, str) and is_hub_id(source)):
        raise ValueError(
            f"There is no model {str(source)!r}: give a folder in diffusers' format, a name on the Hugging Face hub "
            f"(owner/name), or a name in the box ({', '.join(assets.names())})."
        )
    return replace(_load_path(fetch(source, revision), dtype, size), name=source)


def _load_path(path: Path, dtype: torch.dtype, size: Size | None) -> Model:
    if (path / "model_index.json").is_file():
        return _load_index(path, dtype, size)
    for file in [path] if path.suffix == ".safetensors" else sorted(path.glob("*.safetensors")):
        if read_tensor_metadata(file).get("format") == "edm":
            from .edm import load_edm

            return load_edm(file).to(dtype=dtype)
    if path.is_file():
        raise ValueError(
            f"{path} is neither a folder in diffusers' format nor an EDM network in safetensors form. Pickles can run "
            "code when they are opened and are not read here; make a safetensors file of an EDM network's once, with "
            f"`underpaint convert {path} --out {path.with_suffix('.safetensors').name}`."
        )
    return load_pixel_model(path, dtype, size)


def _load_index(folder: Path, dtype: torch.dtype, size: Size | None) -> Model:
    """A model from a folder with ``model_index.json``."""
    kind = read_json(folder / "model_index.json").get("_class_name")
    if not isinstance(kind, str):
        raise ValueError(
            f"{folder} wants a pipeline of its own, {kind}; code that comes with a checkpoint is never run."
        )
    if kind in PIXEL:
        return load_pixel_model(folder, dtype, size)
    if kind not in LATENT:
        raise ValueError(_unknown(f"{folder} holds {kind}"))
    notes = read_notes(folder)
    model = LATENT[kind](load_pipeline(folder, dtype), size)
    return replace(model, name=notes["name"], notes={**notes, **model.notes})


def _adapt(source: Any, size: Size | None, scheduler: Any) -> Model:
    """The model of a pipeline or network object."""
    from diffusers import UNet2DModel

    kinds = [kind.__name__ for kind in type(source).__mro__]
    latent = next((LATENT[kind] for kind in kinds if kind in LATENT), None)
    if latent is not None:
        model = latent(source, size)
        return replace(model, name=type(source).__name__)
    unet, scheduler = getattr(source, "unet", source), scheduler or getattr(source, "scheduler", None)
    if not isinstance(unet, UNet2DModel):
        raise ValueError(_unknown(f"Got {kinds[0]}"))
    if scheduler is None:
        raise ValueError("A bare UNet2DModel does not say what it was trained on; give its scheduler as well.")
    return pixel_model(unet, scheduler_config(scheduler), {"name": kinds[0]}, size)


def _unknown(what: str) -> str:
    return (
        f"{what}; handled are {', '.join([*PIXEL, *LATENT])} and UNet2DModel of diffusers. For any other network say "
        "its schedule and prediction type with underpaint.wrap."
    )
