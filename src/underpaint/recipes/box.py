"""What is in the box."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from .. import assets
from ..files import read_json


def inventory() -> list[dict[str, Any]]:
    """One entry a model: name, image shape, parameters, prediction type, data, Fréchet distance of its card, size on
    disk."""
    return [_entry(name, folder) for name in assets.names() if (folder := assets.folder(name))]


def _entry(name: str, folder: Path) -> dict[str, Any]:
    config, notes = read_json(folder / "unet" / "config.json"), read_json(folder / "underpaint.json")
    scheduler, measured = read_json(folder / "scheduler" / "scheduler_config.json"), read_json(folder / "measured.json")
    blocks = notes.get("pixel_unshuffle", 1)
    size = config["sample_size"] * blocks
    return {
        "name": name,
        "images": f"{size} x {size} x {config['in_channels'] // blocks**2}",
        "parameters": _parameters(folder / "unet" / "diffusion_pytorch_model.safetensors"),
        "prediction": scheduler["prediction_type"],
        "data": notes["data"],
        "frechet": f"{measured['frechet']['network']:.2f} ({measured['features']}, {measured['samples']:,} samples)",
        "megabytes": round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6, 1),
        "folder": str(folder),
    }


def _parameters(weights: Path) -> int:
    """Counted from the shapes in the header of the file, without loading it."""
    from safetensors import safe_open

    with safe_open(weights, framework="np") as opened:
        return sum(math.prod(opened.get_slice(name).get_shape()) for name in opened.keys())  # noqa: SIM118
