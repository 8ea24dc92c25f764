"""What is in the box."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from .. import assets
from ..files import read_json


def inventory() -> list[dict[str, Any]]:
    """One entry a model: name, image shape, conditions it takes, parameters, prediction type, data, what its card
    measured, size on disk."""
    return [_entry(name, folder) for name in assets.names() if (folder := assets.folder(name))]


def _entry(name: str, folder: Path) -> dict[str, Any]:
    notes, scheduler = read_json(folder / "underpaint.json"), read_json(folder / "scheduler" / "scheduler_config.json")
    networks = [folder / part for part in ("unet", "text_encoder", "vae") if (folder / part).is_dir()]
    return {
        "name": name,
        "images": " x ".join(map(str, _image_shape(folder, notes))),
        "conditions": "prompts" if (folder / "text_encoder").is_dir() else f"classes 0 to {notes['null_class'] - 1}",
        "parameters": sum(_parameters(path) for network in networks for path in network.glob("*.safetensors")),
        "prediction": scheduler["prediction_type"],
        "data": notes["data"],
        "quality": _quality(read_json(folder / "measured.json")),
        "megabytes": round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6, 1),
        "folder": str(folder),
    }


def _image_shape(folder: Path, notes: dict[str, Any]) -> tuple[int, int, int]:
    """Height, width and channels of the images: an autoencoder's, or the U-Net's own."""
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
