"""One door to every model: a name in the box, a folder, a name on the hub, or a pipeline that is already there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from .. import assets
from ..bounds import A, a, check_text, is_whole, shown
from ..devices import Device, Dtype, find_device, find_dtype
from ..extras import names_function
from ..files import path_of, read_json, read_tensor_metadata, read_tensor_names
from .model import Model
from .networks.diffusers import Size, load_pixel_model, pixel_model, read_notes
from .pipelines.flow import flux, stable_diffusion_3
from .pipelines.hub import fetch, is_hub_id
from .pipelines.latent import dit, stable_diffusion, stable_diffusion_xl
from .pipelines.parts import load_pipeline
from .pipelines.replay import replayed_model
from .schedulers.configs import scheduler_config
from .user_function import HOW_TO_WRAP, load_function

#: Pipelines of diffusers and what makes a `Model` of each.
LATENT: dict[str, Callable[[Any, Size | None], Model]] = {
    "DiTPipeline": dit,
    "StableDiffusionPipeline": stable_diffusion,
    "StableDiffusionXLPipeline": stable_diffusion_xl,
    "StableDiffusion3Pipeline": stable_diffusion_3,
    "FluxPipeline": flux,
}
PIXEL = ("DDIMPipeline", "DDPMPipeline", "PNDMPipeline")


#: Of files that may be one of NVIDIA's.
_CONVERT = (
    " Pickles can run code when they are opened, and are not read here; of one of NVIDIA's EDM networks, and of no "
    "other, `underpaint convert {} --out {}` makes a safetensors file."
)


def load_model(
    source: str | Path | Any = "fashion-mnist",
    *,
    revision: str | None = None,
    variant: str | None = None,
    device: Device | None = None,
    dtype: Dtype | None = None,
    name: str | None = None,
    size: Size | None = None,
    scheduler: Any = None,
    **call: Any,
) -> Model:
    """Load a model as a denoiser.

    Any pipeline of diffusers can be one, whatever its condition is: see `replayed_model`. Those of `LATENT` and `PIXEL`
    have adapters of their own, which take prompts or classes, and encode images; the first are replayed, too, if
    ``call`` is given. Sample clipping and thresholding that a scheduler's config asks for are left off, since they
    would break the probability flow; the model's notes then say so.

    Args:
        source: a name in the box; a folder in diffusers' format; a checkpoint on the Hugging Face hub ("owner/name"); a
            safetensors file of an EDM network; "module:function" of your own that returns a `Model`; or a
            pipeline or UNet2DModel of diffusers, which is used as it is.
        revision: branch, tag or commit on the hub.
        variant: of the weights in a folder or on the hub, such as "fp16"; by default the plain ones, or a folder's only
            variant.
        device: as torch has it or by its name; by default the CPU, or where an object already is.
        dtype: likewise, such as torch.float16 or "float16"; by default float32, or what an object already has.
        name: for reports; by default what the source is called.
        size: edge of the images in pixels, or (height, width); by default what the network was made for.
        scheduler: a scheduler of diffusers, to say what a bare UNet2DModel was trained on.
        call: what the pipeline is called with, such as prompt="a bear", guidance_scale=4.0, image=...: the denoiser is
            that of this call.

    Raises:
        ValueError: no such source, one that is not complete, or one of a kind not handled; pickled weights are never
            opened.

    Examples:
        >>> import underpaint as up
        >>> model = up.load_model("fashion-mnist")
        >>> model.shape, model.prediction, model.classes
        ((1, 28, 28), 'v', 10)
    """
    there, kind = find_device(device), find_dtype(dtype)  # before anything is read
    for text, of, such in ((revision, "revision", "main"), (variant, "variant", "fp16"), (name, "name", "my model")):
        check_text(text, f"{of} of a model", such)
    _check_size(size)
    files = {"revision": revision, "variant": variant}
    if isinstance(source, Model):
        _check_unread(source.name, **files, size=size, scheduler=scheduler)
        _check_no_call(source.name, call)
        model = source.to(there, kind)
    elif isinstance(source, str) and names_function(source):
        _check_unread(f"Your own {source}", **files, size=size, scheduler=scheduler)
        _check_no_call(source, call)
        model = load_function(source).to(there, kind)
    elif isinstance(source, str | Path):
        _check_unread(f"The model {source} in files", scheduler=scheduler)
        model = _load_files(source, revision, variant, kind or torch.float32, size, call).to(there)
    else:
        _check_unread(f"{A(type(source).__name__)} that is loaded already", **files)
        model = _adapt(source, size, scheduler, call).to(there, kind)
    return model if name is None else replace(model, name=name)


def _load_files(
    source: str | Path,
    revision: str | None,
    variant: str | None,
    dtype: torch.dtype,
    size: Size | None,
    call: Mapping[str, Any],
) -> Model:
    path = assets.folder(str(source)) or path_of(source, "a model, or its name")
    if path.exists():
        _check_unread(f"The model {source} on this machine", revision=revision)
        with _configs(path):
            return _load_path(path, variant, dtype, size, call)
    if not (isinstance(source, str) and is_hub_id(source)):
        raise ValueError(
            f"There is no model {str(source)!r}: give a folder in diffusers' format, a name on the Hugging Face hub "
            f"(owner/name), your own my_module:my_function, or a name in the box ({', '.join(assets.names())})."
        )
    folder = fetch(source, revision, variant=variant)
    if (folder / "model_index.json").is_file() and _kind(folder) not in (*PIXEL, *LATENT):
        folder = fetch(source, revision, whole=True, variant=variant)
    return replace(_load_path(folder, variant, dtype, size, call), name=source)


@contextmanager
def _configs(path: Path) -> Iterator[None]:
    """One sentence for whatever a config with a part missing, or of another type, leads to in the libraries that build
    networks and schedulers of it."""
    try:
        yield
    except (ValueError, OSError, ImportError, MemoryError, RuntimeError):
        raise
    except Exception as error:  # of Python's own, from within diffusers
        raise ValueError(
            f"The configs in {path} do not describe a model: a part of one is missing, or of another type or size than "
            "it should be. Copy or download it again."
        ) from error


def _load_path(
    path: Path, variant: str | None, dtype: torch.dtype, size: Size | None, call: Mapping[str, Any]
) -> Model:
    if (path / "model_index.json").is_file():
        return _load_index(path, variant, dtype, size, call)
    _check_no_call(str(path), call)
    for file in [path] if path.suffix == ".safetensors" else sorted(path.glob("*.safetensors")):
        if read_tensor_metadata(file).get("format") == "edm":
            _check_unread(f"{path}, an EDM network of one size in one file,", variant=variant, size=size)
            return _load_edm(path, file).to(dtype=dtype)
    if (path / "modular_model_index.json").is_file():
        raise ValueError(
            f"{path} holds a modular pipeline, whose steps are put together anew each time; give the folder of the "
            "plain pipeline of the same model, or load that with diffusers and give the object."
        )
    _check_other_format(path)
    if path.is_file():
        raise ValueError(
            f"{path} is neither a folder in diffusers' format nor an EDM network in safetensors form. {HOW_TO_WRAP}"
            + ("" if path.suffix == ".safetensors" else _CONVERT.format(path, f"{path.stem}.safetensors"))
        )
    return load_pixel_model(path, dtype, size, variant)


def _load_edm(path: Path, file: Path) -> Model:
    """A converted network, with what an ``underpaint.json`` says of it, if it lies in a folder with one."""
    from .networks.edm import load_edm

    model = load_edm(file)
    if not (path / "underpaint.json").is_file():
        return model
    notes = read_notes(path)
    return replace(model, name=notes["name"], notes={**notes, **model.notes})


#: Ending of a file that holds a whole pipeline or network in another form -> what of diffusers opens it.
_OTHER_FORMATS = {
    ".dduf": "DiffusionPipeline.from_pretrained(FOLDER, dduf_file=NAME)",
    ".gguf": "from_single_file of the network's class, with GGUFQuantizationConfig",
}
#: How the tensors of single-file checkpoints of pipelines are called.
_SINGLE_FILE = re.compile(r"(model\.diffusion_model|first_stage_model|cond_stage_model|double_blocks|joint_blocks)\.")


def _check_other_format(path: Path) -> None:
    """Raise ValueError for files that diffusers opens and this library takes as the object."""
    opened = _OTHER_FORMATS.get(path.suffix)
    if path.suffix == ".safetensors" and path.is_file() and any(map(_SINGLE_FILE.match, read_tensor_names(path))):
        opened = "from_single_file of the pipeline's class"
    if opened is not None:
        raise ValueError(
            f"{path} is a whole model in one file: open it with diffusers ({opened}), and give the pipeline in its "
            "place."
        )


def _kind(folder: Path) -> str:
    """The class of pipeline that a folder with ``model_index.json`` holds."""
    kind = read_json(folder / "model_index.json").get("_class_name")
    if not isinstance(kind, str):
        raise ValueError(
            f"{folder} wants a pipeline of its own, {kind}; code that comes with a checkpoint is never run."
        )
    return kind


def _load_index(
    folder: Path, variant: str | None, dtype: torch.dtype, size: Size | None, call: Mapping[str, Any]
) -> Model:
    """A model from a folder with ``model_index.json``."""
    kind = _kind(folder)
    if kind in PIXEL:
        _check_no_call(f"{folder.name}, {a(kind)},", call)
        return load_pixel_model(folder, dtype, size, variant)
    notes = read_notes(folder)
    if kind in LATENT and not call:
        model = LATENT[kind](load_pipeline(folder, dtype, variant=variant), size)
    else:
        model = replayed_model(load_pipeline(folder, dtype, whole=True, variant=variant), size, **call)
    return replace(model, name=notes["name"], notes={**notes, **model.notes})


def _adapt(source: Any, size: Size | None, scheduler: Any, call: Mapping[str, Any]) -> Model:
    """The model of a pipeline or network object."""
    from diffusers import UNet2DModel

    own, name = _own_kind(source), type(source).__name__
    if call or (own not in PIXEL and _scheduler(source) is not None):
        _check_unread(f"{A(name)}, which has its own,", scheduler=scheduler)
    if own in LATENT and not call:
        return replace(LATENT[own](source, size), name=name)
    unet, scheduler = getattr(source, "unet", source) if own in PIXEL else source, scheduler or _scheduler(source)
    if isinstance(unet, UNet2DModel) and not call:
        if scheduler is None:
            raise ValueError("A bare UNet2DModel does not say what it was trained on; give its scheduler as well.")
        return pixel_model(unet, scheduler_config(scheduler), {"name": name}, size)
    if callable(source) and hasattr(_scheduler(source), "step"):
        return replayed_model(source, size, **call)
    _check_no_call(name, call)
    raise ValueError(_unknown(f"Got {name}"))


def _scheduler(source: Any) -> Any:
    return getattr(source, "scheduler", None)


def _own_kind(source: Any) -> str | None:
    """The class of `LATENT` or `PIXEL` that a pipeline is, if it is called as that is: a subclass with a call of its
    own is another."""
    for cls in type(source).__mro__:
        if cls.__name__ in (*LATENT, *PIXEL):
            return cls.__name__ if getattr(type(source), "_plain", type(source)).__call__ is cls.__call__ else None
    return None


def _check_unread(what: str, **options: Any) -> None:
    """Refuse options of `load_model` that a source has no use for."""
    given = [f"{name}={shown(value)}" for name, value in options.items() if value is not None]
    if given:
        raise ValueError(f"{what} takes no {' and no '.join(given)}; leave that out.")


def _check_size(size: Any) -> None:
    """Refuse what is no edge of an image, and no pair of them."""
    edges = [size] if size is None or is_whole(size) else list(size) if isinstance(size, tuple | list) else []
    if size is not None and not (len(edges) in (1, 2) and all(is_whole(edge) and edge > 0 for edge in edges)):
        raise ValueError(f"The size of a model's images is an edge in pixels, or (height, width); got {shown(size)}.")


def _check_no_call(name: str, call: Mapping[str, Any]) -> None:
    if call:
        raise ValueError(f"{name} is no pipeline with a condition, and takes no {', '.join(sorted(call))}.")


def _unknown(what: str) -> str:
    return (
        f"{what}; handled are pipelines of diffusers and UNet2DModel. For any other network say its schedule and "
        "prediction type with underpaint.wrap."
    )
