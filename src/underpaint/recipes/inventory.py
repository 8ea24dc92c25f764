"""What is in the box."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from .. import assets
from ..files import read_json, read_tensor_metadata


def inventory() -> list[dict[str, Any]]:
    """One entry a model: name, image shape, conditions it takes (of prompts also the objects that it knows, and some
    prompts), parameters, prediction type, data, what its card measured, size on disk."""
    return [_entry(name, folder) for name in assets.names() if (folder := assets.folder(name))]


def _entry(name: str, folder: Path) -> dict[str, Any]:
    notes = read_json(folder / "underpaint.json")
    noted = (read_tensor_metadata(path) for path in folder.glob("*.safetensors"))
    described = next((notes for notes in noted if notes.get("format") == "edm"), {})
    parts = (path for part in ("unet", "text_encoder", "vae") for path in (folder / part).glob("*.safetensors"))
    return {
        "name": name,
        "images": " x ".join(map(str, _image_shape(folder, notes, described))),
        **_conditions(folder, notes),
        "parameters": described["parameters"] if described else sum(map(_parameters, parts)),
        "prediction": "x0" if described else _scheduler(folder)["prediction_type"],
        "data": notes["data"],
        "quality": _quality(read_json(folder / "measured.json")),
        "megabytes": round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6, 1),
        "folder": str(folder),
    }


def _conditions(folder: Path, notes: dict[str, Any]) -> dict[str, Any]:
    """What a model is asked for: classes; or prompts, of which objects, by the reader of its pictures, and some of
    them."""
    if not (folder / "text_encoder").is_dir():
        return {"conditions": f"classes 0 to {notes['null_class'] - 1}"}
    reader = folder / "classifier" / "config.json"
    objects = read_json(reader).get("objects", []) if reader.is_file() else []
    return {"conditions": "prompts", "objects": objects, "prompts": notes.get("prompts", [])}


def _scheduler(folder: Path) -> dict[str, Any]:
    return read_json(folder / "scheduler" / "scheduler_config.json")


def _image_shape(folder: Path, notes: dict[str, Any], described: dict[str, Any]) -> tuple[int, int, int]:
    """Height, width and channels of the images: an autoencoder's, or the network's own."""
    if described:  # of a converted network
        channels, height, width = described["shape"]
        return height, width, channels
    if (folder / "vae").is_dir():
        config, blocks, channels = read_json(folder / "vae" / "config.json"), 1, "out_channels"
    else:
        config, blocks = read_json(folder / "unet" / "config.json"), notes.get("pixel_unshuffle", 1)
        channels = "in_channels"
    size = config["sample_size"] * blocks
    return size, size, config[channels] // blocks**2


def _quality(measured: dict[str, Any]) -> str:
    """What the card measured, in words."""
    if "guidance 3" not in measured:
        distance, features = measured["frechet"]["network"], measured["features"]
        return f"Fréchet distance {distance:.2f} ({features}, {measured['samples']:,} samples)"
    found = measured["guidance 3"]["objects found"]
    return f"finds {100 * found:.0f} % of the prompted objects at guidance 3 ({measured['count']:,} prompts)"


def _parameters(weights: Path) -> int:
    """Counted from the shapes in the header of the file, without loading it."""
    from safetensors import safe_open

    with safe_open(weights, framework="np") as opened:
        return sum(math.prod(opened.get_slice(name).get_shape()) for name in opened.keys())  # noqa: SIM118
